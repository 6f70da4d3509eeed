"""Linear response: the derivative of a refit, symmetric, positive, and as wide as the posterior."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes.cases import CASES, IDS, clusters, fit, prior_of, rows_of, with_noise
from laws.cases import CASES as STRUCTURES
from laws.cases import draw_one, tensor
from mogul import BayesianGaussianMixture, priors
from mogul.beliefs import Belief, DirichletWeights, StickBreakingWeights
from mogul.errors import NotConvergedError
from mogul.infer import linear_response
from mogul.infer.cavi import coordinate_ascent
from mogul.infer.gibbs import sweep
from mogul.infer.linear_response import LinearResponse, projected_covariance
from mogul.infer.variational import begin
from mogul.kernels import e_step
from mogul.kernels.tangent import Coefficients, missing_information, tangent_step
from mogul.mixture import Mixture
from mogul.posterior import VariationalPosterior

cases = pytest.mark.parametrize(("kind", "form", "weights"), CASES, ids=IDS)


def two_clusters(apart: float, seed: int = 0, n: int = 1000) -> np.ndarray:
    """Two equal clusters in one dimension, a stated number of standard deviations apart."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.5, 0.0, apart)[:, None] + rng.normal(size=(n, 1))


WEAK = {
    "conjugate": priors.NormalGamma(0.0, 0.01, 1.0, 1.0, 1.0),
    "independent": priors.IndependentNormalGamma(0.0, 10.0, 1.0, 1.0, 1.0),
}


def posterior_of(x, prior, kind, k, **settings):
    rows, filled, belief = fit(x, prior, kind, k, **settings)
    return VariationalPosterior(belief, filled, rows)


