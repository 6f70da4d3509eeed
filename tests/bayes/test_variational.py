"""Coordinate ascent, natural gradients and Adam: published numbers, bounds, optima."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture as Theirs

from bayes.cases import (
    CASES,
    IDS,
    clusters,
    fit,
    prior_of,
    random_belief,
    rows_of,
    starts,
    with_noise,
)
from laws.cases import tensor
from mogul import BayesianGaussianMixture, priors
from mogul.beliefs import (
    Belief,
    DirichletWeights,
    IndependentComponents,
    WishartPrecisions,
)
from mogul.covariances import structure
from mogul.errors import InputError
from mogul.infer import CAVI, SVI, AdamVI, adam_vi, svi
from mogul.infer.adam_vi import sampled_elbo
from mogul.infer.cavi import coordinate_ascent
from mogul.infer.linear_response import is_saddle
from mogul.infer.problem import Problem
from mogul.infer.stochastic import left_to_gain
from mogul.infer.svi import stochastic_step, streaming_step
from mogul.infer.variational import elbo, evidence, look

cases = pytest.mark.parametrize(("kind", "form", "weights"), CASES, ids=IDS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(rows, prior, begun, **settings):
    how = {
        "tol": 1e-3,
        "max_iter": 500,
        "acceleration": "auto",
        "generator": generator(settings.pop("seed", 0)),
    }
    return Problem(rows, prior, begun, **how | settings)


# --- the pages' example ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    """The data and the prior of page 002 of the seeds: three clusters of 1000 rows."""
    rng = RandomState(12345)
    x = rng.randn(3000, 2).astype("float32")
    x[:1000] += [2, 0]
    x[1000:2000] -= [2, 4]
    x[2000:] += [-2, 4]
    rows = rows_of(x)
    prior = priors.IndependentNormalGamma(0, 1, 5, 5, 2.0).belief(rows, 3, structure("diag"))
    return rows, prior


def figures(belief):
    """Gamma shapes, Dirichlet counts and standard deviations of the means."""
    components = belief.components
    return (
        components.precisions.degrees.numpy() / 2,
        belief.weights.concentration.numpy(),
        components.scales.numpy(),
    )


def test_coordinate_ascent_reaches_the_optimum_that_the_page_stopped_short_of(page):
    rows, prior = page
    found = CAVI().run(problem(rows, prior, starts(rows, prior, "diag")))
    assert found.trace.converged
    shapes, counts, deviations = figures(found.belief)
    assert 503 <= shapes.min() <= shapes.max() <= 507
    assert 999 <= counts.min() <= counts.max() <= 1005
    assert 0.030 <= deviations.min() <= deviations.max() <= 0.033


def test_stochastic_steps_come_within_two_per_cent_in_ten_passes(page):
    rows, prior = page
    best = CAVI().run(problem(rows, prior, starts(rows, prior, "diag"), tol=1e-9)).belief
    # From a bad start: three rows, nothing of the data's clusters.
    for seed in range(3):
        model = BayesianGaussianMixture(
            3,
            covariance_type="diag",
            prior=priors.IndependentNormalGamma(0, 1, 5, 5, 2.0),
            inference=SVI(passes=10, batch_size=500),
            init_params="random_from_data",
            n_init=3,
            random_state=seed,
        ).fit(rows.values.numpy())
        order = _matching(model.posterior_.belief, best)
        for found, expected in zip(figures(model.posterior_.belief), figures(best), strict=True):
            np.testing.assert_allclose(found[order], expected, rtol=0.02)


def _matching(belief, best):
    """Which component of a belief is each of another's: the nearest."""
    gap = belief.components.loc.unsqueeze(0) - best.components.loc.unsqueeze(1)
    return gap.square().sum(-1).argmin(1).numpy()


def published() -> Belief:
    """What page 002 printed at the end of its run."""
    shape = tensor([[5.331946, 4.7754154], [5.345971, 5.4955726], [3.9365306, 3.9941833]])
    rate = tensor([[5.776071, 5.406686], [5.2300854, 5.1007385], [5.003031, 5.167815]])
    means = tensor([[-1.9940692, -3.9678814], [1.9868133, 0.04222748], [-1.9703939, 3.9488075]])
    scales = tensor([[0.03294131, 0.03626651], [0.02990762, 0.0270258], [0.0353109, 0.03238053]])
    rates = structure("diag").from_covariances(2 * rate, 3, 2)
    precisions = WishartPrecisions(2 * shape, rates)
    weights = DirichletWeights(tensor([4.905027, 4.49357, 4.9185777]))
    return Belief(weights, IndependentComponents(means, scales, precisions))


