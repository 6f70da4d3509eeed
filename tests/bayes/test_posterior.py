"""What a posterior answers: marginals, intervals, labels, diagnostics, and refusals."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Beta, Dirichlet, Distribution, Gamma, Normal, StudentT, Wishart

from bayes.cases import CASES, IDS, clusters, fit, prior_of, rows_of
from laws.cases import tensor
from mogul import BayesianGaussianMixture, Posterior, priors
from mogul._student import MultivariateStudentT
from mogul.beliefs import StickBreaking, StickBreakingWeights
from mogul.errors import InputError, MeanFieldWarning, UnknownNameError
from mogul.infer import Gibbs
from mogul.infer.chains import MOST_R_HAT, split_r_hat
from mogul.mixture import Mixture
from mogul.posterior import SampledPosterior, VariationalPosterior
from mogul.posterior.diagnostics import ParetoK, pareto_k
from mogul.posterior.relabel import METHODS

cases = pytest.mark.parametrize(("kind", "form", "weights"), CASES, ids=IDS)
NAMES = ["weights", "log_weights", "means", "precisions", "covariances", "standard_deviations"]


def names_of(kind):
    return NAMES + ([] if kind in ("full", "tied") else ["log_precisions"])


def variational(kind="full", form="conjugate", weights="dirichlet", *, n=90, k=3, rows=True):
    found, prior, belief = fit(clusters(1, n), prior_of(kind, form, weights), kind, k, tol=1e-8)
    return VariationalPosterior(belief, prior, found if rows else None)


def sampled(seed=0, s=1000, k=5, d=2, n=200):
    """Draws around one mixture, (2, s / 2), rows of it, and log densities whose best is draw 3."""
    rng = np.random.default_rng(seed)
    means = 6.0 * np.stack([np.arange(k), rng.permutation(k)], 1) + rng.normal(size=(k, d))
    weights = rng.dirichlet(np.full(k, 8.0))
    variances = rng.uniform(0.5, 1.5, (k, d))
    labels = rng.choice(k, n, p=weights)
    x = means[labels] + np.sqrt(variances[labels]) * rng.normal(size=(n, d))
    shape = (2, s // 2)
    noisy = rng.dirichlet(200 * weights, shape)
    draws = Mixture.from_parameters(
        noisy,
        means + 0.2 * rng.normal(size=(*shape, k, d)),
        variances * np.exp(0.1 * rng.normal(size=(*shape, k, d))),
        "diag",
    )
    log_joint = tensor(rng.normal(size=shape))
    log_joint[0, 3] = 10.0
    return SampledPosterior(draws, log_joint, rows_of(x))


# --- a mapping ------------------------------------------------------------------------------------


@cases
def test_it_is_a_mapping_to_torch_distributions(kind, form, weights):
    posterior = variational(kind, form, weights, rows=False)
    assert isinstance(posterior, Posterior)
    assert list(posterior) == ["weights", "means", "precisions"]
    assert len(posterior) == 3
    assert dict(posterior).keys() == {"weights", "means", "precisions"}
    expected = {
        "weights": Dirichlet if weights == "dirichlet" else StickBreaking,
        "means": Normal
        if form == "independent"
        else StudentT
        if kind == "diag"
        else MultivariateStudentT,
        "precisions": Wishart if kind in ("full", "tied") else Gamma,
    }
    for name, found in posterior.items():
        assert isinstance(found, Distribution)
        assert isinstance(found, expected[name])
        drawn = found.sample((5,))
        shape = posterior.expectation(name).shape
        assert drawn.shape == (5, *shape)
        torch.testing.assert_close(found.mean, posterior.expectation(name), rtol=1e-9, atol=1e-9)
        spread = posterior.std(name)
        torch.testing.assert_close(found.variance.sqrt(), spread, rtol=1e-6, atol=1e-9)
        assert torch.isfinite(found.log_prob(found.mean)).all()


def test_parameters_are_where_users_of_the_pages_look_for_them():
    posterior = variational("diag", "independent")
    belief = posterior.belief
    assert torch.equal(posterior["weights"].concentration, belief.weights.concentration)
    assert torch.equal(posterior["means"].loc, belief.components.means)
    assert torch.equal(posterior["means"].scale, belief.components.scales)
    degrees = belief.components.precisions.degrees
    torch.testing.assert_close(posterior["precisions"].concentration, degrees / 2)
    assert isinstance(variational(weights="process")["weights"].breaks, Beta)


def test_the_multivariate_student_is_scipys():
    rng = np.random.default_rng(1)
    root = np.tril(rng.normal(size=(3, 3))) + 3 * np.eye(3)
    ours = MultivariateStudentT(tensor(5.0), tensor([1.0, 2, 3]), tensor(root))
    theirs = stats.multivariate_t([1.0, 2, 3], root @ root.T, df=5)
    x = rng.normal(size=(20, 3)) * 5
    np.testing.assert_allclose(ours.log_prob(tensor(x)), theirs.logpdf(x), rtol=1e-10)
    np.testing.assert_allclose(ours.covariance_matrix, root @ root.T * 5 / 3, rtol=1e-12)
    drawn = ours.sample((200_000,), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn.mean(0), [1, 2, 3], atol=0.06)
    np.testing.assert_allclose(torch.cov(drawn.T) / ours.covariance_matrix, 1, atol=0.06)
    few = MultivariateStudentT(tensor(1.0), tensor([0.0]), tensor([[1.0]]))
    assert few.mean.isnan().all()
    assert few.variance.isinf().all()


# --- moments and intervals ------------------------------------------------------------------------


@cases
def test_deviations_and_intervals_are_those_of_draws(kind, form, weights):
    """Off a matrix's diagonal intervals are normal, and draws skew: a quarter deviation at most."""
    posterior = variational(kind, form, weights, rows=False)
    n = 40_000
    for name in names_of(kind):
        drawn = posterior.draw(name, n, seed=3)
        own = posterior.std(name)
        solid = (posterior.expectation("weights") * 90 > 12) if drawn.shape[1] == 3 else ...
        ratio = (drawn.std(0) / own)[solid]
        assert ((ratio - 1).abs() < 0.08).all(), name
        ends = posterior.interval(name, 0.9)
        found = torch.quantile(drawn, tensor([0.05, 0.95]), dim=0).movedim(0, -1)
        error = ((ends - found).abs() / own.unsqueeze(-1))[solid]
        matrix = drawn.ndim > 3 or (kind == "tied" and drawn.ndim > 2 and name != "means")
        assert error.max() < (0.25 if matrix else 0.06), name


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_covariances_of_several_quantities_are_those_of_draws(kind):
    posterior = variational(kind, n=300, k=2, rows=False)
    names = ["means", "precisions", "weights"]
    found = posterior.covariance(names)
    entries = posterior.entries(names)
    assert found.shape == (len(entries), len(entries))
    drawn = posterior.sample(60_000)
    columns = []
    for name in names:
        wanted = posterior._quantity(name)
        values = wanted.of(drawn)
        distinct = wanted.entries(values.shape[1:], posterior.kind)
        columns += [values[(slice(None), *i)] for i in distinct]
    truth = torch.cov(torch.stack(columns))
    scale = truth.diagonal().sqrt()
    torch.testing.assert_close(
        found / scale / scale[:, None], truth / scale / scale[:, None], rtol=0, atol=0.05
    )
    if kind == "full":
        assert entries[4:7] == ["precisions[0, 0, 0]", "precisions[0, 1, 0]", "precisions[0, 1, 1]"]


