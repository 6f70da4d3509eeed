"""BayesianGaussianMixture: what a user of scikit-learn or ProbFlow finds, and what they may ask."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV

import mogul
from bayes.cases import clusters
from laws.cases import tensor
from mogul import BayesianGaussianMixture, Mixture, Posterior, priors
from mogul.errors import InputError, MeanFieldWarning, SpikeWarning, UnknownNameError
from mogul.infer import CAVI, SVI, AdamVI, Gibbs
from mogul.infer.stopping import ELBORecord

KINDS = ["full", "tied", "diag", "spherical"]
METHODS = ["cavi", SVI(passes=3), AdamVI(epochs=3), Gibbs(draws=20, warmup=10, chains=2)]
METHOD_IDS = ["cavi", "svi", "vi-adam", "gibbs"]
too_short_to_converge = pytest.mark.filterwarnings(
    "ignore:The chains do not agree",
    "ignore:The fit is not at its optimum",
    "ignore:Components overlap",
)
"""Of runs that are long enough for what is asked of them, but not for their own verdict."""


def apart(seed=0, n=300, d=2, k=3):
    """Clusters far apart, so that nothing is in doubt."""
    rng = np.random.default_rng(seed)
    centres = 12.0 * np.eye(max(k, d))[:k, :d] + np.arange(k)[:, None] * 4.0
    return centres[rng.integers(0, k, n)] + rng.normal(size=(n, d))


# --- attributes -----------------------------------------------------------------------------------


@too_short_to_converge
@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_attributes_have_scikit_learns_names_and_shapes(kind, method):
    x = apart()
    model = BayesianGaussianMixture(3, covariance_type=kind, inference=method, random_state=0).fit(
        x
    )
    shape = {"full": (3, 2, 2), "tied": (2, 2), "diag": (3, 2), "spherical": (3,)}[kind]
    assert model.weights_.shape == (3,)
    assert model.means_.shape == (3, 2)
    assert model.covariances_.shape == model.precisions_.shape == shape
    assert model.precisions_cholesky_.shape == shape
    assert isinstance(model.mixture_, Mixture)
    assert isinstance(model.posterior_, Posterior)
    assert model.n_iter_ == len(model.history_) == len(model.lower_bounds_)
    assert model.n_features_in_ == 2
    np.testing.assert_allclose(np.sort(model.weights_), np.sort(np.bincount(
        model.predict(x), minlength=3) / 300), atol=0.02)  # fmt: skip
    assert model.predict_proba(x).shape == (300, 3)
    assert model.score_samples(x).shape == (300,)
    assert model.sample(7)[0].shape == (7, 2)
    if method == "cavi":
        assert model.converged_
        assert model.elbo_ == model.lower_bound_
        assert all(isinstance(record, ELBORecord) for record in model.history_)
        assert model.mean_precision_.shape == (3,)
        assert model.weight_concentration_[0].shape == (3,)
        rows = model.degrees_of_freedom_ - model.degrees_of_freedom_prior_
        assert rows.shape == (() if kind == "tied" else (3,))
        np.testing.assert_allclose(rows.sum(), 300, rtol=1e-9)


def test_the_prior_can_be_given_both_ways():
    x = apart(1)
    by_settings = BayesianGaussianMixture(
        3,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=2.0,
        mean_precision_prior=0.5,
        mean_prior=[1.0, 2.0],
        degrees_of_freedom_prior=5.0,
        covariance_prior=[[3.0, 0.5], [0.5, 2.0]],
        random_state=0,
    ).fit(x)
    prior = priors.NormalWishart([1.0, 2.0], 0.5, 5.0, [[3.0, 0.5], [0.5, 2.0]], 2.0)
    by_object = BayesianGaussianMixture(3, prior=prior, random_state=0).fit(x)
    np.testing.assert_allclose(by_settings.means_, by_object.means_, rtol=1e-12)
    assert by_settings.elbo_ == pytest.approx(by_object.elbo_, rel=1e-12)
    with pytest.raises(InputError, match="prior and mean_prior were both given"):
        BayesianGaussianMixture(3, prior=prior, mean_prior=[0.0, 0.0]).fit(x)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_settings_of_numbers_count_in_rows(kind):
    """ν rows of prior: Gamma(ν / 2) a feature, or Gamma(D ν / 2) where one number serves D."""
    x = apart(2)
    scale = [3.0, 2.0] if kind == "diag" else 2.5
    model = BayesianGaussianMixture(
        2, covariance_type=kind, degrees_of_freedom_prior=4.0, covariance_prior=scale
    ).fit(x)
    gamma = model.prior_.components.precisions.distribution()
    per_row = 1 if kind == "diag" else 2
    np.testing.assert_allclose(gamma.concentration[0], 2.0 * per_row)
    np.testing.assert_allclose(gamma.rate[0], np.asarray(scale) / 2 * per_row)
    np.testing.assert_allclose(model.covariance_prior_, scale)
    assert model.degrees_of_freedom_prior_ == 4.0


def test_reg_covar_widens_the_priors_guess():
    x = apart(3)
    plain, wide = (
        BayesianGaussianMixture(2, reg_covar=r, random_state=0).fit(x) for r in (0.0, 0.7)
    )
    guess = [m.prior_.components.expected()[0].variances() for m in (plain, wide)]
    np.testing.assert_allclose(guess[1] - guess[0], 0.7, rtol=1e-9)


def test_effective_components_hold_ninety_nine_per_cent():
    model = BayesianGaussianMixture(8, random_state=0).fit(apart(4))
    held = np.sort(model.weights_)[::-1].cumsum()
    n = model.n_effective_components_
    assert n == 3
    assert held[n - 1] >= 0.99 > (held[n - 2] if n > 1 else 0)
    assert BayesianGaussianMixture(1).fit(apart(4)).n_effective_components_ == 1


# --- what it answers ------------------------------------------------------------------------------


@too_short_to_converge
@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
def test_densities_are_predictive_plug_in_or_of_draws(method):
    x = clusters(5, 60)
    model = BayesianGaussianMixture(2, inference=method, random_state=0).fit(x)
    predictive = model.prob(x[:5])
    np.testing.assert_allclose(predictive, np.exp(model.score_samples(x[:5])), rtol=1e-10)
    np.testing.assert_allclose(
        model.log_prob(x[:5], plug_in=True), model.mixture_.log_prob(tensor(x[:5])), rtol=1e-10
    )
    many = model.prob(x[:5], distribution=True, n=40)
    assert many.shape == (5, 40)
    assert (many.std(1) > 0).all()
    np.testing.assert_allclose(model.log_prob(x[:5], True, 40), np.log(many), rtol=1e-9)
    error = many.std(1) / np.sqrt(40)
    assert (np.abs(many.mean(1) - predictive) < 6 * error).all()
    with pytest.raises(InputError, match="one of them"):
        model.prob(x[:5], True, plug_in=True)
    assert model.score(x) == pytest.approx(model.score_samples(x).mean())
    weight = np.arange(60.0)
    expected = np.average(model.score_samples(x), weights=weight)
    assert model.score(x, sample_weight=weight) == pytest.approx(expected)


def test_probflows_verbs():
    x = apart(6)
    model = BayesianGaussianMixture(
        3, covariance_type="diag", prior=priors.IndependentNormalGamma(), random_state=0
    ).fit(x)
    means = model.posterior_mean("means")
    assert isinstance(means, np.ndarray)
    assert set(model.posterior_mean()) == {"weights", "means", "precisions"}
    assert set(model.posterior_mean(["log_weights", "covariances"])) == {
        "log_weights",
        "covariances",
    }
    draws = model.posterior_sample("standard_deviations", n=500)
    assert draws.shape == (500, 3, 2)
    low, high = model.posterior_ci("means", ci=0.9)
    assert (low < means).all()
    assert (means < high).all()
    inside = (model.posterior_sample("means", 4000) > low) & (
        model.posterior_sample("means", 4000) < high
    )
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
    corrected = model.posterior_ci("means", ci=0.9, correction="linear_response")
    assert (corrected[1] - corrected[0] >= high - low - 1e-9).all()
    assert model.prior_sample("weights", 30).shape == (30, 3)
    assert model.predictive_sample(20).shape == (20, 2)
    np.testing.assert_array_equal(model.predictive_sample(20), model.predictive_sample(20))
    rows, labels = model.sample(500)
    assert (np.diff(labels) >= 0).all()
    assert (model.predict(rows) == labels).mean() > 0.99


def test_the_posterior_of_a_deviation_is_not_a_transform_of_a_mean():
    """ProbFlow's posterior_mean('sigma') is E[τ]^(−1/2); the expectation of σ is larger."""
    x = clusters(7, 12)
    model = BayesianGaussianMixture(1, covariance_type="diag", random_state=0).fit(x)
    draws = model.posterior_sample("standard_deviations", 200_000)
    np.testing.assert_allclose(
        model.posterior_mean("standard_deviations"), draws.mean(0), rtol=5e-3
    )
    assert (model.posterior_mean("standard_deviations") > 1 / np.sqrt(model.precisions_)).all()


