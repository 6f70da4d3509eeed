"""GaussianMixture as a user meets it: what it promises, whatever the data."""

import copy
import gc
import io
import warnings
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import mogul
import mogul.infer.ascent
from laws.cases import CASES, Truth, draw_one
from mogul import GaussianMixture, Mixture
from mogul.errors import DegenerateFitError, InputError, RepairWarning, SpikeWarning
from mogul.estimators._inputs import random_state_of
from mogul.infer.stopping import IterationRecord

pytestmark = pytest.mark.usefixtures("compiler")

KINDS = list(CASES)
METHODS = ["kmeans", "k-means++", "random", "random_from_data"]
names = pytest.mark.parametrize("name", KINDS)
PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
GEYSER = mogul.datasets.old_faithful()


def clusters(n=300, seed=0, d=2):
    rng = np.random.default_rng(seed)
    centres = 2.5 * rng.normal(size=(3, d))
    return centres[rng.integers(0, 3, n)] + rng.normal(size=(n, d))


def quiet_fit(model, x, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (ConvergenceWarning, RepairWarning))
        return model.fit(x, **more)


def assert_same(one, other, rtol=1e-10):
    for attribute in PARAMETERS:
        got, want = getattr(one, attribute), getattr(other, attribute)
        scale = np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * scale, err_msg=attribute)


def slow(model):
    """The fitted mixture, as scipy sees it."""
    k, d = model.means_.shape
    return Truth(model.weights_, model.means_, CASES[model.covariance_type].dense(
        model.covariances_, k, d
    ))  # fmt: skip


# --- what is fitted -------------------------------------------------------------------------------


@pytest.mark.parametrize("acceleration", ["auto", "squarem", "none"])
@names
def test_the_lower_bound_is_the_score(name, acceleration):
    """In scikit-learn it lags a step behind the parameters."""
    x = clusters()
    for max_iter in (1, 5, 200):
        model = GaussianMixture(3, covariance_type=name, acceleration=acceleration)
        quiet_fit(model.set_params(max_iter=max_iter, random_state=0), x)
        np.testing.assert_allclose(model.lower_bound_, model.score(x), rtol=1e-11)
        np.testing.assert_allclose(model.lower_bound_, slow(model).log_prob(x).mean(), rtol=1e-10)
        assert model.lower_bound_ > model.lower_bounds_[-1] - 1e-9
        assert model.lower_bounds_ == [record.log_likelihood for record in model.history_]
        assert len(model.history_) == model.n_iter_ <= max_iter
        assert all(isinstance(record, IterationRecord) for record in model.history_)


@names
def test_the_lower_bound_is_the_weighted_score(name):
    x = clusters()
    weight = np.random.default_rng(0).uniform(0, 3, len(x))
    model = GaussianMixture(3, covariance_type=name, random_state=0).fit(x, sample_weight=weight)
    values = slow(model).log_prob(x)
    np.testing.assert_allclose(model.lower_bound_, weight @ values / weight.sum(), rtol=1e-10)
    np.testing.assert_allclose(model.score(x, sample_weight=weight), model.lower_bound_, rtol=1e-11)
    np.testing.assert_allclose(model.score(x), values.mean(), rtol=1e-10)
    np.testing.assert_allclose(model.score_samples(x), values, rtol=1e-10)


@names
def test_criteria_are_their_formulas(name):
    """ICL counts twice the entropy of the responsibilities, here by a double loop."""
    x = clusters(80)
    weight = np.random.default_rng(0).integers(0, 4, 80)
    model = GaussianMixture(3, covariance_type=name, random_state=0).fit(x)
    truth = slow(model)
    n_parameters = 2 + 6 + CASES[name].n_free(3, 2)
    assert model.mixture_.n_parameters == n_parameters
    for w, given_weight in ((np.ones(80), None), (weight, weight)):
        total = w @ truth.log_prob(x)
        entropy = 0.0
        for n, row in enumerate(truth.responsibilities(x)):
            for share in row:
                entropy -= w[n] * share * np.log(share) if share > 0 else 0.0
        bic = -2 * total + n_parameters * np.log(w.sum())
        found = [
            getattr(model, criterion)(x, sample_weight=given_weight)
            for criterion in ("aic", "bic", "icl")
        ]
        expected = [-2 * total + 2 * n_parameters, bic, bic + 2 * entropy]
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    repeated = np.repeat(x, weight, 0)
    np.testing.assert_allclose(found[1], model.bic(repeated), rtol=1e-12)
    np.testing.assert_allclose(found[2], model.icl(repeated), rtol=1e-12)


