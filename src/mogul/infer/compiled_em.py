"""EM's map without torch: an E-step, an M-step and coordinates, each one compiled call.

Torch takes some microseconds for every small operation, and a map has a hundred of them: more than
the rows themselves cost when there are fewer than some ten thousand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mogul._threads import beside, spread
from mogul.data.rows import Rows
from mogul.infer.ascent import PAYS_AFTER, Step
from mogul.infer.em import EMSettings, ascent_by
from mogul.infer.repair import split_into
from mogul.infer.stopping import STEADY, IterationRecord, Trace
from mogul.kernels import _many, _squarem, _tiles
from mogul.kernels import _parameters as code
from mogul.kernels._few import Screen
from mogul.kernels._local import (
    collect_local,
    empty_sharp,
    n_products,
    prefers_local,
    sharpen_local,
    unpack,
)
from mogul.kernels._passes import OVER, Desk, lend_a_hand
from mogul.kernels.compiled import (
    Sums,
    add_squares,
    as_array,
    as_lines,
    check_width,
    collect_sums,
    cut,
    desk_for,
    empty_plan,
    empty_screens,
    fill_screens,
    fits_one_core,
    is_exact,
    shared_rows,
)
from mogul.kernels.packed import PackedMixture

__all__ = [
    "CompiledMap",
    "PackedChart",
    "blank_memory",
    "climbing_rule",
    "fit_one",
    "fit_packed",
    "mended",
]

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor | None]]

_BURST = 100
"""Iterations, at most, between looks at whether somebody pressed Ctrl-C."""
_BURST_WORK = 1 << 28
"""Multiplications, at most, between these: a tenth of a second."""
_COPIED_WORK = _BURST_WORK // _BURST
"""Multiplications of a pass up to which rows that are not in one piece are copied."""
_NO_LABELS = np.empty(0, dtype=np.int64)
_NO_MIXTURE = np.empty(0), np.empty((0, 0)), np.empty((0, 0, 0))
_MOST_ITERATIONS = 2**62
_LONGEST_WAIT = 15
"""Passes, at most, that are not screened because one before them did not gain by it."""


class CompiledMap:
    """One pass over the rows for each of some mixtures: its log-likelihood, and EM's next mixture.

    Where rows or components are so far apart that the expanded form would cancel, statistics about
    each component's own mean take its place.

    Parameters
    ----------
    batches : iterable of (rows, weights), re-iterable
        On a CPU.
    like : PackedMixture
        Of the structure and size of all mixtures to come.
    floor : float
        Added to every variance.
    n_threads : int
    """

    def __init__(self, batches: Batches, like: PackedMixture, floor: float, n_threads: int):
        self.batches, self.floor, self.n_threads = batches, float(floor), n_threads
        n_rows = batches.n_rows if isinstance(batches, Rows) else None
        k, d = like.means.shape
        self.n_least = 0
        if n_rows is not None:
            self.n_least = shared_rows(like.structure, k, d, n_rows, n_threads)
        self.plan = empty_plan(like.structure, k, d, n_rows=self.n_least or n_rows)
        self.screens = empty_screens(like.structure, k, d, n_rows)
        self.waited = self.wait = 0  # passes
        self.expanded = not prefers_local(like.kind, self.plan)
        self.by_row = False
        """Whether a tied covariance's squares cannot be told from second moments."""
        self.known: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        """A centre, and the second moments of all rows about it."""

    def __call__(self, points: Sequence[PackedMixture]) -> list[Step[PackedMixture]]:
        return [self._step(point) for point in points]

    def value(self, point: PackedMixture) -> float:
        """The log-likelihood in nats per unit of row weight."""
        return self._step(point).value

    def is_one_call(self, rows: Rows) -> bool:
        """Whether iterations over these rows are made in one call: nothing else is quicker."""
        if self.screens and not fits_one_core(rows.n_rows, self.plan):
            return False
        # Else another layout is compiled for, in seconds.
        return rows.values.is_contiguous() or rows.n_rows * len(self.plan.weights) < _COPIED_WORK

    def _step(self, point: PackedMixture) -> Step[PackedMixture]:
        step = self._expanded_step(point) if self.expanded else None
        if step is None:
            self.expanded, self.screens = False, ()  # what is far away stays there
            step = self._local_step(point)
        return step

    def _expanded_step(self, point: PackedMixture) -> Step[PackedMixture] | None:
        plan = self.plan
        plans = plan.centre, plan.sharpest, plan.weights, plan.whitening
        farthest = code.prepare(point.kind, *point.arrays, len(plan.left), *plans)
        if not farthest < plan.limit:
            return None
        sums = self._screened_sums(point)
        if sums is None:
            return None
        origin = plan.centre[None]
        return self._maximised(point, sums.products[0], sums.second[0], sums.totals[0], origin)

    def _screened_sums(self, point: PackedMixture) -> Sums | None:
        """As :meth:`_sums`, screened unless that gained nothing of late."""
        self.waited += 1
        if not self.screens or self.waited <= self.wait:
            return self._sums(())
        sums = self._sums(fill_screens(self.screens, point, self.plan))
        if sums is None:
            return None
        gained = 2 * sums.n_screened > sums.n_rows
        self.waited, self.wait = 0, 0 if gained else min(_LONGEST_WAIT, 1 + 2 * self.wait)
        counts = sums.products[0, :, len(self.plan.left) + len(self.plan.centre)]
        exact = is_exact(counts, point.log_weights, sums.totals[0, 0])
        return sums if exact else self._sums(())

    def _sums(self, screens: Sequence[Screen]) -> Sums | None:
        """Of all batches; None where a row is too far away for the expanded form."""
        by_row, centre = bool(screens) or self.by_row, self.plan.centre
        known = None
        if self.known is not None and not by_row and np.array_equal(self.known[0], centre):
            known = self.known[1]
        squares = _tiles.BY_ROW if by_row else _tiles.POOLED if known is None else _tiles.KNOWN
        found = None
        for rows, weight in self.batches:
            lines = as_lines(weight, rows), as_lines(None, rows)
            asked = as_array(rows), *lines, self.plan, 1, self.n_threads, screens, squares
            new = collect_sums(*asked)
            if new.strays:
                return None
            found = new if found is None else found.plus(new)
        if found is None:
            return None
        if known is not None:
            found = found._replace(second=known)
        if not add_squares(found, self.plan):
            self.by_row = True
            return self._sums(screens)
        if not found.by_row:
            self.known = centre.copy(), found.second
        return found

    def _local_step(self, point: PackedMixture) -> Step[PackedMixture]:
        kind, plan = point.kind, self.plan
        shape = plan.n_components, plan.n_sums
        n_made = n_products(kind, *point.means.shape)
        shapes = (n_made,), (0, 0) if n_made else shape, (2,)
        known = np.empty(0, dtype=np.int64)
        sharp = empty_sharp(kind, *point.means.shape)
        sharpen_local(kind, point.log_weights, point.factor, sharp)

        def collect(rows: NDArray, weight: NDArray[np.float64], span: slice) -> list[NDArray]:
            own = [np.zeros(part) for part in shapes]
            span_of = span.start, span.stop, weight, known, kind, plan
            collect_local(rows, *span_of, point.means, sharp, *own)
            return own

        total: list[NDArray] | None = None
        for values, weight in self.batches:
            rows = as_array(values)
            check_width(rows, plan)
            run = partial(collect, rows, as_lines(weight, values))
            spans = cut(len(rows), math.prod(shape), plan, self.n_threads)
            found = spread(run, spans, self.n_threads)
            while found:  # one after another: these are large
                more = found.pop(0)
                total = more if total is None else _added(total, more)
        products, sums, totals = total or [np.zeros(part) for part in shapes]
        second = np.zeros((point.means.shape[1], _width(point)))
        if n_made:
            sums = np.zeros(shape)
            unpack(kind, plan, products, sums, second)
        del products, total
        return self._maximised(point, sums, second, totals, point.means)

    def _maximised(
        self,
        point: PackedMixture,
        products: NDArray[np.float64],
        second: NDArray[np.float64],
        totals: NDArray[np.float64],
        origin: NDArray[np.float64],
    ) -> Step[PackedMixture]:
        row_weight, log_likelihood = totals.tolist()
        mapped, ok = point.blank(), np.empty(point.n_components, dtype=np.bool_)
        n_made = len(self.plan.left)
        code.maximise(
            point.kind, n_made, products, second, row_weight, origin, point.means, self.floor,
            *mapped.arrays, ok,
        )  # fmt: skip
        bad = () if ok.all() else np.flatnonzero(~ok).tolist()
        return Step(log_likelihood / row_weight, mapped, bad)


