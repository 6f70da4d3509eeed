"""Predictive densities: they integrate to one and average over the posterior."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bayes.cases import CASES, IDS, clusters, fit, prior_of
from laws.cases import tensor
from mogul import BayesianGaussianMixture, Mixture
from mogul.errors import InputError
from mogul.infer import Gibbs
from mogul.posterior.sampled import PooledMixture
from mogul.predictive import NormalGammaMixture

cases = pytest.mark.parametrize(("kind", "form", "weights"), CASES, ids=IDS)
few_cases = pytest.mark.parametrize(
    ("kind", "form", "weights"),
    [  # densities by quadrature take seconds; weights matter to them by their means alone
        pytest.param(
            *case, marks=[pytest.mark.slow] if case[1:] == ("independent", "process") else []
        )
        for case in CASES
    ],
    ids=IDS,
)


def predictive(kind, form, weights, d, n=40):
    _, _, belief = fit(clusters(1, n, d), prior_of(kind, form, weights, d), kind, 3, tol=1e-6)
    return belief


@few_cases
def test_in_one_dimension_it_integrates_to_one(kind, form, weights):
    belief = predictive(kind, form, weights, 1)
    density = belief.predictive()
    x = np.linspace(-400, 400, 400_001)
    total = np.trapezoid(density.log_prob(tensor(x[:, None])).exp(), x)
    assert total == pytest.approx(1, abs=1e-3)


@cases
def test_in_two_dimensions_it_integrates_to_one(kind, form, weights):
    """A square as wide as 100 deviations: beyond it a Student t of few degrees has little left."""
    density = predictive(kind, form, weights, 2).predictive()
    # A grid that is fine in the middle: x = sinh(u).
    u = torch.linspace(-5.8, 5.8, 400, dtype=torch.float64)
    side, jacobian = 1.5 * u.sinh(), 1.5 * u.cosh()
    centre = density.mean
    grid = torch.cartesian_prod(side, side) + centre
    values = density.log_prob(grid).exp().reshape(400, 400) * jacobian * jacobian[:, None]
    assert float(values.sum() * (u[1] - u[0]) ** 2) == pytest.approx(1, abs=1e-3)


@cases
def test_it_is_the_average_over_posterior_draws(kind, form, weights):
    belief = predictive(kind, form, weights, 2)
    x = tensor(clusters(2, 12))
    n = 40_000
    drawn = belief.sample((n,), generator=torch.Generator().manual_seed(1))
    each = drawn.component_terms(x.expand(n, *x.shape)).logsumexp(-2).exp()
    error = each.std(0) / math.sqrt(n)
    found = belief.predictive().log_prob(x).exp()
    assert ((each.mean(0) - found).abs() < 5 * error).all()
    # The density at the expected parameters is another one; its tails are too light.
    far = tensor([[60.0, -60.0]])
    assert belief.predictive().log_prob(far) > belief.mean().log_prob(far) + 5


@few_cases
def test_draws_of_it_have_its_moments_and_its_labels(kind, form, weights):
    density = predictive(kind, form, weights, 2, n=200).predictive()
    n = 200_000
    rows, labels = density.sample_with_labels((n,), generator=torch.Generator().manual_seed(2))
    assert rows.shape == (n, 2)
    error = density.variance.sqrt() / math.sqrt(n)
    assert ((rows.mean(0) - density.mean).abs() < 5 * error).all()
    np.testing.assert_allclose(rows.var(0), density.variance, rtol=0.05)
    share = torch.bincount(labels, minlength=3) / n
    np.testing.assert_allclose(share, density.weights, atol=0.006)
    right = density.responsibilities(rows).gather(1, labels[:, None]).mean()
    expected = density.responsibilities(rows).square().sum(1).mean()
    np.testing.assert_allclose(right, expected, atol=0.005)


@pytest.mark.parametrize(("a", "b", "s"), [(0.6, 1.0, 0.5), (1.5, 2.0, 0.0), (400.0, 390.0, 0.1)])
def test_the_rule_for_independent_means_is_the_integral(a, b, s):
    """Against scipy's adaptive quadrature, to 1e-6 of the peak, from the centre to eight scales."""
    density = NormalGammaMixture(
        tensor([0.0]), tensor([[1.0]]), tensor([[s]]), tensor([[a]]), tensor([[b]])
    )
    x = 1 + math.sqrt(b / a) * np.array([0.0, 0.5, 1, 2, 4, 8])

    def integrand(t, at):
        tau = math.exp(t)
        spread = math.sqrt(s * s + 1 / tau)
        return stats.norm.pdf(at, 1, spread) * stats.gamma.pdf(tau, a, scale=1 / b) * tau

    centre = math.log(a / b)
    wide = 12 / math.sqrt(a)
    expected = [
        integrate.quad(integrand, centre - 3 * wide, centre + wide, args=(at,), limit=400)[0]
        for at in x
    ]
    found = density.log_prob(tensor(x[:, None])).exp().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4 * max(expected))
    exact = stats.t(2 * a, 1, math.sqrt(b / a)).pdf(x)
    if s == 0:
        np.testing.assert_allclose(expected, exact, rtol=1e-6)


def test_few_degrees_of_freedom_have_no_variance():
    _, prior, _ = fit(clusters(3, 10), prior_of("diag", "conjugate"), "diag", 2)
    narrow = prior.components
    few = type(narrow)(narrow.means, narrow.mean_precision, type(narrow.precisions)(
        torch.full_like(narrow.precisions.degrees, 1.5), narrow.precisions.scale))  # fmt: skip
    assert few.predictive(tensor([0.5, 0.5])).variance.isinf().all()


