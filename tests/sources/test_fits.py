"""A fit to a source is the fit to the same rows in memory."""

import itertools

import numpy as np
import pytest
import torch

from laws.cases import CASES
from mogul import GaussianMixture
from mogul.data import ArraySource, LoaderSource, ParquetSource
from mogul.errors import InputError, InputTypeError, SpikeWarning
from mogul.infer.survey import survey
from mogul.infer.team import Team
from sources.cases import clusters, write_parts

PARAMETERS = ("weights_", "means_", "covariances_")
names = pytest.mark.parametrize("name", list(CASES))


def assert_same(found, expected, rtol=1e-10):
    assert found.n_iter_ == expected.n_iter_
    assert found.converged_ == expected.converged_
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-10)
    for part in PARAMETERS:
        got, want = getattr(found, part), getattr(expected, part)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


def model(name, **settings):
    return GaussianMixture(
        3, **{"covariance_type": name, "random_state": 0, "tol": 1e-7, "max_iter": 300, **settings}
    )


@pytest.mark.parametrize("weighted", [False, True])
@names
def test_streaming_from_parquet_equals_the_fit_in_memory(name, weighted, tmp_path):
    x, weight = clusters()
    folder = write_parts(tmp_path / "parts", x, weight if weighted else None)
    source = ParquetSource(folder, weight_column="weight" if weighted else None, cache="none")
    expected = model(name).fit(x, sample_weight=weight if weighted else None)
    found = model(name).fit(source)
    assert_same(found, expected)
    assert list(found.feature_names_in_) == ["x0", "x1", "x2"]
    np.testing.assert_allclose(found.score_samples(source), expected.score_samples(x), rtol=1e-9)
    np.testing.assert_array_equal(found.predict(source), expected.predict(x))
    np.testing.assert_allclose(
        found.predict_proba(source), expected.predict_proba(x), atol=1e-9
    )  # fmt: skip
    own = weight if weighted else None
    assert found.score(source) == pytest.approx(expected.score(x, sample_weight=own), abs=1e-9)


@names
def test_the_size_of_row_groups_does_not_matter(name, tmp_path):
    x, _ = clusters(2000)
    found = []
    for i, groups in enumerate([(2000,), (1, 5, 333), (64,)]):
        source = ParquetSource(write_parts(tmp_path / str(i), x, groups=groups), batch_rows=100)
        found.append(model(name).fit(source))
    for other in found[1:]:
        assert_same(other, found[0])


@pytest.mark.parametrize("kind", ["array", "loader", "batches", "weighted"])
def test_other_sources(kind):
    x, weight = clusters(3000)
    rows, weights = torch.from_numpy(x), torch.from_numpy(weight)
    batches = list(zip(rows.split(999), weights.split(999), strict=True))
    sources = {
        "array": ArraySource(x, batch_rows=700),
        "loader": LoaderSource(torch.utils.data.DataLoader(rows, batch_size=512)),
        "batches": LoaderSource(batches),
        "weighted": LoaderSource(batches, weighted=True),
    }
    own = weight if kind == "weighted" else None
    assert_same(model("full").fit(sources[kind]), model("full").fit(x, sample_weight=own))


def test_an_array_on_the_disk(tmp_path):
    x, _ = clusters(3000)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = model("diag").fit(ArraySource(mapped, names=["a", "b", "c"]))
    assert_same(found, model("diag").fit(x.astype(np.float32)), 1e-6)
    assert found.means_.dtype == np.float32


def test_data_frames_tensors_and_lists():
    import pandas as pd

    x, weight = clusters(900)
    frame = ArraySource(pd.DataFrame(x, columns=["a", "b", "c"]), pd.Series(weight))
    assert frame.names == ("a", "b", "c")
    expected = model("full").fit(x, sample_weight=weight)
    assert_same(model("full").fit(frame), expected)
    assert_same(model("full").fit(ArraySource(torch.from_numpy(x), weight)), expected)
    assert ArraySource(x.tolist()).n_rows == 900
    with pytest.raises(InputError, match="2 names are given for 3 columns"):
        ArraySource(x, names=["a", "b"])


