"""Compiled kernels against NumPy, the reference and each other; skipped without Numba."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from sklearn.cluster import KMeans

import mogul.kernels
from laws.cases import CASES, assert_equal_sums, broad_start, draw, draw_one, tensor
from mogul import GaussianMixture, Mixture, _threads, fit_many
from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.errors import InputError, InputTypeError, RepairWarning, UnknownNameError
from mogul.infer import squarem, stopping
from mogul.infer.ascent import ACCELERATIONS, Ascent, Step
from mogul.infer.em import EMSettings, fit_em, m_step, stack
from mogul.infer.squarem import MixtureChart, VectorChart
from mogul.infer.stopping import Trace
from mogul.kernels import draw_step, e_step, log_prob, predict, responsibilities

numba = pytest.importorskip("numba")

from mogul.infer import compiled_em, compiled_starts  # noqa: E402
from mogul.infer.compiled_em import CompiledMap, PackedChart  # noqa: E402
from mogul.infer.compiled_starts import begin_best, begin_each  # noqa: E402
from mogul.kernels import _blocks, _kmeans, _passes, _squarem, _tiles  # noqa: E402
from mogul.kernels import _parameters as code  # noqa: E402
from mogul.kernels import _vectors as vectors  # noqa: E402
from mogul.kernels._passes import OVER, lend_a_hand  # noqa: E402
from mogul.kernels.compiled import (  # noqa: E402
    CompiledKernel,
    add_squares,
    collect_sums,
    desk_for,
    empty_plan,
)
from mogul.kernels.packed import PackedMixture  # noqa: E402
from mogul.kernels.reference import ReferenceKernel  # noqa: E402

KINDS = list(CASES)
names = pytest.mark.parametrize("name", KINDS)


# --- functions of vectors -------------------------------------------------------------------------


@numba.njit(nogil=True)
def _exponentials(values):
    for i in range(0, len(values), vectors.LANES):
        vectors.store(values, i, vectors.exp(vectors.load(values, i)))


@numba.njit(nogil=True)
def _logarithms(values):
    for i in range(0, len(values), vectors.LANES):
        vectors.store(values, i, vectors.log(vectors.load(values, i)))


def test_exponentials_are_right_to_two_roundings():
    at = np.concatenate([np.linspace(-600, 0, 400_000), -np.logspace(-20, 2, 50_000), np.zeros(8)])
    at = at[: len(at) // 8 * 8]
    found = at.copy()
    _exponentials(found)
    np.testing.assert_allclose(found, np.exp(at), rtol=2 * np.finfo(float).eps)
    edge = np.array([-600.1, -745.0, -1e6, -np.inf, 0.0, -1e-300, -0.5, -599.0])
    found = edge.copy()
    _exponentials(found)
    assert found[:4].tolist() == [0.0] * 4
    assert found[4:6].tolist() == [1.0, 1.0]


def test_logarithms_are_right_to_two_roundings():
    at = np.concatenate([np.linspace(1, 300, 400_000), 1 + np.logspace(-16, 0, 50_000)])
    found = at.copy()
    _logarithms(found)
    eps = np.finfo(float).eps
    np.testing.assert_allclose(found, np.log(at), rtol=2 * eps, atol=0)
    np.testing.assert_array_equal(found[at == 1.0], 0.0)


# --- every path through the tiles -----------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("n", [1, 31, 33, 300])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9, 17])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 9, 13, 16, 20])
@names
def test_sums_are_those_of_the_reference(name, d, k, n, batch):
    """Blocks that are full or not, features in one piece or several, products stored or not."""
    mixture, _ = draw(name, 7, k, d, batch)
    rng = np.random.default_rng(7)
    x = tensor(rng.normal(size=(n, d)))
    assert CompiledKernel(mixture).applies
    found, expected = (e_step(x, mixture, kernel=kernel) for kernel in ("compiled", "reference"))
    assert_equal_sums(found, expected)


@pytest.mark.parametrize(("name", "d", "k"), [("full", 70, 3), ("full", 40, 12), ("diag", 400, 5)])
def test_many_columns(name, d, k):
    mixture, _ = draw_one(name, 1, k, d)
    x = tensor(np.random.default_rng(1).normal(size=(150, d)))
    assert_equal_sums(e_step(x, mixture, kernel="compiled"), e_step(x, mixture, kernel="reference"))


@pytest.mark.parametrize("weights", ["none", "shared", "own"])
@names
def test_weights_and_draws_of_a_batch(name, weights):
    batch, _ = draw(name, 3, 3, 2, (4,))
    rng = np.random.default_rng(3)
    x, uniform = tensor(rng.normal(size=(500, 2)) * 2), tensor(rng.random((4, 500)))
    weight = {
        "none": None,
        "shared": tensor(rng.uniform(0, 2, 500)),
        "own": tensor(rng.uniform(0, 2, (4, 500))),
    }[weights]
    assert_equal_sums(
        e_step(x, batch, weight, kernel="compiled"), e_step(x, batch, weight, kernel="reference")
    )
    assert_equal_sums(
        draw_step(x, batch, uniform, weight, kernel="compiled"),
        draw_step(x, batch, uniform, weight, kernel="reference"),
    )


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        ("rows", torch.float64),
        ("columns", torch.float64),
        ("strided", torch.float64),
        ("rows", torch.float32),
        ("float16", torch.float32),
        *(  # each is compiled for ten seconds
            pytest.param(layout, torch.float32, marks=pytest.mark.slow)
            for layout in ("columns", "strided")
        ),
    ],
)
@pytest.mark.parametrize("d", [1, 3, 5, 9])
def test_every_layout_of_a_table(layout, dtype, d):
    mixture, _ = draw_one("full", 5, 3, d)
    x = torch.from_numpy(np.random.default_rng(5).normal(size=(200, d))).to(dtype)
    if layout == "float16":
        x = x.half()
    expected = e_step(x.double(), mixture, kernel="reference")
    laid = {
        "columns": lambda: x.T.contiguous().T,
        "strided": lambda: torch.stack([x, -x], -1)[..., 0],
    }.get(layout, lambda: x)()
    assert_equal_sums(e_step(laid, mixture, kernel="compiled"), expected)


UPRIGHT = [("diag", 16, 2), ("diag", 19, 7), ("diag", 40, 3), ("tied", 9, 8), ("spherical", 24, 13)]
"""Shapes of which rows are kept as they lie: with terms of them, of their lines, of whole vectors
of columns or not, of blocks of components of all sizes."""


def _laid(x, layout):
    """The same rows otherwise in memory."""
    return {
        "columns": lambda: x.T.contiguous().T,
        "strided": lambda: torch.stack([x, -x], -1)[..., 0],
        "a part": lambda: torch.cat([x, x], 1)[:, : x.shape[1]],
    }.get(layout, lambda: x)()


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        *((layout, torch.float64) for layout in ("rows", "columns", "strided", "a part")),
        ("rows", torch.float32),
        *(  # each is compiled for ten seconds
            pytest.param(layout, torch.float32, marks=pytest.mark.slow)
            for layout in ("columns", "strided", "a part")
        ),
    ],
)
@pytest.mark.parametrize(("name", "d", "k"), UPRIGHT)
def test_rows_as_they_lie_in_every_layout_with_weights_and_draws(name, d, k, layout, dtype):
    batch, _ = draw(name, 8, k, d, (2,))
    rng = np.random.default_rng(8)
    x = torch.from_numpy(rng.normal(size=(150, d)) * 2).to(dtype)
    uniform, weight = tensor(rng.random((2, 150))), tensor(rng.uniform(0, 2, (2, 150)))
    weight[:, ::3] = 0.0
    assert CompiledKernel(batch).plan.side >= d
    for own in (None, weight[0], weight):
        expected = e_step(x.double(), batch, own, kernel="reference")
        assert_equal_sums(e_step(_laid(x, layout), batch, own, kernel="compiled"), expected)
        expected = draw_step(x.double(), batch, uniform, own, kernel="reference")
        found = draw_step(_laid(x, layout), batch, uniform, own, kernel="compiled")
        assert_equal_sums(found, expected)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, 1e8])
@pytest.mark.parametrize(("name", "d", "k"), UPRIGHT)
def test_what_a_row_spoils_is_not_kept_for_the_next_tile(name, d, k, spoilt):
    """Rows that a shorter last tile does not fill are zero, whatever was there."""
    mixture, _ = draw_one(name, 9, k, d)
    kernel = CompiledKernel(mixture)
    tile, last = kernel.tile_rows, 5
    x = np.random.default_rng(9).normal(size=(3 * tile + last, d))
    for column in (0, d - 1):
        x[2 * tile + 7, column] = spoilt
        none = np.empty((0, len(x)))
        sums = collect_sums(x, none, none, kernel.plan, 1, 1)
        assert sums.strays == [slice(2 * tile, 3 * tile)]
        kept = tensor(np.delete(x, np.s_[2 * tile : 3 * tile], 0))
        alone = collect_sums(kept.numpy(), none[:, : len(kept)], none, kernel.plan, 1, 1)
        np.testing.assert_allclose(sums.products, alone.products, rtol=1e-12, atol=1e-12)
        moved = mixture.covariance.recentre(kernel.collect(kept, None), mixture.means)
        assert_equal_sums(moved, ReferenceKernel(mixture).collect(kept, None))
        x[2 * tile + 7, column] = 0.0


@pytest.mark.parametrize(("name", "d", "k"), [*UPRIGHT, ("full", 3, 2), ("diag", 5, 4)])
def test_arrays_are_given_back(name, d, k):
    """Compiled code in which no references are counted neither keeps nor frees what it is given."""
    mixture, _ = draw_one(name, 10, k, d)
    plan = CompiledKernel(mixture).plan
    x, none = np.random.default_rng(10).normal(size=(500, d)), np.empty((0, 500))
    held = [x, none, *(part for part in plan if isinstance(part, np.ndarray))]
    before = [sys.getrefcount(array) for array in held]
    for _ in range(3):
        collect_sums(x, none, none, plan, 1, 1)
    assert [sys.getrefcount(array) for array in held] == before


def test_blank_numbers_begin_where_a_line_of_memory_does():
    sizes = [0, 1, 7, 8, 9, 1000, 40_000]
    found = [_blank(n) for n in sizes for _ in range(3)]
    assert [(size, filled) for _, size, filled in found[::3]] == [(n, False) for n in sizes]
    assert {place % (8 * vectors.LANES) for place, *_ in found} == {0}


@numba.njit
def _blank(n):
    array = vectors.blank(n)
    return array.ctypes.data, array.shape[0], array.any()


@names
def test_answers_for_a_batch_of_mixtures_over_several_tiles(name):
    batch, truths = draw(name, 2, 5, 3, (2,))
    x = np.random.default_rng(2).normal(size=(1000, 3)) * 3
    x[700] = 1e9  # one tile of many goes to the reference
    rows = tensor(x)
    values, labels, shares = (f(rows, batch) for f in (log_prob, predict, responsibilities))
    assert values.shape == labels.shape == (2, 1000)
    assert shares.shape == (2, 1000, 5)
    for i, truth in enumerate(truths):
        np.testing.assert_allclose(values[i], truth.log_prob(x), rtol=1e-9)
        np.testing.assert_allclose(shares[i], truth.responsibilities(x), atol=1e-9)
        np.testing.assert_array_equal(labels[i], truth.responsibilities(x).argmax(1))


def test_rows_that_are_far_away_are_named_and_not_summed():
    mixture, _ = draw_one("full", 4, 3, 2)
    kernel = CompiledKernel(mixture)
    x = np.random.default_rng(4).normal(size=(5000, 2))
    x[[17, 4321]] = 1e8, np.nan
    none = np.empty((0, len(x)))
    sums = collect_sums(x, none, none, kernel.plan, 1)
    bad = {i for stray in sums.strays for i in range(stray.start, stray.stop)}
    assert {17, 4321} <= bad
    assert sums.totals[0, 0] == len(x) - len(bad)
    assert np.isfinite(sums.products).all()
    kept = np.delete(x, sorted(bad), 0)
    near = kernel.collect(tensor(kept), None)
    expected = ReferenceKernel(mixture).collect(tensor(kept), None)
    moved = mixture.covariance.recentre(near, mixture.means)
    assert_equal_sums(moved, expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_run_repeats_to_the_last_bit(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mixture, _ = draw_one("full", 6, 4, 3)
        x = tensor(np.random.default_rng(6).normal(size=(200_000, 3)))
        first, again = (e_step(x, mixture, kernel="compiled") for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first.pack(), again.pack())
    assert_equal_sums(first, e_step(x, mixture, kernel="reference"))


def test_columns_and_weights_that_do_not_fit_are_refused_before_memory_is_read():
    batch, _ = draw("diag", 1, 2, 3, (4,))
    x = torch.zeros(10, 3).double()
    with pytest.raises(InputError, match=r"have shape \(10, 2\).* features, 3"):
        e_step(x[:, :2], batch, kernel="compiled")
    with pytest.raises(InputError, match=r"have shape \(10, 2\)"):
        CompiledKernel(batch).score(x[:, :2], "labels")
    with pytest.raises(InputError, match=r"shape \(9,\), expected \(10,\)"):
        e_step(x, batch, torch.ones(9), kernel="compiled")
    with pytest.raises(InputError, match=r"shape \(3, 10\), expected \(4, 10\)"):
        e_step(x, batch, torch.ones(3, 10), kernel="compiled")
    with pytest.raises(UnknownNameError, match="'quick' is unknown"):
        e_step(x, batch, kernel="quick")
    shared = torch.rand(10).double()
    assert_equal_sums(
        draw_step(x, batch, shared, kernel="compiled"),
        draw_step(x, batch, shared.expand(4, 10), kernel="reference"),
    )


def test_it_is_what_is_taken_by_default():
    mixture, _ = draw_one("full", 1, 2, 3)
    rows = torch.zeros(10, 3).double()
    assert isinstance(mogul.kernels._choose(rows, mixture, "auto"), CompiledKernel)
    assert isinstance(
        mogul.kernels._choose(rows.requires_grad_(), mixture, "auto"), ReferenceKernel
    )


NARROW = """
import llvmlite.binding
features = llvmlite.binding.get_host_cpu_features()
features.update({name: False for name in features if name.startswith("avx512")})
llvmlite.binding.get_host_cpu_features = lambda: features
import numpy as np, torch
from laws.cases import draw, draw_one
from mogul import Mixture, fit_many
from mogul.kernels import _vectors, compiled, e_step, log_prob
assert _vectors.LANES == 4 and _vectors.REGISTERS == 16
rng = np.random.default_rng(0)
for name in ("full", "tied", "diag", "spherical"):
    for d in (1, 3, 4, 9, 13, 20):
        for k in (1, 2, 5, 9):
            mixture, _ = draw(name, 7, k, d, (2,))
            x = torch.from_numpy(rng.normal(size=(70, d)))
            found = e_step(x, mixture, kernel="compiled").pack()
            expected = e_step(x, mixture, kernel="reference").pack()
            assert torch.allclose(found, expected, rtol=1e-10, atol=1e-9), (name, d, k)
            values = mixture.log_prob(x.unsqueeze(-2)).T
            assert torch.allclose(log_prob(x, mixture), values, rtol=1e-9), (name, d, k)
