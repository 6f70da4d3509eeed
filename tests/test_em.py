"""EM: it climbs, it does not care for units or order, it survives what collapses."""

import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.random import RandomState

from laws.cases import CASES, Truth, broad_start, draw_one, rebuild, tensor
from mogul import Mixture
from mogul._threads import one_thread_if_small
from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.datasets import old_faithful
from mogul.errors import DegenerateFitError
from mogul.infer.ascent import ACCELERATIONS
from mogul.infer.em import EMSettings, fit_em, likeliest, m_step, stack
from mogul.infer.maximum_likelihood import FixedParts, fit_mixture
from mogul.infer.repair import split_into
from mogul.infer.squarem import MixtureChart, Squarem
from mogul.infer.stopping import IterationRecord, Trace
from mogul.kernels import e_step

pytestmark = pytest.mark.usefixtures("compiler")

KINDS = list(CASES)
seeds = st.integers(0, 2**32 - 1)
names = pytest.mark.parametrize("name", KINDS)
accelerations = pytest.mark.parametrize("acceleration", ACCELERATIONS)


class Counted(Rows):
    """Rows that count how often they are read."""

    def __init__(self, values):
        super().__init__(values)
        object.__setattr__(self, "passes", [])

    def __iter__(self):
        self.passes.append(1)
        return super().__iter__()


