"""EM that moves after each part of the rows, and after each batch of a stream."""

import numpy as np
import pytest
import torch

from mogul import GaussianMixture, load, save
from mogul.covariances import structure
from mogul.data import ArraySource, LoaderSource, ParquetSource
from mogul.data.rows import Rows
from mogul.errors import InputError, InputTypeError
from mogul.infer.em import EMSettings, Streamed
from mogul.infer.incremental import incremental_em, n_parts
from mogul.infer.maximum_likelihood import initial_mixtures
from mogul.kernels import e_step
from sources.cases import answers_together, clusters, write_parts

names = pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])


def component_densities(x, mixture):
    dense = mixture.covariance.dense()
    each = [
        torch.distributions.MultivariateNormal(m, c).log_prob(x)
        for m, c in zip(mixture.means, dense, strict=True)
    ]
    return torch.stack(each, 1) + mixture.log_weights


@names
def test_every_step_raises_the_free_energy(name):
    """F from densities, row by row, with the responsibilities that each part was read with."""
    x = torch.from_numpy(clusters(600)[0])
    parts, shares, energies = x.split(19), {}, []

    def collect(mixture, n_batches=0, part=-1):
        if part < 0:
            return e_step(x, mixture)
        assert n_batches == len(parts)
        shares[part] = component_densities(parts[part], mixture).softmax(1)
        if len(shares) == len(parts):
            share = torch.cat([shares[p] for p in range(len(parts))])
            inside = component_densities(x, mixture) - share.clamp_min(1e-300).log()
            energies.append(float((share * inside).sum()))
        return e_step(parts[part], mixture)

    rows = Rows(x)
    start, _ = initial_mixtures(
        rows, 3, structure(name), EMSettings(), method="random_from_data", n_init=1,
        random_state=np.random.RandomState(3),
    )  # fmt: skip
    assert n_parts(start[0]) == len(parts) == 32
    streamed = Streamed(600, 600.0, torch.device("cpu"), collect, rows)
    incremental_em(streamed, start, EMSettings(tol=1e-9, max_iter=15, floor=0.0))
    steps = np.diff(energies)
    assert len(steps) > 200
    assert steps.min() > -1e-9 * abs(energies[-1])  # the first is a million times as large
    assert energies[-1] > energies[32] + 10  # the first pass was EM's


@names
def test_it_ends_where_em_does(name, tmp_path):
    x, weight = clusters(3000)
    settings = {"covariance_type": name, "random_state": 0, "tol": 1e-9, "max_iter": 400}
    expected = GaussianMixture(3, **settings).fit(x, sample_weight=weight)
    told = []
    folder = write_parts(tmp_path / "x", x, weight)
    for source in (
        ArraySource(x, weight, batch_rows=50),
        ParquetSource(folder, weight_column="weight"),
    ):
        found = GaussianMixture(3, algorithm="incremental", callbacks=[told.append], **settings)
        found.fit(source)
        assert found.converged_
        assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-8)
        np.testing.assert_allclose(found.means_, expected.means_, atol=1e-4)
        assert [record.iteration for record in found.history_] == list(range(1, found.n_iter_ + 1))
    assert len(told) > found.n_iter_
    assert told[-1].iteration == found.n_iter_


@pytest.mark.slow
def test_fewer_passes_than_em_where_clusters_overlap():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 4)) * 1.2
    x = centres[rng.integers(0, 8, 20_000)] + rng.normal(size=(20_000, 4))
    found = {
        algorithm: GaussianMixture(
            8, algorithm=algorithm, acceleration="none", tol=1e-5, max_iter=500,
            init_params="random_from_data", random_state=0,
        ).fit(ArraySource(x))
        for algorithm in ("em", "incremental")
    }  # fmt: skip
    enough = min(one.lower_bound_ for one in found.values()) - 2e-3
    passes = {
        name: next(i for i, value in enumerate(one.lower_bounds_) if value > enough)
        for name, one in found.items()
    }
    assert passes["incremental"] < passes["em"]


def test_a_callback_and_few_iterations_end_it():
    x, _ = clusters(3000)
    with pytest.warns(UserWarning, match="did not converge"):
        found = GaussianMixture(3, algorithm="incremental", tol=0, max_iter=3, random_state=0).fit(
            ArraySource(x)
        )
    assert found.n_iter_ == 3
    with pytest.warns(UserWarning, match="stopped early"):
        found = GaussianMixture(
            3, algorithm="incremental", tol=0, callbacks=[lambda _: True], random_state=0
        ).fit(ArraySource(x))
    assert found.n_iter_ == 1