@cases
def test_quantiles_rise_and_hold_the_median(kind, form, weights):
    posterior = variational(kind, form, weights, rows=False)
    for name in names_of(kind):
        found = posterior.quantiles(name, [0.1, 0.5, 0.9])
        assert (found.diff(dim=-1) >= 0).all(), name
        narrow, wide = posterior.interval(name, 0.5), posterior.interval(name, 0.99)
        assert (wide[..., 0] <= narrow[..., 0]).all()
        assert (wide[..., 1] >= narrow[..., 1]).all()


def test_correction_widens_and_keeps_to_the_range():
    """Weights stay between zero and one, precisions positive, however wide they get."""
    rng = np.random.default_rng(5)
    x = np.where(rng.random(120) < 0.3, 0.0, 2.2)[:, None] + rng.normal(size=(120, 1))
    rows, prior, belief = fit(x, priors.NormalGamma(0.0, 0.05, 1.0, 1.0, 1.0), "diag", 2)
    posterior = VariationalPosterior(belief, prior, rows)
    for name in ("weights", "precisions", "means"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MeanFieldWarning)
            own = posterior.interval(name, 0.99).diff(dim=-1)
        wide = posterior.interval(name, 0.99, "linear_response")
        assert (wide.diff(dim=-1) > 1.2 * own).all()
        if name != "means":
            assert (wide > 0).all()
    assert (posterior.interval("weights", 0.99, "linear_response") < 1).all()


