"""A posterior inferred from rows that are read in batches is that of the rows in memory."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from mogul import BayesianGaussianMixture, load, save
from mogul.data import ArraySource, LoaderSource, ParquetSource
from mogul.data.shuffling import minibatches
from mogul.errors import InputError
from mogul.infer import SVI
from mogul.priors import IndependentNormalGamma
from sources.cases import answers_together, clusters, write_parts

names = pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])


def model(name="full", **settings):
    settings = {"n_components": 3, "random_state": 0, "tol": 1e-8, **settings}
    return BayesianGaussianMixture(covariance_type=name, **settings)


def assert_same(found, expected, rtol=1e-9):
    assert found.n_iter_ == expected.n_iter_
    assert found.elbo_ == pytest.approx(expected.elbo_, rel=1e-11)
    for what in ("weights_", "means_", "covariances_", "degrees_of_freedom_", "mean_prior_"):
        want = getattr(expected, what)
        scale = np.abs(want).max()
        np.testing.assert_allclose(getattr(found, what), want, rtol=rtol, atol=rtol * scale)


def assert_same_spread(found, expected, rtol):
    for what in ("weights", "means", "covariances"):
        spreads = [one.posterior_.std(what, "linear_response") for one in (found, expected)]
        torch.testing.assert_close(*spreads, rtol=rtol, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
@names
def test_streaming_from_parquet_equals_inference_in_memory(name, weighted, tmp_path):
    x, weight = clusters()
    own = weight if weighted else None
    folder = write_parts(tmp_path / "parts", x, own)
    source = ParquetSource(folder, weight_column="weight" if weighted else None)
    expected = model(name).fit(x, sample_weight=own)
    found = model(name).fit(source)
    assert_same(found, expected)
    np.testing.assert_allclose(found.score_samples(source), expected.score_samples(x), rtol=1e-8)
    np.testing.assert_array_equal(found.predict(source), expected.predict(x))
    np.testing.assert_allclose(found.predict_proba(source), expected.predict_proba(x), atol=1e-8)
    assert found.score(source) == pytest.approx(expected.score(x, sample_weight=own), abs=1e-9)
    low, high = found.posterior_ci("means", correction="linear_response")
    want = expected.posterior_ci("means", correction="linear_response")
    np.testing.assert_allclose(low, want[0], rtol=1e-6)
    np.testing.assert_allclose(high, want[1], rtol=1e-6)


def test_a_prior_of_independent_parts_and_several_starts():
    x, weight = clusters(3000)
    settings = {"prior": IndependentNormalGamma(), "n_init": 3}
    found = model("diag", **settings).fit(ArraySource(x, weight, batch_rows=700))
    expected = model("diag", **settings).fit(x, sample_weight=weight)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)


def test_the_posterior_keeps_what_it_needs(tmp_path):
    x, weight = clusters(3000)
    source = ArraySource(x, weight, batch_rows=700)
    found, expected = model().fit(source), model().fit(x, sample_weight=weight)
    torch.testing.assert_close(found.posterior_.doubt, expected.posterior_.doubt)
    assert found.posterior_.pareto_k().value == pytest.approx(expected.posterior_.pareto_k().value)
    with pytest.raises(InputError, match="to_arviz needs the rows in memory"):
        found.posterior_.to_arviz()
    save(found, tmp_path / "model.mogul")
    loaded = load(tmp_path / "model.mogul").posterior_.with_rows(source)
    torch.testing.assert_close(
        loaded.std("means", "linear_response"), expected.posterior_.std("means", "linear_response")
    )
    with pytest.raises(InputError, match="not the rows that were fitted"):
        loaded.with_rows(ArraySource(x))
    with pytest.raises(InputError, match="must have 3 columns and be readable more than once"):
        loaded.with_rows(ArraySource(x[:, :2]))
    with pytest.raises(InputError, match="carry their own weights"):
        loaded.with_rows(source, sample_weight=weight)


def test_a_model_of_files_can_be_copied(tmp_path):
    """What was kept of the rows in a pass goes neither into copies nor with the model."""
    x, _ = clusters(3000)
    for cache in ("ram", "disk", "none"):
        source = ParquetSource(write_parts(tmp_path / cache, x), cache=cache)
        found = model().fit(source)
        assert found.posterior_.rows is not source
        again = pickle.loads(pickle.dumps(found))
        torch.testing.assert_close(
            again.posterior_.std("means", "linear_response"),
            found.posterior_.std("means", "linear_response"),
        )
        assert len(pickle.dumps(source)) < 50_000
        assert pickle.loads(pickle.dumps(source)).n_rows == 3000


def test_a_sample_first_ends_where_all_rows_alone_do():
    """More rows than a sample has: fewer iterations on them, and the same maximum."""
    x, _ = clusters(80_000)
    found, expected = model(tol=1e-3).fit(ArraySource(x)), model(tol=1e-3).fit(x)
    assert found.elbo_ == pytest.approx(expected.elbo_, abs=1e-2)
    np.testing.assert_allclose(found.means_, expected.means_, atol=1e-4)
    assert found.n_iter_ < 0.8 * expected.n_iter_
    # The missing information is told from 64,000 of the rows: an error of some thousandths.
    assert_same_spread(found, expected, 5e-3)


def test_weights_that_differ_much_and_a_sample():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80_000, 2)) + 3.0 * rng.integers(0, 2, (80_000, 1))
    weight = np.where(x[:, 0] > 1.5, 3.0, 0.1)
    found = model(n_components=2, tol=1e-5).fit(ArraySource(x, weight))
    expected = model(n_components=2, tol=1e-5).fit(x, sample_weight=weight)
    np.testing.assert_allclose(found.means_, expected.means_, atol=1e-3)
    # Light rows stand for thirty times their number; without their weights it is at a saddle.
    assert_same_spread(found, expected, 0.03)


def test_going_on_and_pruning():
    x, _ = clusters(3000)
    short = model(max_iter=3, warm_start=True)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        short.fit(ArraySource(x))
    bound = short.elbo_
    assert short.set_params(max_iter=300).fit(ArraySource(x)).elbo_ > bound
    assert short.converged_
    with pytest.raises(InputError, match="does not have its rows in memory"):
        short.prune()
    short.posterior_ = short.posterior_.with_rows(x)
    assert short.prune().n_components == 3


# --- minibatches ----------------------------------------------------------------------------------


def test_every_row_is_in_one_minibatch_of_a_pass(tmp_path):
    x = np.arange(2000.0)[:, None]
    weight = np.where(np.arange(2000) % 7 == 0, 0.0, 1.0 + np.arange(2000))
    folder = write_parts(tmp_path / "parts", x, weight)
    sources = [
        ArraySource(x, weight, batch_rows=90),
        *(ParquetSource(folder, weight_column="weight", cache=c) for c in ("ram", "disk", "none")),
        LoaderSource([(x[:1500], weight[:1500]), (x[1500:], weight[1500:])], weighted=True),
    ]
    n_rows = int((weight > 0).sum())
    for source in sources:
        for _ in range(2):  # the second time from the cache
            list(source.blocks())
            rng = np.random.default_rng(0)
            found = list(minibatches(source, n_rows, 13, rng, pool_rows=300))
            assert {len(values) for values, _ in found} == {n_rows // 13, n_rows // 13 + 1}
            values = torch.cat([values for values, _ in found]).flatten()
            assert values.tolist() != sorted(values.tolist())
            assert sorted(values.tolist()) == x[weight > 0, 0].tolist()
            weights = torch.cat([own for _, own in found])
            torch.testing.assert_close(weights, values.double() + 1)


def test_minibatches_of_sorted_rows_are_mixed():
    """Batches of rows that are sorted have the mean of all, as far as chance goes."""
    x = np.sort(np.random.default_rng(0).normal(size=20_000))[:, None]
    source = ArraySource(x, batch_rows=100)
    found = minibatches(source, 20_000, 100, np.random.default_rng(1), pool_rows=4000)
    means = np.array([float(values.mean()) for values, _ in found])
    # 200 rows drawn at random have a standard error of 0.07; in order the means span −2.7 to 2.7.
    assert means.std() < 3 / np.sqrt(200)


def test_more_batches_than_rows():
    found = list(minibatches(ArraySource(np.ones((3, 2))), 3, 5, np.random.default_rng(0)))
    assert [len(values) for values, _ in found] == [1, 1, 1, 0, 0]


def test_stochastic_inference_from_a_source():
    """One batch of all rows is coordinate ascent; of sorted rows in batches it ends near it."""
    x, _ = clusters(6000)
    whole = SVI(passes=30, batch_size=6000)
    found = model(inference=whole).fit(ArraySource(x, batch_rows=700))
    expected = model(inference=whole).fit(x)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)
    source = ArraySource(x[np.argsort(x[:, 0])], batch_rows=200)
    small = model(inference=SVI(passes=20, batch_size=500)).fit(source)
    assert small.converged_
    assert small.elbo_ > expected.elbo_ - 2.5  # what the noise of the last steps may cost
    assert small.passes_.n_rows >= 20 * 6000


# --- several processes ----------------------------------------------------------------------------

FIT = """
import json, sys
import torch.distributed as dist
from mogul import BayesianGaussianMixture
from mogul.data import ParquetSource
from mogul.infer import SVI

