"""Entropy and Kullback–Leibler divergence, against quadrature and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from laws.cases import CASES, draw, draw_one, leaves, rebuild, tensor
from mogul import Mixture
from mogul.errors import InputError

structures = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=15)


def line(w, m, s) -> Mixture:
    return Mixture.from_parameters(w, np.array(m)[:, None], np.array(s)[:, None] ** 2, "diag")


def random_line(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 5))
    return rng.dirichlet(np.full(k, 2.0)), rng.normal(size=k) * 2, np.exp(rng.normal(size=k) * 0.5)


def log_density(x, w, m, s):
    return np.logaddexp.reduce(np.log(w) + norm.logpdf(x[..., None], m, s), -1)


def integral(function, *curves) -> float:
    """∫ f(x) dx by Gauss–Legendre between the knots of every curve."""
    knots = np.concatenate([(m[:, None] + s[:, None] * np.arange(-12, 13)).ravel()
                            for _, m, s in curves])  # fmt: skip
    knots.sort()
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(knots)[:, None] / 2
    return float((half * weights * function(knots[:-1, None] + half * (1 + nodes))).sum())


def entropy_by_quadrature(w, m, s) -> float:
    def term(x):
        log_p = log_density(x, w, m, s)
        return -np.exp(log_p) * log_p

    return integral(term, (w, m, s))


def kl_by_quadrature(p, q) -> float:
    def term(x):
        log_p = log_density(x, *p)
        return np.exp(log_p) * (log_p - log_density(x, *q))

    return integral(term, p, q)


# --- entropy --------------------------------------------------------------------------------------


@structures
@given(seeds, st.integers(1, 5))
@few
def test_entropy_of_one_gaussian_is_exact(name, seed, d):
    mixture, truth = draw_one(name, seed, 1, d)
    expected = multivariate_normal(truth.means[0], truth.dense[0]).entropy()
    assert float(mixture.entropy(16)) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    for bound in mixture.entropy_bounds():
        assert float(bound) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@few
@given(seeds)
def test_entropy_on_the_line(seed):
    curve = random_line(seed)
    exact = entropy_by_quadrature(*curve)
    mixture = line(*curve)
    lower, upper = (float(b) for b in mixture.entropy_bounds())
    assert lower - 1e-12 <= exact <= upper + 1e-12
    assert lower - 1e-12 <= float(mixture.entropy()) <= upper + 1e-12
    assert float(mixture.entropy()) == pytest.approx(exact, abs=3e-3)
    assert float(mixture.entropy(1 << 15)) == pytest.approx(exact, abs=2e-4)


@structures
@few
@given(seeds, st.integers(2, 4), st.integers(1, 3))
def test_the_bounds_hold_an_independent_estimate(name, seed, k, d):
    """−log p averaged over the truth's own draws, within five standard errors."""
    mixture, truth = draw_one(name, seed, k, d)
    values = -truth.log_prob(truth.draw(np.random.default_rng(seed), 2000))
    error = 5 * values.std() / np.sqrt(len(values))
    lower, upper = (float(b) for b in mixture.entropy_bounds())
    assert lower - error <= values.mean() <= upper + error
    assert float(mixture.entropy()) == pytest.approx(values.mean(), abs=error + 0.01)


def test_bounds_are_tight_where_they_should_be():
    """Components far apart: the entropy is that of the labels plus that of the components."""
    w, m, s = np.array([0.2, 0.3, 0.5]), np.array([-500.0, 0.0, 900.0]), np.array([1.0, 2.0, 0.5])
    exact = -(w * np.log(w)).sum() + (w * norm.entropy(m, s)).sum()
    mixture = line(w, m, s)
    for value in (mixture.entropy(), *mixture.entropy_bounds()):
        assert float(value) == pytest.approx(exact, rel=1e-12)
    twins = line([0.5, 0.5], [1.0, 1.0], [2.0, 2.0])
    for value in (twins.entropy(), *twins.entropy_bounds()):
        assert float(value) == pytest.approx(norm.entropy(1, 2), rel=1e-12)


