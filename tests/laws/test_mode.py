"""The global mode, against grids, published examples and many random ascents."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from laws.cases import CASES, Truth, draw, draw_one, random_matrices
from mogul import Mixture


def mixture_of(truth: Truth) -> Mixture:
    return Mixture.from_parameters(truth.weights, truth.means, truth.dense)


def height(truth: Truth, x: np.ndarray) -> np.ndarray:
    """Log-density at rows x, all components at once."""
    precision = np.linalg.inv(truth.dense)
    gap = x[:, None] - truth.means
    form = np.einsum("nki,kij,nkj->nk", gap, precision, gap)
    constant = np.log(truth.weights) - 0.5 * np.linalg.slogdet(2 * np.pi * truth.dense)[1]
    return np.logaddexp.reduce(constant - 0.5 * form, -1)


def brute_force(truth: Truth, seed: int, n: int = 1000, n_polished: int = 6) -> float:
    """The best of many points of the ridgeline and of draws, the highest of them polished."""
    rng = np.random.default_rng(seed)
    k = len(truth.weights)
    precision = np.linalg.inv(truth.dense)
    shares = np.concatenate([rng.dirichlet(np.full(k, a), n) for a in (0.1, 1.0)] + [np.eye(k)])
    matrix = np.einsum("nk,kij->nij", shares, precision)
    pull = np.einsum("nk,kij,kj->ni", shares, precision, truth.means)
    ridge = np.linalg.solve(matrix, pull[..., None])[..., 0]
    x = np.concatenate([ridge, truth.draw(rng, n)])
    starts = x[np.argsort(-height(truth, x))[: 10 * n_polished : 10]]
    ends = [minimize(lambda v: -height(truth, v[None])[0], s, method="BFGS") for s in starts]
    return max(-end.fun for end in ends)


def random_truth(seed: int, k: int, d: int, spread: float, stretch: float) -> Truth:
    rng = np.random.default_rng(seed)
    dense = random_matrices(rng, k, d, stretch)
    return Truth(rng.dirichlet(np.full(k, 3.0)), rng.normal(size=(k, d)) * spread, dense)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("k", "spread", "stretch"), [(2, 1, 1.5), (5, 1, 1), (10, 2, 0.1), (40, 1, 1)]
)
def test_no_random_ascent_ends_higher(d, k, spread, stretch):
    for seed in range(1 if k > 10 else 3):
        truth = random_truth(seed, k, d, spread, stretch)
        mode = mixture_of(truth).mode.numpy()
        assert height(truth, mode[None])[0] >= brute_force(truth, seed) - 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_on_the_line_a_fine_grid_agrees(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 8))
    truth = random_truth(seed, k, 1, 2.0, 1.5)
    deviations = np.sqrt(truth.dense[:, 0])
    grid = (truth.means + deviations * np.linspace(-6, 6, 20_001)).reshape(-1, 1)
    heights = height(truth, grid)
    mode = mixture_of(truth).mode.numpy()
    assert height(truth, mode[None])[0] >= heights.max()
    assert abs(mode[0] - grid[heights.argmax(), 0]) < 1e-2 * deviations.max()


def crossing_needles(n_far: int) -> Truth:
    """Two elongated Gaussians whose highest point is near (1, 0), by neither mean.

    After the example of Ray and Lindsay (2005): three modes of two components. ``n_far`` light
    components stand apart.
    """
    rng = np.random.default_rng(0)
    means = np.concatenate([[[0.0, 0.0], [1.0, 1.0]], rng.normal(size=(n_far, 2)) * 3 + 20])
    dense = np.stack([np.diag([1.0, 0.05]), np.diag([0.05, 1.0]), *[np.eye(2)] * n_far])
    weights = np.array([0.5, 0.5] + [1e-4] * n_far)
    return Truth(weights / weights.sum(), means, dense)


@pytest.mark.parametrize("n_far", [0, 3, 38])
def test_a_mode_far_from_every_mean(n_far):
    truth = crossing_needles(n_far)
    mode = mixture_of(truth).mode.numpy()
    np.testing.assert_allclose(mode, [0.9524, 0.0476], atol=1e-3)
    assert height(truth, mode[None])[0] > height(truth, truth.means).max() + 0.1


@pytest.mark.parametrize(("d", "deviation"), [(2, 0.45), (5, 0.42), (32, 0.39)])
def test_the_middle_of_a_simplex(d, deviation):
    """d + 1 round components at the corners of a simplex: the highest point is their centre.

    No ascent from a corner or from an edge of a large simplex gets there.
    """
    corners = np.eye(d + 1) - 1 / (d + 1)
    means = corners @ np.linalg.svd(corners)[2][:d].T
    mixture = Mixture.from_parameters(
        np.full(d + 1, 1 / (d + 1)), means, np.full(d + 1, deviation**2), "spherical"
    )
    centre = float(mixture.log_prob(np.zeros(d)))
    assert float(mixture.log_prob(mixture.mode)) >= centre - 1e-10


def test_two_components_may_have_their_only_mode_between_them():
    mixture = Mixture.from_parameters([0.5, 0.5], [[-0.9], [0.9]], [[1.0], [1.0]], "diag")
    assert float(mixture.mode) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e-6])
def test_scales_that_differ_widely(scale):
    """A needle within a wide component: light, but higher."""
    mixture = Mixture.from_parameters(
        [0.99, 0.01], [[0.0, 0.0], [0.3, 0.4]], [1.0, (1e-2 * min(scale, 1 / scale)) ** 2],
        "spherical",
    )  # fmt: skip
    np.testing.assert_allclose(mixture.mode, [0.3, 0.4], atol=1e-6)


def test_equal_means_share_their_mode():
    mixture = Mixture.from_parameters(
        [0.2, 0.3, 0.5], [[1.0, 2.0]] * 3, [[1.0, 0.1], [3.0, 3.0], [0.2, 9.0]], "diag"
    )
    np.testing.assert_allclose(mixture.mode, [1.0, 2.0], atol=1e-8)


def test_a_component_of_weight_zero_has_no_mode():
    mixture = Mixture.from_parameters([0.0, 1.0], [[9.0], [2.0]], [[1e-6], [1.0]], "diag")
    assert float(mixture.mode) == pytest.approx(2.0)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_far_from_the_origin(offset):
    truth = random_truth(0, 4, 3, 1.0, 1.0)
    moved = Truth(truth.weights, truth.means + offset, truth.dense)
    np.testing.assert_allclose(
        mixture_of(moved).mode - offset, mixture_of(truth).mode, atol=1e-8 * offset
    )


def test_one_ill_conditioned_component():
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    dense = (axes * np.array([1e-8, 1e-4, 1.0])) @ axes.T
    mixture = Mixture.from_parameters([1.0], [[3.0, -2.0, 7.0]], [0.5 * (dense + dense.T)])
    np.testing.assert_allclose(mixture.mode, [3.0, -2.0, 7.0], atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [(4,), (2, 2)])
def test_modes_of_a_batch_are_those_of_its_members(name, batch):
    mixture, _ = draw(name, 0, 3, 2, batch)
    modes = mixture.mode
    assert modes.shape == (*batch, 2)
    for i in np.ndindex(batch):
        np.testing.assert_allclose(modes[i], mixture[i].mode, atol=1e-7)


def test_the_mode_moves_with_the_data_and_keeps_its_type():
    mixture, truth = draw_one("full", 0, 3, 2)
    moved = Mixture.from_parameters(truth.weights, 10 * truth.means - 3, 100 * truth.dense)
    np.testing.assert_allclose(moved.mode, 10 * mixture.mode - 3, atol=1e-6)
    single = mixture.to(dtype=torch.float32)
    assert single.mode.dtype == torch.float32
    np.testing.assert_allclose(single.mode, mixture.mode, atol=1e-5)
    assert not draw_one("full", 0, 3, 2)[0].mode.requires_grad