def test_overlap_is_warned_of_once_it_matters_and_the_remedy_named():
    apart = variational(n=90)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far = VariationalPosterior(
            *_far_apart(), rows_of(np.concatenate([clusters(1, 50), clusters(1, 50) + 100]))
        )
        far.interval("means")
    rng = np.random.default_rng(6)
    x = np.where(rng.random(300) < 0.5, 0.0, 3.0)[:, None] + rng.normal(size=(300, 1))
    rows, prior, belief = fit(x, priors.NormalGamma(), "diag", 2)
    posterior = VariationalPosterior(belief, prior, rows)
    with pytest.warns(MeanFieldWarning, match=r'overlap.*correction="linear_response"') as caught:
        posterior.interval("means")
    assert caught[0].filename == __file__
    with pytest.warns(MeanFieldWarning):
        posterior.std("weights")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior.std("weights", "linear_response")
    assert ((posterior.doubt > 0.03) & (posterior.doubt < 0.2)).all()
    assert apart.doubt.shape == (3,)


def _far_apart():
    x = np.concatenate([clusters(1, 50), clusters(1, 50) + 100])
    _, prior, belief = fit(x, prior_of("full", "conjugate"), "full", 2)
    return belief, prior


# --- draws and densities --------------------------------------------------------------------------


def test_samples_are_mixtures_and_repeat():
    posterior = variational()
    one, same, other = (posterior.sample(7, seed=s) for s in (0, 0, 1))
    assert isinstance(one, Mixture)
    assert one.batch_shape == (7,)
    assert torch.equal(one.means, same.means)
    assert not torch.equal(one.means, other.means)
    assert posterior.log_prob(one).shape == (7,)
    assert posterior.sample(4, generator=torch.Generator().manual_seed(0)).batch_shape == (4,)


def test_log_joint_is_likelihood_and_prior():
    posterior = variational("diag", "independent")
    drawn = posterior.sample(5)
    likelihood = torch.stack([m.log_prob(posterior.rows.values).sum() for m in drawn])
    torch.testing.assert_close(
        posterior.log_joint(drawn), likelihood + posterior.prior.log_prob(drawn)
    )


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_the_evidence_is_the_mean_of_importance_ratios(kind):
    """K = 1, conjugate: every ratio p(X, θ) / q(θ) is the evidence itself."""
    rows, prior, belief = fit(clusters(2, 40), prior_of(kind, "conjugate"), kind, 1)
    posterior = VariationalPosterior(belief, prior, rows)
    drawn = posterior.sample(20)
    ratios = posterior.log_joint(drawn) - posterior.log_prob(drawn)
    np.testing.assert_allclose(ratios, float(ratios[0]), rtol=1e-9)


def test_permuting_components_changes_no_prediction():
    posterior = variational()
    order = torch.tensor([1, 2, 0])
    belief = posterior.belief
    moved = type(belief)(belief.weights.selected(order), belief.components.selected(order))
    x = tensor(clusters(3, 20))
    torch.testing.assert_close(moved.predictive().log_prob(x), belief.predictive().log_prob(x))
    draws = sampled(3)
    shuffled = draws.draws.reorder(
        torch.stack([torch.randperm(5) for _ in range(1000)]).reshape(2, 500, 5)
    )
    other = SampledPosterior(shuffled, draws.log_joint, draws.rows)
    torch.testing.assert_close(other.predictive().log_prob(x), draws.predictive().log_prob(x))


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_planted_permutations_of_a_thousand_draws_are_found(method):
    known = sampled(1)
    rng = np.random.default_rng(2)
    planted = np.stack([rng.permutation(5) for _ in range(1000)]).reshape(2, 500, 5)
    mixed = SampledPosterior(
        known.draws.reorder(torch.from_numpy(planted)), known.log_joint, known.rows
    )
    found = mixed.relabel(method)
    # Component k of the found labelling is one component of the known draws, the same in each.
    original = np.take_along_axis(planted, found.permutations.numpy(), -1)
    assert (original == original[0, 0]).all()
    restored = known.draws.reorder(torch.from_numpy(original))
    assert torch.equal(found.draws.means, restored.means)
    assert torch.equal(found.draws.covariance.factor, restored.covariance.factor)
    before, after = mixed.std("means"), found.std("means")
    assert before.min() > 2
    assert after.max() < 0.3