for name in ("full", "tied", "diag", "spherical"):  # few components matter at a row
    mixture, _ = draw_one(name, 7, 40, 64)
    means = 3 * mixture.means
    mixture = Mixture(mixture.log_weights, means, mixture.covariance)
    x = mixture.sample((9000,), generator=torch.Generator().manual_seed(0))
    plan = compiled.CompiledKernel(mixture).plan
    screens = compiled.CompiledKernel(mixture)._screens(len(x))
    none = np.empty((0, len(x)))
    assert screens and compiled.collect_sums(
        x.numpy(), none, none, plan, 1, screens=screens
    ).n_screened > 8000, name
    found = e_step(x, mixture, kernel="compiled").pack()
    expected = e_step(x, mixture, kernel="reference").pack()
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * expected.abs().max()), name
fits = fit_many(rng.normal(size=(3, 60, 2)), 2, random_state=0)
assert fits.converged.all()
print("right")
"""


@pytest.mark.slow
def test_processors_without_avx_512_compute_the_same(tmp_path):
    """Half as wide vectors and half as many registers: other blocks, compiled apart."""
    if vectors.LANES == 4:
        pytest.skip("this processor is one of them: every other test here tests it")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    answer = subprocess.run(
        [sys.executable, "-c", NARROW],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": path},
    )
    assert answer.stdout.strip() == "right", answer.stderr


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("d", [1, 2, 5, 11])
@names
def test_a_plan_from_packed_parameters_gives_the_same_densities(name, d, k):
    mixture, _ = draw_one(name, 3, k, d)
    packed = PackedMixture.of(mixture)
    plan = empty_plan(structure(name), k, d)
    parts = plan.centre, plan.sharpest, plan.weights, plan.whitening
    farthest = code.prepare(
        packed.kind, packed.log_weights, packed.means, packed.factor, len(plan.left), *parts
    )
    torch_plan = CompiledKernel(mixture).plan
    assert farthest < plan.limit
    for part in ("centre", "sharpest", "weights", "whitening"):
        got, want = getattr(plan, part), getattr(torch_plan, part)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * np.abs(want).max(initial=0))
    again = packed.unpacked()
    np.testing.assert_allclose(again.covariances, mixture.covariances, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("d", [1, 3, 8])
@names
def test_the_m_step_is_that_of_torch(name, d):
    mixture, truth = draw_one(name, 8, 4, d)
    x = truth.draw(np.random.default_rng(8), 300)
    kernel = CompiledKernel(mixture)
    none = np.empty((0, len(x)))
    sums = collect_sums(x, none, none, kernel.plan, 1)
    packed = PackedMixture.of(mixture)
    found, ok = packed.blank(), np.empty(4, dtype=bool)
    code.maximise(
        packed.kind,
        len(kernel.plan.left),
        sums.products[0],
        sums.second[0],
        float(sums.totals[0, 0]),
        kernel.plan.centre[None],
        packed.means,
        1e-6,
        found.log_weights,
        found.means,
        found.factor,
        ok,
    )
    stats = e_step(tensor(x), mixture, kernel="reference")
    expected, fine = m_step(stats, structure(name), 1e-6)
    assert ok.tolist() == fine.tolist()
    for part in ("weights", "means", "covariances"):
        got, want = getattr(found.unpacked(), part), getattr(expected, part)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def far_case(name, d, n, gap, seed=11):
    """A mixture of four components ``gap`` apart, rows of it, and weights."""
    rng = np.random.default_rng(seed)
    near, _ = draw_one(name, seed, 4, d)
    means = near.means.numpy() + gap * np.arange(4)[:, None]
    mixture = Mixture.from_parameters(near.weights, means, near.covariances, name)
    labels = rng.integers(0, 4, n)
    root = np.linalg.cholesky(mixture.covariance.dense().numpy())
    x = means[labels] + np.einsum("nij,nj->ni", root[labels], rng.normal(size=(n, d)))
    return mixture, x, labels, rng.uniform(0.1, 3, n)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("d", "n"), [(1, 7), (3, 500), (8, 1000), (13, 2500)])
@pytest.mark.parametrize("gap", [1.0, 1e8])
@names
def test_statistics_about_own_means_are_the_references(name, d, n, gap, weighted):
    mixture, x, _, weight = far_case(name, d, n, gap)
    rows = Rows(tensor(x), tensor(weight) if weighted else None)
    for threads in (1, 2):
        packed = PackedMixture.of(mixture)
        maps = CompiledMap(rows, packed, 1e-6, threads)
        maps.expanded = False
        (step,) = maps([packed])
        stats = e_step(rows.values, mixture, rows.weight, kernel="reference")
        expected, ok = m_step(stats, structure(name), 1e-6)
        np.testing.assert_allclose(step.value, float(stats.mean_log_likelihood()), rtol=1e-11)
        assert list(step.collapsed) == (~ok).nonzero().flatten().tolist()
        if ok.all():
            found = step.mapped.unpacked()
            for part in ("weights", "means", "covariances"):
                got, want = getattr(found, part), getattr(expected, part)
                np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10, err_msg=part)


@names
def test_clusters_far_apart_are_fitted_as_by_the_reference(name, monkeypatch):
    """In one compiled call, and from a partition; nothing is left to slower code."""
    mixture, x, labels, weight = far_case(name, 3, 400, 1e9)
    rows, start = Rows(tensor(x), tensor(weight)), mixture.expand((1,))
    settings = EMSettings(1e-9, 50, 1e-6)
    quick = fit_em(rows, start, settings)
    (begun,) = begin_each(rows, 4, structure(name), 1e-6, [False], RandomState(0), max_iter=3)
    share = np.eye(4)[labels] * weight[:, None]
    means = share.T @ x / share.sum(0)[:, None]
    centres = begun.start().means
    order = centres[:, 0].argsort()
    np.testing.assert_allclose(centres[order], means, rtol=1e-15)
    monkeypatch.setattr(mogul.kernels, "_find_compiler", lambda: False)
    slow = fit_em(rows, start, settings)
    assert quick.traces[0].n_iter == slow.traces[0].n_iter
    np.testing.assert_allclose(quick.log_likelihood, slow.log_likelihood, rtol=1e-11)
    # The rows themselves are rounded to 1e-7 at 1e9; both see the same ones.
    np.testing.assert_allclose(quick.mixture.covariances, slow.mixture.covariances, rtol=1e-8)
    ends = begun.end.unpacked().select(order).covariances
    # After three iterations; clusters so far apart are at rest after one, from any start.
    np.testing.assert_allclose(ends, slow.mixture.covariances[0], rtol=1e-8)


def slow_case(name, n=300):
    """Clusters that overlap, which EM takes hundreds of iterations to tell apart, and a start."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(n, 3)) + 1.2 * rng.integers(0, 2, (n, 1))
    return Rows(tensor(x), tensor(rng.uniform(0.5, 2, n))), stack([broad_start(x, name, 2)])


