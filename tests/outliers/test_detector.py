"""MixtureOutlierDetector: calibrated, explained, and sound at the edges."""

import numpy as np
import pytest
from scipy.stats import binom, multivariate_normal
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import mogul
from mogul import MixtureOutlierDetector
from mogul.errors import InputError
from mogul.estimators import mixture_outlier_detector
from mogul.infer.held_out import CrossFit

BY_FOLDS = {
    "check_sample_weight_equivalence_on_dense_data": "folds are drawn, so that a weight and a "
    "repeated row are the same on average only",
}


def two_moons(n: int, seed: int) -> np.ndarray:
    """Rows on two arcs, in columns of very different size."""
    rng = np.random.default_rng(seed)
    angle, side = rng.uniform(0, np.pi, n), rng.integers(0, 2, n)
    x = np.where(side, 1 - np.cos(angle), np.cos(angle)) + 0.1 * rng.normal(size=n)
    y = np.where(side, 0.5 - np.sin(angle), np.sin(angle)) + 0.1 * rng.normal(size=n)
    return np.column_stack([1000 * x, 0.001 * y + 7])


@pytest.fixture(scope="module")
def moons():
    return MixtureOutlierDetector(random_state=0).fit(two_moons(600, 0))


@parametrize_with_checks(
    [
        MixtureOutlierDetector(covariance_type="tied", random_state=0),
        MixtureOutlierDetector(2, covariance_type="diag", trim=0.05, n_folds=3, random_state=0),
    ],
    expected_failed_checks=lambda _: BY_FOLDS,
)
@pytest.mark.filterwarnings("ignore")
def test_estimator_checks(estimator, check):
    check(estimator)


# --- what it finds ------------------------------------------------------------------------------


def test_rows_off_the_arcs_are_outliers(moons):
    inside = two_moons(500, 1)
    empty = np.array([[500.0, 7.00025], [-1500.0, 7.001], [0.0, 7.002], [2500.0, 6.999]])
    assert (moons.predict(empty) == -1).all()
    assert (moons.predict(inside) == -1).mean() < 0.03
    assert moons.score_samples(empty).max() < np.quantile(moons.score_samples(inside), 0.01)


def test_scores_are_log_densities_in_the_units_of_the_data(moons):
    x = np.linspace(-2500, 3500, 400)
    y = np.linspace(6.995, 7.005, 400)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    mass = np.exp(moons.score_samples(grid)).reshape(400, 400)
    assert np.trapezoid(np.trapezoid(mass, y), x) == pytest.approx(1, abs=1e-3)
    direct = moons.mixture_.log_prob(grid[:1000]).numpy()
    np.testing.assert_allclose(moons.score_samples(grid[:1000]), direct, rtol=1e-9)


def test_a_normal_is_recognised_as_one_component():
    rng = np.random.default_rng(0)
    cov = np.array([[1.0, 0.8], [0.8, 1.0]])
    rows = rng.multivariate_normal([3, -2], cov, 2000)
    detector = MixtureOutlierDetector(random_state=0).fit(rows)
    assert detector.form_.n_components == 1
    at = rng.multivariate_normal([3, -2], cov, 500)
    true = multivariate_normal([3, -2], cov + detector.form_.floor * np.eye(2)).logpdf(at)
    np.testing.assert_allclose(detector.score_samples(at), true, atol=0.25)


def test_the_form_has_the_largest_held_out_likelihood(moons):
    best = max(moons.held_out_, key=lambda one: one[-1])
    assert moons.form_ == best[0]
    assert moons.form_.n_components > 2


def test_contamination_is_the_share_of_the_training_rows():
    rows = two_moons(400, 2)
    found = MixtureOutlierDetector(8, contamination=0.1, random_state=0).fit_predict(rows)
    assert (found == -1).sum() == 40


