"""Families of beliefs: densities, draws, divergences and updates by independent formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from bayes.cases import (
    CASES,
    IDS,
    block_precisions,
    blocks,
    clusters,
    dense_precisions,
    prior_of,
    random_belief,
    rows_of,
    with_noise,
)
from laws.cases import draw_one, tensor
from mogul.beliefs import (
    Belief,
    DirichletWeights,
    StickBreakingWeights,
    belief_from_state,
    belief_to_state,
)
from mogul.covariances import STRUCTURES, structure
from mogul.infer.variational import elbo, look
from mogul.kernels import e_step
from mogul.mixture import Mixture

cases = pytest.mark.parametrize(("kind", "form", "weights"), CASES, ids=IDS)
seeds = st.integers(0, 2**32 - 1)
structures = pytest.mark.parametrize("kind", STRUCTURES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- blocks ---------------------------------------------------------------------------------------


@structures
@given(seed=seeds, k=st.integers(1, 4), d=st.integers(1, 4))
def test_sums_over_blocks_and_counts_of_blocks_are_transposes(kind, seed, k, d):
    """⟨A v, c⟩ = ⟨v, Aᵀ c⟩; a row informs a block by what the block adds to its log-determinant."""
    rng = np.random.default_rng(seed)
    cls = structure(kind)
    values = tensor(rng.normal(size=cls.block_shape(k, d)))
    count = tensor(rng.uniform(0, 5, k))
    one = (cls.component_sum(values, k, d) * count).sum()
    other = (values * cls.block_counts(count, d)).sum()
    torch.testing.assert_close(one, other)
    logs = cls.component_sum(torch.ones_like(values), k, d) * cls.block_size(d)
    np.testing.assert_allclose(logs, d)  # every feature is served once


@structures
@given(seed=seeds, k=st.integers(1, 3), d=st.integers(1, 3))
def test_log_determinants_of_blocks_add_up_to_those_of_components(kind, seed, k, d):
    mixture, truth = draw_one(kind, seed, k, d)
    covariance = mixture.covariance
    total = type(covariance).component_sum(covariance.block_log_det(), k, d)
    expected = np.linalg.slogdet(truth.dense)[1]
    np.testing.assert_allclose(total.expand(k), expected, rtol=1e-9, atol=1e-9)


# --- densities and draws --------------------------------------------------------------------------


@cases
def test_the_log_density_of_parameters_is_that_of_scipy(kind, form, weights):
    _, belief = random_belief(kind, form, weights, seed=1)
    drawn = belief.sample((), generator=generator())
    parts = blocks(belief)
    p = len(parts[0].scale)
    precisions = block_precisions(drawn.covariance, p)
    expected = sum(b.logpdf(m) for b, m in zip(parts, precisions, strict=True))
    means, components = drawn.means.numpy(), belief.components
    for k, mean in enumerate(means):
        if form == "independent":
            spread = np.diag(components.scales[k].numpy() ** 2)
        else:
            kappa = float(components.mean_precision[k])
            spread = np.linalg.inv(kappa * dense_precisions(drawn.covariance)[k])
        spread = 0.5 * (spread + spread.T)
        expected += stats.multivariate_normal(components.loc[k].numpy(), spread).logpdf(mean)
    expected += weight_log_density(belief.weights, drawn.weights.numpy())
    np.testing.assert_allclose(float(belief.log_prob(drawn)), expected, rtol=1e-10)


def weight_log_density(weights, w: np.ndarray) -> float:
    if isinstance(weights, DirichletWeights):
        return stats.dirichlet(weights.concentration.numpy()).logpdf(w / w.sum())
    total, rest = 0.0, 1.0
    for share, a, b in zip(w[:-1], weights.taken.numpy(), weights.left.numpy(), strict=True):
        total += stats.beta(a, b).logpdf(share / rest) - math.log(rest)
        rest -= share
    return total


@cases
def test_draws_have_the_moments_that_are_told(kind, form, weights):
    _, belief = random_belief(kind, form, weights, seed=2)
    n = 200_000
    drawn = belief.sample((n,), generator=generator(2))

    def compare(values, expected, what):
        error = values.std(0) / math.sqrt(n)
        assert ((values.mean(0) - expected).abs() < 5 * error + 1e-12).all(), what

    compare(drawn.weights, belief.weights.mean(), "weights")
    compare(drawn.log_weights, belief.weights.expected_log(), "log weights")
    compare(drawn.means, belief.components.loc, "means")
    precisions = belief.components.precisions
    compare(drawn.covariance.precisions(), precisions.expected().precisions(), "precisions")
    compare(drawn.covariance.covariances(), precisions.inverse_mean(), "covariances")
    compare(-drawn.covariance.block_log_det(), precisions.expected_log_det(), "log determinants")
    for own, values in [
        (belief.weights.covariance(), drawn.weights),
        (belief.weights.log_covariance(), drawn.log_weights),
        (belief.components.mean_covariance()[0], drawn.means[:, 0]),
    ]:
        found = torch.cov(values.T)
        scale = own.diagonal().sqrt()
        torch.testing.assert_close(found / scale / scale[:, None], own / scale / scale[:, None],
                                   rtol=0, atol=0.02)  # fmt: skip


@structures
def test_covariances_of_precisions_and_of_their_inverses(kind):
    """By draws; four standard errors of a covariance of 200,000, with room for heavy tails."""
    form = "conjugate"
    _, belief = random_belief(kind, form, "dirichlet", seed=3)
    precisions = belief.components.precisions
    drawn = precisions.sample((200_000,), generator(3))
    for values, own in [
        (drawn.precisions(), precisions.precision_covariance()),
        (drawn.covariances(), precisions.inverse_covariance()),
    ]:
        flat = values.reshape(len(values), -1, own.shape[-1])[:, 0]
        found, expected = (
            torch.cov(flat.T).reshape(own.shape[-2:]),
            own.reshape(-1, *own.shape[-2:])[0],
        )
        scale = expected.diagonal().sqrt()
        torch.testing.assert_close(
            found / scale / scale[:, None], expected / scale / scale[:, None], rtol=0, atol=0.03
        )


@cases
def test_the_divergence_is_what_draws_say(kind, form, weights):
    prior, belief = random_belief(kind, form, weights, seed=4)
    drawn = belief.sample((20_000,), generator=generator(4))
    gap = belief.log_prob(drawn) - prior.log_prob(drawn)
    error = float(gap.std()) / math.sqrt(len(gap))
    assert abs(float(gap.mean()) - float(belief.divergence(prior))) < 4 * error
    np.testing.assert_allclose(float(belief.divergence(belief)), 0, atol=1e-9)


@cases
def test_gradients_of_draws_are_gradients_of_expectations(kind, form, weights):
    """Of a smooth function, against the derivative of its expectation, which is known."""
    _, belief = random_belief(kind, form, weights, seed=5)
    values = torch.zeros_like(belief.encode(belief)).requires_grad_()
    moved = belief.decode(values)
    n = 200_000
    drawn = moved.sample((n,), generator=generator(5))
    of_draws = [drawn.log_weights[:, 0], drawn.means[:, 0, 0], -drawn.covariance.block_log_det()]
    of_draws[2] = of_draws[2].reshape(n, -1)[:, 0]
    exact = [
        moved.weights.expected_log()[0],
        moved.components.loc[0, 0],
        moved.components.precisions.expected_log_det().reshape(-1)[0],
    ]
    for drawn_values, expectation in zip(of_draws, exact, strict=True):
        (found,) = torch.autograd.grad(drawn_values.mean(), values, retain_graph=True)
        (expected,) = torch.autograd.grad(expectation, values, retain_graph=True)
        # Noise of the draws: a wrong term would be of the order of the largest entry.
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01 * expected.abs().max())


def test_a_stick_that_is_hardly_touched_gives_finite_logarithms():
    """Concentrations far below one underflow as numbers, not as logarithms."""
    belief = DirichletWeights(tensor([1e-3] * 5))
    drawn = belief.sample((10_000,), generator())
    assert torch.isfinite(drawn).all()
    torch.testing.assert_close(drawn.exp().mean(0), tensor([0.2] * 5), rtol=0, atol=0.02)


@given(seed=seeds, k=st.integers(1, 6))
def test_weights_by_sticks_are_weights(seed, k):
    rng = np.random.default_rng(seed)
    belief = StickBreakingWeights(
        tensor(rng.uniform(0.5, 9, k - 1)), tensor(rng.uniform(0.5, 9, k - 1))
    )
    np.testing.assert_allclose(belief.mean().sum(), 1, rtol=1e-12)
    drawn = belief.sample((7,), generator(seed % 1000)).exp()
    np.testing.assert_allclose(drawn.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(belief.covariance().sum(), 0, atol=1e-12)
    assert belief.distribution().event_shape == (k,)


@pytest.mark.parametrize(
    "weights",
    [DirichletWeights(tensor([1.3, 2.0])), StickBreakingWeights(tensor([1.3]), tensor([2.0]))],
    ids=["dirichlet", "process"],
)
def test_the_density_of_two_weights_integrates_to_one(weights):
    def density(w):
        return math.exp(float(weights.log_prob(tensor([w, 1 - w]).log())))

    assert integrate.quad(density, 0, 1)[0] == pytest.approx(1, abs=1e-8)
    shown = weights.distribution()
    np.testing.assert_allclose(shown.mean, weights.mean(), rtol=1e-12)
    np.testing.assert_allclose(shown.variance, weights.covariance().diagonal(), rtol=1e-9)
    assert shown.sample((3,)).shape == (3, 2)
    np.testing.assert_allclose(
        float(shown.log_prob(tensor([0.3, 0.7]))), math.log(density(0.3)), rtol=1e-10
    )


# --- updates --------------------------------------------------------------------------------------


def statistics(kind: str, seed: int, k: int = 3, d: int = 2):
    x = clusters(seed, 60, d)
    rng = np.random.default_rng(seed)
    means = x[rng.choice(len(x), k, replace=False)]
    covariance = structure(kind).from_covariances(
        {
            "full": tensor(np.stack([np.eye(d)] * k)),
            "tied": tensor(np.eye(d)),
            "diag": tensor(np.ones((k, d))),
            "spherical": tensor(np.ones(k)),
        }[kind],
        k,
        d,
    )
    mixture = Mixture(torch.zeros(k, dtype=torch.float64), tensor(means), covariance)
    return x, mixture, e_step(tensor(x), mixture)


@structures
def test_a_conjugate_update_is_bayes_rule(kind):
    """p(θ | X) ∝ p(θ) p(X | θ), for known responsibilities: the difference does not depend on θ."""
    x, mixture, stats_ = statistics(kind, 1)
    prior = prior_of(kind, "conjugate").belief(rows_of(x), 3, structure(kind))
    posterior = prior.updated(stats_, mixture.covariance)
    shares = mixture.responsibilities(tensor(x))
    drawn = prior.sample((50,), generator=generator(6))
    terms = torch.stack([drawn[i].component_log_prob(tensor(x)) for i in range(50)])
    likelihood = (terms * shares).sum((-1, -2))
    gap = prior.log_prob(drawn) + likelihood - posterior.log_prob(drawn)
    np.testing.assert_allclose(gap, gap[0], rtol=1e-9)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_each_semi_conjugate_update_is_optimal_given_the_other(kind):
    """The bound at fixed responsibilities has gradient zero in the factor just updated."""
    x, mixture, stats_ = statistics(kind, 2)
    prior = prior_of(kind, "independent").belief(rows_of(x), 3, structure(kind))
    belief = prior.updated(stats_, mixture.covariance)
    shares = mixture.responsibilities(tensor(x))
    values = torch.zeros_like(belief.encode(belief)).requires_grad_()
    moved = belief.decode(values)
    covariance, constant = moved.components.expected()
    surrogate = Mixture(moved.weights.expected_log(), moved.components.loc, covariance)
    normalised = surrogate.component_terms(tensor(x)).T - surrogate.log_weights
    density = normalised + moved.weights.expected_log() + constant
    bound = (shares * density).sum() - moved.divergence(prior)
    (gradient,) = torch.autograd.grad(bound, values)
    n_weights, n_means = 3, 2 * 6
    np.testing.assert_allclose(gradient[:n_weights], 0, atol=1e-9)  # weights
    np.testing.assert_allclose(gradient[n_weights + n_means :], 0, atol=1e-9)  # precisions
    # The means were updated with the precisions of the start, not with those that came of them.
    again = belief.stepped(prior, stats_, 1.0)
    assert not torch.allclose(again.components.loc, belief.components.loc, rtol=1e-6)


@cases
def test_a_natural_step_of_one_is_the_coordinate_update(kind, form, weights):
    _, _, stats_ = statistics(kind, 3)
    prior, belief = random_belief(kind, form, weights, seed=3)
    updated = prior.updated(stats_, belief.components.expected()[0])
    stepped = belief.stepped(prior, stats_, 1.0)
    np.testing.assert_allclose(updated.encode(stepped), 0, atol=1e-10)
    np.testing.assert_allclose(belief.stepped(prior, stats_, 0.0).encode(belief), 0, atol=1e-10)


@cases
def test_half_a_step_is_half_way_in_natural_parameters(kind, form, weights):
    """Log-densities are linear in them: with the precisions fixed, a step mixes log-densities."""
    _, _, stats_ = statistics(kind, 4)
    prior, belief = random_belief(kind, form, weights, seed=4)
    goal, half = belief.stepped(prior, stats_, 1.0), belief.stepped(prior, stats_, 0.3)
    if form == "independent":  # sequential: the precisions' goal depends on the means
        shared = belief.components.precisions
        goal, half = (_with_precisions(b, shared) for b in (goal, half))
    drawn = belief.sample((40,), generator=generator(7))
    mixed = 0.7 * belief.log_prob(drawn) + 0.3 * goal.log_prob(drawn) - half.log_prob(drawn)
    np.testing.assert_allclose(mixed, mixed[0], rtol=1e-8, atol=1e-8)


def _with_precisions(belief: Belief, precisions) -> Belief:
    components = type(belief.components)(
        belief.components.means, belief.components.scales, precisions
    )
    return Belief(belief.weights, components)


@structures
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_one_component_is_the_closed_form_in_one_sweep(kind, shift):
    """K = 1, conjugate: location, strength, degrees and scale to 1e-10; dense NumPy formulas."""
    x = clusters(5, 50) + shift
    rows = rows_of(x)
    given = prior_of(kind, "conjugate")
    given = replace(given, mean_loc=np.asarray(given.mean_loc) + shift)
    prior = given.belief(rows, 1, structure(kind))
    start = with_noise(prior, 1)  # anywhere
    stats_, _ = look(rows, start)
    belief = prior.updated(stats_, start.components.expected()[0])
    n, m0, kappa0 = len(x), np.asarray(given.mean_loc), 0.7
    mean = (kappa0 * m0 + x.sum(0)) / (kappa0 + n)
    gap, between = x - mean, (m0 - mean)
    scatter = gap.T @ gap + kappa0 * np.outer(between, between)
    d = x.shape[1]
    nu0, s0 = (given.degrees_of_freedom, given.scale) if kind in ("full", "tied") else (5.0, 3.4)
    if kind in ("full", "tied"):
        nu, scale = nu0 + n, s0 + scatter
    elif kind == "diag":
        nu, scale = nu0 + n, s0 + np.diag(scatter)
    else:
        nu, scale = nu0 + d * n, s0 + np.trace(scatter)
    components = belief.components
    np.testing.assert_allclose(components.loc[0], mean, rtol=1e-10)
    np.testing.assert_allclose(components.mean_precision, kappa0 + n, rtol=1e-10)
    np.testing.assert_allclose(components.precisions.degrees, nu, rtol=1e-10)
    found = components.precisions.scale.covariances().numpy()
    np.testing.assert_allclose(
        found.reshape(np.shape(scale)), scale, rtol=1e-10 if not shift else 1e-9
    )
    total = float(elbo(rows, belief, prior))
    np.testing.assert_allclose(total, log_evidence(x, kind, given), rtol=1e-8)


def log_evidence(x: np.ndarray, kind: str, prior) -> float:
    """Log p(X) of one component, row after row: a product of Student t densities by scipy."""
    d = x.shape[1]
    m, kappa = np.asarray(prior.mean_loc, float), 0.7
    if kind in ("full", "tied"):
        nu, s, total = float(prior.degrees_of_freedom), np.array(prior.scale), 0.0
        for row in x:
            f = nu - d + 1
            shape = s * (kappa + 1) / (kappa * f)
            total += stats.multivariate_t(m, shape, df=f).logpdf(row)
            gap = row - m
            s = s + kappa / (kappa + 1) * np.outer(gap, gap)
            m, kappa, nu = (kappa * m + row) / (kappa + 1), kappa + 1, nu + 1
        return total
    a, total = 2.5, 0.0
    b = np.full(d, 1.7) if kind == "diag" else 1.7
    for row in x:
        wide = (kappa + 1) / kappa
        if kind == "diag":
            total += stats.t(2 * a, m, np.sqrt(b / a * wide)).logpdf(row).sum()
            b = b + 0.5 * kappa / (kappa + 1) * (row - m) ** 2
            a += 0.5
        else:
            total += stats.multivariate_t(m, np.eye(d) * b / a * wide, df=2 * a).logpdf(row)
            b = b + 0.5 * kappa / (kappa + 1) * ((row - m) ** 2).sum()
            a += 0.5 * d
        m, kappa = (kappa * m + row) / (kappa + 1), kappa + 1
    return total


# --- charts, batches, files -----------------------------------------------------------------------


@cases
@given(seed=seeds)
def test_coordinates_are_unconstrained_and_lead_back(kind, form, weights, seed):
    _, belief = random_belief(kind, form, weights, seed=6)
    zero = belief.encode(belief)
    np.testing.assert_allclose(zero, 0, atol=1e-12)
    values = tensor(np.random.default_rng(seed).normal(size=zero.shape) * 2)
    moved = belief.decode(values)
    np.testing.assert_allclose(moved.encode(belief), values, rtol=1e-8, atol=1e-8)
    assert torch.isfinite(moved.divergence(belief))


@cases
def test_a_batch_of_beliefs_is_its_members(kind, form, weights):
    prior, first = random_belief(kind, form, weights, seed=7)
    second = with_noise(first, 8)
    batch = Belief.stack([first, second])
    for i, one in enumerate((first, second)):
        np.testing.assert_allclose(batch.index(i).encode(one), 0, atol=1e-12)
        np.testing.assert_allclose(batch.divergence(prior)[i], one.divergence(prior), rtol=1e-10)
        alone, constant = one.surrogate()
        together, constants = batch.surrogate()
        np.testing.assert_allclose(together[i].log_weights, alone.log_weights, rtol=1e-10)
        np.testing.assert_allclose(constants[i], constant, rtol=1e-10)
    x = tensor(clusters(7, 30))
    mixture, _ = batch.surrogate()
    updated = prior.updated(e_step(x, mixture), batch.components.expected()[0])
    for i, one in enumerate((first, second)):
        single, _ = one.surrogate()
        alone = prior.updated(e_step(x, single), one.components.expected()[0])
        np.testing.assert_allclose(updated.index(i).encode(alone), 0, atol=1e-9)


@cases
def test_states_rebuild_beliefs_bit_for_bit(kind, form, weights):
    _, belief = random_belief(kind, form, weights, seed=8)
    header, tensors = belief_to_state(belief, "it")
    again = belief_from_state(header, tensors, "it")
    drawn = belief.sample((5,), generator=generator(9))
    assert torch.equal(again.log_prob(drawn), belief.log_prob(drawn))
    assert type(again.weights) is type(belief.weights)


@cases
def test_the_surrogate_is_the_expected_log_density(kind, form, weights):
    """E[log w_k + log N(x; μ_k, Σ_k)] by draws, for a few rows."""
    _, belief = random_belief(kind, form, weights, seed=9)
    x = tensor(clusters(9, 5))
    mixture, constant = belief.surrogate()
    found = mixture.component_log_prob(x) + constant
    drawn = belief.sample((100_000,), generator=generator(10))
    terms = drawn.component_terms(x.expand(100_000, *x.shape)).transpose(-1, -2)
    error = terms.std(0) / math.sqrt(len(terms))
    assert ((terms.mean(0) - found).abs() < 5 * error).all()


@cases
def test_exchangeable_means_that_all_components_are_alike(kind, form, weights):
    prior, belief = random_belief(kind, form, weights, seed=10)
    assert prior.components.exchangeable
    assert not belief.components.exchangeable
    order = torch.tensor([2, 0, 1])
    moved = belief.components.selected(order)
    np.testing.assert_allclose(moved.loc, belief.components.loc[order])
    wide = prior.components.widened(0.5).expected()[0].variances()
    np.testing.assert_allclose(wide, prior.components.expected()[0].variances() + 0.5, rtol=1e-10)