def test_parameters_to_start_from_several_starts_and_a_warm_start():
    x, _ = clusters(3000)
    given = {"means_init": x[:3], "weights_init": [0.2, 0.3, 0.5]}
    source = ArraySource(x, batch_rows=800)
    assert_same(model("tied", **given).fit(source), model("tied", **given).fit(x))
    assert_same(model("full", n_init=3).fit(source), model("full", n_init=3).fit(x))
    short = model("full", max_iter=2, warm_start=True, acceleration="none")
    long = model("full", max_iter=4, acceleration="none")
    with pytest.warns(UserWarning, match="did not converge"):
        twice = short.fit(source).fit(source)
    with pytest.warns(UserWarning, match="did not converge"):
        long.fit(source)
    np.testing.assert_allclose(twice.means_, long.means_, rtol=1e-9)


def test_callbacks_passes_and_checks_of_the_model():
    x, _ = clusters(3000)
    seen = []
    found = model("full", callbacks=[seen.append]).fit(ArraySource(x, batch_rows=800))
    assert len(seen) == found.n_iter_
    assert found.passes_.n_rows == 3000 * found.passes_.n_passes
    assert found.passes_.n_rows_per_second > 0
    with pytest.raises(InputError, match="The source has columns"):
        found.score(ArraySource(x[:, :2]))
    assert found.fit_predict(ArraySource(x)).shape == (3000,)


# --- the sample -----------------------------------------------------------------------------------


def test_the_sample_is_all_rows_where_they_are_few():
    x, weight = clusters(500)
    found = survey(ArraySource(x, weight, batch_rows=77), 500, 0, Team())
    np.testing.assert_array_equal(found.sample.values, x)
    np.testing.assert_array_equal(found.sample.weight, weight)
    assert (found.n_rows, found.constant) == (500, [])
    assert found.total_weight == pytest.approx(weight.sum())


def test_rows_are_drawn_as_often_as_their_weights_say():
    """A row of weight w is in a sample of one with probability w / Σ w."""
    x, weight = np.arange(4.0)[:, None], np.array([1.0, 2.0, 3.0, 0.0])
    drawn = np.zeros(4)
    for seed in range(1500):
        found = survey(ArraySource(x, weight, batch_rows=3), 1, seed, Team())
        drawn[int(found.sample.values)] += 1
    expected = 1500 * weight / weight.sum()
    assert drawn[3] == 0
    assert ((drawn - expected)[:3] ** 2 / expected[:3]).sum() < 13.8  # χ² of two, p = 0.001


def test_sums_over_the_sample_estimate_those_over_all_rows():
    """Whatever the weights: rows that are all but certain to be drawn do not count for less."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 1))
    weight = np.where(x[:, 0] > 0, 10.0, 0.1)
    weight[7] = 5000.0
    truth = np.array([weight.sum(), weight @ x[:, 0], weight[x[:, 0] < 0].sum()])
    found = []
    for seed in range(300):
        sample = survey(ArraySource(x, weight), 600, seed, Team()).sample
        v, w = sample.values[:, 0].numpy(), sample.weight.numpy()
        found.append([w.sum(), w @ v, w[v < 0].sum()])
    error = np.std(found, axis=0) / np.sqrt(300)
    assert (np.abs(np.mean(found, axis=0) - truth) < 4 * error + 1e-9).all()
    assert np.std(found, axis=0)[0] < 0.1 * truth[0]


def test_rows_of_no_weight_change_nothing():
    x, weight = clusters(2000)
    weight[:500] = 0.0
    x[3] = 1e300
    source = ArraySource(x, weight, batch_rows=250)
    found, expected = model("full").fit(source), model("full").fit(x, sample_weight=weight)
    assert_same(found, expected)
    assert found.score(source) == pytest.approx(expected.score(x, sample_weight=weight), abs=1e-9)
    expected_bic = expected.bic(x, sample_weight=weight)
    assert found.bic(source) == pytest.approx(expected_bic, rel=1e-9)
    assert found.predict(source).shape == (2000,)


def test_the_sample_depends_on_the_seed_and_not_on_who_reads(tmp_path):
    x, _ = clusters(5000)
    folder = write_parts(tmp_path / "parts", x)
    one = survey(ParquetSource(folder), 300, 5, Team()).sample.values
    other = survey(ParquetSource(folder, batch_rows=13), 300, 5, Team()).sample.values
    assert torch.equal(one, other)
    assert not torch.equal(one, survey(ParquetSource(folder), 300, 6, Team()).sample.values)
    assert len({tuple(row) for row in one.tolist()}) == 300


@pytest.mark.slow
def test_samples_before_all_rows_save_passes():
    """Within 10⁻³ nats a row of batch EM's end in at most half the passes, the first included."""
    for seed in (100, 101, 102):
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(20, 8)) * 1.5
        x = centres[rng.integers(0, 20, 10**6)] + rng.normal(size=(10**6, 8))
        source = ArraySource(x)
        settings = {"n_components": 20, "tol": 1e-5, "max_iter": 1000, "random_state": seed}
        batch = GaussianMixture(algorithm="em", acceleration="none", **settings).fit(source)
        enough = batch.lower_bound_ - 1e-3
        needed = [
            next(i + 1 for i, value in enumerate(one.lower_bounds_) if value >= enough)
            for one in (batch, GaussianMixture(**settings).fit(source))
        ]
        assert needed[1] + 1 <= (needed[0] + 1) / 2, (seed, needed)