@too_short_to_converge
def test_pruning_says_what_it_took_away():
    x = apart(8)
    model = BayesianGaussianMixture(7, random_state=0).fit(x)
    pruned = model.prune()
    assert pruned.n_components == 3
    assert len(pruned.weights_) == 3
    assert len(pruned.pruned_.removed) == 4
    assert str(pruned.pruned_).startswith("4 of 7 components were removed, which held")
    assert f"{pruned.pruned_.removed[0][0]} (" in str(pruned.pruned_)
    assert model.n_components == 7
    np.testing.assert_allclose(pruned.score(x), model.score(x), atol=0.01)
    assert pruned.pruned_.elbo_after == pruned.elbo_
    assert "all 3 components are needed" in str(pruned.prune(1.0).pruned_)
    with pytest.raises(InputError, match="keep must be above 0"):
        model.prune(0.0)
    sampled = BayesianGaussianMixture(3, inference=METHODS[-1], random_state=0).fit(x)
    with pytest.raises(InputError, match="posterior is sampled"):
        sampled.prune()


def test_frames_names_and_weights_go_through():
    frame = pd.DataFrame(apart(9), columns=["length", "width"])
    model = BayesianGaussianMixture(3, random_state=0).fit(frame, sample_weight=np.ones(300))
    assert list(model.feature_names_in_) == ["length", "width"]
    assert model.mixture_.feature_names == ("length", "width")
    assert model.posterior_.sample(2).feature_names == ("length", "width")
    assert model.prior_plot("means")[0].get_xlabel() == "mean of length"