def test_adam_on_the_pages_bound_ends_far_above_the_page(page):
    """From the page's own start, shapes of 5 and counts of 2, its concentrations go a hundredfold.

    Its bound sums labels out, so its optimum is a little above that of coordinate ascent.
    """
    rows, prior = page
    far = Belief(
        DirichletWeights(tensor([2.0, 2.0, 2.0])),
        IndependentComponents(
            tensor([[-1.0, -2.0], [1.0, 0.0], [-1.0, 2.0]]),
            tensor(np.full((3, 2), 0.9)),
            prior.components.precisions,
        ),
    )
    best = CAVI().run(problem(rows, prior, starts(rows, prior, "diag"), tol=1e-9)).belief
    found = AdamVI().run(problem(rows, prior, [far]))

    def bound(belief):
        with torch.no_grad():
            drawn = {"n_samples": 500, "generator": generator(1)}
            return float(sampled_elbo(rows, belief, prior, **drawn))

    assert found.elbo == pytest.approx(
        bound(found.belief), abs=0.6
    )  # by ratios, and by likelihoods
    assert found.elbo > bound(published()) + 500
    assert found.elbo > bound(best) - 0.5
    shapes, counts, deviations = figures(found.belief)
    # The bound is flat there: a fifth in a shape costs a hundredth of a nat.
    np.testing.assert_allclose(shapes, 505, rtol=0.25)
    np.testing.assert_allclose(counts, 1002, rtol=0.15)
    np.testing.assert_allclose(deviations, 0.0316, rtol=0.15)


# --- the bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize("acceleration", ["none", "squarem"])
@cases
def test_the_bound_never_falls(kind, form, weights, acceleration):
    """Over 600 iterations; rounding of a sum over all rows apart."""
    x = clusters(1, 60, apart=1.5)
    rows = rows_of(x)
    prior = prior_of(kind, form, weights).belief(rows, 4, structure(kind))
    begun = starts(rows, prior, kind, seed=1)
    found = coordinate_ascent(rows, prior, begun, tol=0.0, max_iter=600, acceleration=acceleration)
    (trace,) = found.traces
    values = np.array([record.elbo for record in trace.records] + [float(found.elbo[0])])
    assert len(values) == 601
    assert np.diff(values).min() > -1e-11 * abs(values[-1])
    assert values[-1] >= values[-2]  # what is reported is never below what was seen


@cases
def test_the_bound_is_what_draws_say(kind, form, weights):
    """E_q[log p(X, z, θ) − log q(z) − log q(θ)], by draws of θ, at a belief that is no optimum."""
    prior, belief = random_belief(kind, form, weights, seed=2)
    x = tensor(clusters(2, 40))
    mixture, _ = belief.surrogate()
    shares = mixture.responsibilities(x)
    drawn = belief.sample((20_000,), generator=generator(3))
    terms = drawn.component_terms(x.expand(20_000, *x.shape)).transpose(-1, -2)
    of_labels = (shares * terms).sum((-1, -2)) - torch.special.xlogy(shares, shares).sum()
    values = of_labels + prior.log_prob(drawn) - belief.log_prob(drawn)
    error = float(values.std()) / math.sqrt(len(values))
    found = float(elbo(rows_of(x.numpy()), belief, prior))
    assert abs(float(values.mean()) - found) < 4 * error


@cases
def test_the_bound_of_adam_lies_between_that_of_labels_and_the_evidence(kind, form, weights):
    prior, belief = random_belief(kind, form, weights, seed=3)
    rows = rows_of(clusters(3, 40))
    with torch.no_grad():
        summed = sampled_elbo(rows, belief, prior, n_samples=4000, generator=generator(4))
    assert float(summed) > float(elbo(rows, belief, prior))


@cases
def test_row_weights_are_repetitions(kind, form, weights):
    x = clusters(4, 50)
    count = np.random.default_rng(4).integers(0, 4, len(x)).astype(float)
    prior = prior_of(kind, form, weights)
    _, filled, once = fit(x, prior, kind, 3, weight=count, tol=1e-9)
    repeated = rows_of(np.repeat(x, count.astype(int), 0))
    again = coordinate_ascent(repeated, filled, [once], tol=1e-9)
    np.testing.assert_allclose(again.beliefs[0].encode(once), 0, atol=1e-4)
    np.testing.assert_allclose(
        float(again.elbo[0]), float(elbo(rows_of(x, count), once, filled)), rtol=1e-10
    )


