"""Law 1: densities are right, everywhere, in every shape and precision."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from laws.cases import CASES, Truth, draw, draw_one, leaves, random_matrices, rebuild, tensor
from mogul import Mixture
from mogul import mixture as mixture_module

structures = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32 - 1)


def assert_close(found, truth, relative):
    """Relative to the truth, or to one nat where a log-density passes through zero."""
    truth = np.asarray(truth)
    gap = np.abs(np.asarray(found) - truth) / np.maximum(1.0, np.abs(truth))
    assert gap.max(initial=0.0) <= relative


def points(truth: Truth, seed: int, n: int = 20) -> np.ndarray:
    """Rows from the mixture, and rows far outside it."""
    rng = np.random.default_rng(seed)
    near = truth.draw(rng, n)
    return np.concatenate([near, near + 30 * rng.normal(size=near.shape)])


@structures
@given(seeds, st.integers(1, 5), st.integers(1, 6))
def test_log_prob_equals_scipy(name, seed, k, d):
    mixture, truth = draw_one(name, seed, k, d)
    x = points(truth, seed)
    assert_close(mixture.log_prob(x), truth.log_prob(x), 1e-12)
    assert_close(mixture.component_log_prob(x), truth.component_log_prob(x), 1e-12)
    np.testing.assert_allclose(
        mixture.responsibilities(x), truth.responsibilities(x), rtol=1e-9, atol=1e-12
    )


def exact_log_prob(factor: np.ndarray, gap: np.ndarray) -> float:
    """Log N(gap; 0, L Lᵀ) in 60 digits."""
    with mpmath.workdps(60):
        lower = mpmath.matrix(factor.tolist())
        white = mpmath.lu_solve(lower, mpmath.matrix(gap.tolist()))
        form = mpmath.fsum(v**2 for v in white)
        log_det = mpmath.fsum(mpmath.log(lower[i, i]) for i in range(lower.rows))
        return float(-form / 2 - log_det - lower.rows * mpmath.log(2 * mpmath.pi) / 2)


@pytest.mark.parametrize("name", ["full", "tied"])
def test_log_prob_at_condition_1e8_from_a_factor(name):
    """The factor is the parameter, and whitening by it loses only its own condition, 1e4."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    covariance = (axes * np.geomspace(1e-8, 1, 6)) @ axes.T
    factor = np.linalg.cholesky(covariance)
    one = tensor(factor)
    part = one if name == "tied" else one[None]
    start, _ = draw_one(name, 0, 1, 6)
    mixture = rebuild(start, tensor([0.0]), torch.zeros(1, 6).double(), part)
    x = rng.normal(size=(10, 6)) @ factor.T
    assert_close(mixture.log_prob(x), [exact_log_prob(factor, row) for row in x], 1e-11)


@structures
def test_log_prob_at_condition_1e8_along_the_axes(name):
    """Features in very different units: nothing is lost, whatever the correlation."""
    d = 4
    rng = np.random.default_rng(1)
    units = np.geomspace(1e-4, 1, d)
    case = CASES[name]
    draws = case.dense(case.draw(rng, 2, d), 2, d)
    dense = draws if name == "spherical" else draws * np.outer(units, units)
    given_ = case.estimate(dense, np.ones(2))
    truth = case.dense(given_, 2, d)
    mixture = Mixture.from_parameters([0.5, 0.5], np.zeros((2, d)), given_, name)
    x = rng.normal(size=(10, d)) * units
    exact = [[exact_log_prob(np.linalg.cholesky(s), row) for s in truth] for row in x]
    assert_close(mixture.log_prob(x), np.logaddexp.reduce(exact, -1) + np.log(0.5), 1e-12)


def test_log_prob_at_condition_1e8_from_covariances():
    """The Cholesky factorisation of what was given may lose the condition itself, and no more."""
    rng = np.random.default_rng(2)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    covariance = (axes * np.geomspace(1e-8, 1, 5)) @ axes.T
    covariance = 0.5 * (covariance + covariance.T)
    with mpmath.workdps(60):
        exact = mpmath.cholesky(mpmath.matrix(covariance.tolist()))
        exact = np.array(exact.tolist(), dtype=float)
    x = rng.normal(size=(10, 5)) @ exact.T
    mixture = Mixture.from_parameters([1.0], np.zeros((1, 5)), covariance[None])
    assert_close(mixture.log_prob(x), [exact_log_prob(exact, row) for row in x], 1e-8)