@pytest.mark.parametrize("method", METHODS)
def test_relabelling_a_sampler_that_changes_labels_leaves_predictions_alone(method):
    rng = np.random.default_rng(4)
    x = np.array([[0.0, 0.0], [9.0, 4.0], [4.0, 9.0]])[rng.integers(0, 3, 120)]
    x = x + rng.normal(size=x.shape)
    model = BayesianGaussianMixture(
        3,
        inference=Gibbs(draws=100, warmup=50, chains=4),
        weight_concentration_prior_type="dirichlet_distribution",
        random_state=0,
    ).fit(x)
    posterior = model.posterior_
    again = posterior.relabel(method)
    torch.testing.assert_close(
        again.predictive().log_prob(tensor(x)), posterior.predictive().log_prob(tensor(x))
    )
    assert float(again.std("means").max()) < 1.0


def test_ordering_sorts_by_the_feature_that_tells_most():
    posterior = sampled(2).relabel("ordering")
    means = posterior.draws.means
    assert any(bool((means[..., d].diff(dim=-1) > 0).all()) for d in range(2))


@pytest.mark.parametrize("name", ["full", "tied", "spherical"])
def test_reordering_a_mixture_keeps_each_density(name):
    from laws.cases import draw

    mixture, _ = draw(name, 5, 3, 2, (4,))
    order = torch.stack([torch.randperm(3) for _ in range(4)])
    moved = mixture.reorder(order)
    x = torch.randn(7, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(moved.log_prob(x), mixture.log_prob(x))
    torch.testing.assert_close(moved.weights[1], mixture.weights[1][order[1]])
    with pytest.raises(InputError, match="a permutation for each mixture"):
        mixture.reorder(order[0])


# --- diagnostics ----------------------------------------------------------------------------------


def test_k_hat_is_arviz_s():
    arviz_stats = pytest.importorskip("arviz_stats.base")
    rng = np.random.default_rng(3)
    for spread in (0.3, 1.0, 2.5):
        ratios = rng.standard_t(4, size=2000) * spread
        _, theirs = arviz_stats.array_stats.psislw(-ratios, r_eff=1.0)
        assert pareto_k(ratios) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("k", [0.2, 0.6, 1.0])
def test_k_hat_finds_the_shape_of_a_pareto_tail(k):
    """Ratios u^(−k) have the shape k; the estimate's standard deviation is about 0.15."""
    found = [pareto_k(-k * np.log(np.random.default_rng(seed).random(4000))) for seed in range(20)]
    assert np.mean(found) == pytest.approx(k, abs=0.1)


def test_k_hat_of_equal_ratios_is_good_and_of_few_unknown():
    assert pareto_k(np.zeros(1000)) == -np.inf
    assert pareto_k(np.zeros(10)) == np.inf


@pytest.mark.parametrize(
    ("value", "says"), [(0.1, "good"), (0.55, "usable"), (0.9, "poor"), (np.inf, "poor")]
)
def test_verdicts_are_in_words(value, says):
    assert ParetoK(value, 2000).verdict.startswith(says)
    assert says in str(ParetoK(value, 2000))


def test_an_exact_posterior_is_good_and_a_shrunken_one_poor():
    rows, prior, belief = fit(clusters(5, 60), prior_of("diag", "conjugate"), "diag", 1)
    exact = VariationalPosterior(belief, prior, rows).pareto_k()
    assert exact.verdict.startswith("good")
    narrow = belief.stepped(prior, _statistics(rows, belief) * 8.0, 1.0)  # eight times the rows
    wrong = VariationalPosterior(narrow, prior, rows).pareto_k()
    assert wrong.value > 0.7
    assert wrong.verdict.startswith("poor")


def _statistics(rows, belief):
    from mogul.infer.variational import look

    return look(rows, belief)[0]


@pytest.mark.parametrize("method", ["cavi", "gibbs"])
def test_arviz_gets_a_tree_that_its_leave_one_out_takes(method):
    arviz_stats = pytest.importorskip("arviz_stats")
    x = clusters(6, 240)
    inference = Gibbs(draws=100, warmup=50, chains=2) if method == "gibbs" else method
    model = BayesianGaussianMixture(2, inference=inference, random_state=0).fit(x)
    tree = model.posterior_.to_arviz(n=100 if method == "gibbs" else 400)
    posterior = tree["posterior"]
    assert set(posterior.data_vars) == {"weights", "means", "precisions", "covariances"}
    shape = (2, 100) if method == "gibbs" else (1, 400)
    assert posterior["means"].shape == (*shape, 2, 2)
    assert posterior["means"].dims == ("chain", "draw", "component", "feature")
    each = tree["log_likelihood"]["x"]
    assert each.shape == (*shape, 240)
    if method == "gibbs":
        draws = model.posterior_.draws
        np.testing.assert_allclose(each[1, 7], draws[1, 7].log_prob(tensor(x)), rtol=1e-10)
        found = arviz_stats.loo(tree, pointwise=True)
    else:
        given = tree["sample_stats"]
        found = arviz_stats.loo_approximate_posterior(
            tree, given["log_p"].values.ravel(), given["log_q"].values.ravel(), pointwise=True
        )
    left_out = range(0, len(x), 6)
    by_hand = [_predicted(x, i) for i in left_out]
    np.testing.assert_allclose(np.mean(found.elpd_i.values[left_out]), np.mean(by_hand), atol=0.01)


def _predicted(x, i):
    """The log-density of a row by a fit to all others."""
    model = BayesianGaussianMixture(2, random_state=0).fit(np.delete(x, i, 0))
    return float(model.score_samples(x[i : i + 1])[0])


# --- refusals -------------------------------------------------------------------------------------


def test_wrong_questions_get_one_sentence():
    full, diag = variational(rows=False), variational("diag", rows=False)
    for posterior in (full, sampled()):
        with pytest.raises(UnknownNameError, match="knows nothing of 'sigma'"):
            posterior.interval("sigma")
        with pytest.raises(KeyError, match="mapping of"):
            posterior["covariances"]
        with pytest.raises(InputError, match="strictly between 0 and 1"):
            posterior.interval("means", 1.0)
        with pytest.raises(InputError, match="strictly between 0 and 1"):
            posterior.quantiles("means", [0.0])
        with pytest.raises(UnknownNameError, match="correction 'lrvb' is unknown"):
            posterior.std("means", "lrvb")
        with pytest.raises(InputError, match="at least one quantity"):
            posterior.covariance([])
        with pytest.raises(InputError, match="each quantity but once"):
            posterior.covariance(["means", "means"])
        for n in (0, -1, 2.5, True):
            with pytest.raises(InputError, match="whole number from 1 on"):
                posterior.sample(n)
    with pytest.raises(UnknownNameError, match="exists where precisions are numbers"):
        full.std("log_precisions")
    assert diag.std("log_precisions").shape == (3, 2)
    with pytest.raises(InputError, match="one labelling"):
        full.relabel()
    bare = variational(rows=False)
    for ask in (
        lambda: bare.std("means", "linear_response"),
        lambda: bare.pareto_k(),
        lambda: bare.to_arviz(),
        lambda: bare.doubt,
    ):
        with pytest.raises(InputError, match="with_rows"):
            ask()
    given = bare.with_rows(clusters(1, 90))
    assert (given.std("means", "linear_response") >= bare.std("means") - 1e-12).all()


def test_wrong_questions_of_draws_get_one_sentence():
    posterior = sampled()
    with pytest.raises(InputError, match="1001 draws were asked for and the sampler kept 1000"):
        posterior.sample(1001)
    with pytest.raises(InputError, match="need no correction"):
        posterior.std("means", "linear_response")
    with pytest.raises(UnknownNameError, match="relabelling method 'magic' is unknown"):
        posterior.relabel("magic")
    with pytest.raises(InputError, match="no density of its own"):
        posterior.log_prob(posterior.sample(1))
    bare = SampledPosterior(posterior.draws, posterior.log_joint)
    for method in ("ecr", "stephens"):
        with pytest.raises(InputError, match="looks at the rows"):
            bare.relabel(method)
    assert bare.relabel("pivot").permutations.shape == (2, 500, 5)
    assert bare.with_rows(posterior.rows.values).relabel("ecr").rows is not None


def test_draws_answer_as_a_distribution():
    posterior = sampled()
    found = posterior["means"]
    values = posterior.draws.means.flatten(0, 1)
    torch.testing.assert_close(found.mean, values.mean(0))
    torch.testing.assert_close(found.stddev, values.std(0))
    torch.testing.assert_close(found.icdf(0.5), values.quantile(0.5, dim=0))
    assert found.sample((3,)).shape == (3, 5, 2)
    with pytest.raises(NotImplementedError):
        found.log_prob(found.mean)
    ends = posterior.interval("weights", 0.8)
    inside = (posterior.draws.weights >= ends[:, 0]) & (posterior.draws.weights <= ends[:, 1])
    torch.testing.assert_close(inside.double().mean((0, 1)), tensor([0.8] * 5), atol=0.01, rtol=0)
    entries = posterior.entries(["weights", "covariances"])
    assert posterior.covariance(["weights", "covariances"]).shape == (len(entries), len(entries))
    assert posterior.mean().batch_shape == ()


def test_representations_say_what_it_is():
    assert "covariance_type='full'" in repr(variational())
    assert "StickBreaking" in repr(variational(weights="process"))
    assert "chains=2, draws=500" in repr(sampled())


# --- what has no moments --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("extra", [0.5, 1.5, 2.5])
def test_moments_that_do_not_exist_are_infinite_and_intervals_are_still_those_of_draws(kind, extra):
    """Few degrees of freedom: a covariance has no variance, or no mean, but has quantiles."""
    degrees = extra + (1 if kind in ("full", "tied") else 0)
    _, prior, belief = fit(clusters(1, 60), prior_of(kind, "conjugate"), kind, 2, tol=1e-8)
    precisions = belief.components.precisions
    few = replace(precisions, degrees=torch.full_like(precisions.degrees, degrees))
    belief = replace(belief, components=replace(belief.components, precisions=few))
    posterior = VariationalPosterior(belief, prior)
    # A diagonal entry is inverse Gamma with shape (ν − p + 1) / 2: it has moments below its shape.
    shape = (degrees - (1 if kind in ("full", "tied") else 0)) / 2
    mean, spread = posterior.expectation("covariances"), posterior.std("covariances")
    diagonal = torch.eye(2, dtype=torch.bool) if kind in ("full", "tied") else ...
    assert torch.isfinite(mean[..., diagonal]).all() == (shape > 1)
    assert torch.isfinite(spread[..., diagonal]).all() == (shape > 2)
    drawn = posterior.draw("covariances", 40_000, seed=1)
    ends = posterior.interval("covariances", 0.5)
    assert torch.isfinite(ends).all()
    inside = ((drawn >= ends[..., 0]) & (drawn <= ends[..., 1])).double().mean(0)
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), atol=0.02, rtol=0)
    whole = posterior.covariance(["covariances", "weights"])
    n = len(posterior.entries("covariances"))
    assert torch.isfinite(whole[n:, n:]).all()


