"""Climbing by a map that never descends, from several points at once, with extrapolation.

EM is such a map, and so is coordinate ascent of an evidence lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mogul.infer.squarem import Chart, Squarem
from mogul.infer.stopping import Trace

__all__ = ["ACCELERATIONS", "PAYS_AFTER", "Ascent", "Step", "has_converged", "would_pay"]

ACCELERATIONS = ("auto", "squarem", "none")
PAYS_AFTER = 6.0
"""Iterations still to come for which "auto" switches SQUAREM on: its first cycle costs three."""
_REPAIRS_PER_COMPONENT = 2
"""A start whose components collapse more often than this on average ends where it is."""

Point = TypeVar("Point")


@dataclass(frozen=True)
class Step(Generic[Point]):
    """What one evaluation of a point found.

    Attributes
    ----------
    value : float
        The objective at the point.
    mapped : Point
        Where the map leads from it.
    collapsed : sequence of int
        Components of ``mapped`` that are beyond use.
    """

    value: float
    mapped: Point
    collapsed: Sequence[int] = ()


class Ascent(Generic[Point]):
    """The changing state of a climb: one point, trace and extrapolation for each start.

    Parameters
    ----------
    evaluate : callable, list of points → list of Step
        One pass over the data for all of them.
    points : list
        Where to start.
    traces : list of Trace
        One for each start, to be filled; one that is marked as converged stays as it is.
    chart : Chart
        Coordinates to extrapolate in.
    tol : float
        A start has converged when a plain step changes its objective by less and, unless
        ``acceleration`` is "none", less remains to be gained by Aitken's estimate.
    max_iter : int
    acceleration : {"auto", "squarem", "none"}
    mend : callable (point, collapsed) → point or None, optional
        Repairs a point some of whose components collapsed; None gives the start up.
    on_iteration : callable (record) → True to stop, optional
    on_state : callable (Ascent), optional
        Told after every pass, to keep the state.
    remembers : bool
        Whether ``evaluated`` follows; a point may be large.
    """

    def __init__(
        self,
        evaluate: Callable[[list[Point]], list[Step[Point]]],
        points: list[Point],
        traces: list[Trace],
        *,
        chart: Chart[Point],
        tol: float,
        max_iter: int,
        acceleration: str,
        mend: Callable[[Point, Sequence[int]], Point | None] | None = None,
        on_iteration: Callable[[Any], bool | None] | None = None,
        on_state: Callable[[Ascent[Point]], object] | None = None,
        remembers: bool = False,
    ):
        self.evaluate, self.points, self.traces = evaluate, list(points), traces
        self.chart, self.mend, self.on_iteration = chart, mend, on_iteration
        self.on_state = on_state
        self.tol, self.max_iter, self.acceleration = tol, max_iter, acceleration
        on = acceleration == "squarem"
        self.squarem: list[Squarem[Point] | None] = [Squarem(chart) if on else None for _ in points]
        self.evaluated = list(points) if remembers else []
        """Where each start's latest record was made."""
        self.repairs = [0] * len(points)
        ended = [trace.converged or trace.n_iter >= max_iter for trace in traces]
        self.active = [i for i, done in enumerate(ended) if not done]

    def run(self) -> bool:
        """Climb until every start has ended; whether Ctrl-C or a callback ended it early."""
        interrupted = False
        try:
            while self.active and not interrupted:
                interrupted = self._advance()
                if self.on_state is not None:
                    self.on_state(self)
        except KeyboardInterrupt:
            interrupted = True
        for i in self.active:
            self._settle(i)
        return interrupted

    def _advance(self) -> bool:
        """One pass over the data for every active start; True when a callback asks to stop."""
        steps = self.evaluate([self.points[i] for i in self.active])
        stop = False
        for i, step in zip(list(self.active), steps, strict=True):
            squarem = self.squarem[i]
            if squarem is not None and squarem.rejects(step.value, step.collapsed):
                self.points[i] = squarem.fall_back()
            else:
                stop |= self._accept(i, step)
        return stop

    def _accept(self, i: int, step: Step[Point]) -> bool:
        trace, squarem = self.traces[i], self.squarem[i]
        if self.evaluated:
            self.evaluated[i] = self.points[i]
        was_proposal = squarem is not None and squarem.pending
        record = trace.record(step.value, was_proposal, _event(step.collapsed))
        if step.collapsed:
            self._repair(i, step)
        elif has_converged(trace, self.tol, self.acceleration):
            self.points[i], trace.converged = step.mapped, True
        else:
            self._move(i, step)
        if not trace.failed and trace.n_iter >= self.max_iter:
            trace.converged = trace.within(self.tol)
        if trace.converged or trace.failed or trace.given_up or trace.n_iter >= self.max_iter:
            self.active.remove(i)
            self._settle(i)
        return bool(self.on_iteration is not None and self.on_iteration(record))

    def _move(self, i: int, step: Step[Point]) -> None:
        squarem = self.squarem[i]
        if squarem is None and self._would_pay(i):
            squarem = self.squarem[i] = Squarem(self.chart)
        if squarem is None:
            self.points[i] = step.mapped
        else:
            self.points[i] = squarem.advance(self.points[i], step.value, step.mapped)

    def _settle(self, i: int) -> None:
        """A proposal that was never evaluated is not an answer."""
        squarem = self.squarem[i]
        if squarem is not None and squarem.pending and not self.traces[i].failed:
            self.points[i] = squarem.fall_back()

    def _would_pay(self, i: int) -> bool:
        return self.acceleration == "auto" and would_pay(self.traces[i], self.tol)

    def _repair(self, i: int, step: Step[Point]) -> None:
        self.repairs[i] += len(step.collapsed)
        mended = None if self.mend is None else self.mend(step.mapped, step.collapsed)
        n_components: int = getattr(step.mapped, "n_components", 1)
        if mended is None:
            self.traces[i].failed = True
            return
        self.traces[i].given_up = self.repairs[i] > _REPAIRS_PER_COMPONENT * n_components
        squarem = self.squarem[i]
        if squarem is not None:
            squarem.restart()
        self.points[i] = mended


def has_converged(trace: Trace, tol: float, acceleration: str) -> bool:
    """A plain map stops as scikit-learn does; an accelerated one also asks what is left."""
    plain = acceleration == "none"
    return trace.within(tol) and (plain or trace.remaining_gain() < tol)


def would_pay(trace: Trace, tol: float) -> bool:
    """Whether so many iterations are still to come that "auto" switches SQUAREM on."""
    return trace.remaining_iterations(tol) > PAYS_AFTER


def _event(collapsed: Sequence[int]) -> str:
    if not collapsed:
        return ""
    who = "component " if len(collapsed) == 1 else "components "
    return f"{who}{', '.join(map(str, collapsed))} collapsed"