def _added(total: list[NDArray], more: list[NDArray]) -> list[NDArray]:
    """In place: sums of a large mixture are large."""
    for part, other in zip(total, more, strict=True):
        part += other
    return total


def _width(point: PackedMixture) -> int:
    """Of the second moments of all components together."""
    return _tiles.padded(point.means.shape[1]) if point.kind == code.TIED else 0


class _Climb:
    """What :class:`~mogul.infer.ascent.Ascent` does for one start, some iterations a call.

    It ends at a mixture from which an ``Ascent`` goes on where a component collapses.
    """

    def __init__(
        self,
        compiled: CompiledMap,
        n_rows: int,
        point: PackedMixture,
        trace: Trace,
        settings: EMSettings,
    ):
        self.compiled, self.trace, self.tol = compiled, trace, settings.tol
        self.point = point.copy()  # which is moved
        self.rule = climbing_rule(settings.tol, settings.max_iter, settings.acceleration)
        self.memory = blank_memory(point, settings.acceleration)
        known = trace.value if trace.records else trace.previous
        _squarem.forget(self.memory.numbers, settings.acceleration == "squarem", known)
        _squarem.recall(self.memory.numbers, np.array(trace.steps[-3:]))
        how = compiled.plan, compiled.n_threads, point.structure
        self.desk = desk_for(n_rows, compiled.n_least, *how)
        self.done, self.state = trace.n_iter, _squarem.RUNNING
        self.value: float | None = None
        """The log-likelihood of the point, once it has ended."""

    @property
    def goes_on(self) -> bool:
        return self.state == _squarem.RUNNING and self.value is None

    def advance(
        self,
        rows: NDArray,
        weight: NDArray[np.float64],
        burst: int,
        on_iteration: Callable[[IterationRecord], bool | None] | None,
    ) -> bool:
        """Up to ``burst`` iterations; whether a callback asks to stop."""
        history = np.empty(burst), np.empty(burst, dtype=np.bool_)
        before, last, stop = self.done, min(self.done + burst, self.rule.max_iter), False
        compiled = self.compiled
        value, self.done, self.state = fit_one(
            rows, weight, compiled.plan, compiled.floor, self.rule, self.point, self.memory,
            self.desk, history, done=before, last=last, n_threads=compiled.n_threads,
        )  # fmt: skip
        found, accelerated = history[0].tolist(), history[1].tolist()
        if self.state == _squarem.CONVERGED or self.done == self.rule.max_iter:
            self.value = value if self.state != _squarem.LEFT else None
        for i in range(before, self.done):
            record = self.trace.record(found[i % burst], accelerated[i % burst])
            stop |= bool(on_iteration is not None and on_iteration(record))
        if self.value is not None:
            self.trace.converged = self.state == _squarem.CONVERGED or self.trace.within(self.tol)
        return stop

    def settle(self) -> None:
        """A proposal that was never evaluated is not an answer."""
        if self.goes_on and self.memory.numbers[_squarem.PENDING]:
            for part, plain in zip(self.point.arrays, self.memory.kept, strict=True):
                part[...] = plain