def test_icl_of_many_rows_and_of_certain_ones():
    """In chunks; and 0 log 0 = 0."""
    known = Mixture.from_parameters([0.5, 0.5], [[0.0], [1e4]], [[1.0], [1.0]], "diag")
    model = GaussianMixture.from_mixture(known)
    x = np.random.default_rng(0).normal(size=(600_000, 1))
    np.testing.assert_allclose(model.icl(x), model.bic(x), rtol=1e-12)


@names
def test_planted_parameters_are_found(name):
    rng = np.random.default_rng(0)
    weights, means = np.array([0.2, 0.3, 0.5]), np.array([[0.0, 0.0], [12.0, 0.0], [0.0, 12.0]])
    covariances = CASES[name].draw(rng, 3, 2)
    x = Truth(weights, means, CASES[name].dense(covariances, 3, 2)).draw(rng, 10_000)
    model = GaussianMixture(3, covariance_type=name, random_state=0).fit(x)
    order = model.predict(means)
    np.testing.assert_allclose(model.weights_[order], weights, atol=0.02)
    np.testing.assert_allclose(model.means_[order], means, atol=0.2)
    found = model.covariances_ if name == "tied" else model.covariances_[order]
    np.testing.assert_allclose(found, covariances, rtol=0.1, atol=0.2)


@names
def test_precisions_are_inverses_and_their_factors_are_factors(name):
    model = GaussianMixture(3, covariance_type=name, random_state=0).fit(clusters())
    covariances = CASES[name].dense(model.covariances_, 3, 2)
    precisions = CASES[name].dense(model.precisions_, 3, 2)
    np.testing.assert_allclose(precisions @ covariances, np.stack([np.eye(2)] * 3), atol=1e-10)
    upper = CASES[name].dense(model.precisions_cholesky_, 3, 2)
    np.testing.assert_allclose(upper @ upper.transpose(0, 2, 1), precisions, rtol=1e-9, atol=1e-12)


# --- point 2: float32 is honest -------------------------------------------------------------------


def off_origin(case):
    rng = np.random.default_rng(0)
    if case == "two clusters 1000 σ apart":
        rows = np.concatenate([rng.normal(0, 1, (2000, 2)), rng.normal(1000, 1, (2000, 2))])
        return rows, 2
    return rng.normal({"N(1000, 1)": 1e3, "N(1e4, 1)": 1e4}[case], 1, (4000, 2)), 1


@pytest.mark.parametrize("case", ["N(1000, 1)", "N(1e4, 1)", "two clusters 1000 σ apart"])
@names
def test_float32_covariances_are_those_of_float64(name, case):
    x, k = off_origin(case)
    wide = GaussianMixture(k, covariance_type=name, random_state=0).fit(x)
    low = GaussianMixture(k, covariance_type=name, random_state=0).fit(x.astype(np.float32))
    assert all(getattr(low, attribute).dtype == np.float32 for attribute in PARAMETERS)
    order = np.argsort(wide.means_[:, 0]), np.argsort(low.means_[:, 0])
    wide_dense, low_dense = (
        CASES[name].dense(model.covariances_.astype(float), k, 2)[index]
        for model, index in zip((wide, low), order, strict=True)
    )
    size = np.abs(wide_dense).max((1, 2))
    assert (np.abs(low_dense - wide_dense).max((1, 2)) / size).max() < 1e-4
    np.testing.assert_allclose(low_dense[:, 0, 0], 1, rtol=0.1)
    np.testing.assert_allclose(low.means_[order[1]], wide.means_[order[0]], rtol=1e-6)
    np.testing.assert_allclose(low.lower_bound_, wide.lower_bound_, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "found"),
    [
        ("float32", np.float32),
        (np.float64, np.float64),
        (torch.float32, np.float32),
        (np.dtype("float64"), np.float64),
        (None, None),
    ],
)
@pytest.mark.parametrize("given_type", [np.float32, np.float64])
def test_the_type_of_the_parameters_can_be_chosen(dtype, found, given_type):
    x = clusters().astype(given_type)
    model = GaussianMixture(2, dtype=dtype, random_state=0).fit(x)
    found = found or given_type
    assert all(getattr(model, attribute).dtype == found for attribute in PARAMETERS)
    assert str(model.mixture_.dtype) == f"torch.{np.dtype(found).name}"
    reference = GaussianMixture(2, random_state=0).fit(x.astype(np.float64))
    assert_same(model, reference, 1e-5 if np.float32 in (found, given_type) else 1e-12)
    np.testing.assert_allclose(model.score(x), reference.score(x), rtol=1e-5)


def test_a_type_that_is_no_float_is_refused():
    for dtype in ("float16", "int64", torch.int32, "nonsense"):
        with pytest.raises(InputError, match="dtype must be float32 or float64"):
            GaussianMixture(dtype=dtype).fit(clusters())