def test_it_works_in_a_grid_search_and_survives_copies():
    x = apart(10, n=120)
    search = GridSearchCV(
        BayesianGaussianMixture(random_state=0), {"n_components": [1, 3]}, cv=3
    ).fit(x)
    assert search.best_params_ == {"n_components": 3}
    model = search.best_estimator_
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(again.score_samples(x), model.score_samples(x))
    given = BayesianGaussianMixture(2, prior=priors.NormalWishart(), inference=CAVI())
    assert clone(given).get_params()["inference"] == CAVI()


def test_callbacks_hear_of_the_bound_and_may_stop_it():
    heard = []
    x = clusters(11, 200)
    with pytest.warns(ConvergenceWarning, match="stopped early"):
        model = BayesianGaussianMixture(
            3, random_state=0, tol=0.0, callbacks=[lambda r: heard.append(r) or r.iteration == 4]
        ).fit(x)
    assert [r.iteration for r in heard] == [1, 2, 3, 4]
    assert not model.converged_
    assert model.elbo_ >= heard[-1].elbo


def test_verbose_prints_what_scikit_learn_prints(capsys):
    BayesianGaussianMixture(2, random_state=0, verbose=2, verbose_interval=1, n_init=2).fit(
        apart(12)
    )
    out = capsys.readouterr().out
    assert "Initialization 0" in out
    assert "Initialization 1" in out
    assert "Iteration 1" in out
    assert "Initialization converged." in out


def test_warm_start_goes_on():
    x = clusters(13, 150, apart=1.5)
    model = BayesianGaussianMixture(
        3, random_state=0, warm_start=True, max_iter=1, acceleration="none"
    )
    bounds = []
    for _ in range(30):
        with pytest.warns(ConvergenceWarning):
            model.fit(x)
        bounds.append(model.elbo_)
    assert (np.diff(bounds) >= 0).all()
    once = BayesianGaussianMixture(3, random_state=0, max_iter=30, tol=0.0, acceleration="none")
    with pytest.warns(ConvergenceWarning):
        once.fit(x)
    assert bounds[-1] == pytest.approx(once.elbo_, rel=1e-9)


@too_short_to_converge
def test_seeds_repeat_and_differ():
    x = clusters(14, 100)
    for method in METHODS:
        one, same = (
            BayesianGaussianMixture(2, inference=method, random_state=3).fit(x) for _ in range(2)
        )
        np.testing.assert_array_equal(one.means_, same.means_)
        np.testing.assert_array_equal(one.predictive_sample(5), same.predictive_sample(5))


