"""AEGMM and VAEGMM: they learn, their scores are of the row alone, and they are calibrated."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import mogul
from mogul import AEGMM, VAEGMM
from mogul.errors import DegenerateFitError, InputError, UnknownNameError
from mogul.estimators import _energy_detector
from mogul.nn import AEGMMNetwork, VAEGMMNetwork
from mogul.nn.energy_training import EnergySettings, energy_loss, latent_mixture, train_energy
from mogul.nn.reconstruction import RECON_FEATURES

BOTH = pytest.mark.parametrize("kind", [AEGMM, VAEGMM])
NETWORKS = pytest.mark.parametrize("kind", [AEGMMNetwork, VAEGMMNetwork])
BY_FOLDS = {
    "check_sample_weight_equivalence_on_dense_data": "folds are drawn, so that a weight and a "
    "repeated row are the same on average only",
}


def curve(n: int, seed: int, noise: float = 0.1) -> np.ndarray:
    """Rows near a curve in six columns of very different size."""
    rng = np.random.default_rng(seed)
    t = rng.normal(size=n)
    columns = [t, t**2, np.sin(2 * t), t - t**2, np.cos(t), 0.5 * t]
    rows = np.column_stack(columns) + noise * rng.normal(size=(n, 6))
    return rows * [1, 1000, 1e-3, 1, 50, 1] + [0, 5, 7, 0, 0, -3]


def strangers(n: int, seed: int) -> np.ndarray:
    """Each column as on the curve, each from another place of it."""
    rng = np.random.default_rng(seed)
    rows = curve(n, seed)
    return np.column_stack([rng.permutation(column) for column in rows.T])


@pytest.fixture(scope="module", params=[AEGMM, VAEGMM])
def fitted(request):
    return request.param(n_ensemble=2, max_epochs=60, random_state=0).fit(curve(600, 0))


@parametrize_with_checks(
    [
        AEGMM(n_ensemble=2, max_epochs=3, random_state=0),
        VAEGMM(n_ensemble=2, max_epochs=3, samples=3, random_state=0),
    ],
    expected_failed_checks=lambda _: BY_FOLDS,
)
@pytest.mark.filterwarnings("ignore")
def test_estimator_checks(estimator, check):
    check(estimator)


# --- learning -----------------------------------------------------------------------------------


@NETWORKS
def test_every_parameter_gets_a_gradient(kind):
    torch.manual_seed(0)
    network = kind(7, 3, dtype=torch.float64)
    x = torch.randn(64, 7, dtype=torch.float64)
    noise = torch.randn(64, network.latent_size, dtype=torch.float64)
    settings = EnergySettings(1, 64, 0.01)
    energy_loss(x, network(x, noise), settings).total.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@NETWORKS
def test_training_changes_every_parameter_and_lowers_the_loss(kind):
    torch.manual_seed(0)
    network = kind(6, 2, dtype=torch.float64)
    x = torch.from_numpy((curve(512, 0) - curve(512, 0).mean(0)) / curve(512, 0).std(0))
    before = {name: value.clone() for name, value in network.named_parameters()}
    settings = EnergySettings(200, 64, 0.003, noise=0.1)
    result = train_energy(network, x, settings, torch.Generator().manual_seed(0))
    for name, value in network.named_parameters():
        assert not torch.equal(value, before[name]), name
    assert result.history[-1].loss < result.history[0].loss - 1
    assert result.history[-1].recon < result.history[0].recon - 1
    assert not network.training


@BOTH
def test_trained_networks_beat_untrained_ones(kind):
    train, test = curve(600, 0, 0.3), np.vstack([curve(300, 1, 0.3), strangers(300, 2)])
    labels = np.repeat([0, 1], 300)
    areas = [
        roc_auc_score(
            labels, kind(n_ensemble=2, max_epochs=e, random_state=0).fit(train).score(test)
        )
        for e in (0, 80)
    ]
    assert areas[1] > 0.85
    assert areas[1] > areas[0] + 0.05


@NETWORKS
def test_the_loss_is_what_its_formula_says(kind):
    torch.manual_seed(1)
    network = kind(5, 2, dtype=torch.float64).eval()
    x = torch.randn(400, 5, dtype=torch.float64)
    settings = EnergySettings(
        1, 64, 0.01, w_energy=0.3, w_cov_diag=0.02, recon_scale=0.7, w_recon=2.0, beta=0.5
    )
    with torch.no_grad():
        out = network(x)
        loss = energy_loss(x, out, settings)
    z, gamma, recon = (part.numpy() for part in (out.z, out.gamma, out.recon))
    nu = z.shape[1] + 2
    counts = gamma.sum(0)
    means = gamma.T @ z / counts[:, None]
    scatters = [(gamma[:, k, None] * (z - means[k])).T @ (z - means[k]) for k in range(2)]
    prior = nu * np.diag(np.diag(sum(scatters)) / len(z))
    covariances = [(s + prior) / (n + nu) for s, n in zip(scatters, counts, strict=True)]
    density = sum(
        n / len(z) * multivariate_normal(m, c + 1e-6 * np.eye(len(m))).pdf(z)
        for n, m, c in zip(counts, means, covariances, strict=True)
    )
    energy = -np.log(density).mean()
    inverse = sum((1 / np.diag(c)).sum() for c in covariances)
    errors = x.numpy() - recon
    likelihood = multivariate_normal(np.zeros(5), 0.49 * np.eye(5)).logpdf(errors).mean()
    total = -2.0 * likelihood + (0.3 * energy + 0.02 * inverse) * 3 / z.shape[1]
    if out.kl is not None:
        hidden = network.encoder(x).detach()
        m = network.to_mean(hidden).detach().numpy()
        log_v = network.to_log_variance(hidden).detach().numpy()
        log_v = 10 * np.tanh(log_v / 10)
        total += 0.5 * (0.5 * (m**2 + np.exp(log_v) - 1 - log_v).sum(1)).mean()
    assert float(loss.energy) == pytest.approx(energy, rel=1e-9)
    assert float(loss.cov_diag) == pytest.approx(inverse, rel=1e-9)
    assert float(loss.total) == pytest.approx(total, rel=1e-9)


def test_weights_in_the_loss_are_repeated_rows():
    torch.manual_seed(1)
    network = AEGMMNetwork(4, 2, dtype=torch.float64).eval()
    x = torch.randn(3000, 4, dtype=torch.float64)
    times = torch.randint(1, 4, (3000,))
    settings = EnergySettings(1, 64, 0.01)
    weight = times.double() / times.double().mean()
    with torch.no_grad():
        given = energy_loss(x, network(x), settings, weight)
        many = x.repeat_interleave(times, 0)
        # A prior of some rows counts less against more rows.
        plain = energy_loss(many, network(many), settings)
    assert float(given.recon) == pytest.approx(float(plain.recon), rel=1e-9)
    assert float(given.energy) == pytest.approx(float(plain.energy), abs=0.02)


@NETWORKS
def test_the_final_mixture_is_that_of_all_rows_at_once(kind, monkeypatch):
    torch.manual_seed(0)
    network = kind(5, 3, dtype=torch.float64).eval()
    x = torch.randn(1000, 5, dtype=torch.float64) + 1e3
    noise = torch.randn(4, network.latent_size, dtype=torch.float64)
    draws = noise if network.variational else None
    whole = latent_mixture(network, x, noise=draws)
    monkeypatch.setattr("mogul.nn.energy_training._ROWS_TOGETHER", 37)
    parts = latent_mixture(network, x, noise=draws)
    with torch.no_grad():
        outs = [network(x, d) for d in (noise if network.variational else [None])]
    z = torch.cat([out.z for out in outs])
    gamma = torch.cat([out.gamma for out in outs])
    assert torch.allclose(whole.weights, gamma.mean(0), rtol=1e-10)
    assert torch.allclose(whole.means, gamma.T @ z / gamma.sum(0)[:, None], rtol=1e-8)
    assert torch.allclose(whole.means, parts.means, rtol=1e-10)
    assert torch.allclose(whole.covariances, parts.covariances, rtol=1e-6, atol=1e-12)


@BOTH
@pytest.mark.parametrize("size", [16, 1024])
def test_batches_of_any_size_train(kind, size):
    model = kind(n_ensemble=1, max_epochs=15, batch_size=size, random_state=0).fit(curve(300, 0))
    assert np.isfinite([record.loss for record in model.history_]).all()
    assert np.isfinite(model.score(curve(100, 1))).all()


# --- laws ---------------------------------------------------------------------------------------


def test_scores_are_of_the_row_alone(fitted, monkeypatch):
    rows = np.vstack([curve(50, 3), strangers(50, 4)])
    together = fitted.score(rows)
    alone = np.concatenate([fitted.score(row[None]) for row in rows])
    order = np.random.default_rng(0).permutation(len(rows))
    assert np.allclose(together, alone, rtol=0, atol=1e-10 * np.abs(together).max())
    assert np.allclose(together[order], fitted.score(rows[order]), rtol=1e-10)
    monkeypatch.setattr(_energy_detector, "_ROWS_TOGETHER", 7)
    assert np.allclose(together, fitted.score(rows), rtol=1e-10)


def test_a_far_row_scores_finite_and_higher_than_a_near_one(fitted):
    middle = curve(600, 0).mean(0)
    spread = curve(600, 0).std(0)
    for direction in np.random.default_rng(0).normal(size=(10, 6)):
        steps = np.array([1e2, 1e4, 1e6])
        energies = fitted.score(middle + steps[:, None] * direction * spread)
        assert np.isfinite(energies).all()
        assert (np.diff(energies) > 0).all()


def test_contributions_add_up_to_the_excess_energy(fitted):
    rows = np.vstack([curve(5, 3), strangers(5, 4), curve(1, 3) * 1e6])
    told = fitted.explain(rows)
    energies = fitted.score(rows)
    usual = fitted._energies(fitted._reference[:32]).numpy().mean()  # one row for each order
    gap = told.contributions.sum(1) - (energies - usual)
    assert np.abs(gap).max() < 1e-8 * max(1.0, np.abs(energies).max())


def test_path_contributions_name_the_column_that_was_moved():
    names = ["a", "b", "c", "d", "e", "f"]
    pandas = pytest.importorskip("pandas")
    train = pandas.DataFrame(curve(600, 0), columns=names)
    model = AEGMM(n_ensemble=2, max_epochs=60, random_state=0).fit(train)
    rows = curve(20, 5)
    rows[:, 3] += 8
    moved = pandas.DataFrame(rows, columns=names)
    means = model.explain(moved, n_orders=64).contributions.mean(0)
    assert names[int(means.argmax())] == "d"
    errors = model.feature_score(moved).mean(0)
    assert errors[3] > 5 * np.sort(errors)[-2]
    assert model.feature_score(moved).shape == (20, 6)
    with pytest.raises(InputError, match="feature names"):
        model.score(moved.rename(columns={"a": "z"}))


def test_files_keep_every_bit(fitted, tmp_path):
    rows = np.vstack([curve(50, 3), strangers(50, 4)])
    again = mogul.load(mogul.save(fitted, tmp_path / "alarm.safetensors"))
    assert type(again) is type(fitted)
    assert np.array_equal(again.score(rows), fitted.score(rows))
    assert np.array_equal(again.p_values(rows), fitted.p_values(rows))
    assert np.array_equal(again.predict(rows), fitted.predict(rows))
    assert np.array_equal(again.feature_score(rows), fitted.feature_score(rows))
    assert np.array_equal(again.explain(rows).contributions, fitted.explain(rows).contributions)
    assert again.get_params() == fitted.get_params()
    assert [vars(r) for r in again.history_] == [vars(r) for r in fitted.history_]


@BOTH
def test_same_seed_same_scores(kind):
    state = torch.random.get_rng_state()
    rows = curve(200, 0)
    made = [kind(n_ensemble=2, max_epochs=5, random_state=3).fit(rows).score(rows) for _ in "ab"]
    assert np.array_equal(*made)
    assert torch.equal(state, torch.random.get_rng_state())


@BOTH
def test_many_columns_and_few_rows(kind):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 1000)) + rng.normal(size=(200, 1))
    model = kind(n_ensemble=1, max_epochs=20, random_state=0).fit(rows)
    fresh = rng.normal(size=(50, 1000)) + rng.normal(size=(50, 1))
    assert model.score(fresh + 4 * rng.normal(size=(50, 1000))).min() > model.score(fresh).max()


@BOTH
def test_constant_and_repeated_columns_work(kind):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(300, 1))
    rows = np.hstack([one, one, np.full((300, 1), 5.0), np.zeros((300, 1))])
    model = kind(n_ensemble=1, max_epochs=30, random_state=0).fit(rows)
    at = np.array([[0.1, 0.1, 5.0, 0.0], [0.1, 0.1, 8.0, 0.0]])
    assert np.isfinite(model.score(at)).all()
    assert model.predict(at).tolist() == [1, -1]


@BOTH
def test_a_single_column_and_equal_rows_work(kind):
    line = np.random.default_rng(0).normal(size=(100, 1))
    model = kind(n_ensemble=1, max_epochs=10, random_state=0).fit(line)
    assert model.score([[9.0]]) > model.score([[0.0]])
    same = kind(n_ensemble=1, max_epochs=5, random_state=0).fit(np.ones((30, 3)))
    assert np.isfinite(same.score(np.ones((2, 3)))).all()


# --- alarms -------------------------------------------------------------------------------------


def test_thresholds_and_the_familiar_answer(fitted):
    rows = np.vstack([curve(95, 3), strangers(5, 4)])
    offset = fitted.offset_
    try:
        fitted.infer_threshold(rows, threshold_perc=95)
        answer = fitted.predict(rows, return_instance_score=True)
        assert answer["data"]["is_outlier"].sum() == 5
        assert fitted.threshold_ == answer["data"]["threshold"] == -fitted.offset_
        assert np.array_equal(answer["data"]["is_outlier"] == 1, fitted.predict(rows) == -1)
    finally:
        fitted.offset_ = offset
    assert np.array_equal(answer["data"]["instance_score"], fitted.score(rows))
    assert answer["data"]["feature_score"].shape == rows.shape
    assert np.array_equal(answer["data"]["p_value"], fitted.p_values(rows))
    assert answer["meta"]["name"] == type(fitted).__name__
    assert answer["meta"]["detector_type"] == "outlier"
    assert answer["meta"]["version"] == mogul.__version__
    short = fitted.predict(rows, return_instance_score=False)
    assert short["data"]["instance_score"] is None
    strict = fitted.predict(rows, 0.05, return_instance_score=True)["data"]["is_outlier"]
    assert np.array_equal(strict == 1, fitted.p_values(rows) <= 0.05)


def test_feature_scores_are_squared_errors(fitted):
    rows = curve(5, 3)
    x = torch.from_numpy(np.arcsinh((rows - fitted.loc_) / fitted.scale_))
    draws = [None] if fitted._draws is None else fitted._draws
    with torch.no_grad():
        errors = [(x - n(x, d).recon).square() for n in fitted.networks_ for d in draws]
    assert np.allclose(fitted.feature_score(rows), torch.stack(errors).mean(0).numpy())


def test_calibration_rows_are_those_that_no_network_saw():
    rows = curve(200, 0)
    model = AEGMM(n_ensemble=2, max_epochs=300, noise=0, random_state=0).fit(rows)
    assert model.n_calibration_ == 40
    seen = np.isin(model.score_samples(rows), model.calibration_scores_[0], invert=True)
    assert seen.sum() == 160  # and so learnt by heart, without noise
    errors = model.feature_score(rows).mean(1)
    assert np.median(errors[~seen]) > 1.3 * np.median(errors[seen])


@pytest.mark.slow
@BOTH
def test_p_values_of_fresh_rows_are_uniform_where_it_matters(kind):
    """The share of fresh ordinary rows with p ≤ α is α, to what the repeats allow."""
    levels, shares = (0.01, 0.05, 0.1), []
    for seed in range(50):
        model = (
            kind(n_ensemble=5, max_epochs=5, samples=4, random_state=seed)
            if (kind is VAEGMM)
            else kind(n_ensemble=5, max_epochs=5, random_state=seed)
        )
        p = model.fit(curve(500, seed)).p_values(curve(400, 1000 + seed))
        shares.append([(p <= level).mean() for level in levels])
    spread = np.std(shares, axis=0, ddof=1) / np.sqrt(len(shares))
    assert (np.abs(np.mean(shares, axis=0) - levels) < 3 * spread + 0.002).all()


# --- networks of one's own, interruptions, bad input ----------------------------------------------


@BOTH
def test_networks_of_ones_own(kind, tmp_path):
    encoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    density = nn.Sequential(nn.Linear(5, 4), nn.Softmax(-1))
    model = kind(
        4,
        latent_size=3,
        encoder_net=encoder,
        decoder_net=lambda d: nn.Linear(3, d),
        gmm_density_net=density,
        recon_features=["cosine", lambda x, recon: (x - recon).abs().mean(-1, keepdim=True)],
        n_ensemble=2,
        max_epochs=5,
        random_state=0,
    ).fit(curve(200, 0))
    assert model.mixtures_[0].n_features == 5
    assert model.latent(curve(7, 1)).shape == (7, 5)
    first = [network.encoder[0].weight for network in model.networks_]
    assert not torch.equal(*first)
    assert encoder[0].weight.dtype == torch.float32  # the user's own is left alone
    with pytest.raises(InputError, match="of one's own cannot be written"):
        mogul.save(model, tmp_path / "x.safetensors")


def test_a_callback_ends_the_training():
    told = []

    def stop(record):
        told.append((record.member, record.epoch))
        return record.member == 1 and record.epoch == 2

    model = AEGMM(n_ensemble=3, max_epochs=4, callbacks=[stop], random_state=0)
    with pytest.warns(ConvergenceWarning, match="network 2 of 3"):
        model.fit(curve(200, 0))
    assert told[-1] == (1, 2)
    assert len(model.networks_) == 2
    assert np.isfinite(model.p_values(curve(5, 1))).all()


def test_rows_of_weight_zero_are_left_out():
    rows = curve(200, 0)
    spoilt = np.vstack([rows, np.full((10, 6), 1e9)])
    weight = np.repeat([1.0, 0.0], [200, 10])
    settings = {"n_ensemble": 1, "max_epochs": 3, "random_state": 0}
    given = AEGMM(**settings).fit(spoilt, sample_weight=weight).score(rows)
    assert np.array_equal(
        given, AEGMM(**settings).fit(rows, sample_weight=np.ones(200)).score(rows)
    )


@pytest.mark.parametrize("name", list(RECON_FEATURES))
def test_features_are_finite_with_gradients_everywhere(name):
    feature = RECON_FEATURES[name]
    rows = torch.tensor([[0, 0], [1e-200, 0], [1, -2], [1e150, 1]], dtype=torch.float64)
    for recon in (rows.clone(), torch.zeros_like(rows), -rows):
        recon.requires_grad_()
        found = feature(rows, recon)
        assert found.shape == (4, 1)
        found.sum().backward()
        assert torch.isfinite(found).all()
        assert torch.isfinite(recon.grad).all()


def test_features_are_what_their_formulas_say():
    rng = np.random.default_rng(0)
    x, recon = rng.normal(size=(2, 9, 4))
    given = torch.from_numpy(x), torch.from_numpy(recon)
    length = np.sqrt((x**2).sum(1) + 4 * 0.1**2)
    other = np.sqrt((recon**2).sum(1) + 4 * 0.1**2)
    gap = np.sqrt(((x - recon) ** 2).sum(1) + 4 * 1e-6)
    wanted = {
        "relative": gap / length,
        "cosine": (x * recon).sum(1) / (length * other),
        "error": gap / 2,
    }
    for name, feature in RECON_FEATURES.items():
        assert np.allclose(feature(*given)[:, 0].numpy(), wanted[name], rtol=1e-12), name


QUICK = {"n_ensemble": 1, "max_epochs": 5, "random_state": 0}


@BOTH
def test_dropout_is_off_when_rows_are_scored(kind):
    density = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 2))
    density.append(nn.Softmax(-1))
    decoder = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 6))
    model = kind(decoder_net=decoder, gmm_density_net=density, **QUICK).fit(curve(100, 0))
    assert np.array_equal(model.score(curve(9, 1)), model.score(curve(9, 1)))


@BOTH
def test_only_the_ratios_of_weights_count(kind):
    rows = curve(80, 0)
    weight = np.random.default_rng(1).integers(1, 4, 80).astype(float)
    fits = [kind(**QUICK).fit(rows, sample_weight=weight * u) for u in (1.0, 1e-3, 1e200)]
    given = [fit.score(rows) for fit in fits]
    assert np.allclose(given[0], given[1], rtol=1e-6)
    assert np.allclose(given[0], given[2], rtol=1e-6)


def test_the_number_of_draws_does_not_change_the_prior():
    torch.manual_seed(0)
    network = VAEGMMNetwork(4, 2, dtype=torch.float64).eval()
    x = torch.randn(30, 4, dtype=torch.float64)
    one, many = (
        latent_mixture(network, x, noise=torch.zeros(n, network.latent_size).double())
        for n in (1, 50)
    )
    assert torch.allclose(one.covariances, many.covariances, rtol=1e-9)


def test_a_heavy_row_counts_by_its_weight_in_training():
    rows = np.vstack([curve(300, 0), np.full((1, 6), 500.0)])
    light = AEGMM(**{**QUICK, "max_epochs": 60}).fit(rows)
    weight = np.r_[np.ones(300), 300.0]
    heavy = AEGMM(**{**QUICK, "max_epochs": 60}).fit(rows, sample_weight=weight)
    assert (heavy.feature_score(rows[-1:]) / heavy.feature_score(rows).mean()).mean() < (
        light.feature_score(rows[-1:]) / light.feature_score(rows).mean()
    ).mean()


def test_repeated_rows_have_the_same_p_value_in_any_batch():
    rows = np.random.default_rng(0).integers(0, 2, (80, 3)).astype(float)
    model = AEGMM(**{**QUICK, "n_ensemble": 2}).fit(rows)
    alone = np.concatenate([model.p_values(row[None]) for row in rows])
    assert np.array_equal(model.p_values(rows), alone)


def test_calibration_rows_have_no_part_in_the_units():
    rows = curve(100, 0)
    model = AEGMM(**QUICK).fit(rows)
    order = np.random.RandomState(0).permutation(100)
    assert np.allclose(model.loc_, rows[order[20:]].mean(0))


@BOTH
@pytest.mark.parametrize(
    "spoilt",
    [
        lambda m: m.set_params(callbacks=[3]).fit(curve(60, 1) * 7),
        lambda m: m.set_params(encoder_net=nn.Linear(9, 2)).fit(curve(60, 1) * 7),
        lambda m: m.set_params(calibration_fraction=0.999).fit(curve(60, 1)[:, :3]),
    ],
)
def test_a_failed_fit_leaves_the_last_one(kind, spoilt):
    model = kind(**QUICK).fit(curve(60, 0))
    before = model.score(curve(10, 2))
    with pytest.raises(InputError):
        spoilt(model)
    assert np.array_equal(model.score(curve(10, 2)), before)


def test_values_at_the_end_of_the_range_are_far():
    near = curve(60, 0)
    model = AEGMM(**QUICK).fit(near * 1e-12)
    far = model.score(np.full((1, 6), 1e300))
    assert np.isfinite(far).all()
    assert far > model.score(near * 1e-12).max()
    huge = AEGMM(**QUICK).fit(near * 1e160)
    assert np.allclose(huge.score(near * 1e160), AEGMM(**QUICK).fit(near).score(near), rtol=1e-6)


def test_an_encoder_without_layers_is_taken():
    model = AEGMM(encoder_net=nn.Sequential(), **QUICK).fit(curve(60, 0))
    assert model.networks_[0].latent_size == 6


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda m: m.score([[1.0, 2.0]]), InputError, "features"),
        (lambda m: m.score([[np.nan] * 6]), InputError, "NaN"),
        (lambda m: m.predict(curve(3, 0), 1.5), InputError, "alpha must lie strictly"),
        (lambda m: m.predict(curve(3, 0), 1e-6), InputError, "calibration rows"),
        (lambda m: type(m)(hidden=(1.5,)).fit(curve(50, 0)), InputError, "A width of hidden"),
        (
            lambda m: type(m)(encoder_net=nn.Linear).fit(curve(50, 0)),
            InputError,
            "that was to make",
        ),
        (lambda m: type(m)(encoder_net=lambda d: None).fit(curve(50, 0)), InputError, "NoneType"),
        (
            lambda m: type(m)(recon_features=lambda x, r: x.sum(1)).fit(curve(50, 0)),
            InputError,
            r"gives \(2,\) for 2 rows",
        ),
        (
            lambda m: type(m)(recon_features=lambda x: x).fit(curve(50, 0)),
            InputError,
            "reconstruction feature failed",
        ),
        (
            lambda m: type(m)(w_energy=1e308, w_cov_diag=1e308, **QUICK).fit(curve(50, 0)),
            DegenerateFitError,
            "No step of the training",
        ),
        (lambda m: m.detect(curve(3, 0), fdr=0), InputError, "fdr must lie strictly"),
        (lambda m: m.infer_threshold(curve(3, 0), 101), InputError, "between 0 and 100"),
        (lambda m: m.latent(curve(3, 0), 9), InputError, "member must be below 2"),
        (lambda m: type(m)().fit(curve(2, 0)), InputError, "at least two must be left"),
        (
            lambda m: type(m)(recon_features="manhattan").fit(curve(50, 0)),
            UnknownNameError,
            "reconstruction feature 'manhattan' is unknown",
        ),
        (
            lambda m: type(m)(recon_features=[3]).fit(curve(50, 0)),
            InputError,
            "a name or a function",
        ),
        (
            lambda m: type(m)(gmm_density_net=nn.Linear(6, 2)).fit(curve(50, 0)),
            InputError,
            "sum to one",
        ),
        (
            lambda m: type(m)(decoder_net=nn.Linear(3, 5)).fit(curve(50, 0)),
            InputError,
            "decoder_net gives",
        ),
        (
            lambda m: type(m)(encoder_net=nn.Linear(7, 3)).fit(curve(50, 0)),
            InputError,
            "encoder_net cannot take rows of 6",
        ),
    ],
)
def test_bad_input_gets_one_sentence(fitted, call, kind, said):
    with pytest.raises(kind, match=said) as caught:
        call(fitted)
    assert "\n" not in str(caught.value)