@pytest.mark.parametrize("tol", [1e-4, 1e-7])
@pytest.mark.parametrize("acceleration", ACCELERATIONS)
@names
def test_a_climb_in_one_call_is_that_of_ascent(name, acceleration, tol, monkeypatch):
    """Extrapolation, its rejection and the verdicts: written twice, with and without Python."""
    rows, start = slow_case(name)
    for max_iter in (3, 17, 400):
        settings = EMSettings(tol, max_iter, 1e-9, acceleration)
        quick = fit_em(rows, start, settings, previous=-9.0)
        with monkeypatch.context() as patch:
            patch.setattr(CompiledMap, "is_one_call", lambda *_: False)
            slow = fit_em(rows, start, settings, previous=-9.0)
        one, other = quick.traces[0], slow.traces[0]
        assert (one.n_iter, one.converged) == (other.n_iter, other.converged)
        assert [r.accelerated for r in one.records] == [r.accelerated for r in other.records]
        values = [[r.log_likelihood for r in trace.records] for trace in (one, other)]
        np.testing.assert_allclose(*values, rtol=1e-11)
        np.testing.assert_allclose(one.records[0].change, one.records[0].log_likelihood + 9)
        np.testing.assert_allclose(quick.log_likelihood, slow.log_likelihood, rtol=1e-11)
    assert any(r.accelerated for r in one.records) == (acceleration != "none")


