"""Components that do not matter at a row are left out, and only these; skipped without Numba."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laws.cases import CASES, assert_equal_sums, draw_one, tensor
from mogul import Mixture
from mogul.covariances import DiagCovariance, FullCovariance
from mogul.data.rows import Rows
from mogul.infer.em import m_step
from mogul.kernels import e_step

numba = pytest.importorskip("numba")

from mogul.infer.compiled_em import CompiledMap  # noqa: E402
from mogul.kernels import _few as few  # noqa: E402
from mogul.kernels import _parameters as code  # noqa: E402
from mogul.kernels import _vectors as vectors  # noqa: E402
from mogul.kernels import compiled  # noqa: E402
from mogul.kernels.compiled import (  # noqa: E402
    CompiledKernel,
    collect_sums,
    empty_plan,
    empty_screens,
    fill_screens,
    is_exact,
)
from mogul.kernels.packed import PackedMixture  # noqa: E402

names = pytest.mark.parametrize("name", list(CASES))


def spread_out(name, k, d, gap=4.0, seed=0):
    """A mixture whose components are ``gap`` standard deviations apart in each column or so."""
    mixture, _ = draw_one(name, seed, k, d)
    centres = tensor(np.random.default_rng(seed).normal(size=(k, d)))
    return Mixture(mixture.log_weights, gap * centres * mixture.variance.sqrt(), mixture.covariance)


def rows_of(mixture, n, seed):
    return mixture.sample((n,), generator=torch.Generator().manual_seed(seed))


def prepared(mixture, most_pairs=None, n_rows=None):
    """A plan and screens, used whatever they cost where ``most_pairs`` is given."""
    packed = PackedMixture.of(mixture)
    shape = mixture.n_components, mixture.n_features
    plan = empty_plan(packed.structure, *shape, n_rows=n_rows)
    arrays = plan.centre, plan.sharpest, plan.weights, plan.whitening
    code.prepare(packed.kind, *packed.arrays, len(plan.left), *arrays)
    screens = empty_screens(packed.structure, *shape, n_rows)
    if most_pairs is not None:
        d = mixture.n_features
        half = -(-d // (2 * vectors.LANES)) * vectors.LANES
        screens = [
            compiled._empty_screen(packed.structure, *shape, n)
            for n in ([half, d] if d > 48 else [d])
        ]
        screens = [screen._replace(most_pairs=float(most_pairs)) for screen in screens]
    return plan, fill_screens(screens, packed, plan)


def reached(x, mixture, screen, plan):
    none, sums = np.empty((0, len(x))), few.no_sums(screen, x.shape[1])
    return few.collect_few(x, 0, len(x), none, plan, screen, sums)


def collected(mixture, x, weight=None):
    """Statistics by screens alone, however many pairs they keep."""
    plan, screens = prepared(mixture, mixture.n_components)
    kernel = CompiledKernel(mixture)
    none = np.empty((0, len(x)))
    lines = none if weight is None else weight[None]
    sums = collect_sums(x, lines, none, plan, 1, 1, screens)
    assert not sums.strays
    d = mixture.n_features
    found = kernel._stats(
        torch.from_numpy(sums.products[0]),
        torch.from_numpy(sums.second[0, :, :d]),
        torch.from_numpy(sums.totals[0]),
    )
    return mixture.covariance.recentre(found, mixture.means)


# --- the same as without --------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [2, 5, 9, 33])
@pytest.mark.parametrize("d", [4, 7, 8, 16, 33, 50, 70])
@names
def test_sums_are_those_of_the_reference(name, d, k, dtype, weighted):
    mixture = spread_out(name, k, d)
    x = rows_of(mixture, 700, 1).numpy().astype(dtype)
    weight = np.random.default_rng(1).uniform(0, 2, len(x)) if weighted else None
    plan, screens = prepared(mixture, k)
    for screen in screens:
        assert reached(x, mixture, screen, plan) == len(x)
    found = collected(mixture, x, weight)
    rows = torch.from_numpy(x)
    expected = e_step(rows, mixture, None if weight is None else tensor(weight), kernel="reference")
    assert_equal_sums(found, expected)


@given(st.integers(0, 10**6), st.sampled_from(list(CASES)), st.sampled_from([3, 9, 20, 53]))
def test_also_where_components_overlap_or_axes_are_skew(seed, name, d):
    """Every pair that matters is kept, however many these are and however loose the bounds."""
    rng = np.random.default_rng(seed)
    gap, scale = rng.choice([0.1, 0.5, 1.0, 3.0]), 10.0 ** rng.integers(-40, 40)
    mixture = spread_out(name, 6, d, gap, seed)
    factor = scale * mixture.covariance.factor
    covariance = type(mixture.covariance)(factor, 6, d)
    mixture = Mixture(mixture.log_weights, scale * mixture.means, covariance)
    x = rows_of(mixture, 200, seed)
    assert_equal_sums(collected(mixture, x.numpy()), e_step(x, mixture, kernel="reference"))


@pytest.mark.parametrize("layout", ["rows", "columns", "strided"])
@pytest.mark.parametrize("d", [5, 8, 19])
def test_every_layout_of_a_table(layout, d):
    mixture = spread_out("full", 6, d)
    x = rows_of(mixture, 300, 2).numpy()
    laid = {
        "rows": lambda: x,
        "columns": lambda: np.asfortranarray(x),
        "strided": lambda: np.stack([x, -x], -1)[..., 0],
    }[layout]()
    assert_equal_sums(collected(mixture, laid), collected(mixture, x))


@pytest.mark.parametrize("threads", [1, 3])
@names
def test_rows_of_few_components_beside_rows_of_many(name, threads):
    """Some tiles are screened, others computed in full, and one goes to the reference."""
    mixture = spread_out(name, 64, 64, 2.0)
    means = mixture.means.clone()
    means[:32] *= 0.02
    mixture = Mixture(mixture.log_weights, means, mixture.covariance)
    x, labels = mixture.sample_with_labels((9000,), generator=torch.Generator().manual_seed(3))
    crowded = (labels < 32).numpy()
    x = np.concatenate([x[~crowded][:2000], x[crowded][:3000], x[~crowded][2000:4000]])
    plan, screens = prepared(mixture, n_rows=len(x))
    assert [screen.n_columns for screen in screens] == [32, 64]
    assert 0 < reached(x, mixture, screens[-1], plan) < 2300
    none = np.empty((0, len(x)))
    sums = [collect_sums(x, none, none, plan, 1, threads, s) for s in (screens, ())]
    n_lines = 66 if name == "spherical" else 65  # a tied one's other line is no sum of rows
    products = [s.products[..., : len(plan.left) + n_lines] for s in sums]
    scale = np.abs(products[1]).max()
    np.testing.assert_allclose(products[0], products[1], rtol=1e-10, atol=1e-13 * scale)
    np.testing.assert_allclose(sums[0].totals, sums[1].totals, rtol=1e-12)
    x[4321] = np.nan
    x[123, 5] = 1e9
    rows = torch.from_numpy(x)
    stray = collect_sums(x, none, none, plan, 1, threads, screens).strays
    assert {i for s in stray for i in range(s.start, s.stop)} >= {123, 4321}
    finite = np.delete(np.arange(len(x)), 4321)
    assert_equal_sums(
        e_step(rows[finite], mixture, kernel="compiled"),
        e_step(rows[finite], mixture, kernel="reference"),
    )
    assert e_step(rows, mixture, kernel="compiled").log_likelihood.isnan()


# --- what is left out -----------------------------------------------------------------------------


@numba.njit(nogil=True)
def _bounds(points, screen, bounds, slack):
    panel_lines = np.empty(screen.groups.shape[0] * vectors.LANES * vectors.PANEL)
    narrow = np.ones((screen.n_columns + 1) * vectors.PANEL, dtype=np.float32)
    products = np.empty(128 * vectors.PANEL, dtype=np.float32)
    few._bound(points, 0, screen, panel_lines, narrow, products, bounds, bounds.shape[0], slack)


@given(st.integers(0, 10**6), st.sampled_from(list(CASES)), st.sampled_from([3, 8, 20, 53, 64]))
def test_no_term_is_above_its_bound(seed, name, d):
    """Of half of the columns and of all; and of all, not far below it."""
    mixture = spread_out(name, 5, d, np.random.default_rng(seed).choice([0.3, 3.0]), seed)
    x = rows_of(mixture, vectors.PANEL, seed).numpy()
    plan, screens = prepared(mixture, 5)
    assert len(screens) == (2 if d > 48 else 1)
    terms = mixture.component_terms(torch.from_numpy(x)).numpy()  # (K, N)
    for screen in screens:
        side = len(screen.means) // 5
        points = np.zeros((len(x), side))
        points[:, :d] = x - plan.centre
        if screen.kind == code.TIED:
            upper = np.linalg.inv(np.linalg.cholesky(mixture.covariances.numpy())).T
            points[:, :d] = points[:, :d] @ upper
        bounds, slack = np.empty(8 * len(x), np.float32), np.empty(len(x))
        _bounds(points, screen, bounds, slack)
        bounds = bounds.reshape(8, -1)[:5]
        assert (slack > 0).all()
        assert (bounds + slack >= terms).all()
        if screen.n_columns == d:
            assert (bounds - slack <= terms).all()


@names
def test_the_component_with_the_highest_bound_need_not_be_the_best(name):
    d = 64
    mixture = spread_out(name, 6, d, 1.0)
    means = mixture.means.clone()
    means[:, :32] *= 3.0  # these are screened by
    means[1, :32] = means[0, :32]
    means[1, 32:] = means[0, 32:] + 8.0
    log_weights = mixture.log_weights.index_fill(0, torch.tensor(1), -9.0)
    mixture = Mixture(log_weights, means, mixture.covariance)
    x = means[1] + torch.randn(300, d, generator=torch.Generator().manual_seed(0)).double()
    plan, screens = prepared(mixture, 6)
    assert name == "tied" or screens[0].groups.max() < 32  # tied: of whitened columns
    assert reached(x.numpy(), mixture, screens[0], plan) == len(x)
    assert_equal_sums(collected(mixture, x.numpy()), e_step(x, mixture, kernel="reference"))


@names
def test_rows_are_screened_by_columns_that_tell_components_apart(name):
    means = np.zeros((4, 64))
    means[:, 40:56] = np.random.default_rng(0).normal(size=(4, 16))
    covariance = {"full": np.stack([np.eye(64)] * 4), "tied": np.eye(64), "diag": np.ones((4, 64))}
    mixture = Mixture.from_parameters(
        np.full(4, 0.25), means, covariance.get(name, np.ones(4)), name
    )
    _, screens = prepared(mixture, 4)
    chosen = {c for g in screens[0].groups for c in range(g, g + vectors.LANES)}
    assert chosen >= set(range(40, 56))


@pytest.mark.parametrize(("behind", "seen"), [(38.0, True), (42.0, False)])
@names
def test_a_component_is_seen_until_it_is_forty_nats_behind(name, behind, seen):
    d = 16
    covariance = CASES[name].draw(np.random.default_rng(0), 2, d) * 0 + 1.0
    if name in ("full", "tied"):
        covariance = np.broadcast_to(np.eye(d), (2, d, d) if name == "full" else (d, d)).copy()
    means = np.zeros((2, d))
    means[1, 3] = math.sqrt(2 * behind)
    mixture = Mixture.from_parameters([0.5, 0.5], means, covariance, name)
    x = np.zeros((100, d))
    plan, screens = prepared(mixture, 2)
    (screen,) = screens
    none, sums = np.empty((0, len(x))), few.no_sums(screen, d)
    assert few.collect_few(x, 0, len(x), none, plan, screen, sums) == len(x)
    expected = 100 / (1 + math.exp(behind)) if seen else 0.0
    np.testing.assert_allclose(sums.counts, [100.0, expected], rtol=1e-10)


@names
def test_a_component_of_little_weight_is_right_by_itself(name):
    """Relative to its own small statistics, and not to those of the others."""
    d, small = 12, 1e-14
    mixture = spread_out(name, 6, d, 0.3, seed=5)
    weights = torch.full((6,), (1 - small) / 5).double()
    weights[2] = small
    mixture = Mixture(weights.log(), mixture.means, mixture.covariance)
    others = Mixture(weights.log().index_fill(0, torch.tensor(2), -math.inf), *_rest(mixture))
    x = rows_of(others, 500, 0)
    found, expected = collected(mixture, x.numpy()), e_step(x, mixture, kernel="reference")
    assert 0 < expected.count[2] < 1e-6
    torch.testing.assert_close(found.count[2], expected.count[2], rtol=1e-9, atol=0)
    assert_equal_sums(found, expected)


def _rest(mixture):
    return mixture.means, mixture.covariance


@names
def test_a_component_without_weight_takes_no_part(name):
    mixture = spread_out(name, 5, 9)
    weights = torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25]).double()
    mixture = Mixture(weights.log(), *_rest(mixture))
    x = rows_of(mixture, 300, 0)
    found = collected(mixture, x.numpy())
    assert found.count[2] == 0
    assert_equal_sums(found, e_step(x, mixture, kernel="reference"))


def test_a_component_that_loses_almost_all_is_computed_in_full():
    """It is 32 nats behind at half of its rows, 41 at half: a part in 8000 would be missing."""
    d, k, n = 32, 64, 20_000
    means = 3.0 * np.random.default_rng(0).normal(size=(k, d))
    means[-1] = means[0]
    gap = math.sqrt(73.0)
    means[-1, 1] += gap
    mixture = Mixture.from_parameters(np.full(k, 1 / k), means, np.ones((k, d)), "diag")
    labels = np.where(np.arange(n) < n // 2, 0, np.arange(n) % (k - 1))
    x = means[labels]
    x[:, 1] += np.where(np.arange(n) % 2, 1, -1) * 4.5 / gap
    expected = e_step(tensor(x), mixture, kernel="reference")
    assert 0 < expected.count[-1] < 1e-10

    plan, screens = prepared(mixture, n_rows=n)
    assert reached(x, mixture, screens[0], plan) == n
    none = np.empty((0, n))
    counts = collect_sums(x, none, none, plan, 1, 1, screens).products[0, :, len(plan.left) + d]
    assert 1e-5 < 1 - counts[-1] / float(expected.count[-1]) < 1e-3
    assert not is_exact(counts, mixture.log_weights.numpy(), n)
    engine = CompiledMap(Rows(tensor(x), None), PackedMixture.of(mixture), 0.1, 1)
    assert engine.screens
    (step,) = engine([PackedMixture.of(mixture)])
    share = math.exp(step.mapped.log_weights[-1])
    assert share == pytest.approx(float(expected.count[-1]) / n, rel=1e-9, abs=0)


# --- when -----------------------------------------------------------------------------------------


def test_screens_are_made_where_they_can_gain():
    full, diag = FullCovariance, DiagCovariance
    assert not empty_screens(full, 8, 2)
    assert not empty_screens(diag, 3, 2)
    assert not empty_screens(diag, 2, 64)
    assert len(empty_screens(full, 16, 64)) == 2
    assert len(empty_screens(diag, 64, 32)) == 1
    assert not empty_screens(full, 16, 64, n_rows=500)
    assert empty_screens(full, 16, 64, n_rows=5000)


@names
def test_em_steps_by_screens_and_without(name):
    """As everybody calls them, and far enough apart for the screens to be used."""
    mixture = spread_out(name, 48, 64, 2.0)
    x = rows_of(mixture, 20_000, 0)
    plan, screens = prepared(mixture, n_rows=len(x))
    assert reached(x.numpy(), mixture, screens[0], plan) == len(x)
    engine = CompiledMap(Rows(x, None), PackedMixture.of(mixture), 1e-6, 2)
    (step,) = engine([PackedMixture.of(mixture)])
    stats = e_step(x, mixture, kernel="reference")
    assert step.value == pytest.approx(float(stats.log_likelihood) / len(x), rel=1e-12)
    expected, _ = m_step(stats, type(mixture.covariance), 1e-6)
    found = step.mapped.unpacked()
    for part in ("log_weights", "means", "covariance_matrix"):
        torch.testing.assert_close(
            getattr(found, part), getattr(expected, part), rtol=1e-10, atol=1e-10
        )
    assert_equal_sums(e_step(x, mixture, kernel="compiled"), stats)


def test_infinite_parameters_make_no_screens():
    mixture = spread_out("diag", 4, 8)
    means = mixture.means.clone()
    means[1, 1] = math.inf
    packed = PackedMixture.of(Mixture(mixture.log_weights, means, mixture.covariance))
    plan = empty_plan(packed.structure, 4, 8)
    screen = compiled._empty_screen(packed.structure, 4, 8, 8)
    assert fill_screens([screen], packed, plan) == ()