@structures
def test_entropy_of_a_batch_repeats_and_has_a_gradient(name):
    mixture, _ = draw(name, 0, 2, 2, (3,))
    found = mixture.entropy(256)
    assert found.shape == (3,)
    assert torch.equal(found, mixture.entropy(256))
    assert not torch.equal(found, mixture.entropy(256, seed=1))
    for i in range(3):
        assert float(found[i]) == pytest.approx(float(mixture[i].entropy(256)), rel=1e-12)
    fresh, parts = leaves(mixture)
    gradients = torch.autograd.grad(fresh.entropy(64).sum(), parts)
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_the_gradient_of_the_entropy():
    """Against differences of the quadrature."""
    w, m, s = np.array([0.4, 0.6]), np.array([-1.0, 1.5]), np.array([1.0, 0.7])
    mixture, parts = leaves(line(w, m, s))
    gradients = torch.autograd.grad(mixture.entropy(1 << 14), parts)
    step = 1e-5
    for i, gradient in enumerate(gradients[1:], start=1):
        curves = []
        for sign in (1, -1):
            curve = [w, m.copy(), s.copy()]
            curve[i][0] += sign * step
            curves.append(entropy_by_quadrature(*curve))
        difference = (curves[0] - curves[1]) / (2 * step)
        assert float(gradient.flatten()[0]) == pytest.approx(difference, abs=2e-3)


@pytest.mark.parametrize("condition", [1e8, 1e10])
def test_bounds_of_ill_conditioned_components_keep_their_order(condition):
    """Forming Σ_i + Σ_j in float32 put the lower bound above the upper one, or failed."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(2, 4, 4)))[0]
    root = axes * np.geomspace(1 / condition, 1, 4) ** 0.5
    upper = np.linalg.qr(root.transpose(0, 2, 1))[1]
    factor = (upper * np.sign(np.diagonal(upper, axis1=1, axis2=2))[..., None]).transpose(0, 2, 1)
    base = Mixture.from_parameters([0.5, 0.5], np.zeros((2, 4)), [np.eye(4)] * 2)
    exact = rebuild(base, base.log_weights, base.means, tensor(factor))
    expected = [float(bound) for bound in exact.entropy_bounds()]
    assert expected[0] <= expected[1]
    single = exact.to(dtype=torch.float32)
    np.testing.assert_allclose([float(b) for b in single.entropy_bounds()], expected, rtol=1e-4)
    assert expected[0] - 1e-3 <= float(single.entropy(64)) <= expected[1] + 1e-3


def test_a_dead_component_has_no_entropy():
    dead = line([0.0, 1.0], [5.0, 0.0], [1.0, 1.0])
    for value in (dead.entropy(), *dead.entropy_bounds()):
        assert float(value) == pytest.approx(norm.entropy(), rel=1e-12)


# --- divergence -----------------------------------------------------------------------------------


@few
@given(seeds)
def test_divergence_on_the_line(seed):
    p, q = random_line(seed), random_line(seed ^ 1)
    exact = kl_by_quadrature(p, q)
    found = line(*p).kl_divergence(line(*q))
    assert abs(float(found.value) - exact) <= 5 * float(found.standard_error) + 1e-12
    assert float(found.upper_bound) >= exact - 1e-10


@structures
def test_divergence_between_structures_in_several_dimensions(name):
    """Against the truth's own draws, in standard errors of both."""
    p, truth_p = draw_one(name, 0, 3, 3)
    q, truth_q = draw_one("full", 1, 2, 3)
    x = truth_p.draw(np.random.default_rng(0), 20_000)
    gap = truth_p.log_prob(x) - truth_q.log_prob(x)
    found = p.kl_divergence(q)
    error = np.hypot(float(found.standard_error), gap.std() / np.sqrt(len(gap)))
    assert abs(float(found.value) - gap.mean()) <= 5 * error
    assert float(found.upper_bound) >= gap.mean() - 5 * error