def test_a_component_of_weight_zero_counts_for_nothing():
    with_dead = Mixture.from_parameters(
        [0.0, 0.3, 0.7], [[5.0], [0.0], [2.0]], [[1.0], [1.0], [4.0]], "diag"
    )
    x = np.linspace(-4, 9, 40)
    truth = np.log(0.3 * norm.pdf(x, 0, 1) + 0.7 * norm.pdf(x, 2, 2))
    assert_close(with_dead.log_prob(x[:, None]), truth, 1e-12)
    shares = with_dead.responsibilities(x[:, None])
    assert bool((shares[:, 0] == 0).all())
    assert 0 not in with_dead.predict(x[:, None]).tolist()
    assert 0 not in with_dead.sample_with_labels((2000,))[1].tolist()


@structures
@given(seeds, st.integers(1, 4))
def test_the_density_integrates_to_one_on_the_line(name, seed, k):
    mixture, truth = draw_one(name, seed, k, 1)
    deviations = np.sqrt(truth.dense[:, 0, 0])
    knots = np.sort((truth.means + deviations[:, None] * np.linspace(-10, 10, 15)).ravel())
    nodes, weights = np.polynomial.legendre.leggauss(24)
    half = np.diff(knots) / 2
    x = (knots[:-1] + half)[:, None] + half[:, None] * nodes
    density = mixture.log_prob(x.reshape(-1, 1)).exp().reshape(x.shape)
    assert float((density * tensor(weights * half[:, None])).sum()) == pytest.approx(1, abs=1e-12)


@structures
def test_the_density_integrates_to_one_in_the_plane(name):
    """The trapezoidal rule on a smooth density that vanishes at the edges is exact to rounding."""
    mixture, truth = draw_one(name, 5, 3, 2)
    reach = 9 * np.sqrt(np.linalg.eigvalsh(truth.dense).max())
    step = 0.4 * np.sqrt(np.linalg.eigvalsh(truth.dense).min())
    low, high = truth.means.min(0) - reach, truth.means.max(0) + reach
    axes = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    mass = float(mixture.log_prob(grid).exp().sum()) * step**2
    assert mass == pytest.approx(1, abs=1e-9)


def test_the_density_integrates_to_one_by_adaptive_quadrature():
    mixture = Mixture.from_parameters([0.2, 0.8], [[-1.0], [4.0]], [[1e-4], [9.0]], "diag")
    mass, _ = integrate.quad(
        lambda x: float(mixture.log_prob([x]).exp()), -40, 40, points=[-1.1, -1, -0.9], limit=200
    )
    assert mass == pytest.approx(1, abs=1e-8)


# --- shapes ---------------------------------------------------------------------------------------

SHAPES = [  # batch shape, shape of x without features, shape of the answer
    ((), (), ()),
    ((), (5,), (5,)),
    ((), (2, 3), (2, 3)),
    ((), (0,), (0,)),
    ((4,), (), (4,)),
    ((4,), (4,), (4,)),
    ((4,), (1,), (4,)),
    ((4,), (6, 4), (6, 4)),
    ((4,), (6, 1), (6, 4)),
    ((4,), (2, 6, 4), (2, 6, 4)),
    ((4,), (0, 4), (0, 4)),
    ((1,), (5,), (5,)),
    ((1,), (3, 1), (3, 1)),
    ((2, 3), (3,), (2, 3)),
    ((2, 3), (5, 2, 3), (5, 2, 3)),
    ((2, 3), (5, 1, 1), (5, 2, 3)),
    ((2, 1), (3,), (2, 3)),
    ((2, 1), (5, 2, 3), (5, 2, 3)),
    ((1, 1), (2, 3), (2, 3)),
]


@structures
@pytest.mark.parametrize(("batch", "sample", "answer"), SHAPES)
def test_shapes_broadcast_as_torch_does(name, batch, sample, answer):
    k, d = 3, 2
    mixture, truths = draw(name, 1, k, d, batch)
    x = tensor(np.random.default_rng(2).normal(size=(*sample, d)))
    assert torch.broadcast_shapes(sample, batch) == answer
    wide_x = x.expand(*answer, d).numpy()
    wide_truth = np.broadcast_to(truths, answer)
    expected = np.empty((*answer, k))
    for i in np.ndindex(answer):
        expected[i] = wide_truth[i].component_log_prob(wide_x[i])
    assert_close(mixture.component_log_prob(x), expected, 1e-12)
    found = mixture.log_prob(x)
    assert found.shape == answer
    assert_close(found, np.logaddexp.reduce(expected, -1), 1e-12)
    shares = mixture.responsibilities(x)
    assert shares.shape == (*answer, k)
    np.testing.assert_allclose(shares.sum(-1), np.ones(answer), atol=1e-14)
    labels = mixture.predict(x)
    assert labels.shape == answer
    np.testing.assert_array_equal(labels, expected.argmax(-1))


