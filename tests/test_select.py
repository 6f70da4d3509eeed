"""select: the planted answer, the honest one, and no spike taken for either."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mogul
from laws.cases import CASES, Truth, tensor
from mogul import GaussianMixture, Mixture, select
from mogul.data.rows import Rows
from mogul.errors import DegenerateFitError, InputError, SpikeWarning, UnknownNameError
from mogul.infer.ascent import Ascent
from mogul.infer.spikes import find_spikes, rounding_variance

KINDS = list(CASES)
GEYSER = mogul.datasets.old_faithful()


def two_clusters(n=300, seed=0):
    """Separated, of different shapes, recorded to the last digit."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.normal(size=(n, 2)) * [1.0, 0.5], rng.normal(size=(n, 2)) * [0.4, 1.2] + [6.0, 3.0]]
    )


def entry(found, name, k):
    (candidate,) = (c for c in found.table if (c.covariance_type, c.n_components) == (name, k))
    return candidate


def narrowest(model):
    """The smallest standard deviation of any component in any direction."""
    k, d = model.means_.shape
    dense = CASES[model.covariance_type].dense(model.covariances_, k, d)
    return np.sqrt(np.linalg.eigvalsh(dense).min())


# --- the published answer -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_old_faithful_has_three_tied_components(seed):
    """mclust's answer (Fraley and Raftery 1998); diag, K = 5 at 2220.7 is a collapsed component."""
    found = select(GEYSER, range(1, 7), random_state=seed)
    assert (found.best.covariance_type, found.best.n_components) == ("tied", 3)
    assert abs(found.table[0].criterion_value - 2314.3) < 0.1
    assert abs(entry(found, "full", 2).criterion_value - 2322.2) < 0.1
    assert abs(found.best.bic(GEYSER) - 2314.3) < 0.1
    assert min(c.criterion_value for c in found.table if not c.excluded) > 2314.2
    assert narrowest(found.best) > 0.2  # minutes


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_old_faithful_among_forty_models(seed):
    found = select(GEYSER, random_state=seed)
    assert len(found.table) == 40
    assert (found.best.covariance_type, found.best.n_components) == ("tied", 3)
    assert abs(found.table[0].criterion_value - 2314.3) < 0.1


def test_the_naive_answer_is_known_for_a_spike():
    """Fits that beat 2314.3 by a component on one waiting time, recorded in whole minutes."""
    rounding = rounding_variance(Rows(tensor(GEYSER.values)))
    naive = [
        GaussianMixture(
            5, covariance_type="diag", n_init=5, random_state=seed, tol=1e-6, max_iter=1000,
            init_params="random_from_data",
        ).fit(GEYSER)
        for seed in range(6)
    ]  # fmt: skip
    spiked = [find_spikes(model.mixture_, rounding, 1e-6) for model in naive]
    assert sum(map(bool, spiked)) >= 3
    for model, spikes in zip(naive, spiked, strict=True):
        waiting = np.sqrt(model.covariances_[:, 1].min())
        assert bool(spikes) == (waiting < 0.6)  # a minute is the step
        assert bool(spikes) == (model.bic(GEYSER) < 2314)
        assert all(spike.feature == 1 for spike in spikes)


# --- planted spikes -------------------------------------------------------------------------------


def told_of_a_spike(found):
    return any(c.excluded or c.passed_over for c in found.table)


@pytest.mark.parametrize("seed", [0, 1])
def test_twenty_copies_of_one_row_are_no_component(seed):
    x = two_clusters(seed=seed)
    x = np.concatenate([x, np.repeat(x[:1], 20, 0)])
    found = select(x, range(1, 6), ["full", "diag", "spherical"], n_init=5, random_state=seed)
    assert found.best.n_components == 2
    assert narrowest(found.best) > 0.3
    assert told_of_a_spike(found)
    assert "spike" in str(found)
    excluded = [c for c in found.table if c.excluded]
    for candidate in excluded:
        assert "the rounding of the data" in candidate.excluded
        # The spike is likelier than the truth: that is why it must not compete.
        assert candidate.criterion_value < found.table[0].criterion_value