def fit_packed(
    batches: Batches,
    points: list[PackedMixture],
    traces: list[Trace],
    settings: EMSettings,
    n_threads: int,
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
) -> tuple[list[PackedMixture], list[float], bool]:
    """EM from each of some mixtures, compiled; see :func:`mogul.infer.em.fit_em`.

    Where they ended, their log-likelihoods, −inf for one that failed, and whether Ctrl-C or a
    callback ended the fit early. The list of points becomes that of the ends, lest a start that was
    left be kept; the traces are filled.
    """
    compiled = CompiledMap(batches, points[0], settings.floor, n_threads)
    ends: list[float | None] = [None] * len(points)
    interrupted = False
    if type(batches) is Rows and settings.max_iter and compiled.is_one_call(batches):
        pairs = zip(points, traces, strict=True)
        climbs = [_Climb(compiled, batches.n_rows, *pair, settings) for pair in pairs]
        points.clear()
        interrupted = _climb_each(climbs, batches, on_iteration)
        ends, points[:] = [climb.value for climb in climbs], [climb.point for climb in climbs]
    if None in ends:
        how = {"chart": PackedChart(), "mend": mended, "on_iteration": on_iteration}
        rest = ascent_by(settings, compiled, points, traces, **how)
        points.clear()
        interrupted = interrupted or rest.run()
        points[:] = rest.points
    values = [
        -math.inf if trace.failed else compiled.value(point) if value is None else value
        for point, value, trace in zip(points, ends, traces, strict=True)
    ]
    return points, values, interrupted


