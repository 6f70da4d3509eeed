"""Draws follow the mixture, repeat with their seed, and carry exact gradients.

Statistical tolerances are five standard errors of the estimate, so a right answer fails less than
once in a million; every draw is seeded, so a passing run repeats.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from laws.cases import CASES, draw, draw_one, leaves, rebuild, tensor
from mogul import Mixture
from mogul._implicit import rosenblatt

structures = pytest.mark.parametrize("name", CASES)
ERRORS = 5.0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_within_errors(values: np.ndarray, truth: np.ndarray, axis: int = 0) -> None:
    """The mean of ``values`` along ``axis`` is the truth, up to its standard error."""
    error = values.std(axis) / np.sqrt(values.shape[axis])
    gap = np.abs(values.mean(axis) - truth)
    assert (gap <= ERRORS * error + 1e-12).all(), (gap / (error + 1e-300)).max()


# --- distribution ---------------------------------------------------------------------------------


@structures
def test_draws_have_the_moments_and_marginals_of_the_mixture(name):
    mixture, truth = draw_one(name, 0, 3, 3)
    x = mixture.sample((20_000,), generator=seeded()).numpy()
    assert_within_errors(x, truth.mean())
    gap = x - truth.mean()
    assert_within_errors(gap[:, :, None] * gap[:, None, :], truth.covariance())
    for d in range(3):
        deviations = np.sqrt(truth.dense[:, d, d])

        def cdf(v, d=d, deviations=deviations):
            return stats.norm.cdf((v[:, None] - truth.means[:, d]) / deviations) @ truth.weights

        assert stats.kstest(x[:, d], cdf).pvalue > 1e-4


@structures
def test_each_member_of_a_batch_is_drawn_from_its_own_mixture(name):
    mixture, truths = draw(name, 1, 3, 2, (2, 2))
    x = mixture.sample((10_000,), generator=seeded()).numpy()
    assert x.shape == (10_000, 2, 2, 2)
    for i in np.ndindex(2, 2):
        rows = x[(slice(None), *i)]
        assert_within_errors(rows, truths[i].mean())
        gap = rows - truths[i].mean()
        assert_within_errors(gap[:, :, None] * gap[:, None, :], truths[i].covariance())


@structures
@pytest.mark.parametrize("batch", [(), (2,)])
def test_labels_name_the_component_that_a_row_came_from(name, batch):
    mixture, truths = draw(name, 2, 3, 2, batch)
    x, labels = mixture.sample_with_labels((9000,), generator=seeded())
    assert labels.shape == x.shape[:-1] == (9000, *batch)
    for i in np.ndindex(batch):
        truth = truths[i] if batch else truths.item()
        mine, member = labels[(slice(None), *i)].numpy(), x[(slice(None), *i)].numpy()
        assert_within_errors(mine[:, None] == np.arange(3), truth.weights)
        for k in range(3):
            rows = member[mine == k]
            assert_within_errors(rows, truth.means[k])
            gap = rows - truth.means[k]
            assert_within_errors(gap[:, :, None] * gap[:, None, :], truth.dense[k])


@structures
@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("batch", [(), (4,), (2, 1)])
def test_shapes(name, sample_shape, batch):
    mixture, _ = draw(name, 0, 3, 2, batch)
    for drawn in (mixture.sample(sample_shape), mixture.rsample(sample_shape)):
        assert drawn.shape == (*sample_shape, *batch, 2)
        assert mixture.log_prob(drawn).shape == (*sample_shape, *batch)
    fresh, _ = leaves(mixture)
    assert fresh.rsample(sample_shape).shape == (*sample_shape, *batch, 2)


@structures
@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_same_seed_gives_the_same_draws(name, batch):
    mixture, _ = draw(name, 0, 3, 2, batch)
    one, again = (mixture.sample((50,), generator=seeded(7)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, mixture.sample((50,), generator=seeded(8)))
    state = torch.random.get_rng_state()
    mixture.sample((5,), generator=seeded())
    mixture.rsample((5,), generator=seeded())
    mixture.sample_with_labels((5,), generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), state)  # torch's own generator is not touched
    torch.manual_seed(3)
    first = mixture.sample((5,))
    torch.manual_seed(3)
    assert torch.equal(mixture.sample((5,)), first)


def test_draws_carry_no_gradient_and_keep_the_type():
    mixture, parts = leaves(draw_one("full", 0, 2, 2)[0])
    assert all(p.requires_grad for p in parts)
    assert not mixture.sample((3,)).requires_grad
    assert mixture.rsample((3,)).requires_grad
    with torch.no_grad():
        assert not mixture.rsample((3,)).requires_grad
    assert mixture.to(dtype=torch.float32).sample((3,)).dtype == torch.float32


@structures
def test_rsample_draws_what_sample_draws(name):
    mixture, _ = draw_one(name, 0, 3, 2)
    fresh, _ = leaves(mixture)
    drawn = fresh.rsample((20,), generator=seeded(1))
    assert torch.equal(drawn.detach(), mixture.sample((20,), generator=seeded(1)))


# --- gradients of expectations --------------------------------------------------------------------


def expectations(mixture: Mixture, wave: torch.Tensor) -> torch.Tensor:
    """E[cos(b·x)] and E[(b·x)²] in closed form, from the characteristic function and moments."""
    centre = mixture.means @ wave
    variance = torch.einsum("i,...ij,j->...", wave, mixture.covariance.dense(), wave)
    each = torch.stack([torch.cos(centre) * torch.exp(-0.5 * variance), centre**2 + variance], -1)
    return (mixture.weights.unsqueeze(-1) * each).sum(-2)


def integrands(x: torch.Tensor, wave: torch.Tensor) -> torch.Tensor:
    along = x @ wave
    return torch.stack([torch.cos(along), along.square()], -1)


def lower(name: str, gradient: torch.Tensor) -> np.ndarray:
    """A triangular factor has no gradient above its diagonal."""
    return (gradient.tril() if name in ("full", "tied") else gradient).numpy()


@structures
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients_of_expectations(name, batch):
    """Unbiased for weights, means and scales: the mean of many estimates is the exact gradient."""
    mixture, _ = draw(name, 3, 3, 2, batch)
    # Components that overlap, so that weights move mass by moving draws between them.
    _, parts = leaves(mixture)
    parts[1].data.mul_(0.4)
    wave = tensor([0.7, -0.4])
    for which in (0, 1):
        fresh = rebuild(mixture, *parts)
        exact = torch.autograd.grad(expectations(fresh, wave)[..., which].sum(), parts)
        estimates = []
        for seed in range(30):
            fresh = rebuild(mixture, *parts)
            x = fresh.rsample((200,), generator=seeded(seed))
            mean = integrands(x, wave)[..., which].mean(0).sum()
            estimates.append(torch.autograd.grad(mean, parts))
        for i, truth in enumerate(exact):
            found = np.stack([lower(name if i == 2 else "", e[i]) for e in estimates])
            assert_within_errors(found, lower(name if i == 2 else "", truth))


def test_gradients_agree_with_finite_differences_of_the_quantile():
    """In one dimension u = F(x) is held, so dx/dθ is the derivative of the quantile at u."""
    mixture, parts = leaves(draw_one("diag", 1, 3, 1)[0])
    x = mixture.rsample((30,), generator=seeded())
    u = mixture.cdf(x).detach()
    by_sample = torch.autograd.grad(x.sum(), parts, retain_graph=True)
    by_quantile = torch.autograd.grad(mixture.icdf(u).sum(), parts)
    for one, other in zip(by_sample, by_quantile, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@structures
def test_one_component_reparameterises_exactly(name):
    """K = 1: x = μ + L ε, and the gradient of every draw is known."""
    mixture, parts = leaves(draw_one(name, 1, 1, 3)[0])
    x = mixture.rsample((6,), generator=seeded())
    direction = tensor(np.random.default_rng(0).normal(size=(6, 3)))
    found = torch.autograd.grad((x * direction).sum(), parts)
    noise = mixture.covariance.whiten((x - mixture.means).detach().unsqueeze(0)).detach()
    plain = rebuild(mixture, *parts)
    moved = plain.means + plain.covariance.colour(noise).squeeze(0)
    expected = torch.autograd.grad((moved * direction).sum(), parts[1:])
    np.testing.assert_allclose(found[0], 0, atol=1e-12)
    for one, other in zip(found[1:], expected, strict=True):
        np.testing.assert_allclose(lower(name, one), lower(name, other), rtol=1e-9, atol=1e-10)


@structures
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_with_dead_and_distant_components(name, dtype):
    """Logit gaps of 1000 and components 1e4 deviations apart."""
    start, _ = draw_one(name, 1, 3, 2)
    base = start.to(dtype=dtype)
    logits = torch.tensor([0.0, -1000.0, 0.0], dtype=dtype, requires_grad=True)
    means = (base.means * 1e4).requires_grad_()
    factor = base.covariance.factor.clone().requires_grad_()
    x = rebuild(base, logits, means, factor).rsample((64,), generator=seeded())
    for gradient in torch.autograd.grad(x.sum(), (logits, means, factor)):
        assert bool(torch.isfinite(gradient).all())


def test_the_transform_behind_gradients_keeps_float32_digits():
    """A component far away in the second feature must still take its share by the first.

    Its term there is −½·300², and taking that off a running sum would leave three digits.
    """
    wide = Mixture.from_parameters([0.5, 0.5], [[0, 0, 0], [1, 300, 0]], np.ones((2, 3)), "diag")
    x = wide.sample((200,), generator=seeded())

    def uniform(mixture: Mixture) -> torch.Tensor:
        gap = x.to(mixture.dtype).unsqueeze(-3) - mixture.means.unsqueeze(-2)
        return rosenblatt(
            mixture.log_weights.unsqueeze(-1),
            mixture.covariance.whiten(gap),
            mixture.covariance.log_diagonal().unsqueeze(-2),
        )

    exact = uniform(wide)
    np.testing.assert_allclose(uniform(wide.to(dtype=torch.float32)), exact, atol=5e-5)
    for d in range(3):  # and it is uniform, as Rosenblatt's transform of the mixture's own draws
        assert stats.kstest(exact[:, d], "uniform").pvalue > 1e-3
