"""Where fits begin: what starts depend on, and what they must not depend on."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import RandomState
from scipy.spatial.distance import cdist
from sklearn.cluster import kmeans_plusplus

import mogul.infer.starts
from laws.cases import CASES, tensor
from mogul import GaussianMixture
from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.datasets import old_faithful
from mogul.errors import DegenerateFitError
from mogul.infer.em import EMSettings, fit_em, likeliest
from mogul.infer.maximum_likelihood import FixedParts, _End, _with, fit_mixture, initial_mixtures
from mogul.infer.starts import (
    CANDIDATES,
    SHORT_ITERATIONS,
    STARTS,
    distinct_rows,
    kmeans_starts,
    n_sample_rows,
    sample_rows,
    some_rows,
    start_mixtures,
)
from mogul.infer.stopping import Trace

pytestmark = pytest.mark.usefixtures("compiler")

KINDS = list(CASES)
names = pytest.mark.parametrize("name", KINDS)
methods = pytest.mark.parametrize("method", STARTS)
SETTINGS = EMSettings()


def three_clusters(n=300, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return centres[rng.integers(0, 3, n)] + rng.normal(size=(n, 2)), centres


def begin(x, name="full", method="kmeans", seed=0, k=3, weight=None, n_init=1, settings=SETTINGS):
    rows = Rows(tensor(x), None if weight is None else tensor(weight))
    return start_mixtures(
        rows,
        k,
        structure(name),
        settings,
        method=method,
        n_init=n_init,
        random_state=RandomState(seed),
    )


def assert_same(one, other, rtol=1e-10):
    for part in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(one, part), getattr(other, part), rtol=rtol, atol=rtol)


@methods
@names
def test_a_start_is_a_batch_of_usable_mixtures(name, method):
    x, _ = three_clusters()
    starts, ok = begin(x, name, method, n_init=4)
    assert starts.batch_shape == (4,)
    assert ok.shape == (4, 3)
    assert ok.all()
    assert starts.covariance_type == name
    np.testing.assert_allclose(starts.weights.sum(-1), 1, rtol=1e-12)
    assert starts.means.dtype == torch.float64


@methods
def test_the_same_seed_gives_the_same_start_and_leaves_numpys_own_alone(method):
    x, _ = three_clusters()
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, other, third = (begin(x, method=method, seed=seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert_same(one, other, 0)
    if method != "kmeans":  # which finds these clusters from any seed
        assert not torch.equal(one.means, third.means)


@pytest.mark.parametrize("weighted", [False, True])
@names
def test_kmeans_finds_clusters_and_takes_their_moments(name, weighted):
    x, centres = three_clusters()
    weight = np.random.default_rng(0).uniform(0.5, 2, len(x)) if weighted else np.ones(len(x))
    starts, _ = begin(x, name, weight=weight if weighted else None)
    order = cdist(centres, starts.means[0]).argmin(1)
    share = np.eye(3)[cdist(x, centres).argmin(1)] * weight[:, None]
    count = share.sum(0)
    means = share.T @ x / count[:, None]
    gap = x[:, None] - means
    expected = CASES[name].estimate(np.einsum("nk,nki,nkj->kij", share, gap, gap), count)
    eye = CASES[name].estimate(np.stack([np.eye(2)] * 3), np.ones(3))
    found = starts[0].select(order)
    np.testing.assert_allclose(found.weights, count / count.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.means, means, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.covariances, expected + 1e-6 * eye, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 2**31), data=st.data())
def test_a_default_start_sees_neither_order_nor_repetition(seed, data):
    """Only the total weight of each distinct row counts: point 3 of the contract."""
    x = np.random.default_rng(seed).normal(size=(40, 2)).round(1)
    weight = np.array(data.draw(st.lists(st.integers(0, 3), min_size=40, max_size=40)))
    weight[:5] += 1
    x[3] = x[4]
    order = np.random.default_rng(seed).permutation(weight.sum())
    weighted, ok = begin(x, weight=weight, k=2)
    repeated, ok_too = begin(np.repeat(x, weight, 0)[order], k=2)
    assert_same(weighted, repeated, 1e-9)
    assert torch.equal(ok, ok_too)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 30))
def test_distinct_rows_keep_the_total_weight(seed, n):
    rng = np.random.default_rng(seed)
    x, weight = rng.integers(0, 3, (n, 2)).astype(float), rng.integers(0, 3, n).astype(float)
    weight[0] = 1.0
    kept = distinct_rows(Rows(tensor(x), tensor(weight)))
    counted = {}
    for row, w in zip(map(tuple, x), weight, strict=True):
        counted[row] = counted.get(row, 0.0) + w
    found = dict(zip(map(tuple, kept.values.tolist()), kept.weight.tolist(), strict=True))
    assert found == {row: w for row, w in counted.items() if w > 0}
    plain = distinct_rows(Rows(tensor(x)))
    assert plain.weight.sum() == n


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_a_default_start_does_not_care_for_the_units_of_the_table(factor):
    x, _ = three_clusters()
    here, _ = begin(x, settings=EMSettings(floor=0.0))
    there, _ = begin(x * factor, settings=EMSettings(floor=0.0))
    np.testing.assert_allclose(there.means / factor, here.means, rtol=1e-9)
    np.testing.assert_allclose(there.weights, here.weights, rtol=1e-12)


def test_one_column_in_large_units_does_not_hide_the_clusters():
    """Half of the k-means partitions are of standardised columns."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 150)
    x = np.stack([rng.normal(0, 1e4, 300), labels * 10 + rng.normal(size=300)], 1)
    starts, _ = begin(x, k=2)
    np.testing.assert_allclose(starts[0].means[:, 1].sort()[0], [0, 10], atol=0.5)