def overlapping(seed=0, n=300):
    """Three clusters that run into each other, so that EM takes long."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [2.0, 0.0], [0.5, 2.5]])
    scales = np.array([1.0, 0.7, 1.4])
    labels = rng.integers(0, 3, n)
    return centres[labels] + scales[labels, None] * rng.normal(size=(n, 2))


def run(x, start, **settings):
    """EM from one start, or from a list of them."""
    starts = stack(start if isinstance(start, list) else [start])
    return fit_em(Rows(tensor(x)), starts, EMSettings(**{"tol": 0.0, "floor": 1e-9} | settings))


def values_of(trace):
    return np.array([record.log_likelihood for record in trace.records])


def assert_same(one, other, rtol=1e-8):
    np.testing.assert_allclose(one.weights, other.weights, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(one.means, other.means, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(one.covariances, other.covariances, rtol=rtol, atol=rtol)


# --- it climbs ------------------------------------------------------------------------------------


@accelerations
@given(name=st.sampled_from(KINDS), seed=seeds)
def test_the_log_likelihood_never_falls(acceleration, name, seed):
    x = overlapping(seed, 150)
    ran = run(x, broad_start(x, name, seed), max_iter=60, acceleration=acceleration)
    (trace,) = ran.traces
    assume(not trace.events)  # a repair starts anew, and a collapsed component lives on the floor
    climb = np.append(values_of(trace), float(ran.log_likelihood))
    assert np.diff(climb).min() > -1e-9


@accelerations
@names
def test_more_iterations_never_end_lower(name, acceleration):
    """Also where a fit stops on a proposal that was never tried."""
    for seed in range(3):
        x = overlapping(seed, 150)
        ends = [
            run(x, broad_start(x, name, seed), max_iter=m, acceleration=acceleration)
            for m in range(25)
        ]
        assert not any(end.traces[0].events for end in ends)
        assert np.diff([float(end.log_likelihood) for end in ends]).min() > -1e-9


def test_rounding_does_not_choose_among_equal_ends():
    """Else a default fit of weighted rows and of repeated ones may number components apart."""
    assert likeliest(tensor([-3.0, -2.0 - 1e-15, -2.0, -np.inf])) == 1
    assert likeliest(tensor([-3.0, -2.0, -2.0 + 1e-6])) == 2
    assert likeliest(tensor([-np.inf, -np.inf])) == 0
    assert likeliest(tensor([-np.inf, -1e300])) == 1


@names
def test_what_is_recorded_is_the_log_likelihood_of_what_was_there(name):
    """Record i belongs to the parameters after i − 1 iterations; the result to the mixture."""
    x = overlapping(1, 80)
    start = broad_start(x, name, 1)
    ran = run(x, start, max_iter=4, acceleration="none")
    points = [start] + [
        run(x, start, max_iter=m, acceleration="none").mixture[0] for m in range(1, 5)
    ]
    expected = [slow_log_likelihood(x, point) for point in points]
    np.testing.assert_allclose(values_of(ran.traces[0]), expected[:-1], rtol=1e-11)
    np.testing.assert_allclose(float(ran.log_likelihood), expected[-1], rtol=1e-11)
    changes = [record.change for record in ran.traces[0].records]
    assert changes[0] == math.inf
    np.testing.assert_allclose(changes[1:], np.diff(expected[:-1]), atol=1e-11)
    assert [record.iteration for record in ran.traces[0].records] == [1, 2, 3, 4]


@accelerations
@pytest.mark.parametrize("max_iter", [1, 2, 7, 130, 3000])
@names
def test_who_watches_changes_nothing(name, max_iter, acceleration, compiler):
    """Unwatched iterations of a small fit are one compiled call, as far as they are plain."""
    if compiler != "compiled":  # then both are the same code
        max_iter = min(max_iter, 300)
    x = overlapping(5, 150)
    weight = tensor(np.random.default_rng(0).uniform(0.5, 2, len(x)))
    told = []
    for tol in (0.0, 1e-3, 1e-7):
        settings = EMSettings(tol, max_iter, 1e-9, acceleration)
        start = stack([broad_start(x, name, 2), broad_start(x, name, 3)])
        watched, alone = (
            fit_em(Rows(tensor(x), weight), start, settings, on_iteration=who)
            for who in (told.append, None)
        )
        for one, other in zip(alone.traces, watched.traces, strict=True):
            assert (one.n_iter, one.converged) == (other.n_iter, other.converged)
            np.testing.assert_allclose(values_of(one), values_of(other), rtol=1e-12)
            assert [r.accelerated for r in one.records] == [r.accelerated for r in other.records]
        assert_same(alone.mixture, watched.mixture)
        np.testing.assert_allclose(alone.log_likelihood, watched.log_likelihood, rtol=1e-12)
    assert told


def slow_log_likelihood(x, mixture):
    truth = Truth(
        mixture.weights.numpy(), mixture.means.numpy(), mixture.covariance.dense().numpy()
    )
    return truth.log_prob(x).mean()


@names
def test_acceleration_reaches_the_same_optimum_in_fewer_passes(name):
    x = overlapping(3, 400)
    start = broad_start(x, name, 2)
    ends, passes = {}, {}
    for acceleration in ACCELERATIONS:
        rows = Counted(tensor(x))
        settings = EMSettings(1e-9, 5000, 1e-9, acceleration)
        ends[acceleration] = fit_em(rows, stack([start]), settings)
        passes[acceleration] = len(rows.passes)
        assert ends[acceleration].traces[0].converged
    plain = ends["none"].log_likelihood
    for acceleration in ("auto", "squarem"):
        assert passes[acceleration] < passes["none"]
        np.testing.assert_allclose(ends[acceleration].log_likelihood, plain, atol=1e-5)
        assert ends[acceleration].log_likelihood > plain - 1e-8  # stops no earlier
        assert any(r.accelerated for r in ends[acceleration].traces[0].records)
    assert not any(r.accelerated for r in ends["none"].traces[0].records)


def test_accepted_iterations_count_and_a_rejected_proposal_only_costs_a_pass():
    x = overlapping(3, 400)
    passes = {}
    for acceleration in ACCELERATIONS:
        rows = Counted(tensor(x))
        settings = EMSettings(0.0, 40, 1e-9, acceleration)
        ran = fit_em(rows, stack([broad_start(x, "full", 2)]), settings)
        assert ran.traces[0].n_iter == 40
        passes[acceleration] = len(rows.passes)
    assert passes["none"] <= 42  # one last pass for the result, and one to count the rows
    assert passes["none"] <= passes["auto"] < passes["none"] + 14  # a proposal in three at most
    assert passes["none"] <= passes["squarem"] < passes["none"] + 14


# --- equivariance and order -----------------------------------------------------------------------


@accelerations
@names
@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (250.0, -1e4), (1.0, 1e5)])
def test_scaling_and_shifting_the_data_does_the_same_to_the_fit(name, acceleration, scale, shift):
    x = overlapping(4)
    start = broad_start(x, name, 4)
    moved = Mixture.from_parameters(
        start.weights, start.means * scale + shift, start.covariances * scale**2, name
    )
    settings = {"max_iter": 12, "acceleration": acceleration}
    here = run(x, start, **settings).mixture[0]
    there = run(x * scale + shift, moved, floor=1e-9 * scale**2, **settings).mixture[0]
    back = Mixture.from_parameters(
        there.weights, (there.means - shift) / scale, there.covariances / scale**2, name
    )
    assert_same(back, here, 1e-8)


@accelerations
@pytest.mark.parametrize("name", ["full", "tied", "diag"])
def test_each_column_has_its_own_units(name, acceleration):
    x = overlapping(4)
    unit = tensor([1e3, 1e-2])
    start = broad_start(x, name, 4)
    outer = unit.square() if name == "diag" else unit[:, None] * unit
    moved = Mixture.from_parameters(
        start.weights, start.means * unit, start.covariances * outer, name
    )
    settings = {"max_iter": 12, "acceleration": acceleration, "floor": 0.0}
    here = run(x, start, **settings).mixture[0]
    there = run(x * unit.numpy(), moved, **settings).mixture[0]
    back = Mixture.from_parameters(
        there.weights, there.means / unit, there.covariances / outer, name
    )
    assert_same(back, here)


@pytest.mark.parametrize("name", ["full", "tied", "spherical"])
def test_rotating_the_data_rotates_the_fit(name):
    x = overlapping(5)
    turn = tensor([[0.6, -0.8], [0.8, 0.6]])
    start = broad_start(x, name, 5)

    def turned(mixture, by):
        spread = mixture.covariances if name == "spherical" else by @ mixture.covariances @ by.T
        return Mixture.from_parameters(mixture.weights, mixture.means @ by.T, spread, name)

    settings = {"max_iter": 15, "acceleration": "none"}
    here = run(x, start, **settings).mixture[0]
    there = run(x @ turn.numpy().T, turned(start, turn), **settings).mixture[0]
    assert_same(turned(there, turn.T), here)


@accelerations
@names
def test_permuting_components_or_rows_changes_nothing(name, acceleration):
    x = overlapping(6)
    start, order = broad_start(x, name, 6), [2, 0, 1]
    settings = {"max_iter": 20, "acceleration": acceleration}
    here = run(x, start, **settings)
    there = run(x, start.select(order), **settings)
    assert_same(there.mixture[0], here.mixture[0].select(order))
    shuffled = run(x[RandomState(0).permutation(len(x))], start, **settings)
    assert_same(shuffled.mixture[0], here.mixture[0])
    np.testing.assert_allclose(shuffled.log_likelihood, here.log_likelihood, rtol=1e-11)


@accelerations
@names
def test_starts_run_together_as_they_run_alone(name, acceleration):
    x = overlapping(7)
    starts = [broad_start(x, name, seed) for seed in range(4)]
    settings = {"max_iter": 60, "acceleration": acceleration, "tol": 1e-6}
    together = run(x, starts, **settings)
    for i, start in enumerate(starts):
        alone = run(x, start, **settings)
        assert_same(together.mixture[i], alone.mixture[0], 1e-7)
        np.testing.assert_allclose(together.log_likelihood[i], alone.log_likelihood[0], rtol=1e-10)
        assert together.traces[i].n_iter == alone.traces[0].n_iter
        assert together.traces[i].converged == alone.traces[0].converged
        assert {record.start for record in together.traces[i].records} == {i}


def test_batches_of_rows_are_one_table():
    x = overlapping(8)
    weight = np.random.default_rng(8).uniform(0, 2, len(x))
    start = stack([broad_start(x, "full", 8)])
    rows, weights = tensor(x), tensor(weight)
    whole = fit_em([(rows, weights)], start, EMSettings(0.0, 10, 1e-9))
    cut = [(rows[i : i + 70], weights[i : i + 70]) for i in range(0, len(x), 70)]
    parts = fit_em(cut, start, EMSettings(0.0, 10, 1e-9))
    assert_same(parts.mixture[0], whole.mixture[0])


# --- when to stop ---------------------------------------------------------------------------------


def trace_of(values):
    trace = Trace()
    for value in values:
        trace.record(value, accelerated=False)
    return trace


@given(limit=st.floats(-5, 5), gap=st.floats(0.5, 5), ratio=st.floats(0.1, 0.95))
def test_what_remains_of_a_geometric_climb_is_known(limit, gap, ratio):
    trace = trace_of([limit - gap * ratio**i for i in range(5)])
    remaining = gap * ratio**4
    np.testing.assert_allclose(trace.remaining_gain(), remaining, rtol=1e-3)
    tol = remaining * ratio**10
    assume(tol > 1e-9)
    np.testing.assert_allclose(trace.remaining_iterations(tol), 10, atol=0.1)


@pytest.mark.parametrize(
    "values", [[], [0.0], [0.0, 1.0], [0.0, 1.0, 2.5], [0.0, 1.0, 2.0]], ids=str
)
def test_nobody_can_tell_what_remains_while_steps_grow(values):
    trace = trace_of(values)
    assert trace.remaining_gain() == math.inf
    assert trace.remaining_iterations(1e-3) == 0


@pytest.mark.parametrize("acceleration", ["auto", "squarem"])
def test_slow_progress_is_not_the_end(acceleration):
    """A step below tol is convergence for scikit-learn; what such steps add up to may be more."""
    gains, iterations, left = [], [], []
    for seed in range(8):
        x = overlapping(seed, 400)
        start = broad_start(x, "full", seed)
        settings = {"tol": 1e-3, "max_iter": 2000}
        hasty = run(x, start, acceleration="none", **settings)
        patient = run(x, start, acceleration=acceleration, **settings)
        assert hasty.traces[0].converged
        assert patient.traces[0].converged
        assert patient.traces[0].remaining_gain() < 1e-3
        left.append(hasty.traces[0].remaining_gain())
        gains.append(float(patient.log_likelihood - hasty.log_likelihood))
        iterations.append(patient.traces[0].n_iter / hasty.traces[0].n_iter)
    assert max(left) > 1e-3
    assert np.mean(gains) > 0
    assert min(gains) > -1e-3
    assert np.mean(iterations) < 1


@accelerations
def test_a_converged_fit_says_so_and_a_cut_one_does_not(acceleration):
    x = overlapping(9)
    start = broad_start(x, "full", 9)
    done = run(x, start, tol=1e-4, max_iter=1000, acceleration=acceleration).traces[0]
    assert done.converged
    assert abs(done.records[-1].change) < 1e-4
    cut = run(x, start, tol=1e-12, max_iter=5, acceleration=acceleration).traces[0]
    assert not cut.converged
    assert cut.n_iter == 5


def test_no_iterations_leave_the_start_as_it_is():
    x = overlapping(9)
    start = broad_start(x, "diag", 9)
    ran = run(x, start, max_iter=0)
    assert_same(ran.mixture[0], start, 0)
    np.testing.assert_allclose(float(ran.log_likelihood), slow_log_likelihood(x, start), rtol=1e-12)
    assert ran.traces[0].records == []


# --- collapse -------------------------------------------------------------------------------------


@names
def test_an_empty_component_is_repaired_and_reported(name):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (100, 2)), rng.normal(8, 1, (100, 2))])
    eye = CASES[name].estimate(np.stack([np.eye(2)] * 2), np.ones(2))
    lost = Mixture.from_parameters([0.5, 0.5], [[4.0, 4.0], [1e5, 1e5]], eye, name)
    ran = run(x, lost, max_iter=100, tol=1e-6)
    assert ran.traces[0].events == ["component 1 collapsed"]
    assert ran.traces[0].converged
    np.testing.assert_allclose(ran.mixture[0].weights, [0.5, 0.5], atol=0.02)
    np.testing.assert_allclose(ran.mixture[0].means.sort(0)[0], [[0, 0], [8, 8]], atol=0.3)


@names
def test_a_component_with_only_rounding_to_its_name_is_empty(name):
    """Ten standard deviations from every row its share is 1e-20 of one: no estimate of anything."""
    x = np.random.default_rng(0).normal(size=(100, 2))
    eye = CASES[name].estimate(np.stack([np.eye(2)] * 2), np.ones(2))
    faint = Mixture.from_parameters([0.5, 0.5], [[0.0, 0.0], [9.0, 9.0]], eye, name)
    stats = e_step(tensor(x), faint)
    assert 0 < stats.count[1] < 1e-15
    mixture, ok = m_step(stats, structure(name), 1e-6)
    assert ok.tolist() == [True, False]
    assert mixture.weights.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", ["full", "diag", "spherical"])
def test_a_component_on_one_repeated_row_does_not_end_the_fit(name):
    """With no floor its likelihood has no bound; law 6."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(0, 1, (60, 2)), np.full((30, 2), 5.0)])
    dense = np.stack([np.eye(2), 1e-4 * np.eye(2)])
    spike = Mixture.from_parameters(
        [0.6, 0.4], [[0, 0], [5, 5]], CASES[name].estimate(dense, np.ones(2)), name
    )
    ran = run(x, spike, floor=0.0, max_iter=30, acceleration="none")
    assert ran.traces[0].events
    assert torch.isfinite(ran.mixture.means).all()
    assert float(ran.log_likelihood) < float("inf")


