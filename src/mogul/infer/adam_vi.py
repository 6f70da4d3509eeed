"""Variational inference by gradient: a reparameterised bound, climbed with Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from mogul._checks import check_count
from mogul._threads import one_thread_if_small
from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer.linear_response import FisherInformation
from mogul.infer.problem import Outcome, Problem
from mogul.infer.stochastic import StochasticMethod, is_near, told_short
from mogul.infer.stopping import ELBORecord, Trace
from mogul.infer.variational import evidence, look
from mogul.kernels import log_likelihood

__all__ = ["AdamVI", "sampled_elbo"]

_FINAL_ERROR = 0.1
"""Nats: the standard error of the bound that a fit reports, once enough draws are averaged."""
_SAMPLES_TOGETHER = 32
_MOST_FINAL = 32
"""Times so many draws at most, for the bound that a fit reports."""
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
    scale: float = 1.0,
) -> Tensor:
    r"""A Monte Carlo estimate of the bound in which labels are summed out, in nats.

    .. math::
        E_q[\log p(X \mid w, \mu, \Lambda)] - \mathrm{KL}(q \,\|\, p)

    It lies between the evidence and the bound of coordinate ascent, which also approximates the
    labels. Gradients pass through the draws. ``scale`` is N / |B| where ``rows`` are a batch.
    """
    drawn = belief.sample((n_samples,), generator=generator)
    inside = log_likelihood(rows.values, drawn, rows.weight)
    return scale * inside.mean() - belief.divergence(prior)


@dataclass(frozen=True)
class AdamVI(StochasticMethod):
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

    Raises
    ------
    InputError
        For settings that are not positive numbers.
    DegenerateFitError
        When a fit runs away because the learning rate is too large.

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
        for name in ("epochs", "batch_size", "n_samples"):
            check_count(getattr(self, name), f"{name} of AdamVI")
        rate = self.learning_rate
        if not (isinstance(rate, Real) and 0 < float(rate) < math.inf):
            raise InputError(f"learning_rate of AdamVI must be positive; got {rate!r}.")

    def n_iterations(self, max_iter: int) -> int:
        return self.epochs

    def _run_one(self, problem: Problem, number: int, start: Belief) -> Outcome:
        rows = problem.rows_in_memory
        trace = Trace(number, problem.previous, ELBORecord)
        values = torch.zeros_like(start.encode(start)).requires_grad_()
        sound = values.detach().clone()
        optimizer = Adam([values], lr=self.learning_rate, betas=_MEMORY)
        n_batches = -(-rows.n_rows // self.batch_size)
        schedule = CosineAnnealingLR(optimizer, self.epochs * n_batches)
        interrupted = False
        work = self.batch_size * self.n_samples * start.components.loc.numel() * rows.n_features
        with one_thread_if_small(work):
            try:
                while trace.n_iter < self.epochs and not interrupted:
                    total = self._epoch(problem, start, values, optimizer, schedule)
                    if not (math.isfinite(total) and bool(torch.isfinite(values).all())):
                        break  # too long a step: what was sound before is kept
                    sound = values.detach().clone()
                    record = trace.record(total, False)
                    told = problem.on_iteration
                    interrupted = bool(told is not None and told(record))
            except KeyboardInterrupt:
                interrupted = True
            belief = start.decode(sound)
            elbo = _final(rows, belief, problem)
            bound = float(evidence(look(rows, belief)[1], belief, problem.prior))
            shortfall = _left_to_gain(rows, belief, problem)
        complete = trace.n_iter == self.epochs and not interrupted
        trace.converged = complete and is_near(shortfall, belief)
        complaint = "" if trace.converged else told_short(shortfall, "AdamVI(epochs=...)")
        return Outcome(elbo, trace, interrupted, belief, bound=bound, complaint=complaint)

    def _epoch(
        self,
        problem: Problem,
        start: Belief,
        values: Tensor,
        optimizer: Adam,
        schedule: CosineAnnealingLR,
    ) -> float:
        """One pass over the rows; the bound as estimated on the way."""
        rows, total = problem.rows_in_memory, 0.0
        for batch in rows.shuffled(self.batch_size, problem.generator):
            optimizer.zero_grad()
            scale = rows.n_rows / batch.n_rows
            bound = sampled_elbo(
                batch,
                start.decode(values),
                problem.prior,
                n_samples=self.n_samples,
                generator=problem.generator,
                scale=scale,
            )
            (-bound / rows.total_weight).backward()
            optimizer.step()
            schedule.step()
            total += float(bound.detach()) / scale
        return total


def _left_to_gain(rows: Rows, belief: Belief, problem: Problem) -> float:
    r"""What a natural-gradient step would add to the bound that labels are summed out of, in nats.

    :math:`\tfrac12 g^\top V^{-1} g`, with V the Fisher information of the belief and g the
    gradient, from two independent sets of draws: their product has no bias.
    """
    fisher = FisherInformation(belief.detach())
    gradients = []
    for _ in range(2):
        at = fisher.start.clone().requires_grad_()
        bound = sampled_elbo(
            rows,
            belief.decode(at),
            problem.prior,
            n_samples=_SAMPLES_TOGETHER,
            generator=problem.generator,
        )
        (gradient,) = torch.autograd.grad(bound, at)
        gradients.append(gradient.unsqueeze(0))
    gain = 0.5 * float((fisher.solve(gradients[0]) * gradients[1]).sum())
    return gain if math.isfinite(gain) else math.inf


@torch.no_grad()
def _final(rows: Rows, belief: Belief, problem: Problem) -> float:
    """The bound, from as many draws as its standard error asks for; −inf where it is not finite.

    As the mean of log p(X, θ) − log q(θ), which near the posterior hardly varies, where the
    likelihood alone varies by nats.
    """
    parts: list[Tensor] = []
    for _ in range(_MOST_FINAL):
        drawn = belief.sample((_SAMPLES_TOGETHER,), generator=problem.generator)
        inside = log_likelihood(rows.values, drawn, rows.weight)
        parts.append(inside + problem.prior.log_prob(drawn) - belief.log_prob(drawn))
        every = torch.cat(parts)
        if float(every.std()) < _FINAL_ERROR * math.sqrt(len(every)):
            break
    found = float(torch.cat(parts).mean())
    return found if math.isfinite(found) else -math.inf