def test_the_candidate_that_a_short_em_brings_furthest_is_taken():
    """Likelihood in the structure asked for decides, not k-means' own inertia."""
    x = old_faithful().values
    rows = Rows(tensor(x))
    short = EMSettings(max_iter=SHORT_ITERATIONS, acceleration="none")
    for name in KINDS:
        for seed in range(3):
            chosen, _ = begin(x, name, seed=seed, k=4)
            offered, _ = kmeans_starts(
                distinct_rows(rows), 4, structure(name), SETTINGS, 4, RandomState(seed)
            )
            values = fit_em(rows, offered, short).log_likelihood
            assert fit_em(rows, chosen, short).log_likelihood >= values.max() - 1e-9


@pytest.mark.parametrize("n_rows", [300, 10_000])
def test_starts_of_a_large_mixture_are_tried_one_after_another(n_rows, monkeypatch):
    """Where compiled code does not try them all; on all rows and on a sample."""
    x, _ = three_clusters(n_rows)
    settings = EMSettings(shrinkage=0.1)
    together, ok = begin(x, seed=2, k=5, settings=settings)
    monkeypatch.setattr(mogul.infer.starts, "LARGE_MIXTURE", 0)
    tried, short = [], mogul.infer.starts._short_em
    monkeypatch.setattr(
        mogul.infer.starts, "_short_em", lambda *args: tried.append(short(*args)) or tried[-1]
    )
    apart, same = begin(x, seed=2, k=5, settings=settings)
    values = [value for _, _, value in tried]
    assert len(values) == CANDIDATES
    assert np.argmax(values) > 0
    assert torch.equal(ok, same)
    assert_same(apart, together)


@methods
@names
def test_rows_that_a_start_is_made_from_are_taken_in_chunks(name, method, monkeypatch):
    x, _ = three_clusters(200)
    settings = EMSettings(shrinkage=0.1)  # else partitions are compiled
    asked = {"method": method, "weight": np.linspace(0.5, 2, 200), "settings": settings}
    whole, _ = begin(x, name, **asked)
    monkeypatch.setattr(mogul.infer.starts, "_CHUNK_NUMBERS", 1)
    sizes, moment = [], structure(name).moment

    def counted(weight, *gaps):
        sizes.append(weight.shape[-1])
        return moment(weight, *gaps)

    monkeypatch.setattr(structure(name), "moment", staticmethod(counted))
    parts, _ = begin(x, name, **asked)
    assert method not in ("kmeans", "random") or {16, 8} <= set(sizes)
    assert_same(parts, whole, 1e-9)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 5e-12, 1e-11, 2e-11, 1.0, -np.inf, np.nan]), min_size=1)
)
def test_ends_that_cannot_win_are_let_go_of(values):
    """Of ends that are the same but for rounding the first wins, however many come after it."""
    ends, mixture = [], object()
    for value in values:
        trace = Trace()
        trace.failed = value == -np.inf
        ends = _with(ends, _End(value, mixture, trace, False))
    assert [end.log_likelihood for end in ends] == pytest.approx(values, nan_ok=True)
    assert ends[likeliest(values)].mixture is mixture
    least = max((value for value in values if not np.isnan(value)), default=0.0) - 3e-11
    assert all(end.mixture is None for end in ends if end.log_likelihood < least)