def test_devices():
    x = clusters()
    plain = GaussianMixture(2, random_state=0).fit(x)
    for device in ("cpu", torch.device("cpu")):
        model = GaussianMixture(2, device=device, random_state=0).fit(x)
        assert_same(model, plain, 0)
        np.testing.assert_array_equal(model.predict_proba(x), plain.predict_proba(x))
    for device in ("nonsense", "cuda:99", 3.5):
        with pytest.raises(InputError, match="cannot be used"):
            GaussianMixture(device=device).fit(x)


# --- point 3: weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
@names
def test_integer_weights_are_repeated_rows(name, seed, n_init):
    """In any order, and through the whole of a default fit: starts, EM and acceleration."""
    rng = np.random.default_rng(seed)
    x = clusters(200, seed)
    weight = rng.integers(0, 5, len(x))
    repeated = np.repeat(x, weight, 0)[rng.permutation(weight.sum())]
    model = GaussianMixture(3, covariance_type=name, n_init=n_init, random_state=seed)
    weighted = copy.deepcopy(model).fit(x, sample_weight=weight)
    longhand = model.fit(repeated)
    assert weighted.n_iter_ == longhand.n_iter_
    assert_same(weighted, longhand, 1e-10)
    np.testing.assert_allclose(weighted.lower_bound_, longhand.lower_bound_, rtol=1e-11)
    np.testing.assert_allclose(
        weighted.score(x, sample_weight=weight), longhand.score(repeated), rtol=1e-11
    )


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-6, 1e6))
def test_only_the_proportions_of_weights_matter_to_a_fit(seed, scale):
    x = clusters(60, seed)
    weight = np.random.default_rng(seed).uniform(0.1, 2, len(x))
    fits = [
        quiet_fit(GaussianMixture(2, covariance_type="diag", random_state=0), x, sample_weight=w)
        for w in (weight, weight * scale)
    ]
    assert_same(*fits, 1e-8)


@pytest.mark.parametrize("extreme", [0.0, 1e30, 1e300])
@pytest.mark.parametrize("method", METHODS)
@names
def test_rows_of_weight_zero_change_nothing(name, method, extreme):
    x = clusters(60)
    place = np.array([0, 7, 7, 30, 60])
    padded = np.insert(x, place, extreme, axis=0)
    weight = np.insert(np.ones(len(x)), place, 0.0)
    model = GaussianMixture(2, covariance_type=name, init_params=method, random_state=0, n_init=2)
    without = quiet_fit(copy.deepcopy(model), x, sample_weight=np.ones(len(x)))
    quiet_fit(model, padded, sample_weight=weight)
    assert_same(model, without, 0)
    np.testing.assert_allclose(model.score(padded, sample_weight=weight), without.score(x))
    np.testing.assert_allclose(model.icl(padded, sample_weight=weight), without.icl(x))
    assert model.fit_predict(padded, sample_weight=weight).shape == (65,)


def test_a_number_is_the_weight_of_every_row():
    x = clusters()
    plain = GaussianMixture(2, random_state=0).fit(x)
    assert_same(GaussianMixture(2, random_state=0).fit(x, sample_weight=2), plain)
    assert_same(GaussianMixture(2, random_state=0).fit(x, sample_weight=np.full(300, 2.0)), plain)


# --- order, units, seeds --------------------------------------------------------------------------


@names
def test_the_order_of_rows_and_the_way_they_lie_in_memory_do_not_matter(name):
    x = clusters()
    plain = GaussianMixture(3, covariance_type=name, random_state=0).fit(x)
    order = np.random.default_rng(0).permutation(len(x))
    read_only = x.copy()
    read_only.flags.writeable = False
    wide = np.zeros((len(x), 4))
    wide[:, ::2] = x
    same = {
        "shuffled": x[order],
        "Fortran": np.asfortranarray(x),
        "read-only": read_only,
        "strided": wide[:, ::2],
        "list": x.tolist(),
        "reversed": x[::-1],
    }
    for what, table in same.items():
        before = copy.deepcopy(table)
        fitted = GaussianMixture(3, covariance_type=name, random_state=0).fit(table)
        assert_same(fitted, plain, 1e-9)
        np.testing.assert_array_equal(table, before, err_msg=what)


