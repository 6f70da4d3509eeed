"""Blocked Gibbs sampling: labels given parameters, parameters given labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mogul._checks import check_count
from mogul._threads import one_thread_if_small
from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer.chains import MOST_R_HAT, largest_r_hat
from mogul.infer.em import stack
from mogul.infer.problem import Method, Outcome, Problem
from mogul.infer.stopping import IterationRecord, Trace
from mogul.kernels import draw_step
from mogul.mixture import Mixture

__all__ = ["Gibbs", "sweep"]


def sweep(
    rows: Tensor,
    prior: Belief,
    mixtures: Mixture,
    generator: torch.Generator,
) -> tuple[Mixture, Tensor]:
    """One sweep of several chains: new labels, then new weights, means and covariances.

    Where the prior of the weights prefers an order of the components, pairs of them are offered to
    change places in between.

    Parameters
    ----------
    rows : Tensor, shape (N, D) or (C, N, D)
        The same for all chains, or its own for each.
    prior : Belief
    mixtures : Mixture, batch shape (C,)
        The states of the chains.

    Returns
    -------
    mixtures : Mixture, batch shape (C,)
    log_likelihood : Tensor, shape (C,)
        Of the states before, in nats.
    """
    shape = (*mixtures.batch_shape, rows.shape[-2])
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    stats = draw_step(rows, mixtures, uniform.to(rows.device))
    means, covariance = prior.components.resampled(stats, mixtures.covariance, generator)
    count, order = stats.count, prior.swapped(stats.count, generator)
    if order is not None:
        count = count.take_along_dim(order, -1)
        means = means.take_along_dim(order.unsqueeze(-1), -2)
        covariance = covariance.reorder(order)
    log_weights = prior.weights.updated(count).sample((), generator)
    return Mixture(log_weights, means, covariance), stats.log_likelihood


@dataclass(frozen=True)
class Gibbs(Method):
    """Draws from the exact posterior, by blocked Gibbs sampling.

    All labels are drawn given the parameters and all parameters given the labels (Diebolt and
    Robert 1994; Ishwaran and James 2001 for the truncated Dirichlet process). The chains run as one
    batch. A posterior of a mixture has K! equivalent modes; a chain may change between them, and
    ``Posterior.relabel`` puts the draws into one labelling.

    Parameters
    ----------
    draws : int, default 1000
        Kept from each chain.
    warmup : int, default 500
        Sweeps before the first that is kept.
    chains : int, default 4
    thin : int, default 1
        Sweeps for each draw that is kept.

    Raises
    ------
    InputError
        For settings that are no such numbers, and for row weights that are not whole.

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets
    >>> from mogul.infer import Gibbs
    >>> rows = datasets.old_faithful().values
    >>> method = Gibbs(draws=200, warmup=100, chains=2)
    >>> model = BayesianGaussianMixture(2, inference=method, random_state=0).fit(rows)
    >>> model.posterior_.draws.batch_shape
    torch.Size([2, 200])
    """

    draws: int = 1000
    warmup: int = 500
    chains: int = 4
    thin: int = 1

    name: ClassVar[str] = "gibbs"

    def __post_init__(self) -> None:
        for name in ("draws", "chains", "thin"):
            check_count(getattr(self, name), f"{name} of Gibbs")
        check_count(self.warmup, "warmup of Gibbs", 0)

    def n_starts(self, n_init: int) -> int:
        return self.chains

    def n_iterations(self, max_iter: int) -> int:
        return self.warmup + self.draws * self.thin

    def run(self, problem: Problem) -> Outcome:
        rows, prior = _repeated(problem.rows_in_memory), problem.prior
        state = stack([start.in_order(prior).mean() for start in problem.starts])
        trace = Trace(0, problem.previous, IterationRecord)
        kept: list[tuple[Mixture, Tensor]] = []
        interrupted = False
        work = rows.shape[0] * state.means.numel() * state.n_features
        with one_thread_if_small(work):
            try:
                for i in range(self.warmup + self.draws * self.thin):
                    before = prior.log_prob(state)
                    after, log_likelihood = sweep(rows, prior, state, problem.generator)
                    place = i - self.warmup
                    if place >= 0 and place % self.thin == 0:
                        kept.append((state, log_likelihood + before))
                    state = after
                    record = trace.record(float(log_likelihood.mean()) / rows.shape[0], False)
                    told = problem.on_iteration
                    if told is not None and told(record):
                        interrupted = True
                        break
            except KeyboardInterrupt:
                interrupted = True
        if not kept:
            raise InputError(
                f"The sampler was stopped after {trace.n_iter} sweeps, before its warmup of "
                f"{self.warmup} ended; there are no draws."
            )
        draws = _chains([mixture for mixture, _ in kept])
        log_joint = torch.stack([value for _, value in kept], 1)
        r_hat = largest_r_hat(draws, log_joint)
        agree = r_hat <= MOST_R_HAT  # of too few draws to tell it is NaN
        trace.converged = agree and not interrupted
        complaint = "" if agree else _told_apart(r_hat, self)
        if problem.on_end is not None:
            problem.on_end(trace)
        return Outcome(
            math.nan, trace, interrupted, draws=draws, log_joint=log_joint, complaint=complaint
        )


def _told_apart(r_hat: float, used: Gibbs) -> str:
    if math.isnan(r_hat):
        return (
            f"{used.draws} draws of each chain are too few to tell whether the chains agree; take "
            "more, as by inference=Gibbs(draws=1000)."
        )
    return (
        f"The chains do not agree: their R̂ is {r_hat:.3g}, and at most {MOST_R_HAT} when they do, "
        "so intervals may be wrong. Sample longer, as by "
        f"inference=Gibbs(warmup={4 * used.warmup or 1000}, draws={4 * used.draws}), or fit fewer "
        "components."
    )


def _chains(states: list[Mixture]) -> Mixture:
    """States of the chains one after another, as one batch (chains, draws)."""
    first = states[0]
    kind = type(first.covariance)
    factor = torch.stack([m.covariance.factor for m in states], 1)
    return Mixture(
        torch.stack([m.log_weights for m in states], 1),
        torch.stack([m.means for m in states], 1),
        kind(factor, first.n_components, first.n_features),
    )


def _repeated(rows: Rows) -> Tensor:
    """Rows as often as their weights say: each copy has a label of its own."""
    if rows.weight is None:
        return rows.values
    whole = rows.weight.round()
    if not torch.equal(whole, rows.weight):
        raise InputError(
            "A sampler draws a label for each row, so row weights must be whole numbers; use "
            'inference="cavi" with other weights.'
        )
    return rows.values.repeat_interleave(whole.long(), 0)