@pytest.mark.parametrize("left", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("taken", [0.05, 1.0, 400.0])
def test_intervals_of_a_stick_of_two_are_those_of_the_beta_distribution(taken, left):
    """Quantiles of sticks come from draws; with one break they are known. In log-odds, where the
    ends of a nearly empty component are told apart."""
    belief = StickBreakingWeights(tensor([taken]), tensor([left]))
    p = tensor([0.025, 0.25, 0.5, 0.75, 0.975])
    own = torch.diagonal(belief.covariance())
    found = torch.logit(belief.quantiles(p, own))
    first, second = stats.beta(taken, left), stats.beta(left, taken)
    for at, one, other in zip(found.numpy(), (first, second), (second, first), strict=True):
        exact = np.log(one.ppf(p.numpy())) - np.log(other.isf(p.numpy()))
        spread = exact[3] - exact[1]
        sound = (exact > -600) & (exact < 25)  # else a weight is zero or one
        np.testing.assert_allclose(at[sound] / spread, exact[sound] / spread, atol=0.06)


def test_quantiles_far_in_the_tails_of_a_stick_go_on():
    """Beyond the draws a line in log-odds: near, and never the same for two probabilities."""
    belief = StickBreakingWeights(tensor([175.0]), tensor([97.0]))
    p = tensor([1e-8, 1e-6, 1e-4, 0.5, 1 - 1e-4, 1 - 1e-6])
    found = belief.quantiles(p, torch.diagonal(belief.covariance()))[0]
    exact = stats.beta(175, 97).ppf(p.numpy())
    np.testing.assert_allclose(found, exact, atol=0.01)
    assert (found.diff() > 0.005).all()


def test_rows_of_little_weight_leave_the_prior():
    """A hundredth of a row in all: intervals are those of the prior, and all of them numbers."""
    x = clusters(7, 60)
    prior = prior_of("diag", "conjugate")
    rows, filled, belief = fit(x, prior, "diag", 3, weight=np.full(60, 1e-4 / 60))
    posterior, before = VariationalPosterior(belief, filled, rows), VariationalPosterior(
        filled, filled
    )  # fmt: skip
    for name in ("weights", "means", "precisions"):
        found = posterior.interval(name, 0.9, "linear_response")
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, before.interval(name, 0.9), rtol=0.01, atol=0.01)