# --- streams --------------------------------------------------------------------------------------


def test_partial_fit_takes_a_stream_and_ends_where_a_fit_does():
    x = apart(15, n=6000)
    stream = BayesianGaussianMixture(
        3,
        covariance_type="diag",
        prior=priors.NormalGamma([0.0, 0.0], 0.1, 2.0, 2.0, 2.0),
        inference=SVI(forgetting=1.0),
        random_state=0,
    )
    for part in np.array_split(x, 20):
        stream.partial_fit(part)
    whole = clone(stream).set_params(inference="cavi").fit(x)
    order = [int(np.argmin(np.abs(stream.means_ - m).sum(1))) for m in whole.means_]
    np.testing.assert_allclose(
        stream.posterior_["weights"].concentration[order],
        whole.posterior_["weights"].concentration,
        rtol=0.01,
    )
    np.testing.assert_allclose(stream.means_[order], whole.means_, atol=0.02)
    own, exact = stream.posterior_.std("means")[order], whole.posterior_.std("means")
    np.testing.assert_allclose(own, exact, rtol=0.02)
    assert stream.n_iter_ == len(stream.history_) == 20
    assert not hasattr(whole, "partial_fit")
    with pytest.raises(AttributeError) as caught:
        whole.partial_fit(x)
    assert 'inference="svi"' in str(caught.value.__cause__)
    with pytest.raises(InputError, match="2 features"):
        stream.partial_fit(x[:, :1])
    stream.fit(x[:500])  # a fit begins anew
    assert stream.posterior_["weights"].concentration.sum() == pytest.approx(506, rel=0.05)


def stream_of(k=2, **settings):
    return BayesianGaussianMixture(
        k,
        covariance_type="diag",
        prior=priors.NormalGamma([4.0, 4.0], 0.1, 2.0, 2.0, 2.0),
        inference=SVI(forgetting=1.0, passes=30),
        random_state=0,
    ).set_params(**settings)


def total_count(model):
    return float(model.posterior_["weights"].concentration.sum())


def test_a_stream_goes_on_from_a_fit_and_from_a_file(tmp_path):
    """The rows of the fit count, whether or not a file lies between."""
    x = apart(15, n=1000, k=2)
    model = stream_of().fit(x[:600])
    model.partial_fit(x[600:800])
    again = mogul.load(mogul.save(model, tmp_path / "stream"))
    for one in (model, again):
        one.partial_fit(x[800:], sample_weight=np.full(200, 0.5))
        assert total_count(one) == pytest.approx(4 + 600 + 200 + 100, rel=1e-9)
    np.testing.assert_array_equal(model.means_, again.means_)


def test_a_stream_refuses_to_change_its_size_or_structure():
    x = apart(15, n=400, k=2)
    for changed, says in (({"n_components": 3}, "3 and 'diag'"), ({"covariance_type": "full"}, "")):
        model = stream_of().partial_fit(x[:200])
        before = model.means_
        with pytest.raises(InputError, match="goes on with 2 components.*" + says):
            model.set_params(**changed).partial_fit(x[200:])
        assert model.means_ is before
    sampled = stream_of(inference=Gibbs(draws=200, warmup=50, chains=2)).fit(x[:200])
    with pytest.raises(InputError, match="this one is sampled"):
        sampled.set_params(inference="svi").partial_fit(x[200:])


def test_a_warm_start_with_another_problem_begins_anew():
    x = apart(15, n=200, k=2)
    model = BayesianGaussianMixture(2, covariance_type="diag", warm_start=True, random_state=0)
    model.fit(x)
    for changed in (
        {"covariance_type": "full"},
        {"n_components": 3},
        {"weight_concentration_prior_type": "dirichlet_distribution"},
    ):
        found = model.set_params(**changed).fit(x)
        fresh = clone(model).set_params(warm_start=False).fit(x)
        assert found.elbo_ == pytest.approx(fresh.elbo_, abs=1e-3)
    # Attributes of another kind of fit do not stay.
    assert hasattr(model, "degrees_of_freedom_")
    independent = priors.IndependentNormalGamma()
    model.set_params(covariance_type="diag", prior=independent).fit(x)
    assert not hasattr(model, "degrees_of_freedom_")