# --- the pass over the rows -----------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_tangent_is_the_derivative_of_the_statistics(name):
    """By finite differences of the E-step, for changes of weights, means and precisions."""
    mixture, truth = draw_one(name, 3, 3, 2)
    rng = np.random.default_rng(3)
    x, weight = tensor(truth.draw(rng, 400)), tensor(rng.uniform(0, 2, 400))
    logits = tensor(rng.normal(size=3))
    nothing = torch.zeros(1, 3, 2, dtype=torch.float64)
    flat = torch.zeros(1, *mixture.covariance.factor.shape, dtype=torch.float64)
    change = Coefficients(logits[None], nothing, flat)
    found = tangent_step(x, mixture, change, weight)
    step = 1e-5

    def at(size):
        moved = type(mixture)(
            mixture.log_weights + size * logits, mixture.means, mixture.covariance
        )
        return e_step(x, moved, weight)

    above, below = at(step), at(-step)
    for part in ("count", "first", "second"):
        slope = (getattr(above, part) - getattr(below, part)) / (2 * step)
        torch.testing.assert_close(getattr(found, part)[0], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_tangent_is_symmetric_and_positive(name):
    mixture, truth = draw_one(name, 4, 3, 2)
    rng = np.random.default_rng(4)
    x = tensor(truth.draw(rng, 300))
    second = mixture.covariance.factor.shape
    raw = rng.normal(size=(5, *second))
    if name in ("full", "tied"):
        raw = raw + raw.swapaxes(-1, -2)
    change = Coefficients(
        tensor(rng.normal(size=(5, 3))), tensor(rng.normal(size=(5, 3, 2))), tensor(raw)
    )
    moved = tangent_step(x, mixture, change)

    def flat(c):
        parts = (c.count, c.first, c.second)
        return torch.cat([part.reshape(5, -1) for part in parts], 1)

    gram = flat(change) @ flat(moved).T
    torch.testing.assert_close(gram, gram.T, rtol=1e-10, atol=1e-10)
    assert torch.linalg.eigvalsh(gram).min() > 0


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_missing_information_is_the_same_map_in_full(name):
    mixture, truth = draw_one(name, 5, 3, 2)
    rng = np.random.default_rng(5)
    x, weight = tensor(truth.draw(rng, 300)), tensor(rng.uniform(0, 2, 300))
    whole = missing_information(x, mixture, weight)
    raw = rng.normal(size=(4, *mixture.covariance.factor.shape))
    if name in ("full", "tied"):
        raw = raw + raw.swapaxes(-1, -2)
    change = Coefficients(
        tensor(rng.normal(size=(4, 3))), tensor(rng.normal(size=(4, 3, 2))), tensor(raw)
    )
    moved = tangent_step(x, mixture, change, weight)
    kind = type(mixture.covariance)
    given = Coefficients.flatten(change.count, change.first, change.second, kind)
    found = Coefficients.flatten(moved.count, moved.first, moved.second, kind, dual=True)
    torch.testing.assert_close(given @ whole, found, rtol=1e-9, atol=1e-8)


def test_nothing_is_missing_where_components_are_known():
    mixture = Mixture.from_parameters([0.5, 0.5], [[0.0], [1e3]], [1.0, 1.0], "spherical")
    x = tensor(np.r_[np.random.default_rng(6).normal(size=50), 1e3 + np.arange(5.0)][:, None])
    np.testing.assert_allclose(missing_information(x, mixture), 0, atol=1e-9)


# --- the matrix -----------------------------------------------------------------------------------


@cases
def test_the_matrix_is_symmetric_and_positive_definite(kind, form, weights):
    x = clusters(1, 200, apart=2.0)
    rows, prior, belief = fit(x, prior_of(kind, form, weights), kind, 3)
    response = LinearResponse(rows, belief, prior)
    eye = torch.eye(response.n_coordinates, dtype=torch.float64)
    matrix = response.hessian()
    torch.testing.assert_close(matrix, response._times(eye), rtol=1e-8, atol=1e-8 * matrix.max())
    scale = matrix.diagonal().sqrt()
    unit = matrix / scale / scale[:, None]
    assert float((unit - unit.T).abs().max()) < 1e-8
    assert torch.linalg.eigvalsh(0.5 * (unit + unit.T)).min() > 0
    posterior = VariationalPosterior(belief, prior, rows)
    found = posterior.covariance(["means", "covariances"], "linear_response")
    assert float((found - found.T).abs().max()) < 1e-8
    assert torch.linalg.eigvalsh(found).min() > 0
    own = posterior.linear_response.excess(lambda b: b.components.loc.flatten())
    assert torch.linalg.eigvalsh(own).min() > -1e-12  # it only ever adds


@pytest.mark.parametrize("kind", ["diag", pytest.param("spherical", marks=pytest.mark.slow)])
def test_it_equals_refits_with_a_tilted_prior(kind):
    """Perturbing the prior by ε t(θ) moves every expectation by ε Cov(·, t): three kinds of t."""
    x = clusters(2, 150, apart=1.6)
    given = prior_of(kind, "independent")
    rows, prior, belief = fit(x, given, kind, 3, tol=1e-14, max_iter=50_000)
    posterior = VariationalPosterior(belief, prior, rows)
    names = ["means", "log_precisions", "log_weights"]
    found = posterior.covariance(names, "linear_response").numpy()
    scale = np.sqrt(np.diag(found))
    step = 1e-3

    def expectations(tilted):
        end = refit(rows, tilted, belief)
        moved = VariationalPosterior(end, tilted)
        return np.concatenate([moved.expectation(name).numpy().ravel() for name in names])

    entries = posterior.entries(names)
    for name in ("means[0, 1]", "log_precisions[1]", "log_weights[2]"):
        name = name if name in entries else name.replace("[1]", "[1, 0]")
        slopes = [expectations(_tilted(prior, name, sign * step)) for sign in (1, -1)]
        slope = (slopes[0] - slopes[1]) / (2 * step)
        row = entries.index(name)
        np.testing.assert_allclose(found[row] / scale / scale[row], slope / scale / scale[row],
                                   atol=1e-4)  # fmt: skip


def refit(rows, prior, belief):
    """So many plain iterations that a change of 1e-3 in the prior has arrived to seven digits."""
    ran = coordinate_ascent(rows, prior, [belief], tol=0.0, max_iter=1500, acceleration="none")
    return ran.beliefs[0]


def _tilted(prior: Belief, name: str, step: float) -> Belief:
    """The prior times exp(step t), with t the quantity of that name."""
    kind, _, index = name.partition("[")
    at = tuple(int(i) for i in index.rstrip("]").split(","))
    components = prior.components
    if kind == "log_weights":
        count = prior.weights.concentration.clone()
        count[at] += step
        return replace(prior, weights=DirichletWeights(count))
    if kind == "means":
        means = components.means.clone()
        means[at] += step * components.scales[at] ** 2
        return replace(prior, components=replace(components, means=means))
    degrees = components.precisions.degrees.clone()
    degrees[at] += 2 * step
    return replace(
        prior,
        components=replace(components, precisions=replace(components.precisions, degrees=degrees)),
    )


@pytest.mark.parametrize(
    "kind", ["full", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tied", "diag"))]
)
def test_it_equals_refits_for_conjugate_priors_too(kind):
    """log w is a sufficient statistic: its row of covariances holds for any other quantity."""
    x = clusters(3, 150, apart=1.6)
    # From seed 0 it ends at a lower optimum, so flat that 1e-14 nats are not near enough to it for
    # 1e-4 here; at this one row and refits agree to 1e-7.
    rows, prior, belief = fit(
        x, prior_of(kind, "conjugate"), kind, 3, seed=1, tol=1e-14, max_iter=50_000
    )
    posterior = VariationalPosterior(belief, prior, rows)
    names = ["log_weights", "means", "covariances"]
    found = posterior.covariance(names, "linear_response").numpy()
    scale, step = np.sqrt(np.diag(found)), 1e-3
    ends = []
    for sign in (1, -1):
        tilted = _tilted(prior, "log_weights[1]", sign * step)
        end = refit(rows, tilted, belief)
        ends.append(VariationalPosterior(end, tilted))
    slope = []
    for name in names:
        both = [end.expectation(name) for end in ends]
        change = ((both[0] - both[1]) / (2 * step)).numpy()
        quantity = posterior._quantity(name)
        slope += [change[index] for index in quantity.entries(both[0].shape, posterior.kind)]
    row = posterior.entries(names).index("log_weights[1]")
    np.testing.assert_allclose(
        found[row] / scale / scale[row], np.array(slope) / scale / scale[row], atol=1e-4
    )


@cases
def test_one_component_needs_no_correction(kind, form, weights):
    """Conjugate: mean field is exact. Independent: it leaves out that of mean and precision."""
    posterior = posterior_of(clusters(4, 60), prior_of(kind, form, weights), kind, 1)
    for name in ("means", "precisions", "covariances"):
        own, corrected = posterior.std(name), posterior.std(name, "linear_response")
        np.testing.assert_allclose(corrected, own, rtol=1e-6 if form == "conjugate" else 0.02)


@cases
def test_clusters_far_apart_need_hardly_any(kind, form, weights):
    rng = np.random.default_rng(5)
    centres = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]])
    x = centres[rng.integers(0, 3, 300)] + rng.normal(size=(300, 2))
    posterior = posterior_of(x, prior_of(kind, form, weights), kind, 3)
    for name in ("weights", "means", "covariances"):
        ratio = posterior.std(name, "linear_response") / posterior.std(name)
        np.testing.assert_allclose(ratio, 1, atol=0.02)


