"""Gibbs sampling: labels by their probabilities, and the posterior itself."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

from bayes.cases import CASES, IDS, clusters, fit, prior_of, rows_of, starts
from bayes.test_linear_response import gibbs
from laws.cases import CASES as STRUCTURES
from laws.cases import draw_one, tensor
from mogul import BayesianGaussianMixture, priors
from mogul.covariances import structure
from mogul.errors import InputError
from mogul.infer import Gibbs
from mogul.infer.cavi import coordinate_ascent
from mogul.infer.gibbs import sweep
from mogul.kernels import draw_step, e_step
from mogul.mixture import Mixture
from mogul.posterior import VariationalPosterior

cases = pytest.mark.parametrize(("kind", "form", "weights"), CASES, ids=IDS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the draw of labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURES)
def test_statistics_are_those_of_labels_drawn_by_responsibilities(name):
    mixture, truth = draw_one(name, 1, 3, 2)
    x = truth.draw(np.random.default_rng(1), 500)
    uniform = torch.rand(500, generator=generator(), dtype=torch.float64)
    found = draw_step(tensor(x), mixture, uniform)
    share = truth.responsibilities(x)
    label = (share.cumsum(1) < uniform.numpy()[:, None]).sum(1)
    hot = np.eye(3)[label]
    gap = x[:, None] - found.origin.numpy()
    np.testing.assert_allclose(found.count, hot.sum(0))
    np.testing.assert_allclose(found.first, np.einsum("nk,nkd->kd", hot, gap), atol=1e-8)
    second = np.einsum("nk,nki,nkj->kij", hot, gap, gap)
    np.testing.assert_allclose(found.second, STRUCTURES[name].part(second), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.log_likelihood, truth.log_prob(x).sum(), rtol=1e-10)


@pytest.mark.parametrize("name", STRUCTURES)
def test_kernels_threads_and_batches_draw_the_same_labels(name):
    mixture, truth = draw_one(name, 2, 4, 3)
    x = tensor(truth.draw(np.random.default_rng(2), 3000))
    uniform = torch.rand(3000, generator=generator(1), dtype=torch.float64)
    weight = torch.rand(3000, generator=generator(2), dtype=torch.float64)
    found = {k: draw_step(x, mixture, uniform, weight, kernel=k) for k in ("reference", "expanded")}
    batch = draw_step(x, mixture.expand((2,)), uniform.expand(2, -1), weight)
    for part in ("count", "first", "second", "log_likelihood"):
        one = getattr(found["reference"], part)
        torch.testing.assert_close(getattr(found["expanded"], part), one, rtol=1e-8, atol=1e-7)
        torch.testing.assert_close(getattr(batch, part)[1], one, rtol=1e-8, atol=1e-7)


def test_labels_have_their_frequencies():
    mixture, truth = draw_one("full", 3, 3, 2)
    x = truth.draw(np.random.default_rng(3), 1)
    n = 100_000
    counts = draw_step(
        tensor(np.repeat(x, n, 0)),
        mixture,
        torch.rand(n, generator=generator(), dtype=torch.float64),
    ).count.numpy()
    expected = truth.responsibilities(x)[0] * n
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


def test_a_component_of_no_weight_gets_no_row():
    mixture = Mixture.from_parameters([1.0, 0.0], [[0.0], [0.0]], [1.0, 1.0], "spherical")
    uniform = tensor([0.0, 0.5, 1.0 - 1e-16, 1.0])
    assert draw_step(torch.zeros(4, 1).double(), mixture, uniform).count.tolist() == [4.0, 0.0]


# --- the posterior --------------------------------------------------------------------------------


@cases
def test_with_one_component_draws_are_of_the_exact_posterior(kind, form, weights):
    """Conjugate: known moments. Independent: by quadrature of the two-dimensional posterior."""
    x = clusters(1, 30, d=1)
    rows = rows_of(x)
    prior = prior_of(kind, form, weights, d=1).belief(rows, 1, structure(kind))
    state, kept = prior.sample((500,), generator=generator(2)), []
    for i in range(60):
        state, _ = sweep(rows.values, prior, state, generator(100 + i))
        if i >= 20:
            kept.append(
                (state.means.flatten(), -state.covariance.block_log_det().reshape(500, -1)[:, 0])
            )
    means = torch.cat([m for m, _ in kept]).numpy()
    logs = torch.cat([v for _, v in kept]).numpy()
    expected = _by_quadrature(x[:, 0], prior)
    for values, (mean, variance) in zip((means, logs), expected, strict=True):
        error = math.sqrt(variance / 15_000)  # draws of successive sweeps hardly depend
        assert abs(values.mean() - mean) < 5 * error
        assert abs(values.var() / variance - 1) < 0.06


def _by_quadrature(x, prior):
    """Mean and variance of μ and of log τ, on a grid of the joint density."""
    components = prior.components
    nu = float(components.precisions.degrees.flatten()[0])
    s = float(components.precisions.scale.covariances().flatten()[0])
    m = float(components.loc[0, 0])
    log_tau = np.linspace(-6, 5, 800)[:, None]
    mu = np.linspace(x.mean() - 6 * x.std(), x.mean() + 6 * x.std(), 801)[None]
    tau = np.exp(log_tau)
    log = stats.gamma(nu / 2, scale=2 / s).logpdf(tau) + log_tau
    spread = 1 / np.sqrt(float(components.mean_precision[0]) * tau) if hasattr(
        components, "mean_precision") else float(components.scales[0, 0])  # fmt: skip
    log = log + stats.norm(m, spread).logpdf(mu)
    log = log + 0.5 * len(x) * log_tau - 0.5 * tau * ((x - mu[..., None]) ** 2).sum(-1)
    p = np.exp(log - log.max())
    p /= p.sum()

    def moments(value):
        mean = (p * value).sum()
        return mean, (p * (value - mean) ** 2).sum()

    return moments(mu), moments(log_tau)


def test_the_same_seed_gives_the_same_draws_and_another_others():
    x = clusters(2, 60)
    settings = {"inference": Gibbs(draws=20, warmup=5, chains=2), "covariance_type": "diag"}
    one, same, other = (
        BayesianGaussianMixture(2, random_state=seed, **settings).fit(x) for seed in (0, 0, 1)
    )
    assert torch.equal(one.posterior_.draws.means, same.posterior_.draws.means)
    assert not torch.equal(one.posterior_.draws.means, other.posterior_.draws.means)
    assert one.n_iter_ == 25
    assert math.isnan(one.elbo_)


@pytest.mark.filterwarnings("ignore:The chains do not agree")  # they are too short to tell
def test_whole_row_weights_repeat_rows_and_others_are_refused():
    x = clusters(3, 40)
    count = np.random.default_rng(3).integers(0, 3, 40).astype(float)
    settings = {"inference": Gibbs(draws=10, warmup=5, chains=2), "random_state": 0}
    weighted = BayesianGaussianMixture(2, **settings).fit(x, sample_weight=count)
    repeated = BayesianGaussianMixture(2, **settings).fit(np.repeat(x, count.astype(int), 0))
    np.testing.assert_allclose(
        weighted.posterior_.draws.means, repeated.posterior_.draws.means, rtol=1e-6
    )
    with pytest.raises(InputError, match="whole numbers"):
        BayesianGaussianMixture(2, **settings).fit(x, sample_weight=count + 0.5)


def test_settings_without_draws_are_refused():
    with pytest.raises(InputError, match=r"draws of Gibbs.*from 1 on"):
        Gibbs(draws=0)


@pytest.mark.filterwarnings("ignore:The chains do not agree")  # they are too short to tell
def test_log_joint_is_likelihood_and_prior():
    x = clusters(4, 30)
    model = BayesianGaussianMixture(
        2, inference=Gibbs(draws=5, warmup=2, chains=2, thin=2), random_state=0
    ).fit(x)
    posterior = model.posterior_
    # As it was drawn: a stick knows its components apart, and relabelling changed their order.
    one = posterior.draws.reorder(posterior.permutations.argsort(-1))[1, 3]
    expected = float(e_step(tensor(x), one).log_likelihood) + float(model.prior_.log_prob(one))
    np.testing.assert_allclose(float(posterior.log_joint[1, 3]), expected, rtol=1e-9)


def test_stopping_early_keeps_the_draws_so_far():
    x = clusters(5, 30)
    settings = {"inference": Gibbs(draws=50, warmup=5, chains=2), "random_state": 0}
    with pytest.warns(UserWarning, match="stopped early"):
        model = BayesianGaussianMixture(
            2, callbacks=[lambda record: record.iteration == 15], **settings
        ).fit(x)
    assert model.posterior_.draws.batch_shape == (2, 10)
    with pytest.raises(InputError, match="before its warmup"):
        BayesianGaussianMixture(2, callbacks=[lambda record: True], **settings).fit(x)


# --- simulation -----------------------------------------------------------------------------------


def functionals(mixture):
    """Quantities that do not depend on labels, for a batch of mixtures, (*batch, Q)."""
    at = torch.tensor([[-1.0], [0.5], [2.5]], dtype=torch.float64)
    rows = at.expand(*mixture.batch_shape, 3, 1)
    density = mixture.component_terms(rows).logsumexp(-2)
    weights = mixture.weights.sort(-1).values
    means = mixture.means[..., 0].sort(-1).values
    spread = mixture.covariance.variances()[..., 0].log().sum(-1, keepdim=True)
    return torch.cat([density, weights[..., :1], means, spread], -1)


SMALL = {
    "conjugate": priors.NormalGamma(0.5, 0.5, 3.0, 2.0),
    "independent": priors.IndependentNormalGamma(0.5, 1.5, 3.0, 2.0),
}
FORMS = [
    (form, weights)
    for form in SMALL
    for weights in (priors.Dirichlet(2.0), priors.DirichletProcess(1.0))
]


def small_prior(form, weights, k=2):
    given = replace(SMALL[form], weight_concentration=weights)
    return given.belief(rows_of(np.array([[0.0], [1.0]])), k, structure("diag"))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "weights"), FORMS, ids=str)
def test_alternating_rows_and_parameters_stays_at_the_prior(form, weights):
    """Geweke (2004): θ from the prior, then rows given θ and θ given rows, over and over.

    Each of 20,000 chains is at the prior before and after when every step is right, so that means
    and variances are compared between independent draws.
    """
    prior = small_prior(form, weights)
    random = generator(5)
    n = 20_000
    state = prior.sample((n,), generator=random)
    for _ in range(25):
        x = state.sample((4,), generator=random).movedim(0, 1)  # (chains, 4, 1)
        state, _ = sweep(x, prior, state, random)
    after = functionals(state)
    before = functionals(prior.sample((n,), generator=generator(6)))
    for one, other in zip(after.T.numpy(), before.T.numpy(), strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-4
        assert stats.ttest_ind(one, other, equal_var=False).pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("form", "weights"), FORMS, ids=str)
def test_ranks_of_the_truth_among_draws_are_uniform(form, weights):
    """Simulation-based calibration (Talts and others 2018), 400 data sets of 25 rows."""
    prior = small_prior(form, weights)
    random = generator(7)
    n_data, n_draws, thin = 400, 99, 8
    truth = prior.sample((n_data,), generator=random)
    x = truth.sample((25,), generator=random).movedim(0, 1)  # (data sets, 25, 1)
    state = prior.sample((n_data,), generator=random)  # not at the truth
    for _ in range(300):
        state, _ = sweep(x, prior, state, random)
    draws = []
    for _ in range(n_draws):
        for _ in range(thin):
            state, _ = sweep(x, prior, state, random)
        draws.append(functionals(state))
    ranks = (torch.stack(draws) < functionals(truth)).sum(0).numpy()  # (data sets, Q)
    for one in ranks.T:
        counts, _ = np.histogram(one, bins=20, range=(0, n_draws + 1))
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.slow
def test_an_approximation_that_is_too_narrow_fails_calibration():
    """The check above can fail: the truth is at the ends of mean field's draws too often."""
    prior = small_prior("conjugate", priors.Dirichlet(2.0))
    random = generator(8)
    ranks = []
    for _ in range(200):
        truth = prior.sample((), generator=random)
        rows = rows_of(truth.sample((100,), generator=random).numpy())
        begun = starts(rows, prior, "diag")
        belief = coordinate_ascent(rows, prior, begun, max_iter=1000).beliefs[0]
        drawn = functionals(belief.sample((99,), generator=random))
        ranks.append((drawn < functionals(truth)).sum(0).numpy())
    counts, _ = np.histogram(np.array(ranks)[:, 3], bins=20, range=(0, 100))
    assert stats.chisquare(counts).pvalue < 1e-4