# --- blocks ---------------------------------------------------------------------------------------


@numba.njit(nogil=True)
def _gram(lines, n, n_panels, lower, found):
    step, side = lines.shape[0] // n_panels, found.shape[1]
    blocks = np.zeros(_blocks.n_blocked(n, side, lower) + vectors.LANES)
    _blocks.accumulate(lines, n, step, lines, side, step, blocks, 0, n_panels, lower)
    _blocks.unblock(blocks, 0, n, side, found.reshape(-1), 0, side, lower)
    return len(blocks)


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8, 9, 12, 13, 16, 29, 64, 129])
def test_a_lower_triangle_is_that_of_the_whole_product(n):
    side, n_panels = _tiles.padded(n), 3
    panels = np.random.default_rng(n).normal(size=(n_panels, side, vectors.PANEL))
    expected = np.einsum("pir,pjr->ij", panels[:, :n], panels)
    whole, lower = np.zeros((n, side)), np.zeros((n, side))
    size = _gram(panels.reshape(-1), n, n_panels, vectors.NO, whole)
    half = _gram(panels.reshape(-1), n, n_panels, vectors.YES, lower)
    np.testing.assert_allclose(whole, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(np.tril(lower), np.tril(whole))
    assert half < 0.6 * size or n < 64


# --- passes that threads share --------------------------------------------------------------------


@contextlib.contextmanager
def nobody(*_):
    yield


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def end_of(x, name, weight=None, **settings):
    start = stack([broad_start(x, name, 3)])
    return fit_em(Rows(tensor(x), weight), start, EMSettings(1e-7, 60, 1e-9, **settings))


@pytest.mark.parametrize("n", [5000, 20_011])
@names
def test_who_lends_a_hand_changes_no_bit(name, n, two_threads, monkeypatch):
    """Whoever takes a stretch of rows, sums are added up in the same order."""
    _, x, _, weight = far_case(name, 3, n, 1.0)
    for own in (None, tensor(weight)):
        helped = [end_of(x, name, own) for _ in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(compiled_em, "beside", nobody)
            alone = end_of(x, name, own)
        assert alone.traces[0].n_iter > 3
        for one in helped:
            assert torch.equal(one.mixture.means, alone.mixture.means)
            assert torch.equal(one.mixture.covariances, alone.mixture.covariances)
            values = [[r.log_likelihood for r in ran.traces[0].records] for ran in (one, alone)]
            assert values[0] == values[1]
        monkeypatch.setattr(mogul.kernels, "_find_compiler", lambda: False)
        slow = end_of(x, name, own)
        monkeypatch.undo()
        np.testing.assert_allclose(alone.log_likelihood, slow.log_likelihood, rtol=1e-11)
        np.testing.assert_allclose(alone.mixture.means, slow.mixture.means, rtol=1e-6, atol=1e-8)


def test_passes_are_shared_where_there_is_enough_to_do(two_threads, monkeypatch):
    helped = []

    @contextlib.contextmanager
    def counted(n, *_):
        helped.append(n)
        yield

    monkeypatch.setattr(compiled_em, "beside", counted)
    for n, n_more in ((150, 0), (20_000, 1)):
        helped.clear()
        end_of(far_case("full", 3, n, 1.0)[1], "full")
        assert set(helped) == {n_more}


@names
def test_one_far_stretch_of_rows_sends_all_to_their_own_means(name, two_threads):
    """One row is so far away that the expanded form would cancel there."""
    _, x, _, _ = far_case(name, 3, 9000, 1.0)
    x[8500] += 1e7
    start = stack([broad_start(x[:8000], name, 3)])
    ran = fit_em(Rows(tensor(x)), start, EMSettings(0.0, 1, 1e-9))
    stats = e_step(tensor(x), start[0], kernel="reference")
    np.testing.assert_allclose(ran.traces[0].value, float(stats.mean_log_likelihood()), rtol=1e-11)
    expected, ok = m_step(stats, structure(name), 1e-9)
    assert ok.all()
    np.testing.assert_allclose(ran.mixture[0].means, expected.means, rtol=1e-9)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_one_thread_rules_components_out_as_two_do(n_threads):
    """Where few matter at a row, that is worth more than to make all iterations in one call."""
    rng, k = np.random.default_rng(0), 16
    means = 3 * rng.normal(size=(k, 16))
    mixture = Mixture.from_parameters(np.full(k, 1 / k), means, np.stack([np.eye(16)] * k), "full")
    x = means[rng.integers(k, size=20_000)] + rng.normal(size=(20_000, 16))
    rows, packed = Rows(tensor(x)), PackedMixture.of(mixture)
    maps = CompiledMap(rows, packed, 1e-6, n_threads)
    assert not maps.is_one_call(rows)
    (step,) = maps([packed])
    sums = maps._screened_sums(packed)
    assert sums.n_screened > 0.9 * sums.n_rows
    exact = e_step(rows.values, mixture, kernel="reference").mean_log_likelihood()
    np.testing.assert_allclose(step.value, exact, rtol=1e-12)


@names
def test_a_hand_that_is_lent_computes_what_the_leader_would(name):
    """Here nobody else does: the stretches are published, and another thread takes them all."""
    mixture, x, _, _ = far_case(name, 3, 3000, 1.0)
    packed = PackedMixture.of(mixture)
    plan = empty_plan(packed.structure, 4, 3, n_rows=500)
    plans = plan.centre, plan.sharpest, plan.weights, plan.whitening
    code.prepare(packed.kind, *packed.arrays, len(plan.left), *plans)
    desk = desk_for(len(x), 500, plan, 2, packed.structure)
    none = np.empty((0, len(x)))
    n = len(desk.totals)
    assert n > 3
    desk.notes[[_passes._LOCAL, _passes._SQUARES]] = 0, _tiles.BY_ROW
    shared = x, none, packed.kind, plan, packed.means, desk
    hand = _threads._helpers.pool().submit(lend_a_hand, *shared)
    desk.notes[_passes._NEXT] = 0
    waited = time.monotonic()
    while desk.notes[_passes._FINISHED] < n and time.monotonic() < waited + 60:
        time.sleep(0.001)
    desk.notes[OVER] = 1
    hand.result(timeout=60)
    assert desk.notes[_passes._FINISHED] == n
    whole = collect_sums(x, none, none, plan, 1, 1)
    np.testing.assert_allclose(desk.sums.sum(0), whole.products, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(desk.totals.sum(0), whole.totals, rtol=1e-12)


@pytest.mark.parametrize(("noise", "pools"), [(0.1, True), (0.01, False)])
def test_columns_that_are_almost_sums_of_others_keep_their_digits(noise, pools):
    """Squares from second moments would lose some there, which is seen, and rows are whitened."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 4))
    x[:, 3] = x[:, 0] + x[:, 1] + noise * x[:, 3]
    means = np.stack([x.mean(0) - 0.3, x.mean(0) + 0.3])
    mixture = Mixture.from_parameters([0.5, 0.5], means, np.cov(x.T), "tied")
    kernel, none = CompiledKernel(mixture), np.empty((0, len(x)))
    sums = collect_sums(x, none, none, kernel.plan, 1, 1, squares=_tiles.POOLED)
    assert not sums.strays
    assert add_squares(sums, kernel.plan) == pools
    truth = e_step(tensor(x), mixture, kernel="reference").mean_log_likelihood()
    for found in (
        kernel.collect(tensor(x), None).mean_log_likelihood(),
        fit_em(Rows(tensor(x)), stack([mixture]), EMSettings(0.0, 1)).traces[0].value,
    ):
        np.testing.assert_allclose(found, truth, rtol=2e-13)
    packed = PackedMixture.of(mixture)
    maps = CompiledMap(Rows(tensor(x)), packed, 1e-6, 1)
    for _ in range(2):  # the second time second moments are known, or known not to do
        np.testing.assert_allclose(maps([packed])[0].value, truth, rtol=2e-13)
    assert maps.by_row != pools


def test_a_hand_that_is_lent_too_late_is_not_waited_for():
    _, x, _, _ = far_case("full", 3, 3000, 1.0)
    packed = PackedMixture.of(broad_start(x, "full", 3))
    plan = empty_plan(packed.structure, 3, 3, n_rows=500)
    desk = desk_for(len(x), 500, plan, 2, packed.structure)
    assert len(desk.totals) > 3
    desk.notes[OVER] = 1
    none = np.empty((0, len(x)))
    lend_a_hand(x, none, packed.kind, plan, packed.means, desk)  # ends at once


def test_an_error_dismisses_those_who_lend_a_hand(two_threads, monkeypatch):
    """Else they would wait for the next pass forever."""

    def wrong(*_, **__):
        raise ZeroDivisionError

    _, x, _, _ = far_case("full", 3, 20_000, 1.0)
    monkeypatch.setattr(compiled_em._many, "fit_one", wrong)
    for _ in range(2 * (os.cpu_count() or 1) + 2):  # more than there are threads
        with pytest.raises(ZeroDivisionError):
            end_of(x, "full")
    assert _threads._helpers.pool().submit(lambda: 7).result(timeout=10) == 7


# --- extrapolation --------------------------------------------------------------------------------


def test_what_an_extrapolation_makes_collapse_is_given_up():
    """A proposal from which a component would collapse, whatever its value, is not accepted."""
    points = iter([(0.0, 1.0, ()), (1.0, 1.5, ()), (9.0, 1.8, (0,)), (1.5, 1.75, ())])
    asked = []

    def evaluate(given):
        asked.extend(point.item() for point in given)
        value, mapped, bad = next(points)
        return [Step(value, tensor([mapped]), bad)]

    class Line(VectorChart):
        def encode(self, point, reference):
            return point.clone()

        def decode(self, values, reference):
            return values

    climb = Ascent(
        evaluate, [tensor([0.0])], [Trace()], chart=Line(), tol=0.0, max_iter=3,
        acceleration="squarem", mend=lambda *_: pytest.fail("nothing is to be mended"),
    )  # fmt: skip
    climb.run()
    assert asked == [0.0, 1.0, 2.0, 1.5]
    assert not climb.traces[0].events


def test_ctrl_c_at_a_proposal_goes_back_to_what_was_evaluated(monkeypatch):
    rows, start = slow_case("full")
    quick, last = compiled_em.fit_one, []

    def interrupted(*arguments, **more):
        if last and last[0].numbers[_squarem.PENDING]:
            raise KeyboardInterrupt
        last[:] = [arguments[6]]
        return quick(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(compiled_em, "fit_one", interrupted)
        patch.setattr(compiled_em, "_BURST", 1)
        ran = fit_em(rows, start, EMSettings(1e-9, 1000, acceleration="squarem"))
    assert ran.interrupted
    assert ran.traces[0].n_iter == 2
    plain = fit_em(rows, start, EMSettings(0.0, 2, acceleration="none"))
    np.testing.assert_allclose(ran.mixture.means, plain.mixture.means, rtol=1e-10)
    np.testing.assert_allclose(ran.log_likelihood, plain.log_likelihood, rtol=1e-12)


def test_constants_of_both_climbs_are_the_same():
    assert _squarem.FIRST_MAX_STEP == squarem._FIRST_MAX_STEP
    assert _squarem.STEP_GROWTH == squarem._STEP_GROWTH
    assert _squarem.NOISE == stopping._NOISE


def test_ctrl_c_between_compiled_iterations_keeps_what_was_found(monkeypatch):
    mixture, x, _, _ = far_case("full", 3, 400, 1.0)
    quick, calls = compiled_em.fit_one, []

    def interrupted(*arguments, **more):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return quick(*arguments, **more)

    monkeypatch.setattr(compiled_em, "fit_one", interrupted)
    start = Mixture(mixture.log_weights, mixture.means + 0.5, mixture.covariance).expand((1,))
    ran = fit_em(Rows(tensor(x)), start, EMSettings(0.0, 1000, acceleration="none"))
    assert ran.interrupted
    assert ran.traces[0].n_iter == 100
    assert not ran.traces[0].converged
    np.testing.assert_allclose(ran.log_likelihood[0], ran.mixture[0].log_prob(tensor(x)).mean())
    assert ran.log_likelihood[0] > ran.traces[0].value - 1e-12


def three_mixtures(name, seed, k, d, step):
    """On a line in the coordinates of the first, bent at the second; and how far a step leads."""
    batch, _ = draw(name, seed, k, d, (1,))
    first, rng = batch[0], np.random.default_rng(seed)
    origin = MixtureChart().encode(first, first)
    r, v = (tensor(scale * rng.normal(size=len(origin))) for scale in (0.05, 0.01))
    ahead = [origin + r, origin + 2 * r + v, origin + 2 * step * r + step**2 * v]
    second, third, end = (MixtureChart().decode(values, first) for values in ahead)
    return first, second, third, end


@names
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (9, 2), (5, 17)])
def test_an_extrapolation_leads_as_far_along_the_line_as_it_says(name, shape):
    step = 1.5
    first, second, third, end = three_mixtures(name, 5, *shape, step)
    packed = [PackedMixture.of(one) for one in (first, second, third)]
    packed[1] = packed[1].copy()
    found = PackedChart().extrapolate(*packed, step)
    assert found is not None
    same = MixtureChart().extrapolate(first, second, third, step)
    assert same is not None
    assert found[1] == same[1] == step
    assert found[0] is packed[1]  # whose memory is taken
    for part in ("weights", "means", "covariances"):
        answer = getattr(found[0].unpacked(), part)
        np.testing.assert_allclose(answer, getattr(same[0], part), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(answer, getattr(end, part), rtol=1e-9, atol=1e-12)
    free = [PackedMixture.of(one).copy() for one in (first, second, third)]
    furthest = PackedChart().extrapolate(*free, 1e9)
    expected = MixtureChart().extrapolate(first, second, third, 1e9)
    assert furthest is not None
    assert expected is not None
    assert furthest[1] == pytest.approx(expected[1], rel=1e-9)
    for one, other in ((packed[0], first), (packed[2], third)):  # these are as they were
        for part, same_part in zip(one.arrays, PackedMixture.of(other).arrays, strict=True):
            np.testing.assert_array_equal(part, same_part)


@names
def test_nothing_is_to_be_gained_where_a_line_turns_back_or_a_weight_is_zero(name):
    first, second, third, _ = three_mixtures(name, 6, 3, 2, 2.0)
    chart = PackedChart()
    parts = [PackedMixture.of(one).copy() for one in (first, second, first)]
    assert chart.extrapolate(*parts, 4.0) is None  # there and back: |r| is half of |v|
    parts = [PackedMixture.of(one).copy() for one in (first, second, second)]
    assert chart.extrapolate(*parts, 4.0) is None  # |v| is |r|
    parts = [PackedMixture.of(one).copy() for one in (first, second, third)]
    for one in parts:
        one.log_weights[1] = -np.inf
    assert chart.extrapolate(*parts, 4.0) is None
    parts = [PackedMixture.of(first).copy() for _ in range(3)]
    assert chart.extrapolate(*parts, 4.0) is None  # nothing moved


# --- starts ---------------------------------------------------------------------------------------


def inertia(x, labels, weight=None):
    weight = np.ones(len(x)) if weight is None else weight
    total = 0.0
    for label in np.unique(labels):
        mine = labels == label
        centre = np.average(x[mine], 0, weight[mine])
        total += (weight[mine, None] * (x[mine] - centre) ** 2).sum()
    return total


def partition(x, k, seed, weight=None):
    """Labels of one run of k-means."""
    mean = np.average(x, 0, weight)
    plan = empty_plan(structure("diag"), k, x.shape[1])._replace(centre=mean)
    chance = RandomState(seed).uniform(size=(1, k, _kmeans.n_tries(k)))[0]
    tol = _kmeans.TOL * np.average((x - mean) ** 2, 0, weight).mean()
    lines = np.empty((0, len(x))) if weight is None else weight.reshape(1, -1)
    units = np.ones(x.shape[1])
    return _kmeans.kmeans(x, lines, plan, units, k, chance, _kmeans.MOST_ITERATIONS, tol)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(300, 2, 3), (1000, 5, 8), (500, 12, 4)])
def test_kmeans_is_as_tight_as_scikit_learns(n, d, k, weighted):
    rng = np.random.default_rng(k)
    x = 4 * rng.normal(size=(k, d))[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    weight = rng.uniform(0.1, 3, n) if weighted else None
    ours = [inertia(x, partition(x, k, s, weight), weight) for s in range(30)]
    theirs = [
        KMeans(k, n_init=1, random_state=s).fit(x, sample_weight=weight).inertia_ for s in range(10)
    ]
    assert min(ours) <= min(theirs) * 1.001
    assert np.median(ours) <= np.median(theirs) * 1.001
    assert np.mean(np.array(ours) > 1.01 * min(ours)) <= 0.1 + np.mean(
        np.array(theirs) > 1.01 * min(theirs)
    )


def test_a_partition_is_at_rest():
    """Every row is nearest to the mean of its own cluster."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    labels = partition(x, 5, 0)
    centres = np.stack([x[labels == k].mean(0) for k in range(5)])
    nearest = ((x[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert np.mean(nearest == labels) > 0.97  # the last move is below the tolerance


@pytest.mark.parametrize("d", [3, 17])
@pytest.mark.parametrize("scaled", [False, True])
@names
def test_a_partition_becomes_its_moments(name, scaled, d):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30 * d, d)) * np.geomspace(0.2, 5, d) + 40
    weight = rng.uniform(0.5, 2, len(x))
    rows = Rows(tensor(x), tensor(weight))
    (begun,) = begin_each(rows, 3, structure(name), 0.0, [scaled], RandomState(4))
    found = begun.start().unpacked()
    deviation = np.sqrt(np.average((x - np.average(x, 0, weight)) ** 2, 0, weight))
    labels = partition(x / (deviation if scaled else 1), 3, 4, weight)
    gap = [x[labels == k] - np.average(x[labels == k], 0, weight[labels == k]) for k in range(3)]
    own = [weight[labels == k] for k in range(3)]
    scatter = np.stack([(w[:, None] * g).T @ g for w, g in zip(own, gap, strict=True)])
    count = np.array([w.sum() for w in own])
    np.testing.assert_allclose(found.weights, count / count.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.covariances, CASES[name].estimate(scatter, count), rtol=1e-10)


@pytest.mark.parametrize("n_threads", [1, 2])
@names
def test_the_best_start_of_a_large_mixture_is_that_of_any(name, n_threads, monkeypatch):
    """Iterations are made run after run, by all threads together, and only the best are kept."""
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(6, 4))[rng.integers(6, size=20_000)] + rng.normal(size=(20_000, 4))
    rows = Rows(tensor(x), tensor(rng.uniform(0.5, 2, len(x))))
    scaled, short = [False, True, False, True, False], {"tol": 1e-3, "max_iter": 4}
    asked = rows, 6, structure(name), 1e-6, scaled
    each = begin_each(*asked, RandomState(3), **short)
    best = each[int(np.argmax([one.value for one in each]))]
    assert len({round(one.value, 6) for one in each}) > 1
    monkeypatch.setattr(compiled_starts, "LARGE_MIXTURE", 0)
    monkeypatch.setattr(compiled_starts, "at_hand", lambda: n_threads)
    found = begin_best(*asked, RandomState(3), **short)
    np.testing.assert_allclose(found.value, best.value, rtol=1e-12)
    np.testing.assert_allclose(found.values, best.values, rtol=1e-12)
    for one, other in ((found.end, best.end), (found.start(), best.start())):
        for part, same in zip(one.arrays, other.arrays, strict=True):
            np.testing.assert_allclose(part, same, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("large", [False, True])
def test_a_start_that_needs_a_repair_is_left_to_others(large, monkeypatch):
    monkeypatch.setattr(compiled_starts, "LARGE_MIXTURE", 0 if large else 1 << 30)
    x = np.random.default_rng(0).normal(size=(6, 3)).repeat(50, 0)  # a component is a point
    asked = Rows(tensor(x)), 5, structure("full"), 0.0, [False, True], RandomState(0)
    assert begin_best(*asked, tol=1e-3, max_iter=5) is None


def test_starts_of_a_large_mixture_that_need_a_repair_are_passed_over(monkeypatch):
    x = np.random.default_rng(0).normal(size=(2000, 3))
    rows, short = Rows(tensor(x)), {"tol": 0.0, "max_iter": 3}
    asked = rows, 4, structure("full"), 1e-6, [False, True, False, True]
    monkeypatch.setattr(compiled_starts, "LARGE_MIXTURE", 0)
    values, climb = [], compiled_starts._Problem.climb

    def failing(highest):
        def climbed(*args):
            value, state, history = climb(*args)
            values.append(value)
            return (value, _squarem.LEFT if value > highest else state, history)

        return climbed

    monkeypatch.setattr(compiled_starts._Problem, "climb", failing(np.inf))
    begin_best(*asked, RandomState(1), **short)
    best, second = sorted(set(values), reverse=True)[:2]
    assert best - second > 1e-6
    monkeypatch.setattr(compiled_starts._Problem, "climb", failing((best + second) / 2))
    assert begin_best(*asked, RandomState(1), **short).value == second
    monkeypatch.setattr(compiled_starts._Problem, "climb", failing(-np.inf))
    assert begin_best(*asked, RandomState(1), **short) is None


_GROWTH = """
import numpy as np, sys, warnings
from mogul import GaussianMixture

def megabytes(what):
    lines = open("/proc/self/status").read().splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith(what))
    return kibibytes * 1024 / 1e6

warnings.simplefilter("ignore")
k, d, rng = 128, 128, np.random.default_rng(0)
overlapping = sys.argv[1] == "overlapping"
means = (0.25 if overlapping else 2) * rng.normal(size=(k, d))
x = means[rng.integers(k, size=20_000)] + rng.normal(size=(20_000, d))
given = {"weights_init": np.full(k, 1 / k), "means_init": means}
given["precisions_init"] = np.stack([np.eye(d)] * k)
GaussianMixture(3, random_state=0, max_iter=3).fit(x[:3000, :5])
open("/proc/self/clear_refs", "w").write("5")
before = megabytes("VmRSS")
settings = {
    "given": given,
    "extrapolated": {**given, "acceleration": "squarem", "max_iter": 12},
    "found": {},
    "overlapping": {"max_iter": 30, "tol": 1e-6},
    "random": {"init_params": "random"},
    "k-means++": {"init_params": "k-means++"},
}
how = {"max_iter": 2, "tol": 0, "random_state": 0, **settings[sys.argv[1]]}
GaussianMixture(k, **how).fit(x)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
@pytest.mark.parametrize(
    "fit", ["given", "extrapolated", "found", "overlapping", "random", "k-means++"]
)
def test_memory_of_a_large_fit_is_bounded(fit):
    """64 MB and the size of the mixture for each of two threads, beyond the rows."""
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", _GROWTH, fit]
    for _ in range(2):  # the first time code may have to be compiled
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 2 * (64 + 8 * 128**3 / 1e6)


# --- many fits at once ----------------------------------------------------------------------------


def sites(m=40, n=120, d=2, k=3, seed=0):
    rng = np.random.default_rng(seed)
    centres = 5 * rng.normal(size=(m, k, d))
    return centres[np.arange(m)[:, None], rng.integers(k, size=(m, n))] + rng.normal(size=(m, n, d))


@names
def test_each_of_many_fits_is_as_good_as_one_alone(name):
    x = sites()
    fits = fit_many(x, 3, name, random_state=0)
    assert len(fits) == 40
    assert not fits.failed.any()
    alone = np.array([GaussianMixture(3, covariance_type=name).fit(one).lower_bound_ for one in x])
    assert np.mean(fits.log_likelihood > alone - 2e-3) > 0.85
    assert fits.log_likelihood.mean() > alone.mean() - 0.005
    for i in (0, 17):
        expected = float(fits.mixture[i].log_prob(tensor(x[i])).mean())
        np.testing.assert_allclose(fits.log_likelihood[i], expected, rtol=1e-10)


def test_a_list_of_tables_of_any_length_with_weights():
    """A row of weight two is that row twice; each data set is fitted alone."""
    tables = [site[: 40 + 7 * i] for i, site in enumerate(sites(8))]
    counts = [np.random.default_rng(i).integers(1, 4, len(t)) for i, t in enumerate(tables)]
    settings = {"n_components": 2, "random_state": 0, "tol": 1e-9, "max_iter": 2000}
    weighted = fit_many(tables, sample_weight=counts, **settings)
    repeated = fit_many(
        [np.repeat(t, c, 0) for t, c in zip(tables, counts, strict=True)], **settings
    )
    np.testing.assert_allclose(weighted.log_likelihood, repeated.log_likelihood, rtol=1e-6)
    without = [np.vstack([table, [[1e12, 0.0]]]) for table in tables]
    zero = [np.append(count, 0) for count in counts]
    same = fit_many(without, sample_weight=zero, **settings)
    np.testing.assert_array_equal(same.log_likelihood, weighted.log_likelihood)
    assert weighted.mixture.batch_shape == (8,)


def test_the_same_seed_gives_the_same_fits_on_any_number_of_threads():
    x = sites(30)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(fit_many(x, 3, random_state=1).mixture.means)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_the_compiled_fit_cannot_do_is_done_all_the_same():
    """Clusters too far apart for the expanded form, and a component on equal rows."""
    rng = np.random.default_rng(2)
    far = np.concatenate([rng.normal(size=(50, 2)), 1e9 + rng.normal(size=(50, 2))])
    fits = fit_many([far, rng.normal(size=(60, 2))], 2, random_state=0)
    assert not fits.failed.any()
    np.testing.assert_allclose(sorted(fits.mixture.weights[0].tolist()), [0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(fits.mixture.covariance.variances()[0], 1.0, rtol=0.6)


def test_a_start_that_needs_more_care_is_not_passed_over():
    """Two upright lines: the best partition is too narrow for the expanded form."""
    x = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]], dtype=float)
    fits = fit_many([x, x], 2, random_state=0)
    alone = GaussianMixture(2, random_state=0).fit(x)
    for means in (*fits.mixture.means.numpy(), alone.means_):
        np.testing.assert_allclose(means[means[:, 0].argsort()], [[1, 2], [10, 2]], atol=1e-6)


def test_a_hopeless_data_set_is_told_of_and_leaves_the_others_alone():
    good = sites(3)
    same = np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, 0)
    with pytest.warns(RepairWarning, match="1 of 4 data sets .* number 1") as told:
        fits = fit_many([good[0], same, *good[1:]], 2, reg_covar=0.0, random_state=0)
    assert told[0].filename == __file__
    assert fits.failed.tolist() == [False, True, False, False]
    assert fits.mixture.means[1].isnan().all()
    assert fits.log_likelihood[1] == -np.inf
    assert np.isfinite(fits.log_likelihood[[0, 2, 3]]).all()


def test_without_numba_the_answers_are_as_good(monkeypatch):
    import mogul.kernels

    x = sites(4)
    compiled = fit_many(x, 3, random_state=0)
    monkeypatch.setattr(mogul.kernels, "_find_compiler", lambda: False)
    plain = fit_many(x, 3, random_state=0)
    np.testing.assert_allclose(plain.log_likelihood, compiled.log_likelihood, atol=0.05)


@pytest.mark.parametrize(
    ("data", "more", "sentence"),
    [
        (np.zeros((20, 2)), {}, "has 2 axes, expected 3"),
        ([], {}, "There are no data sets"),
        ([np.zeros((5, 2)), np.zeros((5, 3))], {}, r"Data set 1 .* has 3 columns and the first 2"),
        ([np.zeros((1, 2))], {}, r"Data set 0 .* has 1 rows with weight"),
        ([np.eye(3), np.full((4, 3), np.nan)], {}, r"Data set 1 .* holds nan in row 0, column 0"),
        ([[["a", "b"], ["c", "d"]]], {}, r"Data set 0 .* is not a table of numbers"),
        ([np.zeros(4)], {}, r"Data set 0 .* has shape \(4,\)"),
        ([np.eye(3)], {"n_components": 0}, "n_components must be a whole number from 1 on"),
        ([np.eye(3)], {"tol": -1}, "tol must be a number from 0 on"),
        ([np.eye(3)], {"sample_weight": []}, "sample_weight is for 0 data sets; there are 1"),
        ([np.eye(3)], {"sample_weight": [[1, 1]]}, r"has shape \(2,\), expected \(3,\)"),
        ([np.eye(3)], {"sample_weight": [[0, 0, 0]]}, "not all zero"),
    ],
)
def test_bad_input_of_many_fits_gets_a_sentence(data, more, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        fit_many(data, **more)
    assert "\n" not in str(caught.value)


def test_words_of_other_kinds_are_refused():
    with pytest.raises(UnknownNameError, match="round"):
        fit_many([np.eye(3)], 1, "round")
    with pytest.raises(InputTypeError, match="sequence of tables; got int"):
        fit_many(3)