def test_rounding_to_whole_numbers_makes_no_components():
    exact = two_clusters(200) * 3
    found = select(exact.round(), range(1, 6), n_init=5, random_state=0)
    honest = select(exact, range(1, 6), n_init=5, random_state=0)
    assert found.best.n_components == honest.best.n_components == 2
    assert found.best.covariance_type == honest.best.covariance_type
    assert narrowest(found.best) > 0.6


def test_a_coarse_lattice_is_no_reason_for_components():
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(400, 2)).round()
        found = select(x, range(1, 5), ["full", "diag"], n_init=4, random_state=0)
        assert found.best.n_components == 1


@pytest.mark.filterwarnings("ignore::mogul.errors.SpikeWarning")
def test_a_column_with_many_zeros_makes_no_component_of_them():
    rng = np.random.default_rng(0)
    x = two_clusters(200)
    x[rng.uniform(size=len(x)) < 0.3, 1] = 0.0
    found = select(x, range(1, 5), ["full", "diag"], n_init=5, random_state=0)
    assert narrowest(found.best) > 0.1
    assert any(c.excluded and "feature 1" in c.excluded for c in found.table)
    named = select(pd.DataFrame(x, columns=["a", "rain"]), 4, "diag", n_init=5, random_state=0)
    assert "rain" in named.table[0].excluded


@given(exponent=st.integers(-8, 8), offset=st.integers(-3, 3), seed=st.integers(0, 2**31))
def test_the_step_of_a_column_is_its_rounding(exponent, offset, seed):
    step = 10.0**exponent
    values = np.random.default_rng(seed).normal(size=200).round(1) * 10 * step + offset * 100 * step
    real = np.random.default_rng(seed).normal(size=200) * step
    rounding = rounding_variance(Rows(tensor(np.stack([values, real], 1))))
    np.testing.assert_allclose(rounding[0], step**2 / 12, rtol=1e-3)
    assert rounding[1] < 1e-6 * step**2


def test_the_rounding_of_the_computer_is_not_that_of_the_data():
    steps = np.arange(50)
    x = np.concatenate([steps * 0.1, steps / 10, np.cumsum(np.full(49, 0.1))])
    assert len(np.unique(x)) > 60
    rounding = rounding_variance(Rows(tensor(x[:, None])))
    np.testing.assert_allclose(rounding, 0.01 / 12, rtol=1e-9)


def test_an_honest_end_is_preferred_to_a_likelier_spike():
    """Some starts fall on a waiting time; the best of the others stands for the model."""
    passed_over = 0
    for seed in range(2, 5):
        found = select(GEYSER, 5, "diag", n_init=20, random_state=seed)
        (only,) = found.table
        assert only.excluded is None
        assert abs(only.criterion_value - 2346.1) < 0.1
        assert np.sqrt(found.best.covariances_[:, 1].min()) > 0.6
        passed_over += only.passed_over
        assert (f"diag, K=5 ({only.passed_over})" in str(found)) == (only.passed_over > 0)
    assert passed_over


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize("name", ["full", "diag", "spherical"])
def test_a_spike_is_narrow_in_some_direction(name, scale):
    """One component is wide, one at the rounding, one at the floor (for "full" on a diagonal)."""
    step, floor = 0.1 * scale, 1e-6 * scale**2
    thin = np.array([[1.0, 1.0], [1.0, 1.0]]) / 2 + 1e-6 * np.eye(2)
    dense = np.stack([np.eye(2), 1e-4 * np.eye(2), thin if name == "full" else np.eye(2) * 1e-6])
    mixture = Mixture.from_parameters(
        [0.4, 0.3, 0.3],
        np.zeros((3, 2)),
        CASES[name].estimate(dense, np.ones(3)) * scale**2,
        name,
    )
    coarse = find_spikes(mixture, tensor([step**2 / 12, step**2 / 12]), floor)
    assert [spike.component for spike in coarse] == [1, 2]
    fine = find_spikes(mixture, tensor([0.0, 0.0]), floor)
    assert [spike.component for spike in fine] == [2]
    np.testing.assert_allclose(fine[0].standard_deviation, 1e-3 * scale, rtol=0.3)


