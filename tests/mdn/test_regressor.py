"""MixtureDensityRegressor: the whole distribution of y given x, as a scikit-learn estimator."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import mogul
from laws.cases import tensor
from mogul import Mixture, MixtureDensityRegressor
from mogul.errors import InputError
from mogul.estimators import mixture_density_regressor
from mogul.nn.density_training import TrainingRecord

# Two small networks without the search for a level of noise. Data here are smooth in x, and two
# such networks with the default input_gain of 4 are rougher. What users get by default is not:
# test_the_defaults_cost_little_on_smooth_data.
QUICK = {
    "n_ensemble": 2,
    "noise": 0.1,
    "max_epochs": 40,
    "hidden": (16,),
    "input_gain": 1.0,
    "random_state": 0,
}


def quick(**settings):
    return MixtureDensityRegressor(**{"n_components": 2, **QUICK, **settings})


def spread(n=400, seed=0):
    """y = 100 + 50 x, with noise that grows with x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (n, 1))
    return x, 100 + 50 * x[:, 0] + (0.5 + 4 * x[:, 0]) * rng.normal(size=n)


@pytest.fixture(scope="module")
def fitted():
    return quick(max_epochs=150, hidden=(32, 32)).fit(*spread(1500))


@pytest.fixture(scope="module")
def two_outputs():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    y = np.stack([10 * x[:, 0], 1e-3 * x[:, 1] - 5 * 1e-3], 1)
    y += rng.multivariate_normal([0, 0], [[1, 0.8e-4], [0.8e-4, 1e-8]], 400)
    model = quick(covariance_type="full", max_epochs=100).fit(
        pd.DataFrame(x, columns=["a", "b", "c"]), pd.DataFrame(y, columns=["u", "v"])
    )
    return model, pd.DataFrame(x, columns=["a", "b", "c"]), y


BY_BATCHES = {
    "check_sample_weight_equivalence_on_dense_data": "batches of rows are drawn, so that a weight "
    "and a repeated row are the same on average, as for scikit-learn's own networks"
}


@parametrize_with_checks(
    [
        MixtureDensityRegressor(2, hidden=(8,), n_ensemble=2, noise=0.1, max_epochs=3),
        MixtureDensityRegressor(
            1, covariance_type="full", hidden=(), n_ensemble=1, max_epochs=2, loss="crps"
        ),
    ],
    expected_failed_checks=lambda _: BY_BATCHES,
)
@pytest.mark.filterwarnings("ignore")
def test_estimator_checks(estimator, check):
    check(estimator)


# --- what it learns -------------------------------------------------------------------------------