@cases
def test_at_the_fixed_point_the_gradient_vanishes(kind, form, weights):
    x = clusters(5, 80)
    rows, prior, belief = fit(x, prior_of(kind, form, weights), kind, 3, tol=1e-15, max_iter=20_000)
    values = torch.zeros_like(belief.encode(belief)).requires_grad_()
    (gradient,) = torch.autograd.grad(elbo(rows, belief.decode(values), prior), values)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    # In units of the belief's own curvature, where one is a standard deviation.
    for _ in range(200):
        stats, _ = look(rows, belief)
        belief = prior.updated(stats, belief.components.expected()[0])
    moved = torch.zeros_like(values).requires_grad_()
    (gradient,) = torch.autograd.grad(elbo(rows, belief.decode(moved), prior), moved)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


@cases
def test_shifting_and_scaling_rows_and_prior_does_the_same_to_the_posterior(kind, form, weights):
    """Law 5; the bound falls by N D log of the scale."""
    x = clusters(6, 100)
    given = prior_of(kind, form, weights)
    scale, shift = 1e3, -5e4
    moved = _moved(given, kind, scale, shift)
    _, prior, belief = fit(x, given, kind, 3, seed=2)
    rows, there, end = fit(x * scale + shift, moved, kind, 3, seed=2)
    np.testing.assert_allclose(
        (end.components.loc - shift) / scale, belief.components.loc, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(end.weights.mean(), belief.weights.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        end.components.expected()[0].variances() / scale**2,
        belief.components.expected()[0].variances(),
        rtol=1e-6,
    )
    one, other = float(elbo(rows_of(x), belief, prior)), float(elbo(rows, end, there))
    np.testing.assert_allclose(one - other, x.size * math.log(scale), rtol=1e-8)


def _moved(prior, kind, scale, shift):
    loc = np.asarray(prior.mean_loc) * scale + shift
    if isinstance(prior, priors.NormalWishart):
        return replace(prior, mean_loc=loc, scale=prior.scale * scale**2)
    rate = prior.precision_rate * scale**2
    if isinstance(prior, priors.IndependentNormalGamma):
        return replace(prior, mean_loc=loc, mean_scale=2.0 * scale, precision_rate=rate)
    return replace(prior, mean_loc=loc, precision_rate=rate)


@cases
def test_permuting_components_or_rows_changes_nothing(kind, form, weights):
    x = clusters(7, 90)
    rows = rows_of(x)
    prior = prior_of(kind, form, weights).belief(rows, 3, structure(kind))
    (start,) = starts(rows, prior, kind, seed=3)
    order = torch.tensor([2, 0, 1])
    _, stats = start, look(rows, start)[0]
    moved = Belief(prior.weights.updated(stats.count[order]), start.components.selected(order))
    kept = Belief(prior.weights.updated(stats.count), start.components)
    ends = [
        coordinate_ascent(r, prior, [b], tol=1e-9).beliefs[0]
        for r, b in [
            (rows, kept),
            (rows, moved),
            (rows_of(x[RandomState(0).permutation(len(x))]), kept),
        ]
    ]
    grid = tensor(clusters(8, 40))
    densities = [end.predictive().log_prob(grid) for end in ends]
    # With a process the order of a start is part of it, so only the bound's height may differ.
    same = [1, 2] if weights == "dirichlet" else [2]
    for i in same:
        np.testing.assert_allclose(densities[i], densities[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("kind", ["full", "diag"])
def test_float32_rows_are_not_worse_than_their_rounding(kind, shift):
    """Law 3: unit variance at 1e4, and no digit lost but those of the data."""
    x = (clusters(9, 400) + shift).astype(np.float32)
    models = [
        BayesianGaussianMixture(3, covariance_type=kind, random_state=0, tol=1e-8).fit(rows)
        for rows in (x, x.astype(np.float64))
    ]
    np.testing.assert_allclose(models[0].covariances_, models[1].covariances_, rtol=1e-4)
    np.testing.assert_allclose(models[0].elbo_, models[1].elbo_, rtol=1e-6)


# --- beside scikit-learn --------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3])
def test_the_optimum_is_scikit_learns_where_its_updates_are_exact(k):
    """Full covariances and a Dirichlet prior; its bound leaves constants out, its optimum is right.

    scikit-learn adds ten roundings to every count, hence not more digits.
    """
    rng = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [5.0, 1.0], [-1.0, 6.0]])[:k]
    x = centres[rng.integers(0, k, 600)] + rng.normal(size=(600, 2)) @ [[1.0, 0.3], [0.0, 0.8]]
    settings = {
        "weight_concentration_prior_type": "dirichlet_distribution",
        "tol": 1e-10,
        "max_iter": 5000,
        "random_state": 0,
        "reg_covar": 0.0,
    }
    ours = BayesianGaussianMixture(k, **settings).fit(x)
    theirs = Theirs(n_components=k, **settings).fit(x)
    order = [int(np.argmin(np.abs(ours.means_ - m).sum(1))) for m in theirs.means_]
    for name in (
        "weights_",
        "means_",
        "covariances_",
        "precisions_",
        "weight_concentration_",
        "mean_precision_",
        "degrees_of_freedom_",
    ):
        np.testing.assert_allclose(
            getattr(ours, name)[order], getattr(theirs, name), rtol=1e-6, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("kind", ["tied", "diag"])
def test_where_scikit_learn_is_not_exact_its_end_is_no_optimum(kind):
    """It counts degrees with N / K for tied, and takes the Wishart's log-determinant for diag."""
    d = 4  # with few rows a component, where it matters
    x = clusters(10, 40, d)
    rows = rows_of(x)
    prior = priors.NormalWishart() if kind == "tied" else priors.NormalGamma()
    filled = prior.belief(rows, 2, structure(kind))
    theirs = Theirs(
        n_components=2,
        covariance_type=kind,
        weight_concentration_prior_type="dirichlet_distribution",
        tol=1e-10,
        max_iter=5000,
        random_state=0,
        reg_covar=0.0,
    ).fit(x)
    nu = np.asarray(theirs.degrees_of_freedom_)
    if kind == "diag":
        nu = np.repeat(nu[:, None], d, 1)
    scale = structure(kind).from_covariances(tensor(theirs.covariances_ * nu), 2, d)
    components = type(filled.components)(
        tensor(theirs.means_), tensor(theirs.mean_precision_), WishartPrecisions(tensor(nu), scale)
    )
    there = Belief(DirichletWeights(tensor(theirs.weight_concentration_)), components)
    found = coordinate_ascent(rows, filled, [there], tol=1e-10, max_iter=5000)
    assert float(found.elbo[0]) > float(elbo(rows, there, filled)) + 1e-4


# --- natural gradients ----------------------------------------------------------------------------


@cases
def test_one_whole_batch_with_step_one_is_coordinate_ascent(kind, form, weights):
    x = clusters(11, 60)
    rows = rows_of(x)
    prior = prior_of(kind, form, weights).belief(rows, 3, structure(kind))
    (start,) = starts(rows, prior, kind)
    stats, of_rows = look(rows, start)
    exact = prior.updated(stats, start.components.expected()[0]).in_order(prior)
    found = SVI(passes=1, batch_size=10_000).run(problem(rows, prior, [start]))
    np.testing.assert_allclose(found.belief.encode(exact), 0, atol=1e-9)
    np.testing.assert_allclose(
        found.trace.records[0].elbo, float(evidence(of_rows, start, prior)), rtol=1e-10
    )


def test_a_stream_with_equal_memory_counts_every_row_once():
    """forgetting=1: with known components, the posterior of the stream is that of all rows."""
    x = clusters(12, 200)
    prior = prior_of("full", "conjugate").belief(rows_of(x), 1, structure("full"))
    method = SVI(forgetting=1.0)
    parts = np.array_split(x, [30, 80, 90, 150])
    stats, _ = look(rows_of(parts[0]), prior)
    belief, seen = prior.updated(stats, prior.components.expected()[0]), float(len(parts[0]))
    for part in parts[1:]:
        belief, _ = streaming_step(rows_of(part), belief, prior, seen, method)
        seen += len(part)
    whole, _ = look(rows_of(x), prior)
    exact = prior.updated(whole, prior.components.expected()[0])
    np.testing.assert_allclose(belief.encode(exact), 0, atol=1e-9)


def test_steps_are_those_of_robbins_and_monro():
    sizes = np.array([SVI(delay=3, forgetting=0.6).step(t) for t in range(100_000)])
    assert sizes[0] == pytest.approx(4**-0.6)
    assert (np.diff(sizes) < 0).all()
    assert sizes.sum() > 200
    assert (sizes**2)[50_000:].sum() < 0.3 * (sizes**2)[500:].sum()


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        (SVI, {"forgetting": 0.5}, "forgetting above 0.5"),
        (SVI, {"passes": 0}, "passes of SVI.*from 1 on"),
        (SVI, {"delay": -1}, "delay"),
        (AdamVI, {"n_samples": 0}, "from 1 on"),
        (AdamVI, {"learning_rate": 0.0}, "positive"),
    ],
)
def test_settings_that_cannot_converge_are_refused(method, settings, says):
    with pytest.raises(InputError, match=says):
        method(**settings)