@accelerations
@names
def test_one_bad_start_leaves_the_others_alone(name, acceleration):
    """The worst there is: a start of which nothing can be computed."""
    x = overlapping(2)
    good = broad_start(x, name, 2)
    bad = rebuild(good, good.log_weights, good.means * torch.nan, good.covariance.factor)
    settings = {"max_iter": 40, "tol": 1e-6, "acceleration": acceleration}
    ran = run(x, [bad, good], **settings)
    assert ran.traces[0].failed
    assert ran.log_likelihood[0] == -math.inf
    alone = run(x, good, **settings)
    assert ran.traces[1].n_iter == alone.traces[0].n_iter
    assert_same(ran.mixture[1], alone.mixture[0])


def test_every_start_failing_is_an_error_and_says_what_to_try():
    x = tensor(np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, 0))
    with pytest.raises(DegenerateFitError, match="increase reg_covar") as caught:
        fit_mixture(Rows(x), 2, "full", EMSettings(floor=0.0), random_state=RandomState(0))
    assert isinstance(caught.value, ValueError)


def test_a_start_that_fails_is_never_the_best():
    x = tensor(np.repeat([[0.0], [1.0]], 50, 0))
    parts = FixedParts(tensor([0.5, 0.5]), tensor([[0.0], [1.0]]), tensor([[1e20], [1e20]]))
    with pytest.raises(DegenerateFitError):
        fit_mixture(
            Rows(x), 2, "diag", EMSettings(floor=0.0), random_state=RandomState(0), fixed=parts
        )