def test_many_rows_are_sampled_with_their_weights():
    x = np.random.default_rng(0).normal(size=(50_000, 2))
    rows = Rows(tensor(x), torch.arange(50_000).double())
    sample = sample_rows(rows, 10, RandomState(0))
    assert sample.n_rows == 4000
    index = sample.weight.long()
    assert torch.equal(sample.values, rows.values[index])
    assert len(index.unique()) == 4000
    assert (
        abs(float(index.double().mean()) / 25_000 - 1) < 0.05
    )  # from everywhere; five deviations of 4000 draws
    assert sample_rows(rows, 200, RandomState(0)).n_rows == 40_000
    wide = Rows(torch.zeros(9000, 100))
    assert sample_rows(wide, 20, RandomState(0)).n_rows == 8000
    few = Rows(rows.values[:4000])
    assert sample_rows(few, 10, RandomState(0)) is few


def test_samples_of_many_wide_rows_are_bounded():
    """32 megabytes, unless components have fewer than 200 rows, or two a column."""
    assert n_sample_rows(128, 64) == 128 * 4 * 64
    assert n_sample_rows(128, 128) == 2**22 / 128
    assert n_sample_rows(128, 256) == 128 * 2 * 256
    assert n_sample_rows(5000, 64) == 5000 * 200