folder, out, how = sys.argv[1:]
dist.init_process_group("gloo")
method = "cavi" if how == "cavi" else SVI(passes=20, batch_size=500)
model = BayesianGaussianMixture(3, random_state=0, tol=1e-8, inference=method)
model.fit(ParquetSource(folder))
low, high = model.posterior_ci("means", correction="linear_response")
found = {"elbo": model.elbo_, "means": model.means_.tolist(), "n_iter": model.n_iter_,
         "low": low.tolist(), "doubt": model.posterior_.doubt.tolist()}
with open(f"{out}-{dist.get_rank()}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("how", ["cavi", pytest.param("svi", marks=pytest.mark.slow)])
def test_processes_find_what_one_finds(tmp_path, how):
    x, _ = clusters()
    folder = write_parts(tmp_path / "parts", x)
    out = tmp_path / "found"
    found = answers_together(FIT, 2, out, folder, out, how)
    assert found[0] == found[1]
    expected = model().fit(x)
    if how == "cavi":
        assert found[0]["n_iter"] == expected.n_iter_
        np.testing.assert_allclose(found[0]["means"], expected.means_, rtol=1e-9)
        low, _ = expected.posterior_ci("means", correction="linear_response")
        np.testing.assert_allclose(found[0]["low"], low, rtol=1e-6)
    else:
        assert found[0]["elbo"] > expected.elbo_ - 2.5


# --- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_inferred_from_a_source():
    x, weight = clusters(300)
    for method in ("gibbs", "vi-adam"):
        with pytest.raises(InputError, match=f"inference='{method}' needs the rows in memory"):
            model(inference=method).fit(ArraySource(x))
    with pytest.raises(InputError, match="carry their own weights"):
        model().fit(ArraySource(x), sample_weight=weight)
    with pytest.raises(InputError, match="can be read once only, and inference needs several"):
        model().fit(LoaderSource(batch for batch in [x]))
    with pytest.raises(InputError, match="has 2 rows for 3 components"):
        model().fit(ArraySource(x[:2]))
    with pytest.raises(InputError, match="The source has columns"):
        model().fit(ArraySource(x)).score(ArraySource(x[:, :2]))