def test_trimming_takes_back_what_outliers_did():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(600, 2))
    spoilt = np.vstack([rows, rng.normal([6, 6], 0.3, size=(40, 2))])
    at = np.array([[6.0, 6.0]])
    plain, trimmed = (
        MixtureOutlierDetector(
            1, covariance_type="full", trim=share, contamination=0.07, random_state=0
        ).fit(spoilt)
        for share in (0.0, 0.07)
    )
    clean = MixtureOutlierDetector(1, covariance_type="full", random_state=0).fit(rows)
    away = abs(trimmed.score_samples(at) - clean.score_samples(at))
    assert away < 0.25 * abs(plain.score_samples(at) - clean.score_samples(at))
    assert trimmed.predict(at) == -1


# --- calibration --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "kind"), [("normal", "auto"), ("moons", "full"), ("wide", "full"), ("wide", "diag")]
)
def test_p_values_of_fresh_rows_are_uniform_where_it_matters(shape, kind):
    def drawn(n, seed):
        rng = np.random.default_rng(seed)
        if shape == "normal":
            return rng.normal(size=(n, 3)) @ rng.normal(size=(3, 3))
        if shape == "moons":
            return two_moons(n, seed)
        return rng.standard_t(3, size=(n, 8))

    shares: dict[float, list[float]] = {0.01: [], 0.05: [], 0.1: []}
    for seed in range(50):
        rows = drawn(900, 100 + seed)
        detector = MixtureOutlierDetector(covariance_type=kind, random_state=seed)
        detector.fit(rows[:400])
        p = detector.p_values(rows[400:])
        for alpha, found in shares.items():
            found.append(float((p <= alpha).mean()))
    for alpha, found in shares.items():
        # The calibration differs between repeats too: its share is Beta, not alpha itself. And a
        # p-value is a multiple of 1 / 401, so that alpha itself need not be one.
        spread = np.sqrt(alpha * (1 - alpha) * (1 / 500 + 1 / 400) / 50)
        assert abs(np.mean(found) - alpha) < 3 * spread + 1 / 401, (alpha, np.mean(found), spread)


@pytest.mark.slow
def test_lists_hold_their_false_discovery_rate():
    rng = np.random.default_rng(0)
    shares, power = [], []
    for seed in range(50):
        train, fresh = rng.normal(size=(500, 4)), rng.normal(size=(400, 4))
        strange = rng.normal(size=(60, 4)) + rng.choice([-4, 4], size=(60, 4))
        detector = MixtureOutlierDetector(1, covariance_type="full", random_state=seed).fit(train)
        listed = detector.detect(np.vstack([fresh, strange]), fdr=0.1)
        shares.append(listed[:400].sum() / max(1, listed.sum()))
        power.append(listed[400:].mean())
    assert np.mean(shares) <= 0.1 + 2 * np.std(shares) / np.sqrt(50)
    assert np.mean(power) > 0.9


def test_p_values_are_those_of_the_definition(moons):
    at = two_moons(20, 5)
    by_fold = moons._fold_scores(at)
    for i, p in enumerate(moons.p_values(at)):
        below = sum(
            (scores <= by_fold[v, i]).sum() for v, scores in enumerate(moons.calibration_scores_)
        )
        assert p == (1 + below) / (600 + 1)


def test_alpha_is_the_share_of_fresh_rows_called_outliers(moons):
    fresh = two_moons(4000, 6)
    share = (moons.predict(fresh, alpha=0.05) == -1).mean()
    low, high = binom.ppf([0.0005, 0.9995], 600, 0.05) / 600  # the calibration's own chance
    assert low - 0.01 < share < high + 0.01


def test_thresholds_from_rows(moons):
    detector = clone(moons).fit(two_moons(600, 0))
    rows = two_moons(1000, 7)
    for call in (
        lambda: detector.infer_threshold(rows, 90),
        lambda: detector.infer_threshold(rows, threshold_perc=90),
        lambda: detector.infer_threshold(rows, fpr=0.1),
    ):
        assert call() == detector.offset_
        assert (detector.predict(rows) == -1).mean() == pytest.approx(0.1, abs=0.001)