def test_every_part_of_many_rows_gives_its_share(monkeypatch):
    monkeypatch.setattr(mogul.infer.starts, "_STRATUM", 1000)
    rows = Rows(torch.arange(10_500).double().unsqueeze(-1))
    sample = some_rows(rows, 777, RandomState(0)).values[:, 0].numpy()
    assert len(sample) == 777
    assert (np.diff(sample) > 0).all()
    counts = np.bincount((sample // 1000).astype(int))
    assert set(counts[:-1]) <= {73, 74, 75}
    assert counts[-1] in (36, 37, 38)
    times = sum(
        np.bincount(some_rows(rows, 777, RandomState(s)).values[:, 0].long(), minlength=10_500)
        for s in range(300)
    )
    expected = 300 * 777 / 10_500
    assert abs(times - expected).max() < 6 * expected**0.5


@pytest.mark.parametrize("method", ["random", "random_from_data", "k-means++"])
def test_scikit_learns_starts_are_scikit_learns(method):
    """The same draws from the same seed: responsibilities, rows, k-means++ centres."""
    x, _ = three_clusters()
    starts, _ = begin(x, "diag", method, seed=5)
    state = RandomState(5)
    if method == "random":
        share = state.uniform(size=(len(x), 3))
        share /= share.sum(1, keepdims=True)
        expected = share.T @ x / share.sum(0)[:, None]
        np.testing.assert_allclose(starts.weights[0], share.mean(0), rtol=1e-12)
        spread = share.T @ (x * x) / share.sum(0)[:, None] - expected**2
        np.testing.assert_allclose(starts.covariances[0], spread + 1e-6, rtol=1e-9)
    else:
        if method == "random_from_data":
            index = state.choice(len(x), size=3, replace=False)
        else:
            _, index = kmeans_plusplus(x, 3, random_state=state)
        expected = x[index]
        np.testing.assert_allclose(starts.weights[0], 1 / 3, rtol=1e-12)
        np.testing.assert_allclose(starts.covariances[0], 1e-6, rtol=1e-9)
    np.testing.assert_allclose(starts.means[0], expected, rtol=1e-12)


def test_many_random_starts_are_built_in_pieces():
    """Responsibilities are drawn in chunks: the same as all at once, as nobody stores N × K."""
    x = np.random.default_rng(0).normal(size=(200_000, 2))
    starts, _ = begin(x, "diag", "random", seed=1)
    share = RandomState(1).uniform(size=(len(x), 3))
    share /= share.sum(1, keepdims=True)
    np.testing.assert_allclose(starts.weights[0], share.mean(0), rtol=1e-10)
    np.testing.assert_allclose(starts.means[0], share.T @ x / share.sum(0)[:, None], atol=1e-10)


@names
def test_fewer_distinct_rows_than_components_still_start(name):
    x = np.repeat([[0.0, 0.0], [1.0, 2.0], [4.0, 1.0]], 10, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        starts, notes = initial_mixtures(
            Rows(tensor(x)), 5, structure(name), SETTINGS, method="kmeans", n_init=2,
            random_state=RandomState(0),
        )  # fmt: skip
    assert len(starts) == 2
    assert not notes
    assert torch.isfinite(starts.means).all()
    assert (starts.weights > 0).all()


def test_starts_beyond_repair_are_dropped_and_all_of_them_are_an_error():
    x = tensor(np.ones((10, 2)))
    settings = EMSettings(floor=0.0)
    with pytest.raises(DegenerateFitError):
        initial_mixtures(
            Rows(x), 2, structure("full"), settings, method="random_from_data", n_init=3,
            random_state=RandomState(0),
        )  # fmt: skip


def test_what_the_user_gives_is_taken_and_the_rest_is_found():
    x, centres = three_clusters()
    rows, kind = Rows(tensor(x)), structure("full")

    def first(**parts):
        starts, _ = initial_mixtures(
            rows, 3, kind, SETTINGS, method="kmeans", n_init=2, random_state=RandomState(0),
            fixed=FixedParts(**parts),
        )  # fmt: skip
        return starts

    found = first()
    means, weights = tensor(centres[::-1]), tensor([0.2, 0.3, 0.5])
    precisions = tensor(np.stack([[[2.0, 0.5], [0.5, 1.0]]] * 3))
    for parts in (
        {"means": means},
        {"weights": weights},
        {"precisions": precisions},
        {"weights": weights, "means": means},
    ):
        starts = first(**parts)
        assert len(starts) == 2
        np.testing.assert_allclose(starts.means, parts.get("means", found.means).expand(2, 3, 2))
        want = parts.get("weights", found.weights).expand(2, 3)
        np.testing.assert_allclose(starts.weights, want, rtol=1e-12)
        want = parts.get("precisions", found.covariance.precisions()).expand(2, 3, 2, 2)
        np.testing.assert_allclose(starts.covariance.precisions(), want, rtol=1e-9, atol=1e-12)
    complete = first(weights=weights, means=means, precisions=precisions)
    assert len(complete) == 1  # every start would be the same


# --- very many clusters ---------------------------------------------------------------------------


def test_parallel_seeds_find_clusters_far_apart():
    """k-means‖ puts a centre into each of many clusters; rows drawn at random miss a third."""
    from mogul.infer.parallel_seeds import parallel_seeds

    rng = np.random.default_rng(0)
    centres = rng.uniform(-100, 100, size=(300, 4))
    label = rng.integers(0, 300, 9000)
    x = centres[label] + 0.01 * rng.normal(size=(9000, 4))
    for seed in range(3):
        found = parallel_seeds(x, np.ones(9000), 300, RandomState(seed))
        nearest = np.linalg.norm(found[:, None] - centres, axis=2)
        assert found.shape == (300, 4)
        assert nearest.min(1).max() < 0.1
        assert len(set(nearest.argmin(1))) > 290
    weight = np.where(label < 50, 1.0, 0.0)
    found = parallel_seeds(x, weight, 40, RandomState(0))
    assert np.linalg.norm(found[:, None] - centres[:50], axis=2).min(1).max() < 0.1
    few = parallel_seeds(np.repeat(x[:5], 20, axis=0), np.ones(100), 30, RandomState(0))
    assert few.shape == (30, 4)


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_statistics_of_a_partition_are_those_of_its_responsibilities(name, monkeypatch):
    import mogul.infer.starts as module

    rng = np.random.default_rng(0)
    rows = Rows(
        torch.from_numpy(rng.normal(size=(200, 3))), torch.from_numpy(rng.uniform(size=200))
    )
    label = torch.from_numpy(rng.integers(0, 7, 200))
    asked = rows, label, 7, structure(name), EMSettings()
    expected, ok = module._from_labels(*asked)
    monkeypatch.setattr(module, "MANY_CLUSTERS", 5)
    found, also = module._from_labels(*asked)
    assert torch.equal(ok, also)
    torch.testing.assert_close(found.means, expected.means)
    torch.testing.assert_close(found.covariance.factor, expected.covariance.factor)


def test_more_than_a_thousand_components():
    rng = np.random.default_rng(0)
    centres = rng.uniform(-100, 100, size=(1001, 2))
    x = np.repeat(centres, 6, axis=0) + 0.1 * rng.normal(size=(6006, 2))
    model = GaussianMixture(1001, covariance_type="spherical", random_state=0, max_iter=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten iterations are not to converge
        model.fit(x)
    near = np.linalg.norm(model.means_[:, None] - centres[:200], axis=2).min(0)
    assert (near < 0.2).mean() > 0.9  # of rows drawn at random less than two thirds have one


# --- a fit goes on from the iterations that its start was chosen by -------------------------------


@pytest.mark.parametrize("acceleration", ["none", "auto"])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-6])
@names
def test_a_fit_records_all_iterations_from_its_start(name, tol, acceleration):
    """Those that the start was chosen by are a part of it, not repeated and not left out.

    Where the fit would be accelerated before these end, it begins anew.
    """
    x = old_faithful().values
    rows, settings = Rows(tensor(x)), EMSettings(tol, 300, 1e-6, acceleration)
    fit = fit_mixture(rows, 3, name, settings, random_state=RandomState(5))
    start, _ = begin(x, name, seed=5, settings=settings)
    whole = fit_em(rows, start, settings)
    (trace,) = whole.traces
    assert [r.iteration for r in fit.trace.records] == list(range(1, trace.n_iter + 1))
    values = [[r.log_likelihood for r in one.records] for one in (fit.trace, trace)]
    np.testing.assert_allclose(*values, rtol=1e-12)
    assert [r.accelerated for r in fit.trace.records] == [r.accelerated for r in trace.records]
    assert (fit.trace.converged, trace.converged) == (True, True)
    np.testing.assert_allclose(fit.log_likelihood, whole.log_likelihood[0], rtol=1e-12)
    np.testing.assert_allclose(fit.mixture.means, whole.mixture[0].means, rtol=1e-9)


@pytest.mark.parametrize("last", [1, 3, 10, 11, 13])
def test_a_callback_stops_at_its_own_iteration(last):
    """Also among those that the start was chosen by."""
    rows, told = Rows(tensor(old_faithful().values)), []

    def stop(record):
        told.append(record.iteration)
        return record.iteration == last

    settings = EMSettings(1e-9, 300, acceleration="none")
    how = {"random_state": RandomState(5), "on_iteration": stop}
    fit = fit_mixture(rows, 3, "full", settings, **how)
    assert told == list(range(1, last + 1))
    assert fit.interrupted
    assert fit.trace.n_iter == last
    cut = EMSettings(1e-9, last, acceleration="none")
    plain = fit_mixture(rows, 3, "full", cut, random_state=RandomState(5))
    np.testing.assert_allclose(fit.log_likelihood, plain.log_likelihood, rtol=1e-9)


@names
def test_the_best_of_many_starts_is_at_least_the_first(name):
    rows = Rows(tensor(np.random.default_rng(3).normal(size=(200, 3))))
    settings, numbers = EMSettings(1e-4, 300), []
    one = fit_mixture(rows, 4, name, settings, random_state=RandomState(1))
    how = {"n_init": 6, "on_end": lambda trace: numbers.append(trace.start)}
    best = fit_mixture(rows, 4, name, settings, random_state=RandomState(1), **how)
    assert best.log_likelihood >= one.log_likelihood
    assert numbers == list(range(6))