@pytest.mark.slow
def test_the_posterior_of_posteriordbs_mixture():
    """low_dim_gauss_mix: μ ~ N(0, 2), σ ~ N⁺(0, 2), θ ~ Beta(5, 5); N = 1000.

    Its data are not at hand, so data are drawn from that model at its reference posterior means,
    and linear response is held to a long Gibbs run on them: means within a tenth of a standard
    deviation, standard deviations within 4 %. Gamma(1, 1) stands for the half-normal prior.
    """
    rng = np.random.default_rng(9)
    first = rng.random(1000) < 0.6215
    x = np.where(first, -2.7335, 2.8698) + np.where(first, 1.0281, 1.0238) * rng.normal(size=1000)
    prior = priors.IndependentNormalGamma(0.0, 2.0, 1.0, 1.0, 5.0)
    rows, filled, belief = fit(x[:, None], prior, "diag", 2)
    posterior = VariationalPosterior(belief, filled, rows)
    kept = gibbs(rows, filled, belief, draws=3000, seed=9)
    published = {"means": [0.0420, 0.0546], "weights": [0.0155, 0.0155]}
    order = belief.components.loc[:, 0].argsort()
    for name in ("means", "weights", "standard_deviations"):
        wanted = posterior._quantity(name)
        draws = torch.stack([wanted.of(m) for m in kept]).flatten(0, 1)
        truth = draws.std(0)
        assert ((posterior.expectation(name) - draws.mean(0)).abs() < 0.1 * truth).all()
        corrected = posterior.std(name, "linear_response")
        np.testing.assert_allclose(corrected, truth, rtol=0.04)
        if name in published:
            np.testing.assert_allclose(corrected[order].flatten(), published[name], rtol=0.08)