# --- reasons ------------------------------------------------------------------------------------


def test_contributions_add_up_to_the_excess_energy(moons):
    at = np.vstack([two_moons(30, 8), [[500.0, 7.00025], [1e6, -1e6]]])
    told = moons.explain(at)
    usual = moons.explain(at[:1]).excess[0] + moons.score_samples(at[:1])[0]
    np.testing.assert_allclose(told.excess, -moons.score_samples(at) + usual, rtol=1e-10, atol=1e-8)


def test_ordinary_rows_have_little_excess(moons):
    assert abs(moons.explain(two_moons(2000, 9)).excess.mean()) < 0.2


def test_reasons_name_the_columns_of_a_table():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(rng.normal(size=(300, 4)), columns=["a", "b", "c", "d"])
    table["d"] = table["c"] * 2 + 0.1 * table["d"]
    detector = MixtureOutlierDetector(random_state=0).fit(table)
    strange = table.iloc[:2].copy()
    strange.iloc[0, 1] = 9.0
    strange.iloc[1, 3] = -4 * strange.iloc[1, 2] - 4
    top = detector.explain(strange).top(2)
    assert top[0][0][0] == "b"
    assert {name for name, _ in top[1]} == {"c", "d"}  # what does not fit together is both


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_follows_a_drift_and_its_threshold_rolls():
    rng = np.random.default_rng(0)
    detector = MixtureOutlierDetector(
        1, covariance_type="full", memory=300, window=500, random_state=0
    )
    detector.partial_fit(rng.normal(size=(400, 2)))
    still = clone(detector).fit(rng.normal(size=(400, 2)))
    moved = np.array([[8.0, 8.0]])
    assert detector.predict(moved) == -1
    for step in range(60):
        detector.partial_fit(rng.normal(size=(50, 2)) + 8 * min(1, step / 30))
    fresh = rng.normal(size=(2000, 2)) + 8
    assert (still.predict(fresh) == -1).mean() > 0.9
    assert (detector.predict(fresh) == -1).mean() < 0.04
    assert detector.predict([[0.0, 0.0]]) == -1
    assert detector.n_calibration_ == 500


def test_a_stream_without_forgetting_arrives_where_a_fit_does():
    rng = np.random.default_rng(1)
    rows = np.vstack([rng.normal(size=(1500, 2)), rng.normal([5, 0], 0.5, size=(1500, 2))])
    rng.shuffle(rows)
    stream = MixtureOutlierDetector(2, covariance_type="full", random_state=0)
    for part in np.array_split(rows, 20):
        stream.partial_fit(part)
    whole = MixtureOutlierDetector(2, covariance_type="full", random_state=0).fit(rows)
    at = np.vstack([rng.normal(size=(200, 2)), rng.normal([5, 0], 0.5, size=(200, 2))])
    assert stream.n_seen_ == pytest.approx(3000)
    # Not the same: the stream's first form saw 150 rows, and rows keep the responsibilities that
    # they had when they came. By the sampling error of 11 parameters from 3000 rows two fits to
    # different rows would be 11 / 3000 nats a row apart on average.
    away = stream.score_samples(at) - whole.score_samples(at)
    assert abs(away.mean()) < 5 * 11 / 3000


def test_single_rows_renew_the_calibration_of_every_fold():
    rng = np.random.default_rng(4)
    detector = MixtureOutlierDetector(1, covariance_type="full", window=50, random_state=0)
    detector.fit(rng.normal(size=(100, 2)))
    old = np.concatenate(detector.calibration_scores_)
    for _ in range(60):
        detector.partial_fit(rng.normal(size=(1, 2)))
    assert [len(scores) for scores in detector.calibration_scores_] == [10] * 5
    assert not np.isin(np.concatenate(detector.calibration_scores_), old).any()