@pytest.mark.parametrize("factor", [1e-4, 1e6])
@names
def test_units_and_origin_do_not_matter_when_the_regularisation_follows(name, factor):
    """reg_covar is in squared units of the data, and says so."""
    x, shift = clusters(), 3.0
    here = GaussianMixture(3, covariance_type=name, random_state=0).fit(x)
    there = GaussianMixture(3, covariance_type=name, random_state=0, reg_covar=1e-6 * factor**2)
    there.fit((x + shift) * factor)
    back = there.means_ / factor - shift
    order = ((back[None] - here.means_[:, None]) ** 2).sum(-1).argmin(1)  # k-means breaks ties
    np.testing.assert_allclose(there.weights_[order], here.weights_, rtol=1e-7)
    np.testing.assert_allclose(back[order], here.means_, rtol=1e-7, atol=1e-7)
    spread = there.covariances_ if name == "tied" else there.covariances_[order]
    np.testing.assert_allclose(spread / factor**2, here.covariances_, atol=1e-7)
    gap = -2 * np.log(factor)  # a density has units
    np.testing.assert_allclose(there.lower_bound_, here.lower_bound_ + gap, rtol=1e-8)
    np.testing.assert_array_equal(order[here.predict(x)], there.predict((x + shift) * factor))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_is_the_same_fit_and_nothing_global_is_touched(method):
    x = clusters()
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    models = [
        quiet_fit(GaussianMixture(3, init_params=method, n_init=2, random_state=5), x)
        for _ in range(2)
    ]
    samples = [model.sample(10)[0] for model in models]
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    assert_same(*models, 0)
    np.testing.assert_array_equal(*samples)


@pytest.mark.parametrize("method", ["kmeans", "random"])
@names
def test_many_starts_are_as_good_as_the_best_of_them_alone(name, method):
    """Batched together or not, they draw from one generator in turn."""
    x = clusters(150)
    base = GaussianMixture(4, covariance_type=name, init_params=method, max_iter=300)
    together = quiet_fit(copy.deepcopy(base).set_params(n_init=4, random_state=3), x)
    state = np.random.RandomState(3)
    alone = [quiet_fit(copy.deepcopy(base).set_params(random_state=state), x) for _ in range(4)]
    best = max(alone, key=lambda model: model.lower_bound_)
    np.testing.assert_allclose(together.lower_bound_, best.lower_bound_, rtol=1e-9)
    spoken = copy.deepcopy(base).set_params(n_init=4, random_state=3, verbose=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO())
        quiet_fit(spoken, x)  # one start after another
    assert_same(spoken, together, 1e-6)


@pytest.mark.parametrize("max_iter", [0, 50])
@names
def test_a_given_start_is_neither_moved_nor_kept(name, max_iter, compiler):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (100, 2)), rng.normal(3, 2, (100, 2))])
    given = {
        "weights_init": np.array([0.3, 0.7]),
        "means_init": np.array([[0.0, 0.0], [1.0, 1.0]]),
        "precisions_init": CASES[name].estimate(np.stack([np.eye(2)] * 2), np.ones(2)),
    }
    before = copy.deepcopy(given)
    model = quiet_fit(GaussianMixture(2, covariance_type=name, max_iter=max_iter, **given), x)
    for part, value in before.items():
        np.testing.assert_array_equal(given[part], value)
    density = model.score_samples(x)
    for value in given.values():
        value += 1
    np.testing.assert_array_equal(model.score_samples(x), density)


# --- what collapses -------------------------------------------------------------------------------


@names
def test_a_component_without_rows_is_repaired_and_reported(name):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (100, 2)), rng.normal(8, 1, (100, 2))])
    eye = CASES[name].estimate(np.stack([np.eye(2)] * 2), np.ones(2))
    model = GaussianMixture(
        2, covariance_type=name, weights_init=[0.5, 0.5], means_init=[[4, 4], [1e5, 1e5]],
        precisions_init=eye,
    )  # fmt: skip
    with pytest.warns(RepairWarning, match="component 1 collapsed and was repaired") as told:
        model.fit(x)
    assert len(told) == 1
    assert told[0].filename == __file__
    np.testing.assert_allclose(np.sort(model.means_[:, 0]), [0, 8], atol=0.5)
    assert any(record.event for record in model.history_)


@pytest.mark.parametrize("name", ["full", "diag", "spherical"])
def test_duplicated_rows_without_regularisation_end_no_fit(name, compiler):
    """Components fall onto the four equal rows; they are put back to work, and it is said."""
    repairs = 0
    for seed in range(20 if compiler == "compiled" else 7):
        rng = np.random.default_rng(seed)
        x = np.concatenate([rng.normal(size=(60, 2)), np.repeat(rng.normal(size=(1, 2)), 4, 0)])
        for n_init in (1, 10):
            model = GaussianMixture(
                6, covariance_type=name, reg_covar=0, n_init=n_init, max_iter=500, random_state=0
            )
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                model.fit(x)
            assert np.isfinite(model.score_samples(x)).all()
            assert {warning.category for warning in told} <= {RepairWarning, ConvergenceWarning}
            events = [record.event for record in model.history_ if record.event]
            repaired = [w for w in told if w.category is RepairWarning]
            dropped = any("was dropped" in str(w.message) for w in repaired)
            assert bool(repaired) == (bool(events) or dropped)
            repairs += bool(events)
    assert repairs