FIT = """
import json, sys
import torch.distributed as dist
from mogul import GaussianMixture
from mogul.data import ParquetSource

folder, out = sys.argv[1:]
dist.init_process_group("gloo")
model = GaussianMixture(3, random_state=0, algorithm="incremental", tol=1e-9, max_iter=400)
model.fit(ParquetSource(folder))
with open(f"{out}-{dist.get_rank()}.json", "w") as file:
    json.dump({"bound": model.lower_bound_, "means": model.means_.tolist()}, file)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_that_move_together(tmp_path):
    x, _ = clusters()
    folder = write_parts(tmp_path / "parts", x)
    out = tmp_path / "found"
    found = answers_together(FIT, 2, out, folder, out)
    assert found[0] == found[1]
    expected = GaussianMixture(3, random_state=0, tol=1e-9, max_iter=400).fit(x)
    assert found[0]["bound"] == pytest.approx(expected.lower_bound_, abs=1e-8)


def test_what_incremental_em_cannot_read():
    x, _ = clusters(300)
    model = GaussianMixture(2, algorithm="incremental")
    with pytest.raises(InputError, match="'incremental' is for fits to a source"):
        model.fit(x)
    with pytest.raises(InputError, match="LoaderSource cannot be read in parts"):
        model.fit(LoaderSource([x]))
    with pytest.raises(InputError, match="checkpoint keeps the state of EM"):
        GaussianMixture(2, algorithm="incremental", checkpoint="state").fit(ArraySource(x))


@names
def test_criteria_of_a_source_are_those_of_its_rows(name):
    x, weight = clusters(2000)
    model = GaussianMixture(3, covariance_type=name, random_state=0).fit(x)
    source = ArraySource(x, weight, batch_rows=300)
    for criterion in ("bic", "aic", "icl"):
        expected = getattr(model, criterion)(x, sample_weight=weight)
        assert getattr(model, criterion)(source) == pytest.approx(expected, rel=1e-11)
    with pytest.raises(InputError, match="carry their own weights"):
        model.bic(source, sample_weight=weight)


# --- a stream -------------------------------------------------------------------------------------


@names
def test_a_step_is_a_weighted_mean_of_statistics(name):
    """Weights and means of the next mixture, from responsibilities."""
    x, weight = clusters(3000)
    model = GaussianMixture(3, covariance_type=name, random_state=0).fit(x[:1000])
    batch, own = x[1000:1200], weight[1000:1200]
    w, m, r = model.weights_, model.means_, model.predict_proba(batch)
    before = model.score(batch, sample_weight=own)
    model.partial_fit(batch, sample_weight=own)
    step = (1000 / own.sum() + 2) ** -0.6
    count = own @ r / own.sum()
    expected = (1 - step) * w + step * count
    np.testing.assert_allclose(model.weights_, expected, rtol=1e-6)
    first = (1 - step) * w[:, None] * m + step * (own[:, None] * r).T @ batch / own.sum()
    np.testing.assert_allclose(model.means_, first / expected[:, None], rtol=1e-6)
    assert model.lower_bound_ == pytest.approx(before, abs=1e-9)
    assert model.n_seen_ == pytest.approx(1000 + own.sum())


def test_a_stream_ends_near_the_fit_of_all_rows(tmp_path):
    x, _ = clusters(40_000)
    model = GaussianMixture(3, random_state=0)
    for batch in np.array_split(x, 200):
        model.partial_fit(batch)
    assert model.n_seen_ == 40_000
    best = GaussianMixture(3, random_state=0).fit(x)
    assert best.score(x) - 0.003 < model.score(x) < best.score(x)
    save(model, tmp_path / "m.mogul")
    again = load(tmp_path / "m.mogul")
    np.testing.assert_allclose(
        again.partial_fit(x[:200]).means_, model.partial_fit(x[:200]).means_, rtol=1e-9
    )
    assert again.fit(x[:500]).n_seen_ == 500


def test_a_few_rows_move_a_fit_of_many_a_little():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(20_000, 1)), rng.normal(10, 1, size=(20_000, 1))])
    model = GaussianMixture(2, random_state=0).fit(x)
    model.partial_fit(rng.normal(size=(100, 1)))
    assert np.abs(model.weights_ - 0.5).max() < 0.02


def test_what_a_stream_refuses():
    x, _ = clusters(600)
    for model in (GaussianMixture(3), GaussianMixture(3).fit(x[:300])):
        with pytest.raises(InputTypeError, match="needs the rows in memory here"):
            model.partial_fit(ArraySource(x))
    model = GaussianMixture(3, random_state=0).partial_fit(x[:300])
    means = model.means_.copy()
    with pytest.raises(InputError, match="contains NaN"):
        model.partial_fit(np.full((5, 3), np.nan))
    model.set_params(n_components=4)
    with pytest.raises(InputError, match="goes on with 3 components"):
        model.partial_fit(x)
    np.testing.assert_array_equal(model.means_, means)