def test_when_nothing_else_is_left_it_is_said():
    x = np.repeat([[0.0, 0.0], [1.0, 5.0], [4.0, 1.0]], 30, 0)
    with pytest.warns(SpikeWarning, match="Every candidate has a component at the rounding"):
        found = select(x, 3, ["full", "diag"], random_state=0)
    assert all(c.excluded for c in found.table)


# --- planted mixtures -----------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["bic", "icl"])
@pytest.mark.parametrize("name", KINDS)
def test_a_planted_structure_and_size_are_recovered(name, criterion):
    rng = np.random.default_rng(1)
    dense = {
        "full": [[[4, 3.2], [3.2, 4]], [[1, -0.8], [-0.8, 1]], [[0.5, 0], [0, 3]]],
        "tied": [[[3, 2], [2, 3]]] * 3,
        "diag": [[[4, 0], [0, 0.3]], [[0.3, 0], [0, 3]], [[1, 0], [0, 2]]],
        "spherical": [np.eye(2) * 4, np.eye(2) * 0.25, np.eye(2)],
    }[name]
    means = np.array([[0.0, 0.0], [14.0, 0.0], [0.0, 14.0]])
    x = Truth(np.array([0.3, 0.3, 0.4]), means, np.array(dense, float)).draw(rng, 800)
    found = select(x, range(1, 6), criterion=criterion, n_init=3, random_state=0)
    assert (found.best.covariance_type, found.best.n_components) == (name, 3)