def test_the_end_of_the_highest_bound_is_kept():
    x = clusters(13, 80)
    rows = rows_of(x)
    prior = prior_of("diag", "conjugate").belief(rows, 3, structure("diag"))
    (good,) = starts(rows, prior, "diag")
    bad = with_noise(good, 1, 3.0)
    for method in (CAVI(), SVI(passes=3), AdamVI(epochs=3)):
        alone = [method.run(problem(rows, prior, [b], max_iter=3)).elbo for b in (bad, good)]
        both = method.run(problem(rows, prior, [bad, good], max_iter=3))
        if isinstance(method, CAVI):
            assert both.elbo == pytest.approx(max(alone), rel=1e-12)
            assert both.trace.start == int(np.argmax(alone))
        assert both.trace.n_iter == 3


def test_batches_of_weighted_rows_speak_of_all_rows_without_bias(monkeypatch):
    """Scaled up in rows, not in weight: the mean over the batches of a pass is all of the weight.

    Scaling by weight instead would tell every batch that it has all of it, heavy rows or not.
    """
    rng = np.random.default_rng(14)
    x = clusters(14, 96)
    rows = rows_of(x, rng.exponential(size=96) ** 3)
    prior = prior_of("diag", "conjugate").belief(rows, 2, structure("diag"))
    begun = starts(rows, prior, "diag")
    told = {"svi": [], "adam": []}

    def step(batch, belief, prior, scale, step):
        told["svi"].append(scale * batch.total_weight)
        return stochastic_step(batch, belief, prior, scale, step)

    def bound(batch, *given, scale=1.0, **more):
        if batch is not rows:  # the verdict at the end looks at all of them
            told["adam"].append(scale * batch.total_weight)
        return sampled_elbo(batch, *given, scale=scale, **more)

    monkeypatch.setattr(svi, "stochastic_step", step)
    monkeypatch.setattr(adam_vi, "sampled_elbo", bound)
    SVI(passes=1, batch_size=8).run(problem(rows, prior, begun))
    AdamVI(epochs=1, batch_size=8).run(problem(rows, prior, begun))
    for seen in told.values():
        assert len(seen) == 12
        assert np.std(seen) > 0.1 * rows.total_weight
        assert np.mean(seen) == pytest.approx(rows.total_weight, rel=1e-9)


