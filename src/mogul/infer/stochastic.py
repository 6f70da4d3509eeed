"""What the methods that work on batches share: starts in turn, and how exact their end is."""

from __future__ import annotations

import math
from abc import abstractmethod

from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import DegenerateFitError
from mogul.infer.em import Streamed
from mogul.infer.problem import Method, Outcome, Problem
from mogul.infer.stopping import ELBORecord, Trace
from mogul.infer.variational import evidence, look

__all__ = ["StochasticMethod", "is_near", "left_to_gain", "told_short"]

_NEAR, _NEAR_A_PARAMETER = 1.0, 0.02
"""Nats of the whole bound that the end of a stochastic method may be below its optimum and count as
converged: the noise of its last steps costs hundredths a parameter."""
_STEPS = 4
"""Exact iterations that tell how much is left to gain: on a plateau a single one gains little."""


def is_near(shortfall: float, belief: Belief) -> bool:
    """Whether a belief so many nats below its optimum is as near as noise allows."""
    return shortfall < _NEAR + _NEAR_A_PARAMETER * belief.encode(belief).numel()


def left_to_gain(rows: Rows | Streamed, belief: Belief, prior: Belief) -> tuple[float, float]:
    """The bound of a belief, and what coordinate ascent would add; in nats.

    By a few of its iterations, and Aitken's estimate of the others; infinite where these still
    grow.
    """
    trace, point = Trace(kind=ELBORecord), belief
    for _ in range(_STEPS):
        stats, of_rows = look(rows, point)
        value = float(evidence(of_rows, point, prior))
        if not math.isfinite(value):
            return -math.inf, math.inf
        trace.record(value, False)
        point = prior.updated(stats, point.components.expected()[0])
    here = trace.records[0].elbo
    return here, trace.value - here + trace.remaining_gain()


def told_short(shortfall: float, longer: str) -> str:
    """That a fit ended short of its optimum, and what to try."""
    gain = f"about {shortfall:.3g} nats are" if math.isfinite(shortfall) else "much is"
    return (
        f"The fit is not at its optimum: {gain} left to gain. Take more passes, by "
        f'inference={longer}, or inference="cavi".'
    )


class StochasticMethod(Method):
    """Runs from one start after another and keeps the end of the highest bound."""

    def run(self, problem: Problem) -> Outcome:
        ends: list[Outcome] = []
        for number, start in enumerate(problem.starts):
            ends.append(self._run_one(problem, number, start))
            if problem.on_end is not None:
                problem.on_end(ends[-1].trace)
            if ends[-1].interrupted:
                break
        best = max(ends, key=lambda end: end.elbo)
        if not math.isfinite(best.elbo):
            raise DegenerateFitError(
                "The fit ran away: its bound is not finite. Try smaller steps (a smaller "
                'learning_rate, a larger delay), or inference="cavi".'
            )
        return best

    @abstractmethod
    def _run_one(self, problem: Problem, number: int, start: Belief) -> Outcome:
        """Fit from one start; a bound of −inf for one that failed."""