# --- chains ---------------------------------------------------------------------------------------


def test_split_r_hat_is_arviz_s():
    arviz_stats = pytest.importorskip("arviz_stats.base")
    rng = np.random.default_rng(8)
    values = rng.normal(size=(4, 200, 3)) + np.arange(4)[:, None, None] * [0.0, 0.1, 1.0]
    found = split_r_hat(values)
    for i in range(3):
        theirs = arviz_stats.array_stats.rhat(values[..., i], chain_axis=0, draw_axis=1,
                                              method="split")  # fmt: skip
        assert found[i] == pytest.approx(float(theirs), rel=1e-10)
    assert found[0] < 1.01 < found[2]
    drift = np.linspace(0, 3, 200)[None, :, None] + rng.normal(size=(4, 200, 1))
    assert split_r_hat(drift)[0] > MOST_R_HAT  # alike, and yet none has settled
    assert np.isnan(split_r_hat(rng.normal(size=(4, 3, 1)))).all()
    constant = np.zeros((2, 10, 2))
    constant[1, :, 1] = 1.0
    np.testing.assert_array_equal(split_r_hat(constant), [1.0, np.inf])


# Not "ordering": by the means of one feature it cannot know what is empty.
@pytest.mark.parametrize("method", ["pivot", "ecr", "stephens"])
def test_an_empty_component_does_not_mislead_relabelling(method):
    """A sixth component without rows wanders over the prior; the five others keep their names."""
    known = sampled(3, s=400)
    draws = known.draws
    rng = np.random.default_rng(9)
    shape = draws.batch_shape
    weights = np.concatenate([draws.weights.numpy() * (1 - 1e-4), np.full((*shape, 1), 1e-4)], -1)
    means = np.concatenate([draws.means.numpy(), rng.normal(15, 12, (*shape, 1, 2))], -2)
    variances = np.concatenate([draws.covariances.numpy(), rng.gamma(1, 40, (*shape, 1, 2))], -2)
    six = Mixture.from_parameters(weights, means, variances, "diag")
    planted = np.stack([rng.permutation(6) for _ in range(400)]).reshape(2, 200, 6)
    mixed = SampledPosterior(six.reorder(torch.from_numpy(planted)), known.log_joint, known.rows)
    found = mixed.relabel(method)
    original = np.take_along_axis(planted, found.permutations.numpy(), -1)
    assert (original == original[0, 0]).mean() == 1