def test_a_stream_remembers_how_much_its_components_overlap(tmp_path):
    """Its rows are gone, and intervals are too narrow all the same: also after a file."""
    rng = np.random.default_rng(20)
    x = np.where(rng.random(2000) < 0.5, 0.0, 3.0)[:, None] + rng.normal(size=(2000, 1))
    model = stream_of(prior=None)
    for part in np.array_split(x, 4):
        model.partial_fit(part)
    again = mogul.load(mogul.save(model, tmp_path / "stream"))
    fitted = BayesianGaussianMixture(2, covariance_type="diag", random_state=0).fit(x)
    loaded = mogul.load(mogul.save(fitted, tmp_path / "fit"))
    for one in (model, again, fitted, loaded):
        with pytest.warns(MeanFieldWarning, match="Components overlap"):
            one.posterior_ci("means")


# --- automatic size -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_finds_four_clusters_of_at_most_twenty():
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(4, 5)) * 6
        x = centres[rng.integers(0, 4, 4000)] + rng.normal(size=(4000, 5))
        found.append(BayesianGaussianMixture(20, random_state=seed).fit(x).n_effective_components_)
    print(f"components of four clusters, ten seeds: {found}")
    assert found.count(4) >= 9


# --- refusals and warnings ------------------------------------------------------------------------


def test_what_was_not_fitted_cannot_be_asked():
    model = BayesianGaussianMixture(2)
    for ask in (
        lambda: model.predict([[0.0]]),
        lambda: model.score([[0.0]]),
        lambda: model.posterior_mean(),
        lambda: model.posterior_ci("means"),
        lambda: model.prior_sample(),
        lambda: model.sample(),
        lambda: model.predictive_sample(),
        lambda: model.prune(),
        lambda: model.to_state(),
    ):
        with pytest.raises(NotFittedError):
            ask()


@pytest.mark.parametrize(
    ("prior", "kind", "says"),
    [
        (priors.NormalGamma(), "full", "no prior of .* 'full'; use priors.NormalWishart"),
        (priors.NormalWishart(), "diag", "use priors.NormalGamma or"),
        (priors.IndependentNormalGamma(), "tied", "use priors.NormalWishart"),
        (priors.NormalWishart(mean_loc=[1.0, 2.0, 3.0]), "full", r"mean_loc.*shape \(3,\).*\(2,\)"),
        (priors.NormalWishart(mean_precision=0.0), "full", "mean_precision.*above 0"),
        (priors.NormalWishart(degrees_of_freedom=1.0), "full", "above D − 1 = 1"),
        (priors.NormalWishart(scale=[[1.0, 2.0], [2.0, 1.0]]), "full", "positive-definite"),
        (priors.NormalWishart(scale=np.eye(3)), "full", r"scale.*shape \(3, 3\)"),
        (priors.NormalGamma(precision_rate=[1.0, 2.0]), "spherical", r"precision_rate.*\(2,\)"),
        (priors.NormalGamma(precision_concentration=-1.0), "diag", "concentration.*above 0"),
        (priors.IndependentNormalGamma(mean_scale=np.nan), "diag", "mean_scale.*finite"),
        (priors.IndependentNormalGamma(mean_scale="wide"), "diag", "must be numbers"),
        (priors.NormalWishart(weight_concentration=[1.0, 2.0]), "full", r"concentration.*\(3,\)"),
        (priors.NormalWishart(0, weight_concentration=priors.DirichletProcess(0)), "full", "above"),
    ],
)  # fmt: skip
def test_a_prior_that_does_not_fit_gets_one_sentence(prior, kind, says):
    with pytest.raises(InputError, match=says) as caught:
        BayesianGaussianMixture(3, covariance_type=kind, prior=prior).fit(apart(16))
    assert "\n" not in str(caught.value)


def test_priors_say_what_was_given():
    assert repr(priors.NormalWishart(mean_precision=0.1)) == "NormalWishart(mean_precision=0.1)"
    given = priors.NormalGamma(weight_concentration=priors.DirichletProcess(0.5))
    assert "DirichletProcess(concentration=0.5)" in repr(given)


def test_priors_of_each_component_are_kept_apart():
    x = apart(17)
    loc = np.array([[20.0, 8.0], [12.0, 0.0], [4.0, 16.0]])
    prior = priors.NormalWishart(loc, 50.0, weight_concentration=[1.0, 2.0, 3.0])
    model = BayesianGaussianMixture(3, prior=prior, random_state=0).fit(x)
    np.testing.assert_allclose(model.prior_.components.loc, loc)
    np.testing.assert_allclose(model.prior_.weights.concentration, [1, 2, 3])