@given(name=st.sampled_from(KINDS), seed=seeds, k=st.integers(2, 5), data=st.data())
def test_a_split_keeps_weight_and_place_of_what_it_splits(name, seed, k, data):
    mixture, truth = draw_one(name, seed, k, 3)
    ok = torch.tensor(data.draw(st.lists(st.booleans(), min_size=k, max_size=k)))
    mended = split_into(mixture, ok)
    if not ok.any():
        assert mended is None
        return
    kept = ok.numpy()
    np.testing.assert_allclose(mended.weights.sum(), 1, rtol=1e-12)
    weights = truth.weights[kept] / truth.weights[kept].sum()
    np.testing.assert_allclose(mended.mean, weights @ truth.means[kept], rtol=1e-9, atol=1e-9)
    if (~kept).sum() == 1:
        (new,) = np.flatnonzero(~kept)
        donor = np.flatnonzero(kept)[weights.argmax()]
        np.testing.assert_allclose(mended.weights[[new, donor]], weights.max() / 2, rtol=1e-12)
        dense = mended.covariance.dense()
        np.testing.assert_allclose(dense[new], truth.dense[donor], rtol=1e-9, atol=1e-12)
        apart = (mended.means[new] - mended.means[donor]).numpy()  # one standard deviation
        along = apart @ np.linalg.solve(truth.dense[donor], apart)
        np.testing.assert_allclose(along, 1, rtol=1e-8)
        np.testing.assert_allclose(
            apart @ apart, np.linalg.eigvalsh(truth.dense[donor])[-1], rtol=1e-8
        )