@structures
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_tiles_agree_with_the_whole(name, batch, monkeypatch):
    """Rows evaluated a few at a time give what they give together."""
    mixture, _ = draw(name, 0, 2, 3, batch)
    x = tensor(np.random.default_rng(0).normal(size=(11, *batch, 3)))
    whole = [f(x) for f in (mixture.log_prob, mixture.responsibilities, mixture.predict)]
    monkeypatch.setattr(mixture_module, "_TILE_ELEMENTS", 40)
    tiled = [f(x) for f in (mixture.log_prob, mixture.responsibilities, mixture.predict)]
    for one, other in zip(whole, tiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


def test_a_row_with_nan_spoils_only_itself():
    mixture, truth = draw_one("tied", 0, 3, 2)
    x = truth.draw(np.random.default_rng(0), 6)
    clean = mixture.log_prob(x)
    x[2] = np.nan
    found = mixture.log_prob(x)
    assert bool(found[2].isnan())
    keep = [0, 1, 3, 4, 5]
    assert torch.equal(found[keep], clean[keep])


# --- precision ------------------------------------------------------------------------------------


@structures
@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_float32_is_honest(name, seed, k, d):
    mixture, truth = draw_one(name, seed, k, d)
    x = points(truth, seed).astype(np.float32)
    single = mixture.to(dtype=torch.float32)
    found = single.log_prob(x)
    assert found.dtype == torch.float32
    assert_close(found, truth.log_prob(x.astype(np.float64)), 2e-4)


def test_float32_keeps_its_digits_far_from_the_origin():
    """Unit variance at 1e4: expanding the square would lose every digit."""
    mixture = Mixture.from_parameters(
        np.float32([1.0]), np.float32([[1e4, -1e4]]), np.float32([[[1.0, 0.5], [0.5, 1.0]]])
    )
    x = np.float32([[1e4 + 0.5, -1e4 + 1.0], [1e4 - 2.0, -1e4]])
    dense = np.array([[1.0, 0.5], [0.5, 1.0]])
    truth = Truth(np.ones(1), np.array([[1e4, -1e4]]), dense[None])
    assert_close(mixture.log_prob(x), truth.log_prob(x.astype(float)), 1e-6)


@structures
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_deviations_away(name, dtype):
    """No underflow: the value is right, and the far row's shares still add up to one."""
    mixture, truth = draw_one(name, 3, 3, 2)
    direction = np.array([0.6, -0.8]) * np.sqrt(np.linalg.eigvalsh(truth.dense).max())
    x = truth.means[:1] + 1e4 * direction
    single = mixture.to(dtype=dtype)
    relative = 1e-12 if dtype == torch.float64 else 1e-5
    assert_close(single.log_prob(x), truth.log_prob(x), relative)
    assert float(single.responsibilities(x).sum()) == pytest.approx(1, abs=1e-6)


# --- gradients ------------------------------------------------------------------------------------


@structures
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradcheck_of_log_prob(name, batch):
    mixture, _ = draw(name, 0, 3, 2, batch)
    _, parts = leaves(mixture)
    x = tensor(np.random.default_rng(0).normal(size=(3, *batch, 2))).requires_grad_()

    def log_prob(logits, means, factor, value):
        lower = factor.tril() if name in ("full", "tied") else factor
        return rebuild(mixture, logits, means, lower).log_prob(value)

    assert torch.autograd.gradcheck(log_prob, (*parts, x))


@structures
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("logit_gap", "distance"), [(1000.0, 0.0), (0.0, 1e4), (1000.0, 1e4)])
def test_gradients_are_finite_at_extremes(name, dtype, logit_gap, distance):
    """Law 7, for every parameter and for the point itself, of every density-like answer."""
    k, d = 3, 2
    start, _ = draw_one(name, 1, k, d)
    base = start.to(dtype=dtype)
    logits = torch.tensor([0.0, -logit_gap, logit_gap], dtype=dtype, requires_grad=True)
    means = base.means.clone().requires_grad_()
    factor = base.covariance.factor.clone().requires_grad_()
    mixture = rebuild(base, logits, means, factor)
    largest = float(mixture.stddev.detach().max())
    x = (means.detach()[:1] + distance * largest).requires_grad_()
    answers = {
        "log_prob": mixture.log_prob,
        "responsibilities": lambda v: mixture.responsibilities(v)[..., 0],
        "cdf": mixture.cdf,
        "crps": mixture.crps,
    }
    for what, answer in answers.items():
        value = answer(x)
        assert bool(torch.isfinite(value).all()), what
        gradients = torch.autograd.grad(value.sum(), (logits, means, factor, x), retain_graph=True)
        for gradient in gradients:
            assert bool(torch.isfinite(gradient).all()), what


