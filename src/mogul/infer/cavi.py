"""Coordinate ascent variational inference: each factor set to its optimum in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mogul._threads import one_thread_if_small
from mogul.beliefs import Belief
from mogul.infer.ascent import Ascent, Step
from mogul.infer.em import Streamed, likeliest
from mogul.infer.problem import Method, Outcome, Problem
from mogul.infer.squarem import VectorChart
from mogul.infer.stopping import ELBORecord, Trace
from mogul.infer.variational import Batches, evidence, look

__all__ = ["CAVI", "BeliefChart", "CAVIResult", "coordinate_ascent"]

_NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase "
    "max_iter, tol, or check for degenerate data."
)
"""In scikit-learn's words, which its users look for."""


@dataclass(frozen=True)
class CAVIResult:
    """Where every start ended.

    Attributes
    ----------
    beliefs : list of Belief
    elbo : Tensor, shape (R,)
        Of each belief, in nats.
    traces : list of Trace
    interrupted : bool
        Whether Ctrl-C or a callback ended the fit early.
    """

    beliefs: list[Belief]
    elbo: Tensor
    traces: list[Trace]
    interrupted: bool


class BeliefChart(VectorChart[Belief]):
    """The coordinates of the beliefs themselves."""

    def encode(self, point: Belief, reference: Belief) -> Tensor:
        return point.encode(reference)

    def decode(self, values: Tensor, reference: Belief) -> Belief:
        return reference.decode(values)


def coordinate_ascent(
    batches: Batches | Streamed,
    prior: Belief,
    starts: list[Belief],
    *,
    tol: float = 1e-3,
    max_iter: int = 100,
    acceleration: str = "auto",
    first: int = 0,
    previous: float = -torch.inf,
    on_iteration: Callable[[ELBORecord], bool | None] | None = None,
) -> CAVIResult:
    r"""Maximise the evidence lower bound from several starts at once.

    An iteration finds the optimal responsibilities of the current belief, one pass over the rows,
    and then the optimal factor of the weights and of the components. The bound never falls
    (Attias 2000; Bishop 2006, §10.2). Where the prior of the weights prefers an order of the
    components, they are put into it.

    Parameters
    ----------
    batches : iterable of (rows, weights), re-iterable
    prior : Belief
    starts : list of Belief
    tol : float
        In nats of the whole bound: a start has converged when an iteration gains less and, unless
        ``acceleration`` is "none", less remains to be gained.
    max_iter : int
    acceleration : {"auto", "squarem", "none"}
    first : int
        The number of the first of these starts, where others have run before.
    previous : float
        A bound to measure the first change against, when a fit continues.
    on_iteration : callable (ELBORecord) → True to stop, optional
    """

    def evaluate(points: list[Belief]) -> list[Step[Belief]]:
        belief = Belief.stack(points)
        stats, of_rows = look(batches, belief)
        values = evidence(of_rows, belief, prior).tolist()
        mapped = prior.updated(stats, belief.components.expected()[0])
        return [Step(v, mapped.index(i).in_order(prior)) for i, v in enumerate(values)]

    traces = [Trace(first + i, previous, ELBORecord) for i in range(len(starts))]
    ascent = Ascent(
        evaluate,
        starts,
        traces,
        chart=BeliefChart(),
        tol=tol,
        max_iter=max_iter,
        acceleration=acceleration,
        on_iteration=on_iteration,
        remembers=True,
    )
    interrupted = ascent.run()
    ends = Belief.stack(ascent.points)
    values = evidence(look(batches, ends)[1], ends, prior)
    beliefs = list(ascent.points)
    for i, trace in enumerate(traces):
        if trace.value > float(values[i]):  # by rounding: where the last step went nowhere
            beliefs[i], values[i] = ascent.evaluated[i], trace.value
    return CAVIResult(beliefs, values, traces, interrupted)


@dataclass(frozen=True)
class CAVI(Method):
    """Coordinate ascent over all rows; it needs no settings of its own.

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets
    >>> from mogul.infer import CAVI
    >>> rows = datasets.old_faithful().values
    >>> model = BayesianGaussianMixture(2, inference=CAVI(), random_state=0).fit(rows)
    >>> model.converged_
    True
    """

    name: ClassVar[str] = "cavi"
    takes_sources: ClassVar[bool] = True

    def n_iterations(self, max_iter: int) -> int:
        return max_iter

    def run(self, problem: Problem) -> Outcome:
        n_starts = len(problem.starts)
        step = n_starts if problem.together else 1
        results: list[CAVIResult] = []
        with one_thread_if_small(_work(problem)):
            for first in range(0, n_starts, step):
                result = coordinate_ascent(
                    problem.rows,
                    problem.prior,
                    problem.starts[first : first + step],
                    tol=problem.tol,
                    max_iter=problem.max_iter,
                    acceleration=problem.acceleration,
                    first=first,
                    previous=problem.previous,
                    on_iteration=problem.on_iteration,
                )
                results.append(result)
                for trace in result.traces:
                    if problem.on_end is not None:
                        problem.on_end(trace)
                if result.interrupted:
                    break
        values = torch.cat([result.elbo for result in results])
        beliefs = [belief for result in results for belief in result.beliefs]
        traces = [trace for result in results for trace in result.traces]
        best = likeliest(values.tolist())
        interrupted = any(result.interrupted for result in results)
        value = float(values[best])
        complaint = "" if traces[best].converged or problem.max_iter == 0 else _NOT_CONVERGED
        return Outcome(
            value, traces[best], interrupted, beliefs[best], bound=value, complaint=complaint
        )


def _work(problem: Problem) -> float:
    """About how many multiplications one pass takes."""
    one = problem.starts[0].components.loc.numel()
    return problem.rows.n_rows * len(problem.starts) * one * problem.rows.n_features
