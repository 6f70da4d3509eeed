"""One feature at a time: cdf, quantiles, intervals, highest-density regions and the CRPS."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.optimize import brentq
from scipy.stats import norm

from laws.cases import CASES, draw, draw_one, leaves, rebuild, tensor
from mogul import Mixture
from mogul.errors import InputError

structures = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)

CURVES = {  # weights, means, standard deviations
    "normal": ([1.0], [0.0], [1.0]),
    "bimodal": ([0.4, 0.6], [-3.0, 2.0], [1.0, 0.5]),
    "trimodal": ([0.3, 0.4, 0.3], [-4.0, 0.0, 5.0], [0.7, 1.2, 0.4]),
    "equal means": ([0.5, 0.5], [1.0, 1.0], [0.2, 2.0]),
    "twins": ([0.5, 0.5], [1.0, 1.0], [2.0, 2.0]),
    "needle on a plain": ([0.5, 0.5], [0.0, 10.0], [1e3, 1e-3]),
    "faint needle": ([1 - 1e-6, 1e-6], [0.0, 1.0], [1.0, 1e-8]),
    "far apart": ([0.5, 0.5], [-1e6, 1e6], [1.0, 1.0]),
    "dead": ([0.0, 1.0], [50.0, 0.0], [9.0, 1.0]),
    "ladder": ([0.2] * 5, [0.0, 1.9, 3.8, 5.7, 7.6], [0.9] * 5),
}
curves = pytest.mark.parametrize("curve", CURVES)


def arrays(curve: str) -> list[np.ndarray]:
    return [np.array(part) for part in CURVES[curve]]


def build(w, m, s, dtype=torch.float64) -> Mixture:
    w, m, s = (np.asarray(v) for v in (w, m, s))
    mixture = Mixture.from_parameters(w, m[..., None], s[..., None] ** 2, "diag")
    return mixture.to(dtype=dtype)


def pdf(x, w, m, s):
    return (w * norm.pdf((np.asarray(x)[..., None] - m) / s) / s).sum(-1)


def cdf(x, w, m, s):
    return (w * norm.cdf((np.asarray(x)[..., None] - m) / s)).sum(-1)


def random_curve(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 6))
    scale = np.exp(rng.normal(size=k) * rng.choice([0.1, 0.5, 1.5]))
    return rng.dirichlet(np.ones(k)), rng.normal(size=k) * rng.choice([0.5, 2.0, 5.0]), scale


# --- cdf ------------------------------------------------------------------------------------------


@structures
@given(seeds)
def test_cdf_of_every_marginal_equals_scipy(name, seed):
    mixture, truth = draw_one(name, seed, 3, 2)
    x = truth.draw(np.random.default_rng(seed), 10)
    deviations = np.sqrt(np.diagonal(truth.dense, axis1=1, axis2=2))
    z = (x[:, None] - truth.means) / deviations
    expected = np.einsum("k,nkd->nd", truth.weights, norm.cdf(z))
    np.testing.assert_allclose(mixture.cdf(x), expected, rtol=1e-12, atol=1e-15)


def test_cdf_keeps_relative_digits_in_the_lower_tail():
    mixture = build([0.3, 0.7], [0.0, 1.0], [1.0, 0.5])
    x = np.array([-10.0, -20.0, -37.0])
    with mpmath.workdps(40):
        exact = [float(mpmath.mpf("0.3") * mpmath.ncdf(v)) for v in x]
    np.testing.assert_allclose(mixture.cdf(x[:, None])[:, 0], exact, rtol=1e-12)


@structures
def test_the_slope_of_the_cdf_is_the_density(name):
    mixture, _ = draw_one(name, 2, 3, 2)
    x = tensor(np.linspace(-6, 6, 25)).unsqueeze(-1).repeat(1, 2).requires_grad_()
    slope = torch.autograd.grad(mixture.cdf(x).sum(), x)[0]
    for d in (0, 1):
        density = mixture.marginal(d).log_prob(x[:, d : d + 1]).exp()
        torch.testing.assert_close(slope[:, d], density, rtol=1e-11, atol=1e-14)
    step = 1e-5
    with torch.no_grad():
        difference = (mixture.cdf(x + step) - mixture.cdf(x - step)) / (2 * step)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-9)


# --- quantiles ------------------------------------------------------------------------------------

LOWER = [1e-300, 1e-100, 1e-20, 1e-6, 0.01, 0.3, 0.5]
UPPER = [0.7, 0.99, 1 - 1e-6, 1 - 1e-12, 1 - 1e-15, 1 - 2**-53]


def exact_correction(x: float, p: float, w, m, s) -> float:
    """The Newton step that is left, (F(x) − p) / f(x), in 60 digits."""
    with mpmath.workdps(60):
        z = [(mpmath.mpf(x) - float(a)) / float(b) for a, b in zip(m, s, strict=True)]
        total = mpmath.fsum(map(float, w))
        if p <= 0.5:
            gap = mpmath.fsum(float(a) * mpmath.ncdf(b) for a, b in zip(w, z, strict=True))
            gap -= mpmath.mpf(p) * total
        else:
            gap = (1 - mpmath.mpf(p)) * total
            gap -= mpmath.fsum(float(a) * mpmath.ncdf(-b) for a, b in zip(w, z, strict=True))
        slope = mpmath.fsum(
            float(a) * mpmath.npdf(b) / float(c) for a, b, c in zip(w, z, s, strict=True)
        )
        return float(gap / slope)


@pytest.mark.parametrize(
    "curve", ["normal", "bimodal", "trimodal", "equal means", "twins", "dead", "ladder"]
)
def test_quantiles_in_both_tails(curve):
    w, m, s = arrays(curve)
    mixture = build(w, m, s)
    for p in LOWER + UPPER:
        x = float(mixture.icdf(p))
        assert abs(exact_correction(x, p, w, m, s)) < 1e-10 * s.max(), p


@given(seeds, st.floats(1e-12, 1 - 1e-9))
def test_icdf_inverts_the_cdf(seed, p):
    w, m, s = random_curve(seed)
    x = float(build(w, m, s).icdf(p))
    assert float(cdf(x, w, m, s)) == pytest.approx(p, rel=1e-8)


@structures
def test_icdf_of_cdf_is_the_identity_on_batches(name):
    mixture, truths = draw(name, 0, 3, 2, (4,))
    rng = np.random.default_rng(0)
    x = tensor(np.stack([truth.draw(rng, 6) for truth in truths], 1))  # (6, 4, 2)
    torch.testing.assert_close(mixture.icdf(mixture.cdf(x)), x, rtol=1e-8, atol=1e-8)


def test_quantiles_of_the_normal_are_scipys():
    p = np.array([1e-300, 1e-30, 0.025, 0.5, 0.975, 1 - 1e-12])
    found = build([1.0], [2.0], [3.0]).icdf(p[:, None])[:, 0]
    np.testing.assert_allclose(found, norm.ppf(p, 2, 3), rtol=1e-12)


def test_certain_and_impossible_events_and_what_is_no_probability():
    mixture = build([0.0, 1.0], [0.0, 1.0], [1.0, 1.0])
    assert float(mixture.icdf(0.0)) == -math.inf
    assert float(mixture.icdf(1.0)) == math.inf
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="between 0 and 1"):
            mixture.icdf(p)


def test_quantiles_in_float32_follow_float64():
    w, m, s = arrays("trimodal")
    p = torch.tensor([1e-30, 1e-6, 0.2, 0.5, 0.9, 1 - 1e-6]).unsqueeze(-1)
    single, double = build(w, m, s, torch.float32), build(w, m, s)
    np.testing.assert_allclose(single.icdf(p), double.icdf(p), rtol=2e-6, atol=1e-6)
    x = double.icdf(p)
    np.testing.assert_allclose(single.cdf(x), double.cdf(x), rtol=2e-5)


def test_shapes_of_quantiles():
    mixture, _ = draw("full", 0, 3, 2, (4,))
    assert mixture.icdf(0.3).shape == (4, 2)
    assert mixture.icdf(torch.full((5, 1, 1), 0.3)).shape == (5, 4, 2)
    assert mixture.interval(0.9).shape == (4, 2, 2)
    assert mixture.hdr(0.9).shape == (4, 2, 3, 2)
    assert mixture.crps(torch.zeros(6, 4, 2)).shape == (6, 4, 2)
    assert mixture.cdf(torch.zeros(6, 1, 2)).shape == (6, 4, 2)


@structures
@pytest.mark.parametrize("p", [1e-12, 0.1, 0.5, 0.9, 1 - 1e-9])
def test_gradients_of_quantiles(name, p):
    """Against central differences of the quantile itself, in every parameter and in p."""
    mixture, _ = draw_one(name, 1, 3, 2)
    fresh, parts = leaves(mixture)
    probability = tensor([p, p]).requires_grad_()
    direction = tensor([1.0, -0.7])
    gradients = torch.autograd.grad(
        (fresh.icdf(probability) * direction).sum(), [*parts, probability]
    )
    rng = np.random.default_rng(0)
    for i, gradient in enumerate(gradients):
        move = tensor(rng.normal(size=gradient.shape))
        if i == 2 and name in ("full", "tied"):
            move = move.tril()
        # Near one a probability itself has few digits to differ in.
        step, relative = (1e-3 * min(p, 1 - p), 1e-3) if i == 3 else (1e-6, 2e-4)

        def at(sign, i=i, move=move, step=step):
            values = [t.detach() for t in (*parts, probability)]
            values[i] = values[i] + sign * step * move
            with torch.no_grad():
                return (rebuild(mixture, *values[:3]).icdf(values[3]) * direction).sum()

        difference = float(at(1) - at(-1)) / (2 * step)
        assert float((gradient * move).sum()) == pytest.approx(difference, rel=relative, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_a_quantile_in_an_empty_gap_is_finite(dtype):
    """Half the mass on either side: the density at the median underflows to zero."""
    mixture, parts = leaves(build([0.5, 0.5], [-1e4, 1e4], [1.0, 1.0], dtype))
    for p in (0.5, 1e-30):
        for gradient in torch.autograd.grad(mixture.icdf(p).sum(), parts, retain_graph=True):
            assert bool(torch.isfinite(gradient).all())


# --- equal-tailed intervals -----------------------------------------------------------------------


@curves
@pytest.mark.parametrize("level", [0.5, 0.95, 1 - 1e-6])
def test_intervals_leave_equal_tails(curve, level):
    w, m, s = arrays(curve)
    low, high = build(w, m, s).interval(level)[0].tolist()
    tail = 0.5 - level / 2
    survival = float((w * norm.sf((high - m) / s)).sum())
    smallest = 1e-8 if curve == "far apart" and level == 0.5 else 1e-12
    assert float(cdf(low, w, m, s)) == pytest.approx(tail, rel=1e-8, abs=smallest)
    assert survival == pytest.approx(tail, rel=1e-8, abs=smallest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_interval_of_almost_everything_is_finite_and_symmetric(dtype):
    """One half plus half the level would round to one, and the upper end to infinity."""
    mixture = build([1.0], [0.0], [1.0], dtype)
    for level in (1 - 1e-9, 1 - 1e-15):
        low, high = mixture.interval(level)[0].tolist()
        assert high == -low
        assert low == pytest.approx(norm.ppf(0.5 - level / 2), rel=1e-6)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_levels_outside_zero_and_one_are_refused(level):
    mixture = build([1.0], [0.0], [1.0])
    for ask in (mixture.interval, mixture.hdr):
        with pytest.raises(InputError, match="strictly between 0 and 1"):
            ask(level)


# --- highest-density regions ----------------------------------------------------------------------


def region(mixture: Mixture, level: float) -> np.ndarray:
    found = mixture.hdr(level).reshape(-1, 2).numpy()
    used = ~np.isnan(found).any(-1)
    assert used.any()
    assert not np.isnan(found[used]).any()
    assert used[: used.sum()].all()  # unused rows come last
    return found[used]


def assert_is_hdr(found: np.ndarray, level: float, w, m, s, tolerance: float = 1e-8) -> None:
    """It has the mass, equal heights at its ends, and nothing higher outside or lower inside."""
    assert (np.diff(found.ravel()) > 0).all()
    mass = (cdf(found[:, 1], w, m, s) - cdf(found[:, 0], w, m, s)).sum()
    assert mass == pytest.approx(level, abs=tolerance)
    heights = pdf(found.ravel(), w, m, s)
    assert np.ptp(heights) <= 1e-6 * heights.max()
    grid = np.sort(np.concatenate([m[:, None] + s[:, None] * np.linspace(-8, 8, 1001)]).ravel())
    inside = ((grid[:, None] > found[:, 0]) & (grid[:, None] < found[:, 1])).any(-1)
    density = pdf(grid, w, m, s)
    assert density[inside].min(initial=np.inf) >= heights.min() * (1 - 1e-6)
    assert density[~inside].max(initial=0) <= heights.max() * (1 + 1e-6)


@pytest.mark.parametrize("curve", [c for c in CURVES if c != "far apart"])
@pytest.mark.parametrize("level", [0.05, 0.5, 0.9999])
def test_highest_density_regions(curve, level):
    w, m, s = arrays(curve)
    assert_is_hdr(region(build(w, m, s), level), level, w, m, s)


@settings(max_examples=12)  # each region takes a tenth of a second
@given(seeds, st.floats(0.02, 0.998))
def test_highest_density_regions_of_random_curves(seed, level):
    w, m, s = random_curve(seed)
    assert_is_hdr(region(build(w, m, s), level), level, w, m, s)


def test_the_region_of_one_normal_is_its_central_interval():
    found = region(build([1.0], [1.0], [2.0]), 0.95)
    np.testing.assert_allclose(found, [[norm.ppf(0.025, 1, 2), norm.ppf(0.975, 1, 2)]], rtol=1e-10)


def test_components_far_apart_each_keep_their_central_interval():
    found = region(build(*arrays("far apart")), 0.8)
    half = norm.ppf(0.9)
    np.testing.assert_allclose(
        found, [[-1e6 - half, -1e6 + half], [1e6 - half, 1e6 + half]], rtol=1e-12
    )


def test_no_set_of_grid_cells_of_the_same_mass_is_smaller():
    """Brute force: take the highest of many small cells until they hold the level."""
    for curve in ("bimodal", "trimodal", "equal means", "ladder"):
        w, m, s = arrays(curve)
        edges = np.linspace((m - 10 * s).min(), (m + 10 * s).max(), 100_001)
        cells = np.sort(np.diff(cdf(edges, w, m, s)))[::-1]
        for level in (0.5, 0.95):
            smallest = (np.cumsum(cells) < level).sum() * (edges[1] - edges[0])
            length = np.diff(region(build(w, m, s), level)).sum()
            assert length == pytest.approx(smallest, abs=4 * (edges[1] - edges[0]))


def turning_points(w, m, s) -> np.ndarray:
    def slope(x):
        z = (np.asarray(x)[..., None] - m) / s
        return -(w * z / s**2 * norm.pdf(z)).sum(-1)

    grid = np.linspace((m - 5 * s).min(), (m + 5 * s).max(), 20_001)
    sign = np.sign(slope(grid))
    at = np.flatnonzero(sign[:-1] != sign[1:])
    return np.array([brentq(slope, grid[i], grid[i + 1], xtol=1e-14) for i in at])


@pytest.mark.parametrize(
    ("w", "m", "s"),
    [
        ([0.23533574, 0.76466426], [0.0, 2.63139369], [1.0, 0.8498364]),
        ([0.96358613, 0.03641387], [0.0, 3.39579505], [1.0, 0.73816135]),
        ([0.10891493, 0.89108507], [0.0, 3.25749407], [1.0, 2.79645183]),
        ([0.43095587, 0.56904413], [0.0, 2.19459844], [1.0, 1.1467893]),
        ([0.92138297, 0.07861703], [0.0, 2.23217766], [1.0, 0.40145984]),
        # Near cusps: three turning points within one step, and zeros of the second derivative too.
        ([0.33725835, 0.66274165], [0.0, 2.27916672], [1.0, 1.39081078]),
        ([0.35997844, 0.64002156], [0.0, 2.26237553], [1.0, 1.3324678]),
        ([0.65753403, 0.34246597], [0.0, 1.6556451], [1.0, 0.72635786]),
    ],
)
def test_a_mode_that_has_only_just_split_off_is_seen(w, m, s):
    """Its turning points lie within one step of any sensible grid.

    The level is chosen so that the region ends between their heights and has two pieces; without
    the zeros of higher derivatives it had one, and up to 2.5% too much or too little mass.
    """
    w, m, s = (np.array(v) for v in (w, m, s))
    turns = turning_points(w, m, s)
    heights = pdf(turns, w, m, s)
    threshold = 0.5 * (heights[1] + min(heights[0], heights[2]))
    ends = np.array([(m - 12 * s).min(), *turns, (m + 12 * s).max()])
    pieces = np.array(
        [brentq(lambda x: pdf(x, w, m, s) - threshold, a, b, xtol=1e-14) for a, b in pairwise(ends)]
    ).reshape(2, 2)
    level = float(np.diff(cdf(pieces, w, m, s)).sum())
    np.testing.assert_allclose(region(build(w, m, s), level), pieces, atol=1e-8)


def test_regions_of_a_batch_are_those_of_its_members():
    curves_ = [random_curve(seed) for seed in range(200) if len(random_curve(seed)[0]) == 3][:6]
    w, m, s = (np.stack(part) for part in zip(*curves_, strict=True))
    batch = build(w, m, s)
    found = batch.hdr(0.8)
    assert found.shape == (6, 1, 3, 2)
    for i in range(6):
        np.testing.assert_allclose(found[i], batch[i].hdr(0.8), atol=1e-10)


def test_regions_in_float32_are_found_in_float64():
    w, m, s = arrays("needle on a plain")
    found = build(w, m, s, torch.float32).hdr(0.5)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, build(w, m, s).hdr(0.5), rtol=1e-4)


def test_regions_scale_with_the_data():
    w, m, s = arrays("trimodal")
    found = region(build(w, m, s), 0.9)
    np.testing.assert_allclose(region(build(w, m * 1e6, s * 1e6), 0.9), found * 1e6, rtol=1e-8)


def test_scales_that_differ_by_150_orders_of_magnitude():
    """The middle component decides: a third below it, a third spread beyond all bounds."""
    mixture = build([1 / 3] * 3, [0.0] * 3, [1e-150, 1.0, 1e150])
    half = norm.ppf(0.75)
    np.testing.assert_allclose(region(mixture, 0.5), [[-half, half]], rtol=1e-10)
    assert float(mixture.icdf(0.3)) == pytest.approx(norm.ppf(0.4), rel=1e-12)


# --- CRPS -----------------------------------------------------------------------------------------


def crps_by_quadrature(y: float, w, m, s) -> float:
    """∫ (F(x) − 1{x ≥ y})² dx, by Gauss–Legendre between knots, y among them."""
    knots = np.unique(np.append((m[:, None] + s[:, None] * np.linspace(-9, 9, 40)).ravel(), y))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(knots)[:, None] / 2
    x = knots[:-1, None] + half * (1 + nodes)
    below = (w * norm.cdf((x[..., None] - m) / s)).sum(-1)
    above = (w * norm.sf((x[..., None] - m) / s)).sum(-1)
    return float((half * weights * np.where(x < y, below, above) ** 2).sum())


def test_crps_of_the_standard_normal_at_zero():
    """(√2 − 1)/√π, the published 0.2336949."""
    found = float(build([1.0], [0.0], [1.0]).crps([0.0]))
    assert found == pytest.approx((math.sqrt(2) - 1) / math.sqrt(math.pi), rel=1e-14)
    assert round(found, 7) == 0.2336950


@given(seeds, st.floats(-20, 20))
def test_crps_equals_its_integral(seed, y):
    w, m, s = random_curve(seed)
    found = float(build(w, m, s).crps([y]))
    assert found == pytest.approx(crps_by_quadrature(y, w, m, s), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("curve", [c for c in CURVES if c != "far apart"])
def test_crps_of_hard_curves(curve):
    w, m, s = arrays(curve)
    for y in (0.0, 1.0, m.max() + 5 * s.max()):
        found = float(build(w, m, s).crps([y]))
        assert found == pytest.approx(crps_by_quadrature(y, w, m, s), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_crps_far_away_is_the_distance(dtype):
    """|y − E x| less half the mean difference: nothing overflows, and the slope is ±1."""
    mixture = build([0.4, 0.6], [0.0, 1.0], [1.0, 2.0], dtype)
    for y in (1e5, -1e5):
        at = torch.tensor([y], dtype=dtype, requires_grad=True)
        score = mixture.crps(at)
        score.backward()
        assert float(at.grad) == pytest.approx(math.copysign(1, y), rel=1e-5)
        assert score.item() == pytest.approx(abs(y), rel=1e-4)


@structures
def test_crps_of_each_marginal(name):
    mixture, truth = draw_one(name, 0, 3, 2)
    deviations = np.sqrt(np.diagonal(truth.dense, axis1=1, axis2=2))
    found = mixture.crps([0.7, -0.4])
    for d, y in enumerate((0.7, -0.4)):
        expected = crps_by_quadrature(y, truth.weights, truth.means[:, d], deviations[:, d])
        assert float(found[d]) == pytest.approx(expected, rel=1e-9)


def test_crps_is_proper():
    """On average the true distribution scores best."""
    truth = build([0.5, 0.5], [-2.0, 2.0], [1.0, 0.5])
    x = truth.icdf((torch.arange(500, dtype=torch.float64).reshape(-1, 1) + 0.5) / 500)
    best = float(truth.crps(x).mean())
    for rival in (
        build([0.5, 0.5], [-1.8, 2.0], [1.0, 0.5]),
        build([0.6, 0.4], [-2.0, 2.0], [1.0, 0.5]),
        build([0.5, 0.5], [-2.0, 2.0], [1.2, 0.5]),
        build([1.0], [0.0], [2.1]),
    ):
        assert float(rival.crps(x).mean()) > best


def test_crps_gradcheck():
    mixture, _ = draw_one("full", 0, 3, 2)
    _, parts = leaves(mixture)
    x = tensor([0.3, -0.2]).requires_grad_()

    def crps(logits, means, factor, value):
        return rebuild(mixture, logits, means, factor.tril()).crps(value)

    assert torch.autograd.gradcheck(crps, (*parts, x))


def test_quadrature_itself_is_right():
    """The truth of this file, against scipy's adaptive rule."""
    w, m, s = arrays("bimodal")
    value, _ = integrate.quad(
        lambda x: (cdf(x, w, m, s) - (x >= 0.3)) ** 2, -15, 15, points=[0.3], limit=400
    )
    assert crps_by_quadrature(0.3, w, m, s) == pytest.approx(value, rel=1e-7)