# --- extrapolation --------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_one_extrapolation_ends_a_linear_climb(ratio):
    """Where the map is linear with one ratio, SQUAREM lands on the fixed point."""
    goal = np.array([[3.0, -2.0]])

    def at(step):
        return Mixture.from_parameters([1.0], goal * (1 - ratio**step), [[4.0, 0.25]], "diag")

    squarem = Squarem(MixtureChart())
    assert squarem.advance(at(0), -2.0, at(1)) is not None
    assert not squarem.pending
    proposal = squarem.advance(at(1), -1.0, at(2))
    assert squarem.pending
    np.testing.assert_allclose(proposal.means, goal, rtol=1e-9)
    np.testing.assert_allclose(proposal.covariances, [[4.0, 0.25]], rtol=1e-9)
    assert squarem.rejects(-0.5)  # the step before gained one
    assert squarem.rejects(float("nan"))
    assert not squarem.rejects(0.0)
    assert_same(squarem.fall_back(), at(2), 0)
    assert not squarem.pending


# --- who watches ----------------------------------------------------------------------------------


@accelerations
def test_an_interrupt_keeps_the_best_state_so_far(acceleration):
    x = overlapping(3, 400)
    start = broad_start(x, "full", 2)
    for last in range(1, 15):

        def interrupt(record, last=last):
            if record.iteration == last:
                raise KeyboardInterrupt

        ran = fit_em(
            Rows(tensor(x)),
            stack([start]),
            EMSettings(0.0, 100, 1e-9, acceleration),
            on_iteration=interrupt,
        )
        assert ran.interrupted
        assert ran.traces[0].n_iter == last
        assert ran.log_likelihood[0] >= values_of(ran.traces[0]).max() - 1e-12
        np.testing.assert_allclose(
            ran.log_likelihood[0], slow_log_likelihood(x, ran.mixture[0]), rtol=1e-11
        )