def test_bad_rows_get_one_sentence():
    model = BayesianGaussianMixture(3)
    with pytest.raises(InputError, match="contains NaN: the first is in row 1"):
        model.fit([[0.0], [np.nan], [1.0]])
    with pytest.raises(InputError, match="n_samples >= n_components"):
        model.fit([[0.0], [1.0]])
    with pytest.raises(ValueError, match="inference"):
        BayesianGaussianMixture(inference="magic").fit([[0.0], [1.0]])
    with pytest.raises(InputError, match="device 'moon'"):
        BayesianGaussianMixture(device="moon").fit([[0.0], [1.0]])


def test_a_constant_column_is_warned_of_and_leaves_the_prior():
    x = np.column_stack([clusters(18, 50)[:, 0], np.ones(50)])
    for kind in KINDS:
        with pytest.warns(SpikeWarning, match="what is said of it is the prior's") as caught:
            model = BayesianGaussianMixture(2, covariance_type=kind, random_state=0).fit(x)
        assert caught[0].filename == __file__
        assert np.isfinite(model.score_samples(x)).all()


def test_more_columns_than_rows_are_no_trouble():
    x = np.random.default_rng(19).normal(size=(8, 20))
    for kind in KINDS:
        model = BayesianGaussianMixture(2, covariance_type=kind, random_state=0).fit(x)
        assert np.isfinite(model.score_samples(x)).all()
        assert np.isfinite(model.elbo_)


def test_intervals_of_overlapping_components_warn_where_the_user_is():
    rng = np.random.default_rng(20)
    x = np.where(rng.random(400) < 0.5, 0.0, 3.0)[:, None] + rng.normal(size=(400, 1))
    model = BayesianGaussianMixture(2, covariance_type="diag", random_state=0, tol=1e-6).fit(x)
    with pytest.warns(MeanFieldWarning, match="linear_response"):
        narrow = model.posterior_ci("means")
    wide = model.posterior_ci("means", correction="linear_response")
    assert (wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])).all()
    with pytest.raises(UnknownNameError, match="knows nothing of 'sigma'"):
        model.posterior_ci("sigma")
    with pytest.raises(InputError, match="strictly between 0 and 1"):
        model.posterior_ci("means", ci=95)


# --- files ----------------------------------------------------------------------------------------


@too_short_to_converge
@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_posterior_is_the_same(kind, method, tmp_path):
    x = apart(21)
    frame = pd.DataFrame(x, columns=["a", "b"])
    model = BayesianGaussianMixture(3, covariance_type=kind, inference=method, random_state=0)
    model.fit(frame)
    if isinstance(model.posterior_, mogul.posterior.VariationalPosterior) and method == "cavi":
        wide = model.posterior_.std("means", "linear_response")
    again = mogul.load(mogul.save(model, tmp_path / "model"))
    np.testing.assert_array_equal(again.score_samples(frame), model.score_samples(frame))
    np.testing.assert_array_equal(again.means_, model.means_)
    np.testing.assert_array_equal(
        again.posterior_.sample(3).means, model.posterior_.sample(3).means
    )
    assert list(again.feature_names_in_) == ["a", "b"]
    assert again.get_params()["inference"] == model.inference
    assert again.n_effective_components_ == model.n_effective_components_
    np.testing.assert_equal(again.elbo_, model.elbo_)
    if method == "cavi":
        assert torch.equal(again.posterior_.std("means", "linear_response"), wide)
        with pytest.raises(InputError, match="with_rows"):
            again.posterior_.std("weights", "linear_response")


def test_settings_of_the_prior_are_saved_too(tmp_path):
    prior = priors.IndependentNormalGamma(
        np.array([1.0, 2.0]), 3.0, weight_concentration=priors.DirichletProcess(0.5)
    )
    model = BayesianGaussianMixture(2, covariance_type="diag", prior=prior, random_state=0)
    again = mogul.load(mogul.save(model.fit(apart(22)), tmp_path / "m"))
    assert again.prior.mean_loc == [1.0, 2.0]
    assert again.prior.weight_concentration == priors.DirichletProcess(0.5)
    np.testing.assert_array_equal(again.fit(apart(22)).means_, model.means_)


# --- settings -------------------------------------------------------------------------------------