@cases
def test_conjugate_gradients_find_the_same(kind, form, weights, monkeypatch):
    """The iterative solution, which large problems get, is the direct one."""
    x = clusters(6, 200, apart=2.0)
    rows, prior, belief = fit(x, prior_of(kind, form, weights), kind, 3)
    names = ["weights", "means", "precisions"]
    direct = VariationalPosterior(belief, prior, rows).covariance(names, "linear_response")
    monkeypatch.setattr(linear_response, "_DENSE", 0)
    iterative = VariationalPosterior(belief, prior, rows).covariance(names, "linear_response")
    scale = direct.diagonal().sqrt()
    torch.testing.assert_close(
        iterative / scale / scale[:, None], direct / scale / scale[:, None], rtol=0, atol=1e-7
    )


def test_row_weights_are_repetitions_here_too():
    x = two_clusters(3.0, n=200)
    count = np.random.default_rng(7).integers(0, 4, len(x)).astype(float)
    rows, prior, belief = fit(x, WEAK["conjugate"], "diag", 2, weight=count)
    repeated = rows_of(np.repeat(x, count.astype(int), 0))
    for name in ("weights", "means"):
        one = VariationalPosterior(belief, prior, rows).std(name, "linear_response")
        other = VariationalPosterior(belief, prior, repeated).std(name, "linear_response")
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_a_projection_is_exact_for_sufficient_statistics():
    posterior = posterior_of(clusters(8, 100), prior_of("diag", "independent"), "diag", 3)
    for name in ("means", "log_precisions", "log_weights", "precisions"):
        wanted = posterior._quantity(name)
        found = projected_covariance(posterior.belief, lambda b, q=wanted: q.mean(b).flatten())
        np.testing.assert_allclose(
            found, wanted.covariance(posterior.belief), rtol=1e-6, atol=1e-10
        )


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_components_without_rows_leave_the_others_as_they_are(kind):
    """Six spare components of a Dirichlet process: the intervals are those of a fit without."""
    second = np.random.default_rng(3).normal(size=(1000, 1))
    x = np.concatenate([two_clusters(3.0, 1), second], 1)
    model = BayesianGaussianMixture(8, covariance_type=kind, random_state=0).fit(x)
    fewer = model.prune()
    live = [k for k in range(8) if k not in dict(fewer.pruned_.removed)]
    assert len(live) == 2
    for name in ("weights", "means", "covariances"):
        found = model.posterior_.std(name, "linear_response")
        assert torch.isfinite(found[found < torch.inf]).all()
        assert not found.isnan().any()
        own = found if name == "covariances" and kind == "tied" else found[live]
        np.testing.assert_allclose(own, fewer.posterior_.std(name, "linear_response"), rtol=0.01)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_another_column_change_nothing(kind, unit):
    x = clusters(3, 150, apart=1.6)
    model = BayesianGaussianMixture(2, covariance_type=kind, tol=1e-9, random_state=0)
    scaled = x * [1.0, unit]
    one = model.fit(x).posterior_.std("means", "linear_response")
    # The start knows of units; the optimum does not, so both start from the same rows.
    start = model.posterior_.belief.surrogate()[0]
    rows = rows_of(scaled)
    prior = model._prior(rows)
    mixture = Mixture(start.log_weights, start.means * tensor([1.0, unit]), _rescaled(start, unit))
    end = coordinate_ascent(rows, prior, [begin(rows, prior, mixture)], tol=1e-9, max_iter=2000)
    other = VariationalPosterior(end.beliefs[0], prior, rows).std("means", "linear_response")
    np.testing.assert_allclose(other / tensor([1.0, unit]), one, rtol=1e-5)