def test_icl_wants_components_that_can_be_told_apart():
    """Two clusters over each other: BIC sees two Gaussians, ICL one group."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (400, 1)), rng.normal(0, 5, (400, 1))])
    sizes = {
        criterion: select(x, range(1, 5), "diag", criterion, n_init=3, random_state=0).best
        for criterion in ("bic", "icl", "aic")
    }
    assert sizes["bic"].n_components == 2
    assert sizes["icl"].n_components == 1
    assert sizes["aic"].n_components >= 2


@pytest.mark.parametrize("criterion", ["bic", "icl", "aic"])
def test_the_table_holds_what_it_says(criterion):
    x = two_clusters(100)
    found = select(x, range(1, 4), criterion=criterion, n_init=2, random_state=0)
    assert found.criterion == criterion
    assert len(found.table) == 12
    values = [c.criterion_value for c in found.table if not c.excluded]
    assert values == sorted(values)
    assert sorted(found.table, key=lambda c: c.excluded is not None) == found.table
    for c in found.table:
        n_free = CASES[c.covariance_type].n_free(c.n_components, 2)
        assert c.n_parameters == 3 * c.n_components - 1 + n_free
        model = GaussianMixture.from_mixture(c.fit.mixture)
        np.testing.assert_allclose(c.log_likelihood, model.score(x), rtol=1e-10)
        np.testing.assert_allclose(c.criterion_value, getattr(model, criterion)(x), rtol=1e-10)
    best, top = found.best, found.table[0]
    assert (best.covariance_type, best.n_components) == (top.covariance_type, top.n_components)
    np.testing.assert_allclose(best.lower_bound_, best.score(x), rtol=1e-10)
    np.testing.assert_allclose(getattr(best, criterion)(x), top.criterion_value, rtol=1e-10)
    assert best.converged_
    assert best.fit(x).means_.shape == best.means_.shape  # an estimator like any other


def test_the_result_prints_every_criterion():
    x = two_clusters(100)
    found = select(x, range(1, 4), n_init=2, random_state=0)
    text = str(found)
    for c in found.table:
        mark = "x" if c.excluded else "*" if c is found.table[0] else ""
        assert f"{c.criterion_value:.1f} {mark}".strip() in text
    best = found.table[0]
    assert f"best ({best.covariance_type}, K={best.n_components})" in text
    header, *lines = text.splitlines()
    assert header.split() == ["BIC", *KINDS]
    assert [line.split()[0] for line in lines[:3]] == ["1", "2", "3"]


# --- invariances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-4, 1e6])
@pytest.mark.parametrize("spiked", [False, True])
def test_the_units_of_the_data_do_not_matter(factor, spiked):
    x = two_clusters(150)
    if spiked:
        x = np.concatenate([x, np.repeat(x[:1], 20, 0)])
    here, there = (
        select(table, range(1, 5), n_init=3, random_state=0) for table in (x, x * factor)
    )
    assert len(here.table) == len(there.table)
    per_row = 2 * len(x) * 2 * np.log(factor)  # a density has units
    for a in here.table:  # full and tied are one model where K = 1: no order between them
        b = entry(there, a.covariance_type, a.n_components)
        np.testing.assert_allclose(b.criterion_value, a.criterion_value + per_row, atol=0.05)
        assert bool(a.excluded) == bool(b.excluded)
    assert there.best.covariance_type == here.best.covariance_type
    assert there.best.n_components == here.best.n_components
    np.testing.assert_allclose(there.best.means_ / factor, here.best.means_, rtol=1e-4, atol=1e-4)


def test_the_same_seed_and_any_order_of_rows():
    x = two_clusters(100)
    order = np.random.default_rng(0).permutation(len(x))
    found = [select(table, range(1, 4), n_init=3, random_state=4) for table in (x, x, x[order])]
    values = [[c.criterion_value for c in result.table] for result in found]
    assert values[0] == values[1]
    np.testing.assert_allclose(values[2], values[0], atol=1e-4)
    assert found[2].best.covariance_type == found[0].best.covariance_type


def test_integer_weights_are_repeated_rows_and_zero_is_no_row():
    x = two_clusters(100)
    weight = np.random.default_rng(0).integers(0, 4, len(x))
    settings = {"n_components": range(1, 4), "n_init": 3, "random_state": 0}
    repeated = select(np.repeat(x, weight, 0), **settings)
    far = np.where((weight == 0)[:, None], 1e250, x)
    for table in (x, far):
        weighted = select(table, sample_weight=weight, **settings)
        for a, b in zip(weighted.table, repeated.table, strict=True):
            assert (a.covariance_type, a.n_components) == (b.covariance_type, b.n_components)
            np.testing.assert_allclose(a.criterion_value, b.criterion_value, rtol=1e-8)


def test_float32():
    x = two_clusters(100)
    wide, low = (
        select(table, range(1, 4), n_init=2, random_state=0) for table in (x, x.astype(np.float32))
    )
    assert low.best.means_.dtype == np.float32
    assert (low.best.covariance_type, low.best.n_components) == (
        wide.best.covariance_type,
        wide.best.n_components,
    )


@pytest.mark.parametrize("n_components", [2, np.int64(2), [2], (2, 2), iter([2]), np.array([2])])
def test_one_size(n_components):
    found = select(two_clusters(50), n_components, "diag", n_init=2, random_state=0)
    assert [c.n_components for c in found.table] == [2]
    assert found.best.n_components == 2


def test_names_come_along():
    table = pd.DataFrame(two_clusters(50), columns=["length", "width"])
    found = select(table, 2, "diag", n_init=2, random_state=0)
    assert found.best.feature_names_in_.tolist() == ["length", "width"]
    assert found.best.mixture_.feature_names == ("length", "width")
    assert found.best.predict(table).shape == (100,)


def test_many_rows_are_sampled_first_and_all_used_at_last():
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    dense = np.stack([np.diag([1.0, 2.0]), np.diag([0.5, 1.0]), np.diag([2.0, 0.3])])
    truth = Truth(np.array([0.2, 0.3, 0.5]), means, dense)
    x = truth.draw(rng, 30_000)
    found = select(x, [2, 3, 4], ["full", "diag"], n_init=3, random_state=0)
    assert (found.best.covariance_type, found.best.n_components) == ("diag", 3)
    np.testing.assert_allclose(found.table[0].log_likelihood, found.best.score(x), rtol=1e-10)
    assert found.best.score(x) >= truth.log_prob(x).mean()  # the optimum over all rows
    order = found.best.predict(means)
    np.testing.assert_allclose(found.best.weights_[order], truth.weights, atol=0.01)


# --- what cannot be chosen from -------------------------------------------------------------------

X = two_clusters(10)
BAD = {
    "a constant column": (
        (np.column_stack([X, np.ones(20)]),),
        {},
        "column 2 is the same.*drop it",
    ),
    "a constant named column": (
        (pd.DataFrame({"a": X[:, 0], "b": 1.0}),),
        {},
        "column b is the same",
    ),
    "all rows the same": ((np.ones((20, 2)),), {}, "All rows are the same"),
    "all rows that weigh the same": (
        (np.concatenate([np.ones((20, 2)), X[:1]]),),
        {"sample_weight": np.arange(21) < 20},
        "All rows are the same",
    ),
    "one row": ((X[:1],), {}, "minimum of 2"),
    "too few rows": ((X[:4], range(1, 6)), {}, "4 rows and up to 5 components"),
    "NaN": ((np.where(X.max() == X, np.nan, X),), {}, r"NaN.*row \d+.*column 0"),
    "a negative weight": ((X, 2), {"sample_weight": -np.ones(20)}, "row 0"),
    "no size": ((X, []), {}, "n_components must hold whole numbers"),
    "size zero": ((X, [0, 1]), {}, "n_components must hold whole numbers"),
    "size one and a half": ((X, 1.5), {}, "n_components must hold whole numbers"),
    "no structure": ((X, 2, []), {}, "name at least one structure"),
    "an unknown structure": ((X, 2, ["round"]), {}, "'round' is unknown; choose one of 'full'"),
    "an unknown criterion": ((X, 2, "full", "dic"), {}, "'dic' is unknown; choose one of 'bic'"),
    "no start": ((X, 2), {"n_init": 0}, "n_init must be a whole number from 1"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_is_told_in_one_line(mistake):
    arguments, more, says = BAD[mistake]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=says) as caught:
            select(*arguments, **more)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnknownNameError) == ("unknown" in mistake)


def test_when_every_candidate_collapses_it_is_an_error(monkeypatch):
    monkeypatch.setattr(
        "mogul.infer.selection.mend", lambda starts, ok: (starts, torch.zeros(len(starts)).bool())
    )
    with pytest.raises(DegenerateFitError, match="fewer components"):
        select(X, 2)


def test_an_interrupt_ends_the_search(monkeypatch):
    """Fits keep what they have; half a search is no answer."""
    calls, advance = [], Ascent._advance

    def interrupted(climb):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return advance(climb)

    monkeypatch.setattr(Ascent, "_advance", interrupted)
    monkeypatch.setattr("mogul.kernels._find_compiler", lambda: False)
    with pytest.raises(KeyboardInterrupt):
        select(X, [1, 2], n_init=2, random_state=0)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):  # while starts are still being compared
        GaussianMixture(3, random_state=0).fit(X)


def test_quiet_unless_asked(capfd, monkeypatch):
    select(X, [1, 2], "diag", n_init=2)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    select(X, [1, 2], "diag", n_init=2, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "model" in err
