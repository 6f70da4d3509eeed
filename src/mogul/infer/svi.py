"""Stochastic variational inference: natural-gradient steps from minibatches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer.problem import Method, Outcome, Problem
from mogul.infer.stopping import ELBORecord, Trace
from mogul.infer.variational import evidence, look

__all__ = ["SVI", "stochastic_step", "streaming_step"]


def stochastic_step(
    batch: Rows, belief: Belief, prior: Belief, total_weight: float, step: float
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
    total_weight : float
        N, that of all the rows which the posterior is to speak of.
    step : float
        ρ, from zero to one; one is the update of coordinate ascent on the batch repeated.

    Returns
    -------
    belief : Belief
    of_rows : float
        The rows' part of the bound at the belief before, scaled up to all rows.
    """
    stats, of_rows = look(batch, belief)
    scale = total_weight / batch.total_weight
    moved = belief.stepped(prior, stats * scale, step)
    return moved, float(of_rows) * scale


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
    moved, of_rows = stochastic_step(batch, grown, prior, total, step)
    return moved, of_rows - float(grown.divergence(prior))


@dataclass(frozen=True)
class SVI(Method):
    r"""Natural-gradient steps from minibatches, of size :math:`\rho_t = (t + 1 + d)^{-\kappa}`.

    Each pass goes through the rows in a new random order. The steps satisfy Robbins and Monro's
    conditions, so that the noise of the batches dies away.

    Parameters
    ----------
    passes : int, default 10
        Times that every row is read.
    batch_size : int, default 512
    delay : float, default 0.0
        d ≥ 0: more makes the first steps smaller.
    forgetting : float, default 0.7
        κ, above one half and at most one: how fast the steps shrink.

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
    batch_size: int = 512
    delay: float = 0.0
    forgetting: float = 0.7

    name: ClassVar[str] = "svi"

    def __post_init__(self) -> None:
        if not (self.passes >= 1 and self.batch_size >= 1):
            raise InputError(
                f"passes and batch_size of SVI start at 1; got {self.passes} and {self.batch_size}."
            )
        if not (self.delay >= 0 and 0.5 < self.forgetting <= 1):
            raise InputError(
                "SVI converges with delay ≥ 0 and forgetting above 0.5 and at most 1; got "
                f"{self.delay} and {self.forgetting}."
            )

    def step(self, t: int) -> float:
        """The size of step t, counted from 0."""
        return (t + 1 + self.delay) ** -self.forgetting

    def n_iterations(self, max_iter: int) -> int:
        return self.passes

    def run(self, problem: Problem) -> Outcome:
        best: Outcome | None = None
        for i, start in enumerate(problem.starts):
            found = self._run_one(problem, i, start)
            if problem.on_end is not None:
                problem.on_end(found.trace)
            if best is None or found.elbo > best.elbo:
                best = found
            if found.interrupted:
                break
        assert best is not None  # there is a start
        return best

    def _run_one(self, problem: Problem, number: int, belief: Belief) -> Outcome:
        rows, prior = problem.rows, problem.prior
        trace = Trace(number, problem.previous, ELBORecord)
        interrupted, t = False, 0
        try:
            while trace.n_iter < self.passes and not interrupted:
                before, of_rows = belief, 0.0
                for batch in rows.shuffled(self.batch_size, problem.generator):
                    belief, part = stochastic_step(
                        batch, belief, prior, rows.total_weight, self.step(t)
                    )
                    of_rows += part * batch.total_weight / rows.total_weight
                    t += 1
                record = trace.record(of_rows - float(before.divergence(prior)), False)
                told = problem.on_iteration
                interrupted = bool(told is not None and told(record))
        except KeyboardInterrupt:
            interrupted = True
        trace.converged = not interrupted
        elbo = float(evidence(look(rows, belief)[1], belief, prior))
        return Outcome(elbo if math.isfinite(elbo) else -math.inf, trace, interrupted, belief)
