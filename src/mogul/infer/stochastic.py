"""What the methods that work on batches share: starts in turn, and how exact their end is."""

from __future__ import annotations

import math
from abc import abstractmethod

from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import DegenerateFitError
from mogul.infer.problem import Method, Outcome, Problem
from mogul.infer.variational import evidence, look

__all__ = ["NEAR", "StochasticMethod", "one_more_step", "told_short"]

NEAR = 1.0
"""Nats of the whole bound: the end of a stochastic method counts as converged when one exact
iteration from it would gain less. The noise of its last steps costs hundredths a parameter."""


def one_more_step(rows: Rows, belief: Belief, prior: Belief) -> tuple[float, float]:
    """The bound of a belief, and what one iteration of coordinate ascent would add; in nats."""
    stats, of_rows = look(rows, belief)
    here = float(evidence(of_rows, belief, prior))
    if not math.isfinite(here):
        return -math.inf, math.inf
    after = prior.updated(stats, belief.components.expected()[0])
    return here, float(evidence(look(rows, after)[1], after, prior)) - here


def told_short(shortfall: float, longer: str) -> str:
    """That a fit ended short of its optimum, and what to try."""
    return (
        f"The fit is not at its optimum: one more exact iteration would gain {shortfall:.3g} nats. "
        f'Take more passes, by inference={longer}, or inference="cavi".'
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
