"""Variational inference by gradient: a reparameterised bound, climbed with Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from mogul._threads import one_thread_if_small
from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer.problem import Method, Outcome, Problem
from mogul.infer.stopping import ELBORecord, Trace
from mogul.kernels import log_likelihood

__all__ = ["AdamVI", "sampled_elbo"]

_FINAL_SAMPLES = 256
"""Draws for the bound that a fit reports: its standard error is then below a tenth of a nat."""
_SAMPLES_TOGETHER = 32
_MEMORY = (0.9, 0.95)
"""Adam's two rates of forgetting. Gradients of a far start are a thousand times those near the end;
with torch's second rate of 0.999 they would hold steps back for a thousand steps more."""


def sampled_elbo(
    rows: Rows,
    belief: Belief,
    prior: Belief,
    *,
    n_samples: int,
    generator: torch.Generator | None,
    total_weight: float | None = None,
) -> Tensor:
    r"""A Monte Carlo estimate of the bound in which labels are summed out, in nats.

    .. math::
        E_q[\log p(X \mid w, \mu, \Lambda)] - \mathrm{KL}(q \,\|\, p)

    It lies between the evidence and the bound of coordinate ascent, which also approximates the
    labels. Gradients pass through the draws. ``total_weight`` scales ``rows``, a batch, up.
    """
    scale = 1.0 if total_weight is None else total_weight / rows.total_weight
    drawn = belief.sample((n_samples,), generator=generator)
    inside = log_likelihood(rows.values, drawn, rows.weight).mean()
    return scale * inside - belief.divergence(prior)


@dataclass(frozen=True)
class AdamVI(Method):
    """The reparameterised bound, climbed by Adam in coordinates without constraints or units.

    Concentrations are moved by factors, not by amounts: a Gamma shape that must go from 5 to 505
    is as near as one that must go from 0.05 to 5.05. (Kingma and Welling 2014; Figurnov, Mohamed
    and Mnih 2018 for Gamma and Dirichlet draws.) Coordinate ascent is faster and exact where it
    applies; this needs no conjugacy, and its bound sums the labels out.

    Parameters
    ----------
    epochs : int, default 100
        Passes over the rows.
    batch_size : int, default 512
    n_samples : int, default 16
        Draws of the parameters for each step.
    learning_rate : float, default 0.1
        At the start; it falls to zero as a cosine.

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets
    >>> from mogul.infer import AdamVI
    >>> rows = datasets.old_faithful().values
    >>> method = AdamVI(epochs=20)
    >>> model = BayesianGaussianMixture(2, inference=method, random_state=0).fit(rows)
    >>> len(model.history_)
    20
    """

    epochs: int = 100
    batch_size: int = 512
    n_samples: int = 16
    learning_rate: float = 0.1

    name: ClassVar[str] = "vi-adam"

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.n_samples) < 1 or not self.learning_rate > 0:
            raise InputError(
                "AdamVI needs epochs, batch_size and n_samples from 1 on and a positive "
                f"learning_rate; got {self.epochs}, {self.batch_size}, {self.n_samples} and "
                f"{self.learning_rate}."
            )

    def n_iterations(self, max_iter: int) -> int:
        return self.epochs

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

    def _run_one(self, problem: Problem, number: int, start: Belief) -> Outcome:
        rows, generator = problem.rows, problem.generator
        trace = Trace(number, problem.previous, ELBORecord)
        values = torch.zeros_like(start.encode(start)).requires_grad_()
        optimizer = Adam([values], lr=self.learning_rate, betas=_MEMORY)
        n_batches = -(-rows.n_rows // self.batch_size)
        schedule = CosineAnnealingLR(optimizer, self.epochs * n_batches)
        interrupted = False
        work = self.batch_size * self.n_samples * start.components.loc.numel() * rows.n_features
        with one_thread_if_small(work):
            try:
                while trace.n_iter < self.epochs and not interrupted:
                    total = 0.0
                    for batch in rows.shuffled(self.batch_size, generator):
                        optimizer.zero_grad()
                        bound = self._bound(batch, start.decode(values), problem)
                        (-bound / rows.total_weight).backward()
                        optimizer.step()
                        schedule.step()
                        total += float(bound.detach()) * batch.total_weight / rows.total_weight
                    record = trace.record(total, False)
                    told = problem.on_iteration
                    interrupted = bool(told is not None and told(record))
            except KeyboardInterrupt:
                interrupted = True
            belief = start.decode(values.detach())
            elbo = _final(rows, belief, problem)
        trace.converged = not interrupted
        return Outcome(elbo, trace, interrupted, belief)

    def _bound(self, batch: Rows, belief: Belief, problem: Problem) -> Tensor:
        return sampled_elbo(
            batch,
            belief,
            problem.prior,
            n_samples=self.n_samples,
            generator=problem.generator,
            total_weight=problem.rows.total_weight,
        )


@torch.no_grad()
def _final(rows: Rows, belief: Belief, problem: Problem) -> float:
    parts = [
        sampled_elbo(
            rows,
            belief,
            problem.prior,
            n_samples=_SAMPLES_TOGETHER,
            generator=problem.generator,
        )
        for _ in range(_FINAL_SAMPLES // _SAMPLES_TOGETHER)
    ]
    return float(torch.stack(parts).mean())
