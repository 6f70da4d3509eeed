"""Stochastic variational inference: natural-gradient steps from minibatches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch

from mogul._checks import check_count
from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer.em import Streamed
from mogul.infer.linear_response import is_saddle
from mogul.infer.problem import Outcome, Problem
from mogul.infer.stochastic import StochasticMethod, is_near, left_to_gain, told_short
from mogul.infer.stopping import ELBORecord, Trace
from mogul.infer.variational import look

__all__ = ["SVI", "stochastic_step", "streaming_step"]


def stochastic_step(
    batch: Rows | Streamed, belief: Belief, prior: Belief, scale: float, step: float
) -> tuple[Belief, float]:
    r"""One natural-gradient step from the statistics of some of the rows.

    In natural parameters :math:`\lambda \leftarrow (1 - \rho)\lambda + \rho(\lambda_0 +
    \tfrac{N}{|B|} s)`, where s are the statistics of the batch: the expected direction is the
    natural gradient of the bound of all N rows (Hoffman, Blei, Wang and Paisley 2013).

    Parameters
    ----------
    batch : Rows
    belief, prior : Belief
        Single ones.
    scale : float
        N / |B|, in rows whatever their weights: every row is as likely to be in the batch.
    step : float
        ρ, from zero to one; one is the update of coordinate ascent on the batch repeated.

    Returns
    -------
    belief : Belief
    of_rows : float
        The rows' part of the bound at the belief before, scaled up to all rows.
    """
    stats, of_rows = look(batch, belief)
    return belief.stepped(prior, stats * scale, step), float(of_rows) * scale


def streaming_step(
    batch: Rows, belief: Belief, prior: Belief, seen: float, method: SVI
) -> tuple[Belief, float]:
    """Take one more batch of a stream, after which the belief speaks of all rows so far.

    What was learnt from ``seen`` rows is first scaled up to all of them, in natural parameters;
    with ``forgetting`` 1 and no delay every row then counts the same.

    Returns
    -------
    belief : Belief
    elbo : float
        The bound of all rows so far, estimated from the batch, at the belief before the step.
    """
    total = seen + batch.total_weight
    nothing, _ = look(batch.take(torch.arange(0)), belief)
    grown = belief.stepped(prior, nothing, 1 - total / seen)
    step = (total / batch.total_weight + method.delay) ** -method.forgetting
    moved, of_rows = stochastic_step(batch, grown, prior, total / batch.total_weight, step)
    return moved.in_order(prior), of_rows - float(grown.divergence(prior))


@dataclass(frozen=True)
class SVI(StochasticMethod):
    r"""Natural-gradient steps from minibatches, of size :math:`\rho_t = (t + 1 + d)^{-\kappa}`.

    Each pass goes through the rows in a new random order. The steps satisfy Robbins and Monro's
    conditions, so that the noise of the batches dies away. One batch of all rows has no noise, and
    takes whole steps. The fit counts as converged when coordinate ascent from its end would gain
    less than a nat and 0.02 a parameter; with many more components than clusters that takes far
    more passes than the iterations of coordinate ascent.

    Parameters
    ----------
    passes : int, default 10
        Times that every row is read.
    batch_size : int, default 256
    delay : float, default 0.0
        d ≥ 0: more makes the first steps smaller.
    forgetting : float, default 0.7
        κ, above one half and at most one: how fast the steps shrink.

    Raises
    ------
    InputError
        For settings that do not converge.

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets
    >>> from mogul.infer import SVI
    >>> rows = datasets.old_faithful().values
    >>> method = SVI(passes=20, batch_size=64)
    >>> model = BayesianGaussianMixture(2, inference=method, random_state=0).fit(rows)
    >>> model.n_iter_
    20
    """

    passes: int = 10
    batch_size: int = 256
    delay: float = 0.0
    forgetting: float = 0.7

    name: ClassVar[str] = "svi"
    takes_sources: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count(self.passes, "passes of SVI")
        check_count(self.batch_size, "batch_size of SVI")
        numbers = all(isinstance(v, Real) for v in (self.delay, self.forgetting))
        if not (numbers and 0 <= self.delay < math.inf and 0.5 < self.forgetting <= 1):
            raise InputError(
                "SVI converges with a finite delay ≥ 0 and forgetting above 0.5 and at most 1; got "
                f"{self.delay!r} and {self.forgetting!r}."
            )

    def step(self, t: int) -> float:
        """The size of step t, counted from 0."""
        return (t + 1 + self.delay) ** -self.forgetting

    def n_iterations(self, max_iter: int) -> int:
        return self.passes

    def _run_one(self, problem: Problem, number: int, start: Belief) -> Outcome:
        rows, prior, belief = problem.rows, problem.prior, start
        trace = Trace(number, problem.previous, ELBORecord)
        interrupted, t = False, 0
        try:
            while trace.n_iter < self.passes and not interrupted:
                before, of_rows = belief, 0.0
                for batch in rows.shuffled(self.batch_size, problem.generator):
                    step = 1.0 if batch is rows else self.step(t)
                    scale = rows.n_rows / batch.n_rows
                    belief, part = stochastic_step(batch, belief, prior, scale, step)
                    of_rows += part / scale
                    t += 1
                belief = belief.in_order(prior)
                record = trace.record(of_rows - float(before.divergence(prior)), False)
                told = problem.on_iteration
                interrupted = bool(told is not None and told(record))
        except KeyboardInterrupt:
            interrupted = True
        elbo, shortfall = left_to_gain(rows, belief, prior)
        near = is_near(shortfall, belief)
        if near and is_saddle(rows, belief, prior):
            near, shortfall = False, math.inf
        trace.converged = near and not interrupted
        complaint = "" if near else told_short(shortfall, "SVI(passes=...)")
        return Outcome(elbo, trace, interrupted, belief, bound=elbo, complaint=complaint)