def _climb_each(
    climbs: Sequence[_Climb],
    rows: Rows,
    on_iteration: Callable[[IterationRecord], bool | None] | None,
) -> bool:
    """Advance all starts together; whether Ctrl-C or a callback ended it early."""
    values, weight = as_array(rows.values), as_lines(rows.weight, rows.values)
    work = max(1, len(values) * len(climbs[0].compiled.plan.weights))
    burst = 1 if on_iteration else max(1, min(_BURST, _BURST_WORK // work))
    values = np.ascontiguousarray(values)
    stopped = False
    try:
        while not stopped and any(climb.goes_on for climb in climbs):
            for climb in climbs:
                if climb.goes_on:
                    stopped |= climb.advance(values, weight, burst, on_iteration)
    except KeyboardInterrupt:
        stopped = True
    for climb in climbs:
        climb.settle()
    return stopped


def climbing_rule(tol: float, max_iter: int, acceleration: str) -> _squarem.Rule:
    """When a climb ends and is extrapolated; see :class:`mogul.infer.em.EMSettings`."""
    pays_after = PAYS_AFTER if acceleration == "auto" else math.inf
    return _squarem.Rule(
        float(tol), acceleration != "none", STEADY, pays_after, min(int(max_iter), _MOST_ITERATIONS)
    )


def blank_memory(like: PackedMixture, acceleration: str) -> _squarem.Memory:
    """For climbs of mixtures ``like`` one."""
    numbers = np.empty(_squarem.N_NUMBERS)
    _squarem.forget(numbers, False, -math.inf)
    if acceleration == "none":
        return _squarem.Memory(numbers, _NO_MIXTURE)
    return _squarem.Memory(numbers, like.blank().arrays)


def fit_one(
    rows: NDArray,
    weight: NDArray[np.float64],
    plan: _tiles.Plan,
    floor: float,
    rule: _squarem.Rule,
    own: PackedMixture,
    memory: _squarem.Memory,
    desk: Desk,
    history: tuple[NDArray[np.float64], NDArray[np.bool_]],
    *,
    last: int,
    done: int = 0,
    labels: NDArray[np.int64] = _NO_LABELS,
    n_threads: int = 1,
) -> tuple[float, int, int]:
    """See :func:`mogul.kernels._many.fit_one`; the threads share its passes."""
    check_width(rows, plan)
    desk.notes[OVER] = 0
    n_more = min(n_threads, len(desk.totals)) - 1
    try:
        with beside(n_more, lend_a_hand, rows, weight, own.kind, plan, own.means, desk):
            return _many.fit_one(
                rows, weight, labels, own.kind, plan, float(floor), rule,
                done, last, own.arrays, memory, desk, *history,
            )  # fmt: skip
    finally:
        desk.notes[OVER] = 1


class PackedChart:
    """What :class:`~mogul.infer.squarem.MixtureChart` does, for packed mixtures."""

    def extrapolate(
        self,
        first: PackedMixture,
        second: PackedMixture,
        third: PackedMixture,
        max_step: float,
    ) -> tuple[PackedMixture, float] | None:
        parts = first.arrays, second.arrays, third.arrays
        step = code.extrapolate(first.kind, *parts, float(max_step))
        return (second, step) if step > 0 else None


def mended(point: PackedMixture, collapsed: Sequence[int]) -> PackedMixture | None:
    """With a component that collapsed replaced; see :func:`~mogul.infer.repair.split_into`."""
    ok = torch.ones(point.n_components, dtype=torch.bool)
    ok[list(collapsed)] = False
    whole = split_into(point.unpacked(), ok)
    return None if whole is None else PackedMixture.of(whole)