def test_a_callback_that_returns_true_ends_every_start():
    x = overlapping(3, 400)
    seen = []

    def stop(record):
        seen.append(record)
        return record.iteration == 4 and record.start == 1

    starts = stack([broad_start(x, "full", seed) for seed in range(3)])
    ran = fit_em(Rows(tensor(x)), starts, EMSettings(0.0, 100), on_iteration=stop)
    assert ran.interrupted
    assert all(isinstance(record, IterationRecord) for record in seen)
    assert [(r.iteration, r.start) for r in seen] == [(i, s) for i in range(1, 5) for s in range(3)]
    assert [trace.n_iter for trace in ran.traces] == [4, 4, 4]


def test_another_error_of_a_callback_is_not_swallowed():
    def wrong(record):
        raise ZeroDivisionError

    x = overlapping(3, 40)
    with pytest.raises(ZeroDivisionError):
        fit_em(
            Rows(tensor(x)), stack([broad_start(x, "full", 2)]), EMSettings(), on_iteration=wrong
        )


def test_starts_are_numbered_alike_together_and_one_after_another():
    x = Rows(tensor(overlapping(3)))
    told = {}
    for together in (True, False):
        seen, ends = [], []
        fit = fit_mixture(
            x, 3, settings=EMSettings(max_iter=5), method="random", n_init=3,
            random_state=RandomState(0), together=together,
            on_iteration=lambda r, seen=seen: seen.append((r.start, r.iteration)),
            on_end=ends.append,
        )  # fmt: skip
        told[together] = sorted(seen)
        assert [trace.start for trace in ends] == [0, 1, 2]
        assert fit.trace in ends
    assert told[True] == told[False]


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with contextlib.suppress(ZeroDivisionError), one_thread_if_small(10):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
        with one_thread_if_small(1 << 40):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- planted answers ------------------------------------------------------------------------------


@accelerations
@names
def test_a_planted_mixture_is_found(name, acceleration):
    rng = np.random.default_rng(0)
    weights, means = np.array([0.2, 0.3, 0.5]), np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    covariances = CASES[name].draw(rng, 3, 2)
    truth = Truth(weights, means, CASES[name].dense(covariances, 3, 2))
    x = truth.draw(rng, 20_000)
    planted = Mixture.from_parameters(weights, means, covariances, name)
    far = Mixture.from_parameters([1 / 3] * 3, means + 1, covariances, name)
    fit = run(x, far, tol=1e-9, max_iter=2000, acceleration=acceleration)
    np.testing.assert_allclose(fit.mixture[0].weights, weights, atol=0.02)
    np.testing.assert_allclose(fit.mixture[0].means, means, atol=0.15)
    np.testing.assert_allclose(fit.mixture[0].covariances, covariances, rtol=0.1, atol=0.15)
    assert float(fit.log_likelihood) >= slow_log_likelihood(x, planted)


def test_an_optimum_is_a_fixed_point():
    """There the gradient vanishes, and another EM step goes nowhere."""
    x = old_faithful().values
    start = broad_start(x, "full", 0, k=2)
    best = run(x, start, tol=1e-13, max_iter=500).mixture[0]
    stats = e_step(tensor(x), best)
    again, _ = m_step(stats, structure("full"), 1e-9)
    assert_same(again, best, 1e-5)
    np.testing.assert_allclose(stats.first / stats.count[:, None], 0, atol=1e-5)