def test_it_learns_mean_and_spread_in_the_units_of_y(fitted):
    at = np.array([[0.1], [0.5], [0.9]])
    mean, deviation = fitted.predict(at, return_std=True)
    noise = 0.5 + 4 * at[:, 0]
    # In units of the noise: another processor's rounding sends the training elsewhere.
    assert (np.abs(mean - 100 - 50 * at[:, 0]) < noise / 3).all()
    np.testing.assert_allclose(deviation, noise, rtol=0.25)
    x, y = spread(2000, 5)
    truth = stats.norm(100 + 50 * x[:, 0], 0.5 + 4 * x[:, 0]).logpdf(y).mean()
    assert truth - 0.05 < fitted.score(x, y) < truth + 0.01
    untrained = quick(max_epochs=1, learning_rate=1e-9).fit(*spread(1500))
    assert untrained.score(x, y) < truth - 0.8
    low, high = fitted.predict_interval(x, 0.9).T
    assert np.mean((low <= y) & (y <= high)) == pytest.approx(0.9, abs=0.03)
    spread_of_crps = stats.norm(0, 1).std() * (0.5 + 4 * x[:, 0]).mean() / np.sqrt(np.pi)
    assert fitted.crps(x, y) == pytest.approx(spread_of_crps, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_defaults_cost_little_on_smooth_data(seed):
    """Within .03 nats of the truth, as asked on the inverted sine, where y given x is a line."""
    x, y = spread(4000, 5)
    truth = stats.norm(100 + 50 * x[:, 0], 0.5 + 4 * x[:, 0]).logpdf(y).mean()
    fitted = MixtureDensityRegressor(random_state=seed).fit(*spread(1500, seed))
    short = truth - fitted.score(x, y)
    print(f"seed {seed}: {short:.4f} nats short of the truth")
    assert short < 0.03


def test_units_and_origin_of_x_and_y_do_not_matter():
    x, y = spread()
    one = quick().fit(x, y)
    other = quick().fit(1e4 + 1e-3 * x, 1e6 - 7 + 1e3 * y)
    at = np.array([[0.2], [0.8]])
    np.testing.assert_allclose(
        other.predict(1e4 + 1e-3 * at), 1e6 - 7 + 1e3 * one.predict(at), rtol=1e-4
    )
    assert other.score(1e4 + 1e-3 * x, 1e6 - 7 + 1e3 * y) == pytest.approx(
        one.score(x, y) - np.log(1e3), abs=0.02
    )


def test_correlated_outputs_of_different_units_are_learnt_together(two_outputs):
    model, x, y = two_outputs
    assert model.predict(x).shape == (400, 2)
    covariance = model.predict_mixture(x.iloc[:50]).covariance_matrix.mean(0)
    correlation = covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()
    assert float(correlation) == pytest.approx(0.8, abs=0.25)
    mixture = model.predict_mixture(x.iloc[:3])
    assert mixture.feature_names == ("u", "v")
    plain = quick(max_epochs=100).fit(x, y)
    assert model.score(x, y) > plain.score(x, y) + 0.1


def test_missing_outputs_are_learnt_around(two_outputs):
    _, x, y = two_outputs
    holes = y.copy()
    rng = np.random.default_rng(3)
    holes[rng.random(400) < 0.3, 1] = np.nan
    model = quick(covariance_type="full", max_epochs=100).fit(x, holes)
    assert model.score(x, y) > quick(max_epochs=1, learning_rate=1e-9).fit(x, y).score(x, y) + 1
    known = ~np.isnan(holes[:, 1])
    each = model.log_prob(x, holes)
    np.testing.assert_allclose(each[known], model.log_prob(x[known], y[known]))
    marginal = model.predict_mixture(x[~known]).marginal([0])
    np.testing.assert_allclose(each[~known], marginal.log_prob(tensor(y[~known, :1])))
    assert np.isfinite(model.crps(x, holes))


def test_weights_and_repeated_rows():
    """Rows of weight zero are not there; heavier rows are listened to."""
    x, y = spread(300)
    weight = np.where(x[:, 0] < 0.5, 1.0, 0.0)
    kept = weight > 0
    one = quick().fit(x, np.where(kept, y, -1e6), weight)
    other = quick().fit(x[kept], y[kept])
    np.testing.assert_allclose(one.predict(x[:5]), other.predict(x[:5]))
    both = np.repeat(x, 2, 0), np.stack([y, y + 100], 1).ravel()
    heavy = quick(max_epochs=80).fit(*both, np.tile([9.0, 1.0], 300))
    share = float(heavy.predict_mixture(x[:20]).cdf(tensor(y[:20, None] + 50)).mean())
    assert share == pytest.approx(0.9, abs=0.05)


def test_the_level_of_noise_fits_the_data():
    """More where there are few rows of much noise, least where y is a function of x."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(150, 6))
    settings = {"noise": "auto", "n_ensemble": 3, "max_epochs": 120, "n_components": 3}
    loud = quick(**settings).fit(x, x[:, 0] + 2 * rng.normal(size=150))
    exact = quick(**settings).fit(x, np.sin(x[:, 0]))
    assert loud.noise_ > exact.noise_
    assert len(exact.noise_losses_) == 6
    assert exact.noise_losses_[exact.noise_] == min(exact.noise_losses_.values())
    assert len(exact.networks_) == 3
    unit = 150 ** (-1 / 10)
    assert min(abs(exact.noise_ / unit - level) for level in (0.01, 0.02, 0.04, 0.08)) < 1e-12
    assert quick(noise=None).fit(x[:, :1], x[:, 1]).noise_ == 0.0


def test_of_many_rows_the_level_is_found_on_some(monkeypatch):
    monkeypatch.setattr(mixture_density_regressor, "_PILOT_ROWS", 100)
    rng = np.random.default_rng(8)
    x = rng.normal(size=(400, 2))
    heard = []
    model = quick(noise="auto", callbacks=[lambda record: heard.append(record) and None])
    model.fit(x, x[:, 0] + rng.normal(size=400))
    assert len(model.noise_losses_) == 6
    multiple = min(model.noise_losses_, key=model.noise_losses_.get) / 100 ** (-1 / 6)
    assert model.noise_ == pytest.approx(multiple * 400 ** (-1 / 6))
    assert len(heard) > len(model.history_)
    stop = quick(noise="auto", callbacks=[lambda record: record.epoch == 2])
    with pytest.warns(ConvergenceWarning, match="stopped early, after 2 epochs"):
        assert np.isfinite(stop.fit(x, x[:, 0]).score(x, x[:, 0]))


# --- laws of the distribution ---------------------------------------------------------------------


def test_the_answers_are_those_of_the_mixture(fitted):
    x = np.array([[0.2], [0.7]])
    mixture = fitted.predict_mixture(x)
    assert isinstance(mixture, Mixture)
    assert mixture.n_components == 4
    assert mixture.dtype == torch.float64
    np.testing.assert_allclose(fitted.predict(x), mixture.mean[:, 0])
    found = fitted.predict_quantiles(x, [0.1, 0.5, 0.9])
    assert found.shape == (2, 3)
    np.testing.assert_allclose(
        mixture.cdf(tensor(found.T[:, :, None]))[..., 0].T, [[0.1, 0.5, 0.9]] * 2, atol=1e-8
    )
    assert fitted.predict_quantiles(x, 0.5).shape == (2, 1)
    np.testing.assert_allclose(fitted.predict_interval(x, 0.8), found[:, [0, 2]])
    regions = fitted.predict_hdr(x, 0.8)
    assert regions.shape[0] == 2
    for i in range(2):
        known = regions[i][~np.isnan(regions[i, :, 0])]
        ends = mixture[i].cdf(tensor(known.reshape(-1, 1)))[:, 0].reshape(-1, 2)
        assert float((ends[:, 1] - ends[:, 0]).sum()) == pytest.approx(0.8, abs=1e-6)
    y = np.array([110.0, 140.0])
    np.testing.assert_allclose(fitted.log_prob(x, y), mixture.log_prob(tensor(y[:, None])))
    for i in range(2):

        def density(v, i=i):
            return float(mixture[i].log_prob(tensor([v])).exp())

        total, _ = integrate.quad(density, 0, 300, points=[float(mixture.mean[i])], limit=300)
        assert total == pytest.approx(1, abs=1e-6)


def test_an_ensemble_is_the_average_of_its_networks(fitted):
    x = np.linspace(0, 1, 7)[:, None]
    y = tensor(fitted.predict(x)[:, None] + 1.0)
    each = torch.stack([one.double()(tensor(x)).log_prob(y).exp() for one in
                        map(_copy, fitted.networks_)])  # fmt: skip
    found = np.exp(fitted.log_prob(x, y[:, 0].numpy()))
    np.testing.assert_allclose(found, each.mean(0).detach(), rtol=1e-4)


def _copy(network):
    return pickle.loads(pickle.dumps(network))


def test_samples_have_the_distribution_and_biases_clean_them(fitted):
    x = np.array([[0.3], [0.9]])
    drawn = fitted.sample(x, 4000)
    assert drawn.shape == (2, 4000)
    mixture = fitted.predict_mixture(x)
    for i in range(2):

        def cdf(v, i=i):
            return mixture[i].cdf(tensor(np.asarray(v).reshape(-1, 1)))[:, 0].numpy()

        assert stats.kstest(drawn[i], cdf).pvalue > 1e-3
    np.testing.assert_array_equal(drawn, fitted.sample(x, 4000))
    clean = fitted.sample(x, 200, scale_bias=10.0)
    gaps = np.abs(clean[:, :, None] - mixture.means[:, None, :, 0].numpy()).min(-1)
    assert gaps.max() < 0.01  # on the means of the components
    likeliest = fitted.sample(x, 200, weight_bias=1e6, scale_bias=10.0)
    assert np.ptp(likeliest, axis=1).max() < 0.01


# --- never NaN ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["diag", "full", "spherical", "tied"])
def test_hard_data_give_finite_answers(kind):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(100, 2))
    wild = x[:, :1] + rng.normal(size=(100, 2))
    wild[0] = 1e4
    settings = {"covariance_type": kind, "max_epochs": 10}
    cases = [
        (x, wild, settings),
        (x, x[:, :1], {**settings, "n_components": 50}),
        (x, rng.normal(size=(100, 16)), settings),
        (x, np.column_stack([np.ones(100), x[:, 0]]), settings),
        (x, np.full(100, 3.0), settings),
        (np.column_stack([x, np.ones(100)]), x[:, 0], settings),
        (x[:2], x[:2, 0], settings),
    ]
    for features, y, how in cases:
        model = quick(**how).fit(features, y)
        assert np.isfinite(model.score(features, y))
        assert np.isfinite(model.predict(features)).all()
        assert np.isfinite(model.score(features, y + 1e4 * np.std(y)))


@pytest.mark.slow
def test_twenty_seeds_of_hard_data_are_finite():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(100, 2))
        wild = x[:, :1] + rng.normal(size=(100, 1))
        for y, k in ((wild, 50), (np.where(rng.random((100, 1)) < 0.05, 1e4, wild), 5),
                     (rng.normal(size=(100, 16)), 5), (np.ones((100, 1)), 5)):  # fmt: skip
            model = quick(n_components=k, covariance_type="full", random_state=seed).fit(x, y)
            assert np.isfinite(model.score(x, y))


# --- as an estimator ------------------------------------------------------------------------------


def test_seeds_repeat_and_the_global_generator_is_left_alone():
    x, y = spread(100)
    state = torch.random.get_rng_state()
    one, same, other = (quick(random_state=s).fit(x, y).predict(x) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_it_goes_into_pipelines_searches_and_pickles():
    x, y = spread(120)
    pipe = make_pipeline(StandardScaler(), quick(max_epochs=5)).fit(x, y)
    assert pipe.predict(x).shape == (120,)
    search = GridSearchCV(quick(max_epochs=3), {"n_components": [1, 2]}, cv=2).fit(x, y)
    assert search.best_params_["n_components"] in (1, 2)
    again = pickle.loads(pickle.dumps(pipe))
    np.testing.assert_array_equal(again.predict(x), pipe.predict(x))
    assert clone(quick(hidden=(3, 4))).hidden == (3, 4)


def test_dropout_repeats_too():
    """It draws from torch's own generator, which is seeded inside and left as it was."""
    x, y = spread(100)
    state = torch.random.get_rng_state()
    one, same = (quick(dropout=0.3, max_epochs=5).fit(x, y).predict(x) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_callbacks_hear_of_epochs_and_may_stop_it():
    heard = []
    model = quick(callbacks=[lambda r: heard.append(r) or r.epoch == 3])
    with pytest.warns(ConvergenceWarning, match="stopped early, after 3 epochs") as caught:
        model.fit(*spread(100))
    assert caught[0].filename == __file__
    assert isinstance(heard[0], TrainingRecord)
    assert model.history_ == heard


def test_a_backbone_of_ones_own():
    x, y = spread(200)
    whole = torch.nn.Sequential(torch.nn.Linear(1, 12), torch.nn.Tanh())
    before = whole[0].weight.detach().clone()
    model = quick(backbone=whole).fit(x, y)
    assert torch.equal(whole[0].weight, before)
    first, second = (one.backbone[0].weight for one in model.networks_)
    assert not torch.equal(first, second)
    made = quick(backbone=lambda d: torch.nn.Linear(d, 4)).fit(x, y)
    assert made.networks_[0].head.in_features == 4
    with pytest.raises(InputError, match=r"does not take x of shape \(B, 1\)"):
        quick(backbone=torch.nn.Linear(3, 4)).fit(x, y)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda x, y: quick().fit(x, y[:-1]), "y has 99 rows and X has 100"),
        (lambda x, y: quick().fit(x, np.where(y > y.max() - 1, np.nan, y)), "NaN in every output"),
        (lambda x, y: quick().fit(x, np.where(y > y.max() - 1, np.inf, y)), "y contains infinity"),
        (lambda x, y: quick().fit(x, [["a"]] * 100), "y must be numbers"),
        (lambda x, y: quick().fit(x, None), "requires y to be passed"),
        (lambda x, y: quick().fit(x, y.reshape(10, 10, 1)), r"y has shape \(10, 10, 1\)"),
        (lambda x, y: quick(covariance_type="round").fit(x, y), "covariance_type"),
        (lambda x, y: quick(loss="mse").fit(x, y), "loss"),
        (lambda x, y: quick(hidden=(0,)).fit(x, y), "width of hidden"),
        (lambda x, y: quick(callbacks=["print"]).fit(x, y), "callbacks must be callables"),
        (lambda x, y: quick(noise=-1.0).fit(x, y), "noise"),
        (lambda x, y: quick().fit(x, y, np.eye(100)[0]), "Only one row has a positive weight"),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_a_sentence(ask, says):
    x, y = spread(100)
    with pytest.raises(ValueError, match=says) as caught:
        ask(x, y)
    assert "\n" not in str(caught.value)


def test_questions_that_have_no_answer_are_refused(fitted, two_outputs):
    for wrong in (0.0, 1.0, -0.1, "half", [0.5, 2.0]):
        with pytest.raises(InputError, match="strictly between 0 and 1"):
            fitted.predict_quantiles([[0.5]], wrong)
        if not isinstance(wrong, list):
            for ask in (fitted.predict_interval, fitted.predict_hdr):
                with pytest.raises(InputError, match="strictly between 0 and 1"):
                    ask([[0.5]], wrong)
    with pytest.raises(InputError, match="from 1 on"):
        fitted.sample([[0.5]], 0)
    with pytest.raises(InputError, match="2 features"):
        fitted.predict([[0.5, 0.5]])
    with pytest.raises(InputError, match="1 outputs; the model was fitted to 2"):
        two_outputs[0].score(two_outputs[1], np.ones(400))
    with pytest.raises(NotFittedError):
        quick().predict([[0.5]])


# --- files ----------------------------------------------------------------------------------------


def test_a_saved_regressor_predicts_the_same(fitted, two_outputs, tmp_path):
    again = mogul.load(mogul.save(fitted, tmp_path / "one"))
    x, y = spread(50, 9)
    np.testing.assert_array_equal(again.predict_quantiles(x, [0.2, 0.8]),
                                  fitted.predict_quantiles(x, [0.2, 0.8]))  # fmt: skip
    assert again.score(x, y) == fitted.score(x, y)
    assert again.get_params() == fitted.get_params()
    assert again.noise_losses_ == fitted.noise_losses_
    model, frame, _ = two_outputs
    again = mogul.load(mogul.save(model, tmp_path / "two"))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    assert list(again.feature_names_in_) == ["a", "b", "c"]
    assert again.predict_mixture(frame.iloc[:1]).feature_names == ("u", "v")
    changed = quick(max_epochs=2).fit(x, y)
    before = changed.predict(x)
    # What was fitted is what is saved, whatever has been set since.
    changed.set_params(n_ensemble=5, n_components=7, hidden=(3,))
    again = mogul.load(mogul.save(changed, tmp_path / "changed"))
    np.testing.assert_array_equal(again.predict(x), before)
    own = quick(backbone=torch.nn.Linear(1, 4), max_epochs=2).fit(x, y)
    with pytest.raises(InputError, match="cannot be written to a file"):
        mogul.save(own, tmp_path / "own")


@pytest.mark.parametrize(
    ("kind", "d"), [("diag", 1), ("diag", 2), ("full", 2), ("tied", 3), ("spherical", 2)]
)
def test_an_onnx_graph_gives_the_same_mixture(kind, d, tmp_path):
    """In onnxruntime, for any number of rows, with a far origin and three different units."""
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(7)
    x, units = rng.normal(size=(200, 3)) + 100, np.array([1.0, 10, 100])[:d]
    model = quick(covariance_type=kind, max_epochs=3).fit(
        x, rng.normal(size=(200, d)) * units + 1e4
    )
    state = torch.random.get_rng_state()
    session = onnxruntime.InferenceSession(str(model.to_onnx(tmp_path / "model.onnx")))
    assert torch.equal(torch.random.get_rng_state(), state)
    for n in (1, 37):
        weights, means, scales = session.run(["weights", "means", "scales"], {"x": x[:n]})
        mixture = model.predict_mixture(x[:n])
        np.testing.assert_allclose(weights, mixture.weights, atol=1e-6)
        np.testing.assert_allclose((means - mixture.means.numpy()) / units, 0, atol=1e-5)
        if kind in ("full", "tied"):
            found, expected = scales @ scales.swapaxes(-1, -2), mixture.covariance.dense().numpy()
            np.testing.assert_allclose(found / np.outer(units, units),
                                       expected / np.outer(units, units), atol=1e-4)  # fmt: skip
        else:
            expected = mixture.covariance.variances().sqrt().numpy()
            np.testing.assert_allclose(scales, expected, rtol=1e-5)