def test_stochastic_steps_with_weights_end_where_coordinate_ascent_does():
    """Rows of one cluster weigh nine times those of the other."""
    rng = np.random.default_rng(15)
    second = rng.random(2000) < 0.5
    x = np.where(second, 8.0, 0.0)[:, None] + rng.normal(size=(2000, 1))
    rows = rows_of(x, np.where(second, 9.0, 1.0))
    prior = priors.NormalGamma(0.0, 0.1, 2.0, 2.0, 1.0).belief(rows, 2, structure("diag"))
    begun = starts(rows, prior, "diag")
    exact = CAVI().run(problem(rows, prior, begun)).belief.weights.mean()
    for method in (SVI(passes=30, batch_size=100), AdamVI(epochs=30, batch_size=100)):
        found = method.run(problem(rows, prior, begun))
        np.testing.assert_allclose(found.belief.weights.mean(), exact, atol=0.01)


# --- what a fit says of its own end ---------------------------------------------------------------


@pytest.mark.parametrize("method", [SVI(passes=40, batch_size=50), AdamVI(epochs=60)])
def test_a_fit_that_ends_near_its_optimum_says_so_and_another_does_not(method):
    x = np.concatenate([clusters(16, 300), clusters(16, 100) + 12])
    rows = rows_of(x)
    prior = prior_of("diag", "conjugate").belief(rows, 2, structure("diag"))
    (good,) = starts(rows, prior, "diag")
    found = method.run(problem(rows, prior, [good]))
    assert found.trace.converged
    assert found.complaint == ""
    name = "passes" if isinstance(method, SVI) else "epochs"
    far = with_noise(good, 2, 1.5)
    short = replace(method, **{name: 1}, batch_size=200)
    left = short.run(problem(rows, prior, [far]))
    assert not left.trace.converged
    assert f"{name}=..." in left.complaint
    assert "left to gain" in left.complaint
    assert left.bound <= found.bound