def _rescaled(mixture, unit):
    """The covariances when the second of two columns is measured in other units."""
    by = torch.tensor([1.0, unit], dtype=torch.float64)
    covariance = mixture.covariance
    values = covariance.covariances()
    scaled = values * (by * by[:, None] if covariance.has_matrices() else by.square())
    return covariance.from_covariances(scaled, mixture.n_components, mixture.n_features)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_columns_that_are_all_but_the_same_are_no_trouble(kind):
    """A second column that is the first with a millionth of noise: the first is known as before."""
    rng = np.random.default_rng(5)
    x = two_clusters(4.0, 2, 600)
    twice = np.concatenate([x, x + 1e-6 * rng.normal(size=x.shape)], 1)
    model = BayesianGaussianMixture(2, covariance_type=kind, random_state=0).fit(twice)
    found = model.posterior_.std("means", "linear_response")
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-3)
    alone = BayesianGaussianMixture(2, covariance_type=kind, random_state=0).fit(x)
    assert (alone.means_[:, 0].argsort() == model.means_[:, 0].argsort()).all()
    known = alone.posterior_.std("means", "linear_response")
    np.testing.assert_allclose(found[:, 0], known[:, 0], rtol=0.1)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_as_many_components_as_features_are_not_taken_for_matrices(kind):
    """(K, D) with K = D is no symmetric matrix: each entry has a response of its own."""
    x = clusters(4, 200, apart=1.5)
    posterior = posterior_of(x, prior_of(kind, "conjugate"), kind, 2)
    for name in ("precisions", "covariances", "standard_deviations"):
        shape = posterior.expectation(name).shape
        found = posterior.std(name, "linear_response")
        whole = posterior.covariance(name, "linear_response")
        assert len(posterior.entries(name)) == shape.numel() == len(whole)
        np.testing.assert_allclose(found.flatten(), whole.diagonal().sqrt(), rtol=1e-9)


@pytest.mark.parametrize("variance", [0.05, 0.26, 10.0])
@pytest.mark.parametrize("of", [DirichletWeights, StickBreakingWeights])
def test_a_weight_of_more_variance_than_there_is_gets_a_wide_interval(of, variance):
    """A response may ask for more variance than any number between zero and one can have."""
    parts = [tensor([30.0, 20.0])] if of is DirichletWeights else [tensor([30.0]), tensor([20.0])]
    ends = of(*parts).quantiles(tensor([0.025, 0.975]), tensor([variance, variance]))
    assert ((ends >= 0) & (ends <= 1)).all()
    assert (ends[:, 1] - ends[:, 0] > 0.6).all()


def test_a_fit_that_is_no_maximum_is_refused_in_a_sentence():
    rows, prior, belief = fit(two_clusters(3.0), WEAK["conjugate"], "diag", 2)
    with pytest.raises(NotConvergedError, match=r"nats below it.*smaller tol"):
        LinearResponse(rows, with_noise(belief, 1, 0.3), prior)
    stopped = VariationalPosterior(belief, prior, rows, converged=False)
    with pytest.raises(NotConvergedError, match="larger max_iter"):
        stopped.std("means", "linear_response")
    # Two components in one place compete for the same rows: a saddle of the bound.
    twice = replace(belief, components=belief.components.selected(torch.tensor([0, 0])))
    twice = replace(twice, weights=DirichletWeights(tensor([501.0, 501.0])))
    one = coordinate_ascent(rows, prior, [twice], tol=0.0, max_iter=500, acceleration="none")
    with pytest.raises(NotConvergedError):
        LinearResponse(rows, one.beliefs[0], prior)