def test_a_start_that_collapses_over_and_over_ends_where_it_is(monkeypatch):
    """It is not the end of the fit, nor does it go on for ever."""
    monkeypatch.setattr(mogul.infer.ascent, "_REPAIRS_PER_COMPONENT", 0)
    met = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = np.concatenate([rng.normal(size=(60, 2)), np.repeat(rng.normal(size=(1, 2)), 4, 0)])
        model = GaussianMixture(
            6, covariance_type="spherical", reg_covar=0, max_iter=500, random_state=0
        )
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model.fit(x)
        assert np.isfinite(model.score_samples(x)).all()
        np.testing.assert_allclose(model.lower_bound_, model.score(x), rtol=1e-10)
        events = [record.iteration for record in model.history_ if record.event]
        if events:
            met += 1
            assert events == [model.n_iter_]
            assert not model.converged_
            assert {one.category for one in told} == {RepairWarning, ConvergenceWarning}
    assert met


def test_when_every_start_collapses_the_error_says_what_to_try():
    x = np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, 0)
    with pytest.raises(DegenerateFitError, match="increase reg_covar") as caught:
        GaussianMixture(2, reg_covar=0, n_init=3).fit(x)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_constant_columns_are_named():
    x = np.column_stack([clusters(), np.ones(300)])
    with pytest.warns(SpikeWarning, match="Every value of column 2 is the same"):
        GaussianMixture(2).fit(x)
    with pytest.warns(SpikeWarning, match="column c is the same"):
        GaussianMixture(2).fit(pd.DataFrame(x, columns=list("abc")))
    with pytest.warns(SpikeWarning, match="column 0, 1 is the same"):
        model = GaussianMixture(2).fit(np.ones((20, 2)))
    np.testing.assert_allclose(model.means_, 1)


def test_a_row_of_weight_zero_does_not_make_a_column_vary():
    x = np.column_stack([clusters(), np.ones(300)])
    x[3, 2] = 5.0
    weight = np.ones(300)
    weight[3] = 0
    with pytest.warns(SpikeWarning, match="column 2 is the same"):
        GaussianMixture(2).fit(x, sample_weight=weight)


@pytest.mark.parametrize("method", METHODS)
@names
def test_fewer_distinct_rows_than_components(name, method):
    x = np.repeat([[0.0, 0.0], [3.0, 1.0], [1.0, 5.0]], 7, 0)
    model = quiet_fit(
        GaussianMixture(5, covariance_type=name, init_params=method, random_state=0), x
    )
    assert np.isfinite(model.score_samples(x)).all()
    np.testing.assert_allclose(model.weights_.sum(), 1, rtol=1e-12)


def test_few_rows_that_stand_for_many():
    x = np.array([[0.0], [10.0]])
    weighted = quiet_fit(GaussianMixture(3, random_state=0), x, sample_weight=[50, 50])
    repeated = quiet_fit(GaussianMixture(3, random_state=0), np.repeat(x, 50, 0))
    assert_same(weighted, repeated, 1e-9)


# --- who watches, who interrupts ------------------------------------------------------------------


def test_callbacks_see_every_iteration():
    x, seen, also = clusters(), [], []
    model = GaussianMixture(3, n_init=2, random_state=0, callbacks=[seen.append, also.append])
    model.fit(x)
    assert seen == also
    assert all(isinstance(record, IterationRecord) for record in seen)
    assert {record.start for record in seen} == {0, 1}
    for start in (0, 1):
        numbers = [record.iteration for record in seen if record.start == start]
        assert numbers == list(range(1, len(numbers) + 1))
    assert [r for r in seen if r.start == model.history_[0].start] == model.history_


def test_a_callback_that_returns_true_stops_and_all_are_told():
    x, seen = clusters(), []
    stop = [lambda record: record.iteration == 3, seen.append]
    model = GaussianMixture(3, tol=0, callbacks=stop, random_state=0)
    with pytest.warns(ConvergenceWarning, match="stopped early"):
        model.fit(x)
    assert len(seen) == model.n_iter_ == 3
    assert not model.converged_
    np.testing.assert_allclose(model.lower_bound_, model.score(x), rtol=1e-11)
    only_three = quiet_fit(GaussianMixture(3, tol=0, max_iter=3, random_state=0), x)
    assert_same(model, only_three)