def test_a_component_that_the_stream_left_is_put_to_use_again():
    rng = np.random.default_rng(5)
    both = np.vstack([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 20])
    detector = MixtureOutlierDetector(2, covariance_type="full", memory=10, random_state=0)
    detector.fit(both)
    for _ in range(40):
        detector.partial_fit(rng.normal(size=(50, 2)))
    assert detector.mixture_.weights.min() > 0.01
    assert np.isfinite(detector.score_samples(both)).all()
    assert (detector.predict(both[200:]) == -1).all()


def test_the_scores_of_a_stream_are_made_before_it_learns():
    rng = np.random.default_rng(2)
    detector = MixtureOutlierDetector(1, n_folds=2, window=4, random_state=0)
    detector.partial_fit(rng.normal(size=(100, 1)))
    new = np.array([[50.0], [51.0], [52.0], [53.0]])
    before = detector._fold_scores(new)
    detector.partial_fit(new)
    kept = np.sort(np.concatenate(detector.calibration_scores_))
    turn = np.arange(4) % 2
    np.testing.assert_allclose(kept, np.sort(before[turn, np.arange(4)]), rtol=1e-12)


# --- laws ---------------------------------------------------------------------------------------


def test_scores_do_not_depend_on_the_batch(moons, monkeypatch):
    at = two_moons(300, 10)
    whole = moons.score_samples(at)
    alone = np.concatenate([moons.score_samples(at[[i]]) for i in range(300)])
    np.testing.assert_allclose(whole, alone, rtol=0, atol=1e-10)
    monkeypatch.setattr(mixture_outlier_detector, "_ROWS_TOGETHER", 7)
    np.testing.assert_allclose(moons.score_samples(at), whole, rtol=0, atol=1e-10)


def test_units_and_order_of_columns_change_nothing(moons):
    rows, at = two_moons(600, 0), two_moons(50, 11)
    exact = clone(moons).fit(rows * [4.0, 0.5] + 8)  # units that round nothing
    np.testing.assert_allclose(
        exact.score_samples(at * [4.0, 0.5] + 8) + np.log(2), moons.score_samples(at), atol=1e-8
    )
    # Others change last bits, after which EM, whose steps end at 0.01 nats a row, ends elsewhere.
    other = clone(moons).fit(rows[:, ::-1] * [100.0, 0.01] + 3)
    moved = other.score_samples(at[:, ::-1] * [100.0, 0.01] + 3)
    np.testing.assert_allclose(moved, moons.score_samples(at), atol=0.05)


def test_a_far_row_scores_finite_and_lower_than_a_near_one(moons):
    at = np.array([[1e4, 7.0], [1e6, 7.0], [1e6, 1e6], [1e12, 1e12]])
    scores = moons.score_samples(at)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()
    assert np.isfinite(moons.explain(at).contributions).all()


@pytest.mark.parametrize("stream", [False, True])
def test_files_keep_every_bit(tmp_path, stream):
    detector = MixtureOutlierDetector(4, random_state=0).fit(two_moons(300, 0))
    if stream:
        detector.partial_fit(two_moons(100, 1))
    again = mogul.load(mogul.save(detector, tmp_path / "alarm.safetensors"))
    at = two_moons(100, 2)
    assert np.array_equal(again.score_samples(at), detector.score_samples(at))
    assert np.array_equal(again.p_values(at), detector.p_values(at))
    assert np.array_equal(again.explain(at).contributions, detector.explain(at).contributions)
    assert again.offset_ == detector.offset_
    assert again.held_out_ == detector.held_out_
    assert again.get_params() == detector.get_params()
    one, two = (d.partial_fit(two_moons(50, 3)).score_samples(at) for d in (detector, again))
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    "settings",
    [
        {"covariance_type": "diag"},
        pytest.param({"n_components": 1, "covariance_type": "full"}, marks=pytest.mark.slow),
    ],
)
def test_many_columns_and_few_rows(settings):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 1000)) + rng.normal(size=(200, 1))
    detector = MixtureOutlierDetector(**settings, n_folds=2, random_state=0).fit(rows)
    fresh = rng.normal(size=(50, 1000)) + rng.normal(size=(50, 1))
    strange = fresh + 3 * rng.normal(size=(50, 1000))
    assert detector.score_samples(strange).max() < detector.score_samples(fresh).min()