# --- what is refused ------------------------------------------------------------------------------


def test_what_can_be_read_once_is_refused():
    x, _ = clusters(300)
    once = LoaderSource(iter([x[:100], x[100:]]))
    assert len(list(once.blocks())) == 2
    with pytest.raises(InputError, match="can be read once only, and EM needs several passes"):
        model("full").fit(LoaderSource(batch for batch in [x]))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: ArraySource(x[0]), "expected rows and columns"),
        (lambda x: ArraySource(x.astype(object)), "holds object, expected numbers"),
        (lambda x: ArraySource(x, np.ones(3)), "sample_weight has shape"),
        (lambda x: LoaderSource([]), "gives no batch"),
        (lambda x: LoaderSource([x[0]]), "A batch has shape"),
        (lambda x: LoaderSource([x], weighted=True), "has no second member"),
        (lambda x: LoaderSource([x, x[:, :2]]), "Batch 1 has 2 columns, expected 3"),
        (lambda x: ArraySource(x, np.zeros(len(x))), "no row of positive weight"),
        (lambda x: ArraySource(x, -np.ones(len(x))), "must be finite and not negative"),
        (lambda x: ArraySource(np.where(x == x[7, 1], np.nan, x)), "Row 7 .* column 1"),
    ],
)
def test_sources_that_cannot_be_used(make, said):
    x, _ = clusters(300)
    with pytest.raises(InputError, match=said):
        model("full").fit(make(x))


def test_settings_that_do_not_go_with_a_source():
    x, weight = clusters(300)
    with pytest.raises(InputError, match="carry their own weights"):
        model("full").fit(ArraySource(x), sample_weight=weight)
    with pytest.raises(InputError, match="checkpoint keeps the state of fits to a source"):
        model("full", checkpoint="state").fit(x)
    with pytest.raises(InputError, match="has 2 rows for 3 components"):
        model("full").fit(ArraySource(x[:2]))
    fitted = model("full").fit(ArraySource(x))
    with pytest.raises(InputError, match="carry their own weights"):
        fitted.score(ArraySource(x), sample_weight=weight)
    with pytest.raises(InputTypeError, match="needs the rows in memory here"):
        fitted.partial_fit(ArraySource(x))
    with pytest.warns(SpikeWarning, match="column b is the same"):
        model("full").fit(ArraySource(np.c_[x[:, 0], np.ones(300)], names=["a", "b"]))


def test_batches_are_read_ahead_and_no_further():
    taken = []

    def items():
        for i in itertools.count():
            taken.append(i)
            yield i

    from mogul.data.sources import ahead

    reading = ahead(items())
    assert next(reading) == 0
    assert next(reading) == 1
    reading.close()
    assert len(taken) <= 4