def test_a_callback_that_returns_other_things_stops_nothing():
    model = GaussianMixture(3, callbacks=[lambda record: "go on"], random_state=0)
    assert_same(model.fit(clusters()), GaussianMixture(3, random_state=0).fit(clusters()), 0)


@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize("acceleration", ["auto", "squarem", "none"])
def test_an_interrupt_keeps_the_best_state_so_far(acceleration, verbose, capsys):
    x = clusters()

    def interrupt(record):
        if record.iteration == 5:
            raise KeyboardInterrupt

    model = GaussianMixture(
        3, tol=0, n_init=3, callbacks=[interrupt], acceleration=acceleration, verbose=verbose,
        random_state=0, init_params="random",
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning, match="The fit was stopped early"):
        model.fit(x)
    assert model.n_iter_ <= 5
    assert not model.converged_
    assert model.lower_bound_ >= max(model.lower_bounds_)
    np.testing.assert_allclose(model.lower_bound_, model.score(x), rtol=1e-11)
    assert np.isfinite(model.sample(5)[0]).all()


def test_warm_starts_go_on_where_they_were():
    x = clusters()
    once = quiet_fit(GaussianMixture(3, tol=0, max_iter=6, acceleration="none", random_state=0), x)
    steps = GaussianMixture(
        3, tol=0, max_iter=2, acceleration="none", random_state=0, warm_start=True
    )
    bounds = []
    for _ in range(3):
        quiet_fit(steps, x)
        bounds += steps.lower_bounds_
    assert_same(steps, once, 1e-9)
    np.testing.assert_allclose(bounds, once.lower_bounds_, rtol=1e-12)
    steps.set_params(tol=1e-4, max_iter=500).fit(x)
    steps.fit(x)
    assert steps.converged_
    assert steps.n_iter_ <= 3  # it is there already
    quiet_fit(steps, clusters(d=3))  # another problem
    assert steps.means_.shape == (3, 3)
    quiet_fit(steps.set_params(n_components=2), clusters(d=3))
    assert steps.means_.shape == (2, 3)


def test_what_did_not_converge_says_so():
    x = clusters()
    with pytest.warns(ConvergenceWarning, match="did not converge.*increase max_iter"):
        model = GaussianMixture(3, max_iter=1, random_state=0).fit(x)
    assert not model.converged_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = GaussianMixture(3, random_state=0).fit(x)
        GaussianMixture(3, max_iter=0, random_state=0).fit(x)
    assert model.converged_


def test_quiet_unless_asked(capfd, monkeypatch):
    x = clusters()
    for progress in ("auto", False):
        GaussianMixture(2, progress=progress).fit(x)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    GaussianMixture(2, progress=True).fit(x)
    out, err = capfd.readouterr()
    assert out == ""
    assert "log-likelihood" in err
    GaussianMixture(2, verbose=1).fit(x)
    out, err = capfd.readouterr()
    assert out.startswith("Initialization 0\n")
    assert out.endswith("Initialization converged.\n")
    assert err == ""


# --- known parameters -----------------------------------------------------------------------------


@names
def test_a_known_mixture_scores_without_a_fit(name):
    mixture, truth = draw_one(name, 0, 3, 2)
    x = truth.draw(np.random.default_rng(0), 50)
    model = GaussianMixture.from_mixture(mixture)
    np.testing.assert_allclose(model.score_samples(x), truth.log_prob(x), rtol=1e-10)
    np.testing.assert_allclose(model.predict_proba(x), truth.responsibilities(x), atol=1e-11)
    np.testing.assert_array_equal(model.predict(x), truth.responsibilities(x).argmax(1))
    np.testing.assert_allclose(model.covariances_, mixture.covariances, rtol=1e-14)
    assert (model.n_components, model.covariance_type) == (3, name)
    assert model.n_features_in_ == 2
    drawn, labels = model.set_params(random_state=0).sample(20_000)
    np.testing.assert_allclose(drawn.mean(0), truth.mean(), atol=0.15)
    np.testing.assert_allclose(np.cov(drawn.T), truth.covariance(), rtol=0.1, atol=0.3)
    np.testing.assert_allclose(np.bincount(labels) / 20_000, truth.weights, atol=0.02)
    assert (np.diff(labels) >= 0).all()
    refitted = quiet_fit(model, x)
    assert refitted.converged_
    assert refitted.score(x) > truth.log_prob(x).mean()


def test_a_known_mixture_brings_its_names_and_its_type():
    mixture = Mixture.from_parameters(
        [1.0], [[0.0, 1.0]], [[1.0, 2.0]], "diag", feature_names=("a", "b")
    ).to(dtype=torch.float32)
    model = GaussianMixture.from_mixture(mixture)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    assert model.means_.dtype == np.float32
    table = pd.DataFrame({"a": [0.0], "b": [1.0]})
    expected = norm.logpdf(0) + norm.logpdf(0, scale=np.sqrt(2))
    np.testing.assert_allclose(model.score(table), expected, rtol=1e-6)
    tracked = Mixture(torch.zeros(1, requires_grad=True), mixture.means, mixture.covariance)
    assert not GaussianMixture.from_mixture(tracked).mixture_.log_weights.requires_grad