def test_the_bound_of_a_large_concentration_never_falls():
    """With α > 1 the truncated stick prefers its largest piece last: no order may lose bound."""
    rng = np.random.default_rng(17)
    centres = np.array([0.0, 6.0, 12.0])
    x = centres[rng.choice(3, 400, p=[0.8, 0.15, 0.05])][:, None] + rng.normal(size=(400, 1))
    rows = rows_of(x)
    for alpha in (0.3, 2.0, 8.0, 60.0):
        chosen = priors.NormalGamma(0.0, 0.1, 2.0, 2.0, priors.DirichletProcess(alpha))
        prior = chosen.belief(rows, 5, structure("diag"))
        for seed in range(3):
            begun = starts(rows, prior, "diag", seed=seed)
            found = coordinate_ascent(
                rows, prior, begun, tol=0.0, max_iter=200, acceleration="none"
            )
            values = np.array([r.elbo for r in found.traces[0].records])
            assert np.diff(values).min() > -1e-11 * abs(values[-1]), alpha


def test_an_order_of_the_sticks_is_never_worse_than_another():
    """Every order of four components: none has a higher evidence than the one that is chosen."""
    count = tensor([5.0, 90.0, 0.0, 40.0])
    for alpha in (0.3, 1.0, 2.0, 20.0):
        prior = priors.DirichletProcess(alpha).belief(4)
        found = prior.by_size(count)
        chosen = count if found is None else count[found]
        mine = float(prior._log_evidence(chosen))
        others = [
            float(prior._log_evidence(count[list(order)])) for order in permutations(range(4))
        ]
        assert mine >= max(others) - 1e-9, alpha


def test_what_is_left_to_gain_is_what_coordinate_ascent_gains():
    x = clusters(18, 300, apart=2.0)
    rows = rows_of(x)
    prior = prior_of("full", "conjugate").belief(rows, 3, structure("full"))
    begun = starts(rows, prior, "full")
    best = coordinate_ascent(rows, prior, begun, tol=1e-9, max_iter=5000)
    for steps in (20, 60, 200):
        some = coordinate_ascent(
            rows, prior, begun, tol=0.0, max_iter=steps, acceleration="none"
        ).beliefs[0]
        here, gain = left_to_gain(rows, some, prior)
        assert here == pytest.approx(float(elbo(rows, some, prior)), abs=1e-9)
        true = float(best.elbo[0]) - here
        # Aitken's estimate is of one rate of convergence where there are several.
        assert 0.3 * true - 1e-6 < gain < 10 * true + 1e-3


def test_a_plateau_is_not_taken_for_an_optimum():
    """Four clusters that overlap: natural gradients stay where two pairs share their rows, and an
    exact step from there gains next to nothing."""
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        mu = rng.normal(0, 1.0, (4, 5))
        x = mu[rng.integers(4, size=2000)] + rng.normal(size=(2000, 5))
        settings = {"random_state": 0, "weight_concentration_prior_type": "dirichlet_distribution"}
        with pytest.warns(ConvergenceWarning, match="left to gain"):
            short = BayesianGaussianMixture(4, inference="svi", **settings).fit(x)
        best = BayesianGaussianMixture(4, **settings).fit(x)
        assert short.elbo_ < best.elbo_ - 20
        assert not short.converged_
        assert is_saddle(rows_of(x), short.posterior_.belief, short.prior_)
        assert not is_saddle(rows_of(x), best.posterior_.belief, best.prior_)


def test_adam_is_judged_by_its_own_bound():
    """Where components overlap an exact iteration of coordinate ascent would lower it."""
    rng = np.random.default_rng(0)
    mu = np.array([[0, 0], [2.5, 0], [0, 2.5], [2.5, 2.5]])
    x = mu[rng.integers(4, size=600)] + rng.normal(size=(600, 2))
    model = BayesianGaussianMixture(
        4,
        inference=AdamVI(epochs=100),
        weight_concentration_prior_type="dirichlet_distribution",
        random_state=0,
    )
    assert model.fit(x).converged_
    with pytest.warns(ConvergenceWarning, match="left to gain"):
        assert not model.set_params(inference=AdamVI(epochs=2)).fit(x).converged_