@structures
@given(seeds, st.integers(1, 4))
@few
def test_divergence_of_gaussians_is_bounded_by_itself(name, seed, d):
    """K = 1: the bound is the closed form."""
    p, truth_p = draw_one(name, seed, 1, d)
    q, truth_q = draw_one(name, seed ^ 1, 1, d)
    s_p, s_q = truth_p.dense[0], truth_q.dense[0]
    gap = truth_q.means[0] - truth_p.means[0]
    closed = 0.5 * (
        np.trace(np.linalg.solve(s_q, s_p)) + gap @ np.linalg.solve(s_q, gap) - d
        + np.linalg.slogdet(s_q)[1] - np.linalg.slogdet(s_p)[1]
    )  # fmt: skip
    found = p.kl_divergence(q, n_samples=512)
    assert float(found.upper_bound) == pytest.approx(closed, rel=1e-9, abs=1e-10)
    assert abs(float(found.value) - closed) <= 6 * float(found.standard_error) + 1e-9


@structures
def test_nothing_diverges_from_itself(name):
    mixture, _ = draw(name, 0, 3, 2, (2,))
    for other in (mixture, mixture.select([2, 0, 1])):
        found = mixture.kl_divergence(other)
        for part in found:
            assert part.shape == (2,)
            np.testing.assert_allclose(part, 0, atol=1e-10)


def test_the_standard_error_is_that_of_the_estimate():
    """The spread of many estimates, also where components share what they are averaged over.

    Ten equal components move on one noise: treating them as independent claimed a third of it.
    """
    for p, q in (
        (line(np.full(10, 0.1), np.zeros(10), np.ones(10)), line([1.0], [0.5], [2.0])),
        (line([0.3, 0.7], [-1.0, 2.0], [1.0, 0.5]), line([0.5, 0.5], [0.0, 2.0], [1.5, 1.0])),
    ):
        found = [p.kl_divergence(q, n_samples=200, seed=seed) for seed in range(200)]
        spread = np.std([float(f.value) for f in found])
        claimed = np.sqrt(np.mean([float(f.standard_error) ** 2 for f in found]))
        assert claimed == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("swap", [False, True])
def test_weights_of_zero_do_not_spoil_the_bound(swap):
    """−∞ less −∞ is not a number; the bound equals that without the dead component."""
    dead = line([0.0, 0.4, 0.6], [7.0, 0.0, 2.0], [1.0, 1.0, 0.5])
    alive = dead.select([1, 2])
    other = line([0.5, 0.5], [0.5, 3.0], [1.0, 1.0])
    with_dead = other.kl_divergence(dead) if swap else dead.kl_divergence(other)
    without = other.kl_divergence(alive) if swap else alive.kl_divergence(other)
    assert float(with_dead.upper_bound) == pytest.approx(float(without.upper_bound), rel=1e-9)
    assert float(with_dead.upper_bound) >= float(with_dead.value)


def test_the_estimate_has_a_gradient():
    """Of the value, against differences of the quadrature; of the bound, finite."""
    w, m, s = np.array([0.4, 0.6]), np.array([-1.0, 2.0]), np.array([1.0, 0.5])
    rival = np.ones(1), np.zeros(1), np.array([2.0])
    p, parts = leaves(line(w, m, s))
    found = p.kl_divergence(line(*rival), n_samples=1 << 16)
    slope = torch.autograd.grad(found.value, parts, retain_graph=True)[1].sum()
    ends = [kl_by_quadrature((w, m + step, s), rival) for step in (1e-5, -1e-5)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-2)
    for gradient in torch.autograd.grad(found.upper_bound, parts):
        assert bool(torch.isfinite(gradient).all())


def test_mixtures_of_different_precision_can_be_compared():
    p, q = line([1.0], [0.0], [1.0]), line([1.0], [0.5], [1.0])
    expected = float(p.kl_divergence(q).upper_bound)
    for one, other in ((p.to(dtype=torch.float32), q), (p, q.to(dtype=torch.float32))):
        assert float(one.kl_divergence(other).upper_bound) == pytest.approx(expected, rel=1e-6)


def test_shapes_that_differ_are_refused():
    mixture, _ = draw("full", 0, 2, 2, (3,))
    for other in (draw("full", 0, 2, 2)[0], draw("full", 0, 2, 3, (3,))[0]):
        with pytest.raises(InputError, match="differ in shape"):
            mixture.kl_divergence(other)