def test_a_batch_of_mixtures_is_not_one():
    with pytest.raises(InputError, match="pick one by indexing"):
        GaussianMixture.from_mixture(draw_one("full", 0, 2, 2)[0].expand((4,)))


def test_the_mixture_follows_the_attributes_and_keeps_the_names():
    model = GaussianMixture(2, random_state=0).fit(GEYSER)
    assert model.feature_names_in_.tolist() == list(GEYSER.feature_names)
    assert model.mixture_.feature_names == GEYSER.feature_names
    assert model.mixture_ is model.mixture_
    np.testing.assert_allclose(
        model.mixture_.log_prob(GEYSER.values), model.score_samples(GEYSER), rtol=1e-11
    )
    kept = model.mixture_
    model.means_[0] += 1  # in place, after a fit
    np.testing.assert_allclose(model.mixture_.means[0], kept.means[0] + 1, rtol=1e-14)
    assert model.score(GEYSER) < model.lower_bound_ - 0.01
    moved = kept.means.numpy() + 1
    model.means_ = moved
    np.testing.assert_array_equal(model.mixture_.means, moved)
    assert model.mixture_.feature_names == GEYSER.feature_names
    model.means_ -= 1  # in place, after it was read
    np.testing.assert_allclose(model.mixture_.means, kept.means, rtol=1e-14)


def test_what_is_not_fitted_says_so():
    model = GaussianMixture()
    for ask in ("score_samples", "predict", "predict_proba", "score", "bic", "icl"):
        with pytest.raises(NotFittedError):
            getattr(model, ask)(clusters())
    with pytest.raises(NotFittedError):
        model.sample()
    with pytest.raises(NotFittedError):
        _ = model.mixture_


# --- point 6: bad input is told in one plain sentence ---------------------------------------------

X = clusters(20)
TABLE = pd.DataFrame({"height": X[:, 0], "weight": X[:, 1]})


def spoiled(table, value):
    table = table.copy()
    table.iloc[7, 1] = value
    return table


def with_value(row, column, value):
    x = X.copy()
    x[row, column] = value
    return x


BAD = {
    "NaN": (lambda: with_value(3, 1, np.nan), {}, "NaN.*row 3 .*column 1"),
    "infinity": (lambda: with_value(3, 0, -np.inf), {}, "infinity.*row 3 .*column 0"),
    "both infinities": (
        lambda: np.where(np.arange(20)[:, None] == [4, 5], [np.inf, -np.inf], X),
        {},
        "infinity.*row 4 .*column 0, of 2 such rows",
    ),
    "NaN in a named column": (
        lambda: spoiled(TABLE, np.nan),
        {},
        "NaN.*row 7 .*column 'weight', of 1 such rows",
    ),
    "too large": (lambda: np.full((20, 2), 1e308), {}, "too large.*scale the data"),
    "one row": (lambda: X[:1], {}, r"1 sample\(s\).*minimum of 2"),
    "no rows": (lambda: X[:0], {}, r"0 sample\(s\)"),
    "no columns": (lambda: X[:, :0], {}, r"0 feature\(s\)"),
    "fewer rows than components": (
        lambda: X[:2],
        {},
        "n_samples >= n_components but got n_components = 3, n_samples = 2",
    ),
    "fewer rows of any weight": (
        lambda: X,
        {"sample_weight": np.arange(20) < 2},
        "n_components = 3, n_samples = 2",
    ),
    "a negative weight": (
        lambda: X,
        {"sample_weight": np.where(np.arange(20) == 5, -1.0, 1.0)},
        "not negative; row 5 .* has -1.0",
    ),
    "a weight that is NaN": (
        lambda: X,
        {"sample_weight": np.where(np.arange(20) == 5, np.nan, 1.0)},
        "finite.*row 5 .* has nan",
    ),
    "an infinite weight": (
        lambda: X,
        {"sample_weight": np.where(np.arange(20) == 5, np.inf, 1.0)},
        "finite.*row 5 .* has inf",
    ),
    "one negative weight for all": (lambda: X, {"sample_weight": -1.0}, "not negative; row 0"),
    "one weight for all that is NaN": (lambda: X, {"sample_weight": np.nan}, "finite.*row 0"),
    "no weight at all": (lambda: X, {"sample_weight": np.zeros(20)}, "zero for every row"),
    "too few weights": (
        lambda: X,
        {"sample_weight": np.ones(19)},
        r"shape \(19,\), expected \(20,\)",
    ),
    "weights as a table": (
        lambda: X,
        {"sample_weight": np.ones((20, 1))},
        r"shape \(20, 1\), expected \(20,\)",
    ),
    "weights as words": (lambda: X, {"sample_weight": ["much"] * 20}, "sample_weight.*'much'"),
    "words": (lambda: [["a", "b"]] * 20, {}, "could not convert string to float: 'a'"),
    "one axis": (lambda: X[:, 0], {}, "Expected 2D array, got 1D array instead"),
    "three axes": (lambda: X[None], {}, "3"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_is_told_in_one_line(mistake):
    table, more, says = BAD[mistake]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=says) as caught:
            GaussianMixture(3).fit(table(), **more)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "mistake", [name for name in BAD if "fewer" not in name and name != "one row"]
)
def test_scoring_refuses_what_fitting_refuses(mistake):
    table, more, says = BAD[mistake]
    named = isinstance(table(), pd.DataFrame)
    model = GaussianMixture(2, random_state=0).fit(TABLE if named else X)
    with pytest.raises(InputError, match=says) as caught:
        model.score(table(), **more)
    assert "\n" not in str(caught.value)