def test_pivoting_does_not_depend_on_units():
    known = sampled(4, s=200)
    rng = np.random.default_rng(10)
    planted = torch.from_numpy(np.stack([rng.permutation(5) for _ in range(200)])).reshape(
        2, 100, 5
    )
    for unit in (1e-5, 1e5):
        scale = tensor([1.0, unit])
        draws = known.draws
        moved = Mixture.from_parameters(
            draws.weights, draws.means * scale + 3, draws.covariances * scale.square(), "diag"
        )
        mixed = SampledPosterior(moved.reorder(planted), known.log_joint)
        original = planted.take_along_dim(mixed.relabel("pivot").permutations, -1)
        assert (original == original[0, 0]).all()


def test_a_single_draw_has_no_spread_and_another_structure_no_density():
    one = sampled(s=1000)
    single = SampledPosterior(one.draws[:1, :1], one.log_joint[:1, :1], one.rows)
    for ask in (single.std, single.covariance):
        with pytest.raises(InputError, match="single draw tells nothing of a spread"):
            ask("means")
    assert single.expectation("means").shape == (5, 2)
    posterior = variational()
    drawn = posterior.sample(2)
    other = Mixture.from_parameters(drawn.weights, drawn.means, np.ones((2, 3, 2)), "diag")
    with pytest.raises(InputError, match=r"full mixture of 3 components and 2 features.*is diag"):
        posterior.log_prob(other)
    with pytest.raises(InputError, match="Expected a Mixture; got Tensor"):
        posterior.log_prob(drawn.means)