# --- orders of sticks -----------------------------------------------------------------------------


def test_orders_of_sticks_come_up_as_often_as_they_are_likely():
    """Against all six orders of three components, by their evidence."""
    prior = priors.DirichletProcess(1.5).belief(3)
    count = torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64)
    orders = list(permutations(range(3)))
    evidence = torch.stack([prior._log_evidence(count[list(o)]) for o in orders])
    expected = evidence.softmax(0)
    generator = torch.Generator().manual_seed(0)
    state = count.expand(20_000, 3)
    for _ in range(30):
        order = prior.swapped(state, generator)
        state = state.take_along_dim(order, -1)
    for o, share in zip(orders, expected.tolist(), strict=True):
        found = (state == count[list(o)]).all(-1).double().mean()
        assert float(found) == pytest.approx(share, abs=5 * (share / 20_000) ** 0.5)
    assert priors.Dirichlet(1.0).belief(3).swapped(count, generator) is None
    assert priors.DirichletProcess(1.0).belief(1).swapped(count[:1], generator) is None


@pytest.mark.slow
def test_chains_of_clusters_far_apart_agree_whatever_order_they_began_in():
    rng = np.random.default_rng(0)
    parts = [([0, 0], 700), ([9, 0], 200), ([0, 9], 30)]
    x = np.concatenate([rng.normal(mean, 1, (n, 2)) for mean, n in parts])
    for seed in range(3):
        model = BayesianGaussianMixture(3, inference="gibbs", random_state=seed).fit(x)
        assert model.converged_
        assert model.posterior_.r_hat() < 1.02


def test_too_few_draws_cannot_have_converged():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 1))
    with pytest.warns(ConvergenceWarning, match="too few to tell"):
        model = BayesianGaussianMixture(
            1, inference=Gibbs(draws=3, warmup=5, chains=2), random_state=0
        ).fit(x)
    assert not model.converged_