def test_a_constant_column_works_and_a_change_of_it_is_strange():
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=300), np.full(300, 5.0), np.zeros(300)])
    detector = MixtureOutlierDetector(random_state=0).fit(rows)
    at = np.array([[0.0, 5.0, 0.0], [0.0, 6.0, 0.0], [0.0, 5.0, 1.0]])
    assert detector.predict(at).tolist() == [1, -1, -1]
    assert [top[0][0] for top in detector.explain(at[1:]).top(1)] == ["x1", "x2"]


def test_nearly_collinear_columns_work():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(400, 1))
    rows = np.hstack([one, one + 1e-9 * rng.normal(size=(400, 1)), 2 * one])
    detector = MixtureOutlierDetector(random_state=0).fit(rows)
    assert detector.predict([[0.5, 0.5, 1.0], [2.0, -2.0, 4.0]]).tolist() == [1, -1]


def test_weights_of_zero_leave_rows_out():
    rows = two_moons(400, 0)
    spoilt = np.vstack([rows, np.full((50, 2), 1e5)])
    weight = np.r_[np.ones(400), np.zeros(50)]
    one = MixtureOutlierDetector(4, random_state=0).fit(rows)
    two = MixtureOutlierDetector(4, random_state=0).fit(spoilt, sample_weight=weight)
    assert np.array_equal(one.score_samples(rows), two.score_samples(rows))


def test_callbacks_are_told_of_every_form():
    seen: list[CrossFit] = []
    detector = MixtureOutlierDetector(
        covariance_type="diag", callbacks=[seen.append], random_state=0
    ).fit(two_moons(200, 0))
    assert [(one.form, one.log_likelihood) for one in seen] == detector.held_out_


def test_many_rows_choose_the_form_on_some(monkeypatch):
    monkeypatch.setattr(mixture_outlier_detector, "_PILOT_ROWS", 200)
    detector = MixtureOutlierDetector(covariance_type="full", random_state=0).fit(two_moons(900, 0))
    assert detector.n_calibration_ == 900
    assert (detector.predict(two_moons(1000, 1)) == -1).mean() < 0.03


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d: d.predict([[1.0, 2.0, 3.0]]), "3 features"),
        (lambda d: d.score_samples([[np.nan, 0.0]]), "contains NaN"),
        (lambda d: d.predict([[1.0, 2.0]], alpha=1.0), "alpha must lie strictly between 0 and 1"),
        (lambda d: d.predict([[1.0, 2.0]], alpha=0.001), "needs at least 999 calibration rows"),
        (lambda d: d.detect([[1.0, 2.0]], fdr=0.0), "fdr must lie strictly between"),
        (lambda d: d.infer_threshold([[1.0, 2.0]], 100), "threshold_perc must lie strictly"),
        (lambda d: d.infer_threshold([[1.0, 2.0]], 95, fpr=0.1), "not both"),
        (lambda d: d.infer_threshold([[1.0, 2.0]], fpr=2), "fpr must lie strictly"),
        (lambda d: d.explain([[1.0, 2.0]], n_orders=0), "n_orders must be a whole number"),
        (lambda d: clone(d).fit([[1.0, 2.0]]), "minimum of 2"),
        (
            lambda d: clone(d).set_params(n_components=9).fit(two_moons(10, 0)),
            "n_components=9 is more than the 8 rows",
        ),
        (lambda d: clone(d).fit([[1.0], [np.inf]]), "contains infinity"),
        (lambda d: clone(d).set_params(callbacks=[3]).fit([[1.0], [2.0]]), "callbacks"),
    ],
)
def test_bad_input_gets_one_sentence(moons, call, said):
    with pytest.raises(InputError, match=said) as caught:
        call(moons)
    assert "\n" not in str(caught.value)