# --- against the posterior itself -----------------------------------------------------------------


def gibbs(rows, prior, belief, *, chains=16, draws=2000, warmup=300, seed=0):
    """Draws of mixtures, (draws, chains), begun in the labelling of the belief."""
    generator = torch.Generator().manual_seed(seed)
    state, kept = belief.sample((chains,), generator=generator), []
    for i in range(warmup + draws):
        state, _ = sweep(rows.values, prior, state, generator)
        if i >= warmup:
            kept.append(state)
    return kept


def ratios(x, prior, kind, names, seed=0, draws=2000):
    """Standard deviations of mean field and of linear response, over those of a sampler."""
    rows, filled, belief = fit(x, prior, kind, 2)
    posterior = VariationalPosterior(belief, filled, rows)
    kept = gibbs(rows, filled, belief, draws=draws, seed=seed)
    means = torch.stack([m.means for m in kept])
    assert (means[..., 0, 0] < means[..., 1, 0]).float().mean() in (0.0, 1.0)  # no change of labels
    own, corrected = [], []
    for name in names:
        wanted = posterior._quantity(name)
        truth = torch.stack([wanted.of(m) for m in kept]).flatten(0, 1).std(0)
        own.append((wanted.covariance(belief).diagonal().sqrt() / truth.flatten()).numpy())
        corrected.append((posterior.std(name, "linear_response") / truth).numpy().ravel())
    return np.concatenate(own), np.concatenate(corrected)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["conjugate", "independent"])
@pytest.mark.parametrize(
    ("apart", "low", "high"), [(4, 0.9, 1.08), (3, 0.9, 1.08), (2.5, 0.8, 1.1)]
)
def test_it_is_as_wide_as_a_long_gibbs_run(apart, low, high, form):
    names = ["means", "log_precisions", "log_weights"]
    for seed in range(2):
        own, corrected = ratios(two_clusters(apart, seed), WEAK[form], "diag", names, seed)
        print(f"{apart} sd apart, seed {seed}, {form}: mean field {own.round(2)}, "
              f"linear response {corrected.round(2)}")  # fmt: skip
        assert low <= corrected.min() <= corrected.max() <= high
        assert own.max() < 0.93


@pytest.mark.slow
def test_it_is_as_wide_as_a_long_gibbs_run_in_two_dimensions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    x[:500, 0] += 3
    prior = priors.NormalWishart(mean_precision=0.01, weight_concentration=1.0)
    own, corrected = ratios(x, prior, "full", ["means", "covariances", "log_weights"], draws=4000)
    print(f"full, 3 sd apart: mean field {own.round(2)}, linear response {corrected.round(2)}")
    assert 0.88 <= corrected.min() <= corrected.max() <= 1.08
    assert own.min() < 0.5


@pytest.mark.slow
def test_intervals_cover_what_they_say():
    """300 data sets, 3 standard deviations apart: 95 % intervals hold the truth 92 to 97 times."""
    names = ("means", "log_precisions", "weights")
    truth = {
        "means": np.array([[0.0], [3.0]]),
        "log_precisions": np.zeros((2, 1)),
        "weights": np.array([0.5, 0.5]),
    }
    hits = {how: {name: [] for name in names} for how in ("none", "linear_response")}
    for seed in range(300):
        rows, prior, belief = fit(two_clusters(3.0, 1000 + seed), WEAK["conjugate"], "diag", 2,
                                  tol=1e-6)  # fmt: skip
        posterior = VariationalPosterior(belief, prior)
        corrected = VariationalPosterior(belief, prior, rows)
        order = belief.components.loc[:, 0].argsort().numpy()
        for name in names:
            for how, source in (("none", posterior), ("linear_response", corrected)):
                low, high = source.interval(name, 0.95, how).numpy()[order].swapaxes(0, -1)
                at = truth[name].swapaxes(0, -1)
                hits[how][name].append((low <= at) & (at <= high))
    shares = {how: {n: float(np.mean(v)) for n, v in found.items()} for how, found in hits.items()}
    print(f"coverage of 95 % intervals: mean field {shares['none']}, "
          f"linear response {shares['linear_response']}")  # fmt: skip
    for share in shares["linear_response"].values():
        assert 0.92 <= share <= 0.97
    assert max(shares["none"].values()) < 0.8