def test_the_gradient_far_away_is_right():
    """At 1e4 deviations d log p / dx is −(x − μ)/σ², neither zero nor clipped."""
    mixture = Mixture.from_parameters(
        np.float32([0.5, 0.5]), np.float32([[0.0], [1.0]]), np.float32([[1.0], [1.0]]), "diag"
    )
    x = torch.tensor([1e4], requires_grad=True)
    mixture.log_prob(x).backward()
    assert float(x.grad) == pytest.approx(-(1e4 - 1), rel=1e-6)


def test_gradients_reach_parameters_given_as_tensors():
    """from_parameters keeps the graph: covariances may come from a network."""
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64, requires_grad=True)
    means = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    matrices = tensor(random_matrices(np.random.default_rng(0), 2, 2)).requires_grad_()
    x = torch.ones(2, dtype=torch.float64)

    def log_prob(w, m, c):
        symmetric = 0.5 * (c + c.mT)
        return Mixture.from_parameters(w / w.sum(), m, symmetric).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, (weights, means, matrices))


# --- equivariance ---------------------------------------------------------------------------------


@structures
@given(seeds)
@example(39916798)  # a mode at which the density is level to rounding
def test_permuting_components_changes_nothing(name, seed):
    mixture, truth = draw_one(name, seed, 4, 2)
    order = np.random.default_rng(seed).permutation(4)
    other = mixture.select(order.tolist())
    x = points(truth, seed)
    assert_close(other.log_prob(x), mixture.log_prob(x), 1e-13)
    for what in ("mean", "variance", "covariance_matrix", "mode"):
        torch.testing.assert_close(
            getattr(other, what), getattr(mixture, what), rtol=1e-10, atol=1e-10
        )
    for ask in (
        lambda m: m.cdf(x),
        lambda m: m.icdf(0.3),
        lambda m: m.crps(x),
        lambda m: m.entropy_bounds()[0],
        lambda m: m.condition({0: 0.3}).mean,
        lambda m: m.marginal([1]).log_prob(x[:, 1:]),
    ):
        torch.testing.assert_close(ask(other), ask(mixture), rtol=1e-10, atol=1e-10)


@structures
@given(seeds, st.floats(-3, 3), st.floats(-50, 50))
def test_shifting_and_scaling_the_data_shifts_and_scales_the_density(name, seed, log_scale, shift):
    """p(x) = p'(a x + b) aᴰ for the mixture of a x + b."""
    d, scale = 3, np.exp(log_scale)
    mixture, truth = draw_one(name, seed, 3, d)
    covariances = mixture.covariances.numpy() * scale**2
    moved = Mixture.from_parameters(truth.weights, truth.means * scale + shift, covariances, name)
    x = points(truth, seed)
    found = moved.log_prob(x * scale + shift) + d * log_scale
    assert_close(found, mixture.log_prob(x), 1e-9)


@pytest.mark.parametrize("name", ["full", "tied", "spherical"])
def test_rotating_the_data_rotates_the_density(name):
    d = 3
    mixture, truth = draw_one(name, 0, 3, d)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    dense = rotation @ truth.dense @ rotation.T
    moved = Mixture.from_parameters(
        truth.weights, truth.means @ rotation.T, CASES[name].estimate(dense, np.ones(3)), name
    )
    x = points(truth, 0)
    assert_close(moved.log_prob(x @ rotation.T), mixture.log_prob(x), 1e-11)