def test_priors_are_equal_when_their_settings_are():
    """Arrays included, so that estimators can be compared, cloned and searched over."""
    array, listed = priors.NormalWishart(np.zeros(2), 1.0), priors.NormalWishart([0.0, 0.0], 1.0)
    assert array == listed
    assert array != priors.NormalWishart(np.ones(2), 1.0)
    assert array != priors.NormalWishart(None, 1.0)
    assert array != priors.NormalGamma(np.zeros(2), 1.0)
    assert priors.Dirichlet(np.ones(3)) == priors.Dirichlet([1, 1, 1])
    assert priors.Dirichlet(1.0) != priors.DirichletProcess(1.0)
    deep = priors.NormalGamma(weight_concentration=priors.Dirichlet(np.ones(2)))
    assert deep == priors.NormalGamma(weight_concentration=priors.Dirichlet(np.ones(2)))
    assert deep != priors.NormalGamma(weight_concentration=np.ones(2))
    assert "NormalWishart" in repr(BayesianGaussianMixture(2, prior=array))


def test_classes_and_callables_in_the_place_of_objects_are_refused():
    x = apart(16)
    with pytest.raises(InputError, match=r"NormalWishart is its class; write NormalWishart\(\)"):
        BayesianGaussianMixture(2, prior=priors.NormalWishart).fit(x)
    with pytest.raises(InputError, match=r"Gibbs is its class; write Gibbs\(\)"):
        BayesianGaussianMixture(2, inference=Gibbs).fit(x)
    with pytest.raises(InputError, match="callbacks must be callables"):
        BayesianGaussianMixture(2, callbacks=["print"]).fit(x)


def test_one_column_keeps_scikit_learns_shapes():
    """With a single feature (D,) is (1,), which is no number: sums over it must not drop it."""
    x = apart(16, d=1, k=2)
    for prior in (priors.NormalGamma(0.0, 0.5, [1.0], [2.0]), priors.IndependentNormalGamma([0.0])):
        model = BayesianGaussianMixture(2, covariance_type="diag", prior=prior, random_state=0)
        model.fit(x)
        assert model.covariances_.shape == model.means_.shape == (2, 1)
        assert model.posterior_.interval("precisions").shape == (2, 1, 2)
        assert model.posterior_["means"].sample().shape == (2, 1)
    by_names = BayesianGaussianMixture(
        2, covariance_type="diag", mean_prior=[0.0], covariance_prior=[2.0], random_state=0
    ).fit(x)
    assert by_names.covariance_prior_.shape == by_names.mean_prior_.shape == (1,)


@pytest.mark.parametrize("method", ["svi", "vi-adam", "gibbs"])
def test_what_has_not_converged_is_said(method):
    rng = np.random.default_rng(20)
    x = np.where(rng.random(300) < 0.5, 0.0, 1.5)[:, None] + rng.normal(size=(300, 1))
    short = {"svi": SVI(passes=1), "vi-adam": AdamVI(epochs=1), "gibbs": Gibbs(8, 0, 4)}[method]
    model = BayesianGaussianMixture(4, inference=short, init_params="random_from_data",
                                    random_state=0)  # fmt: skip
    says = "chains do not agree" if method == "gibbs" else "not at its optimum"
    with pytest.warns(ConvergenceWarning, match=says) as caught:
        model.fit(x)
    assert caught[0].filename == __file__
    assert not model.converged_


def test_chains_that_agree_are_told_to_have_converged():
    model = BayesianGaussianMixture(2, inference=Gibbs(500, 100, 4), random_state=0)
    assert model.fit(apart(16, k=2)).converged_
    assert model.posterior_.r_hat() < 1.05


def test_warnings_point_at_the_line_of_the_user_through_every_layer():
    """Also when scikit-learn stands between: a search, a pipeline, a callback."""
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = clusters(13, 150, apart=1.5)
    short = BayesianGaussianMixture(3, random_state=0, max_iter=1, tol=0.0)
    for run in (
        lambda: short.fit_predict(x),
        lambda: make_pipeline(StandardScaler(), short).fit(x),
        lambda: cross_val_score(short, x, cv=2),
        lambda: mogul.GaussianMixture(3, random_state=0, max_iter=1, tol=0.0).fit(x),
    ):
        with pytest.warns(ConvergenceWarning) as caught:
            run()
        assert {one.filename for one in caught if one.category is ConvergenceWarning} == {__file__}