def test_pooled_draws_keep_their_components_apart():
    x = clusters(4, 100, apart=6.0)
    model = BayesianGaussianMixture(
        3, inference=Gibbs(draws=50, warmup=50, chains=2), random_state=0
    ).fit(x)
    density = model.posterior_.predictive()
    assert isinstance(density, PooledMixture)
    flat = model.posterior_.sample(100)
    each = torch.stack([m.log_prob(tensor(x)) for m in flat])
    np.testing.assert_allclose(
        density.log_prob(tensor(x)), each.logsumexp(0) - math.log(100), rtol=1e-10
    )
    assert model.predict_proba(x).shape == (100, 3)
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1, rtol=1e-10)
    drawn = density.sample((100_000,), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn.mean(0), density.mean, atol=0.1)
    np.testing.assert_allclose(drawn.var(0), density.variance, rtol=0.03)


def test_values_of_the_wrong_width_are_refused():
    density = predictive("full", "conjugate", "dirichlet", 2).predictive()
    with pytest.raises(InputError, match="expected the last axis to hold 2 features"):
        density.log_prob([[1.0, 2.0, 3.0]])
    assert density.log_prob([1.0, 2.0]).shape == ()
    assert density.log_prob(np.zeros((3, 4, 2))).shape == (3, 4)
    assert density.predict(np.zeros((3, 4, 2))).shape == (3, 4)
    assert density.sample((0,)).shape == (0, 2)


@pytest.mark.parametrize("a", [0.6, 1.0, 3.0, 500.0])
@pytest.mark.parametrize("s", [0.0, 0.3, 4.0])
def test_tails_of_independent_means_are_right_out_to_two_hundred_scales(a, s):
    """A row far out is of a precision far below the others, where a rule of few points sees none.

    Against scipy's quadrature of the integrand divided by its own greatest value.
    """
    density = NormalGammaMixture(
        tensor([0.0]), tensor([[0.0]]), tensor([[s]]), tensor([[a]]), tensor([[a]])
    )

    def log_integrand(t, at):
        variance = s * s + np.exp(-t)
        gamma = a * math.log(a) - math.lgamma(a) + a * t - a * np.exp(t)
        return -0.5 * (at * at / variance + np.log(2 * math.pi * variance)) + gamma

    for at in (0.0, 3.0, 20.0, 200.0):
        found = float(density.log_prob([at]))
        grid = np.linspace(-60, 10, 70_001)
        values = log_integrand(grid, at)
        top, centre = values.max(), float(grid[values.argmax()])
        inside, _ = integrate.quad(
            lambda t, at=at, top=top: np.exp(log_integrand(t, at) - top),
            max(-60, centre - 50 / min(a, 1)),
            centre + 12,
            points=[centre],
            limit=2000,
            epsabs=1e-12,
        )
        assert found == pytest.approx(top + math.log(inside), abs=2e-5)


@cases
def test_a_marginal_is_the_integral_over_the_other_feature(kind, form, weights):
    density = predictive(kind, form, weights, 2).predictive()
    other = 1.5 * torch.linspace(-9, 9, 4001, dtype=torch.float64).sinh()
    for kept in (0, 1):
        marginal = density.marginal(torch.tensor([kept]))
        for at in (-3.0, 0.0, 1.0, 7.0):
            plane = torch.stack([torch.full_like(other, at), other], 1)
            plane = plane if kept == 0 else plane.flip(1)
            found = torch.trapezoid(density.log_prob(plane).exp(), other)
            expected = marginal.log_prob(tensor([at])).exp()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    swapped = density.marginal(torch.tensor([1, 0]))
    x = tensor(clusters(6, 9))
    torch.testing.assert_close(swapped.log_prob(x.flip(1)), density.log_prob(x))


def test_a_marginal_of_draws_is_that_of_each_draw():
    x = clusters(4, 60, apart=6.0)
    model = BayesianGaussianMixture(
        2, inference=Gibbs(draws=200, warmup=50, chains=2), random_state=0
    ).fit(x)
    density = model.posterior_.predictive()
    at = tensor(x[:5, 1:])
    each = torch.stack([m.marginal([1]).log_prob(at) for m in model.posterior_.sample(400)])
    found = density.marginal(torch.tensor([1])).log_prob(at)
    torch.testing.assert_close(found, each.logsumexp(0) - math.log(400))


def test_a_component_of_no_weight_in_every_draw_adds_nothing():
    """Nor is its place a NaN: a sampler may leave a component empty from end to end."""
    weights = np.array([[0.6, 0.4, 0.0], [0.7, 0.3, 0.0]])
    means = np.arange(12.0).reshape(2, 3, 2)
    draws = Mixture.from_parameters(weights, means, np.ones((2, 3, 2)), "diag")
    density = PooledMixture(draws)
    for found in (density.mean, density.variance, density.means):
        assert torch.isfinite(found).all()
    expected = (tensor(weights)[..., None] * tensor(means)).sum(1).mean(0)
    torch.testing.assert_close(density.mean, expected)
    x = tensor([[0.0, 1.0], [50.0, 50.0]])
    assert torch.isfinite(density.log_prob(x)).all()
    assert (density.responsibilities(x)[:, 2] == 0).all()
    assert int(density.predict(x).max()) < 2
