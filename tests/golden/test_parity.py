"""Side by side with scikit-learn: the same start, the same data, the same answers."""

import inspect
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as Theirs
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laws.cases import CASES
from mogul import GaussianMixture as Ours
from mogul.datasets import old_faithful
from mogul.errors import MogulError

KINDS = list(CASES)
names = pytest.mark.parametrize("name", KINDS)
PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def clusters(n=400, d=3, offset=100.0, seed=0):
    """Overlapping clusters off the origin."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, d)) * 2
    return offset + centres[rng.integers(0, 4, n)] + rng.normal(size=(n, d))


DATA = {
    "old_faithful": (old_faithful().values, 2),
    "old_faithful_3": (old_faithful().values, 3),
    "iris": (load_iris().data, 3),
    "clusters": (clusters(), 4),
    "one_column": (old_faithful().values[:, :1], 2),
}
datasets = pytest.mark.parametrize("data", DATA)


def given_start(x, k, name, seed=0):
    """Weights, means and precisions to start from, in the shapes of ``covariance_type``."""
    rng = np.random.default_rng(seed)
    dense = np.stack([np.cov(x.T).reshape(x.shape[1], -1)] * k)
    dense *= rng.uniform(0.3, 1.0, k)[:, None, None]
    spread = CASES[name].estimate(dense, np.ones(k))
    inverse = np.linalg.inv(spread) if name in ("full", "tied") else 1 / spread
    return {
        "weights_init": rng.dirichlet(np.full(k, 5.0)),
        "means_init": x[rng.choice(len(x), k, replace=False)] + 1e-3,
        "precisions_init": inverse,
    }


def both(x, k, name="full", **settings):
    """Theirs and ours, fitted alike; warnings are compared elsewhere."""
    models = (
        Theirs(k, covariance_type=name, **settings),
        Ours(k, covariance_type=name, acceleration="none", **settings),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [model.fit(x) for model in models]


def assert_close(got, want, rtol=1e-8):
    """Relative to the largest entry: a covariance of zero has no relative error."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max(initial=1e-300))


def assert_parity(theirs, ours, x, rtol=1e-8):
    for attribute in PARAMETERS:
        assert_close(getattr(ours, attribute), getattr(theirs, attribute), rtol)
    assert_close(ours.lower_bounds_, theirs.lower_bounds_, rtol)
    for method in ("score", "aic", "bic", "score_samples", "predict_proba"):
        assert_close(getattr(ours, method)(x), getattr(theirs, method)(x), rtol)
    assert (ours.predict(x) == theirs.predict(x)).all()
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    np.testing.assert_allclose(ours.lower_bounds_[-1], theirs.lower_bound_, rtol=rtol)


# --- point 1: parity ------------------------------------------------------------------------------


@names
@datasets
@pytest.mark.parametrize("iterations", [1, 5, 50])
def test_the_same_start_gives_the_same_fit(data, name, iterations):
    x, k = DATA[data]
    settings = {"tol": 0.0, "max_iter": iterations, **given_start(x, k, name)}
    theirs, ours = both(x, k, name, **settings)
    assert ours.n_iter_ == iterations
    assert_parity(theirs, ours, x)


@names
@datasets
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
def test_both_stop_at_the_same_iteration(data, name, tol):
    x, k = DATA[data]
    theirs, ours = both(x, k, name, tol=tol, max_iter=500, **given_start(x, k, name, seed=1))
    assert theirs.converged_
    assert_parity(theirs, ours, x)


@pytest.mark.parametrize("method", ["random", "random_from_data", "k-means++"])
@names
def test_the_same_seed_gives_the_same_fit_where_starts_are_scikit_learns(name, method):
    x, k = clusters(offset=0.0), 4
    settings = {"init_params": method, "n_init": 3, "random_state": 11, "max_iter": 200}
    theirs, ours = both(x, k, name, **settings)
    if name == "tied" and method != "random":
        # Their covariance at a start from rows is that of all rows divided by K: they stop there.
        assert ours.score(x) > theirs.score(x)
        return
    # Their weights at a start from rows add up to K / N, which only the first bound can see.
    theirs.lower_bounds_[0] = ours.lower_bounds_[0]
    assert_parity(theirs, ours, x, 1e-6)