def test_parameters_to_start_from_are_checked():
    starts = {
        "weights_init": ([0.5, np.nan], "weights.*NaN"),
        "means_init": ([["a", "b"]] * 2, "means.*'a'"),
        "precisions_init": (-np.stack([np.eye(2)] * 2), "symmetric, positive-definite"),
    }
    for parameter, (value, says) in starts.items():
        with pytest.raises(InputError, match=says):
            GaussianMixture(2, **{parameter: value}).fit(X)


def test_whole_numbers_of_any_kind_and_tables_of_any_layout():
    x = clusters(80)
    expected = GaussianMixture(2, max_iter=50, random_state=0).fit(x)
    for k, n in ((np.uint8(2), np.int32(50)), (np.int32(2), np.uint8(50)), (2, 10**30)):
        found = GaussianMixture(k, max_iter=n, random_state=0).fit(x)
        np.testing.assert_array_equal(found.means_, expected.means_)
    packed = np.zeros(80, dtype=[("label", "i1"), ("x", "f8", (2,))])
    packed["x"] = x
    wide = np.concatenate([x, np.zeros((80, 5))], 1)[:, :2]
    for table in (packed["x"], wide, np.asfortranarray(x), x[::-1][::-1]):
        found = GaussianMixture(2, max_iter=50, random_state=0).fit(table)
        np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-10)


def test_a_fit_that_is_refused_leaves_the_last_one_as_it_was():
    x = clusters(80)
    model = GaussianMixture(2, random_state=0).fit(x)
    labels = model.predict(x)
    with pytest.raises(InputError, match="contains NaN"):
        model.fit(np.full((60, 3), np.nan))
    np.testing.assert_array_equal(model.predict(x), labels)


def test_squares_that_overflow_are_told_in_our_words():
    x = np.random.default_rng(0).normal(size=(12, 2)) * 1e153
    with pytest.raises(DegenerateFitError):
        quiet_fit(GaussianMixture(2, random_state=0), x, sample_weight=1e200)


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**32 - 1])
def test_an_integer_seeds_the_stream_that_it_seeds_in_numpy(seed):
    mine, theirs = random_state_of(seed), np.random.RandomState(seed)
    assert mine.randint(2**31 - 1) == theirs.randint(2**31 - 1)
    assert np.array_equal(mine.normal(size=1000), theirs.normal(size=1000))
    assert mine is not random_state_of(seed)
    given = np.random.RandomState(seed)
    assert random_state_of(given) is given


def test_a_setting_that_passed_once_does_not_let_others_pass():
    """1 and 1.0, False and 0 are equal and have one hash; a list has none."""
    x = np.random.default_rng(0).normal(size=(30, 2))
    GaussianMixture(1, tol=1).fit(x)
    for wrong in ({"max_iter": 100.0}, {"warm_start": 0}, {"callbacks": 3}, {"tol": -1}):
        for _ in range(2):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                GaussianMixture(**{"n_components": 1, **wrong}).fit(x)
    GaussianMixture(1, callbacks=[print]).fit(x)


def test_what_passed_the_checks_is_not_kept_alive():
    """Callbacks may hold large things, and a tuple of them can be remembered."""

    def heard(record):
        return None

    gone = weakref.ref(heard)
    GaussianMixture(1, callbacks=(heard,)).fit(np.random.default_rng(0).normal(size=(30, 2)))
    del heard
    gc.collect()
    assert gone() is None