@names
def test_warm_starts_go_on_alike(name):
    x, k = DATA["iris"]
    settings = {"warm_start": True, "max_iter": 3, "tol": 1e-4, **given_start(x, k, name)}
    theirs, ours = both(x, k, name, **settings)
    for _ in range(12):
        assert_parity(theirs, ours, x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs.fit(x), ours.fit(x)
    assert theirs.converged_


@names
def test_fit_predict_is_fit_then_predict_as_there(name):
    x, k = DATA["iris"]
    settings = {"covariance_type": name, "max_iter": 300, **given_start(x, k, name)}
    theirs = Theirs(k, **settings).fit_predict(x)
    ours = Ours(k, acceleration="none", **settings)
    found = ours.fit_predict(x)
    np.testing.assert_array_equal(found, theirs)
    np.testing.assert_array_equal(found, ours.predict(x))
    assert found.dtype == theirs.dtype


def test_zero_iterations_give_the_start():
    x, k = DATA["iris"]
    theirs, ours = both(x, k, max_iter=0, init_params="random", random_state=3)
    assert_close(ours.means_, theirs.means_)
    assert_close(ours.precisions_cholesky_, theirs.precisions_cholesky_)
    assert_close(ours.score_samples(x), theirs.score_samples(x))
    assert ours.n_iter_ == theirs.n_iter_ == 0
    assert list(ours.lower_bounds_) == list(theirs.lower_bounds_) == []


# --- what programs do with a GaussianMixture ------------------------------------------------------


@names
def test_attributes_set_by_hand_are_what_scores(name):
    """No fit: parameters from a paper, or from another program."""
    x, k = DATA["iris"]
    rng = np.random.default_rng(3)
    covariances = CASES[name].draw(rng, k, 4)
    models = Theirs(k, covariance_type=name), Ours(k, covariance_type=name)
    for model in models:
        model.weights_ = np.array([0.2, 0.3, 0.5])
        model.means_ = x[[0, 60, 120]]
        model.covariances_ = covariances
        model.precisions_cholesky_ = _compute_precision_cholesky(covariances, name)
    theirs, ours = models
    for method in ("score", "aic", "bic", "score_samples", "predict_proba", "predict"):
        assert_close(getattr(ours, method)(x), getattr(theirs, method)(x))
    np.testing.assert_allclose(ours.mixture_.log_prob(x), theirs.score_samples(x), rtol=1e-10)
    # And once more, after it was asked.
    for model in models:
        model.means_ = model.means_ + 1
        model.weights_[:] = [0.5, 0.25, 0.25]
    assert_close(ours.score_samples(x), theirs.score_samples(x))


def test_means_of_whole_numbers_are_means():
    for model in (Theirs(2, covariance_type="diag"), Ours(2, covariance_type="diag")):
        model.weights_ = np.array([0.5, 0.5])
        model.means_ = np.array([[0], [4]])
        model.precisions_cholesky_ = np.array([[1.0], [1.0]], dtype=np.float32)
        expected = np.log(0.5 * norm.pdf(0.5) + 0.5 * norm.pdf(3.5))
        np.testing.assert_allclose(model.score_samples([[0.5]]), expected, rtol=1e-7)
    np.testing.assert_allclose(model.mixture_.log_prob([[0.5]]), [expected], rtol=1e-7)


@names
def test_covariances_set_by_hand_are_what_is_sampled(name):
    """The idiom to draw from a known mixture: weights, means and covariances, nothing else."""
    covariances = CASES[name].draw(np.random.default_rng(4), 2, 2)
    dense = CASES[name].dense(covariances, 2, 2)
    for kind in (Theirs, Ours):
        model = kind(2, covariance_type=name, random_state=0)
        model.weights_ = np.array([0.25, 0.75])
        model.means_ = np.array([[0.0, 0.0], [50.0, -50.0]])
        model.covariances_ = covariances
        x, y = model.sample(20_000)
        np.testing.assert_allclose(np.bincount(y) / len(y), [0.25, 0.75], atol=0.01)
        for k in range(2):
            size = np.sqrt(np.diag(dense[k]))
            gap = (x[y == k] - model.means_[k]) / size
            np.testing.assert_allclose(gap.mean(0), 0, atol=0.06)
            expected = dense[k] / np.outer(size, size)
            np.testing.assert_allclose(np.cov(gap.T), expected, atol=0.08)


def test_a_covariance_changed_after_a_fit_is_sampled_too():
    x, k = DATA["old_faithful"]
    theirs, ours = both(x, k, **given_start(x, k, "full"))
    for model in (theirs, ours):
        model.covariances_ = model.covariances_ * 1e-8
        model.random_state = 1
        drawn, y = model.sample(50)
        np.testing.assert_allclose(drawn, model.means_[y], atol=1e-2)


@names
def test_samples_look_alike(name):
    x, k = DATA["iris"]
    theirs, ours = both(x, k, name, random_state=0, **given_start(x, k, name))
    for n in (1, 5, 4000):
        (their_x, their_y), (our_x, our_y) = theirs.sample(n), ours.sample(n)
        assert our_x.shape == their_x.shape
        assert our_x.dtype == their_x.dtype
        assert our_y.dtype == their_y.dtype
        np.testing.assert_array_equal(our_y, their_y)  # grouped, the same numbers from a seed
    for label in range(k):
        one, other = our_x[our_y == label], their_x[their_y == label]
        error = 5 * other.std(0) * np.sqrt(2 / len(other))
        assert (np.abs(one.mean(0) - other.mean(0)) < error).all()
        np.testing.assert_allclose(one.std(0), other.std(0), rtol=0.15)
    np.testing.assert_array_equal(ours.sample(7)[0], ours.sample(7)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@names
def test_types_and_shapes_are_theirs(name, dtype):
    x, k = (DATA["iris"][0] * 10).astype(dtype), 3
    theirs, ours = both(x, k, name, random_state=0)
    for attribute in (*PARAMETERS, "n_features_in_"):
        got, want = (np.asarray(getattr(m, attribute)) for m in (ours, theirs))
        assert (got.dtype, got.shape) == (want.dtype, want.shape), attribute
    for method in ("score_samples", "predict_proba", "predict"):
        got, want = (getattr(m, method)(x) for m in (ours, theirs))
        assert type(got) is type(want)
        assert (got.dtype, got.shape) == (want.dtype, want.shape), method
    for method in ("score", "aic", "bic"):
        assert isinstance(getattr(ours, method)(x), float)
    assert type(ours.converged_) is type(theirs.converged_) is bool
    assert type(ours.n_iter_) is type(theirs.n_iter_) is int
    assert isinstance(ours.lower_bound_, float)
    assert isinstance(ours.lower_bounds_, list)
    assert not {a for a in vars(theirs) if not a.startswith("_")} - set(vars(ours))


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_data_frames(frame):
    x, k = DATA["iris"]
    table = frame(dict(zip("abcd", x.T, strict=True)))
    settings = {"max_iter": 300, **given_start(x, k, "full")}
    theirs, ours = both(table, k, **settings)
    assert_parity(theirs, ours, table)
    assert ours.feature_names_in_.tolist() == theirs.feature_names_in_.tolist() == list("abcd")
    assert ours.mixture_.feature_names == tuple("abcd")
    assert_close(ours.means_, both(x, k, **settings)[1].means_, 1e-14)
    for model in (theirs, ours):
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            model.predict(x)
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(frame(dict(zip("abdc", x.T, strict=True))))


def test_clone_and_pickle():
    x, k = DATA["iris"]
    ours = Ours(k, random_state=0, callbacks=[print], dtype="float64", n_init=2)
    copy = clone(ours)
    assert copy.get_params() == ours.get_params()
    assert not hasattr(copy, "means_")
    ours.set_params(callbacks=None).fit(x)
    back = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(back.score_samples(x), ours.score_samples(x))
    np.testing.assert_array_equal(back.sample(9)[0], ours.sample(9)[0])
    assert back.history_ == ours.history_
    assert back.mixture_.n_components == k


def test_parameters_are_theirs_and_more():
    theirs, ours = (inspect.signature(kind.__init__).parameters for kind in (Theirs, Ours))
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default)
    settings = {"n_components": 4, "tol": 0.5, "covariance_type": "diag"}
    assert Ours().set_params(**settings).get_params().items() >= settings.items()
    assert set(Theirs().get_params()) <= set(Ours().get_params())
    for method in ("fit", "fit_predict", "score", "sample", "predict", "bic", "aic"):
        theirs, ours = (inspect.signature(getattr(k, method)).parameters for k in (Theirs, Ours))
        assert list(ours)[: len(theirs)] == list(theirs)


def test_grid_search_and_pipeline():
    """The number of components by held-out likelihood, with row weights and scaled columns."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [12.0, 0.0], [0.0, 12.0]])
    x = (centres[rng.integers(0, 3, 600)] + rng.normal(size=(600, 2))) * [1.0, 1000.0]
    weight = rng.uniform(0.5, 1.5, len(x))
    pipeline = make_pipeline(StandardScaler(), Ours(random_state=0, reg_covar=1e-4))
    grid = {"gaussianmixture__n_components": [1, 2, 3], "gaussianmixture__covariance_type": KINDS}
    search = GridSearchCV(pipeline, grid, cv=3)
    search.fit(x, gaussianmixture__sample_weight=weight)
    their_pipeline = make_pipeline(StandardScaler(), Theirs(random_state=0, reg_covar=1e-4))
    theirs = GridSearchCV(their_pipeline, grid, cv=3).fit(x)
    assert search.best_params_["gaussianmixture__n_components"] == 3
    np.testing.assert_allclose(search.best_score_, theirs.best_score_, atol=0.01)
    best = search.best_estimator_
    assert best.predict(x).shape == (600,)
    np.testing.assert_allclose(best.score(x), search.best_score_, atol=0.2)


# --- the same mistakes ----------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(20, 2))
MISTAKES = {
    "components": lambda kind: kind(21).fit(X),
    "no components": lambda kind: kind(0).fit(X),
    "half a component": lambda kind: kind(1.5).fit(X),
    "structure": lambda kind: kind(covariance_type="round").fit(X),
    "tolerance": lambda kind: kind(tol=-1).fit(X),
    "regularisation": lambda kind: kind(reg_covar=-1).fit(X),
    "method": lambda kind: kind(init_params="best").fit(X),
    "iterations": lambda kind: kind(max_iter=-1).fit(X),
    "starts": lambda kind: kind(n_init=0).fit(X),
    "seed": lambda kind: kind(random_state="x").fit(X),
    "weights shape": lambda kind: kind(2, weights_init=[1.0]).fit(X),
    "weights range": lambda kind: kind(2, weights_init=[-0.5, 1.5]).fit(X),
    "weights sum": lambda kind: kind(2, weights_init=[0.5, 0.6]).fit(X),
    "means shape": lambda kind: kind(2, means_init=[[0.0, 0.0]]).fit(X),
    "means NaN": lambda kind: kind(1, means_init=[[0.0, np.nan]]).fit(X),
    "precisions shape": lambda kind: kind(1, precisions_init=np.eye(2)).fit(X),
    "precisions skew": lambda kind: kind(1, precisions_init=[[[1.0, 2.0], [0.0, 1.0]]]).fit(X),
    "precisions sign": lambda kind: kind(
        2, covariance_type="diag", precisions_init=-np.ones((2, 2))
    ).fit(X),
    "NaN": lambda kind: kind().fit(np.where(X.max() == X, np.nan, X)),
    "infinity": lambda kind: kind().fit(np.where(X.max() == X, np.inf, X)),
    "one row": lambda kind: kind().fit(X[:1]),
    "no rows": lambda kind: kind().fit(X[:0]),
    "one axis": lambda kind: kind().fit(X[:, 0]),
    "three axes": lambda kind: kind().fit(X[None]),
    "words": lambda kind: kind().fit([["a", "b"], ["c", "d"]]),
    "complex": lambda kind: kind().fit(X + 1j),
    "not fitted": lambda kind: kind().predict(X),
    "not fitted, sample": lambda kind: kind().sample(),
    "other columns": lambda kind: kind().fit(X).score(X[:, :1]),
    "NaN to score": lambda kind: kind().fit(X).score_samples([[np.nan, 0.0]]),
    "no samples": lambda kind: kind().fit(X).sample(0),
}
SAYS_THE_SAME = {
    "components": "Expected n_samples >= n_components but got n_components = 21, n_samples = 20",
    "weights shape": r"The parameter 'weights' should have the shape of \(2,\), but got \(1,\)",
    "weights range": r"The parameter 'weights' should be in the range \[0, 1\]",
    "weights sum": "The parameter 'weights' should be normalized",
    "means shape": r"The parameter 'means' should have the shape of \(2, 2\), but got \(1, 2\)",
    "precisions shape": "The parameter 'full precision' should have the shape of",
    "precisions skew": "'full precision' should be symmetric, positive-definite",
    "precisions sign": "'diag precision' should be positive",
    "NaN": "Input X contains NaN",
    "infinity": "Input X contains infinity",
    "one row": "Found array with 1 sample",
    "not fitted": "not fitted yet",
    "other columns": "X has 1 features, but GaussianMixture is expecting 2 features as input",
    "no samples": "Invalid value for 'n_samples'",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_same_mistake_is_the_same_error(mistake):
    with pytest.raises(Exception) as theirs:  # noqa: PT011 — whatever it is there
        MISTAKES[mistake](Theirs)
    with pytest.raises(type(theirs.value)) as ours:
        MISTAKES[mistake](Ours)
    says = SAYS_THE_SAME.get(mistake, "")
    assert re.search(says, str(theirs.value))
    assert re.search(says, str(ours.value))
    if not isinstance(ours.value, (NotFittedError, TypeError)) and "Parameter" not in says:
        by_scikit_learn = "parameter of GaussianMixture must be" in str(ours.value)
        by_scikit_learn |= "seed a numpy" in str(ours.value)
        assert by_scikit_learn or isinstance(ours.value, MogulError)


def test_both_warn_of_a_fit_that_did_not_converge():
    for kind in (Theirs, Ours):
        with pytest.warns(ConvergenceWarning, match="did not converge. Try different init") as told:
            kind(2, max_iter=1, random_state=0).fit(X)
        assert len(told) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind(2, max_iter=0, random_state=0).fit(X)
    assert told[0].filename == __file__


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("max_iter", [4, 200])
def test_both_print_the_same_progress(verbose, max_iter, capsys):
    x, k = clusters(offset=0.0), 4
    settings = {"init_params": "random", "n_init": 2, "random_state": 3}
    settings |= {"verbose": verbose, "verbose_interval": 2, "max_iter": max_iter}
    printed = []
    for kind in (Theirs, lambda **rest: Ours(acceleration="none", **rest)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            kind(n_components=k, **settings).fit(x)
        out = capsys.readouterr()
        assert out.err == ""
        printed.append(re.sub(r"lapse \d+\.\d{5}s", "lapse", out.out))
    assert printed[1] == printed[0]
    assert "Initialization 1\n  Iteration 2" in printed[0]


# --- point 4: default fits ------------------------------------------------------------------------


def point_four():
    wine, digits = load_wine().data, load_digits().data
    return {
        "old_faithful": (old_faithful().values, 2),
        "iris": (load_iris().data, 3),
        "wine": (StandardScaler().fit_transform(wine), 3),
        "digits": (PCA(10, random_state=0).fit_transform(digits), 10),
    }


@pytest.mark.parametrize("data", ["old_faithful", "iris", "wine", "digits"])
def test_default_fits_are_as_likely_as_theirs(data):
    x, k = point_four()[data]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gain = np.array(
            [
                Ours(k, random_state=seed).fit(x).score(x)
                - Theirs(k, random_state=seed).fit(x).score(x)
                for seed in range(10)
            ]
        )
    assert gain.mean() > -1e-6
    assert gain.min() > -0.05
