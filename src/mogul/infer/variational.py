"""What the variational methods share: the evidence lower bound, and where a fit begins."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mogul.beliefs import Belief
from mogul.infer.em import Streamed, collect
from mogul.kernels import log_likelihood
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["begin", "elbo", "evidence", "look"]

Batches = Iterable[tuple[Tensor, Tensor | None]]


def look(batches: Batches | Streamed, belief: Belief) -> tuple[Stats, Tensor]:
    """The variational E-step: statistics of all rows, and their part of the ELBO, (*batch).

    That part is the sum over rows of log Σ_k exp E[log w_k + log N(x; μ_k, Σ_k)].
    """
    mixture, log_constant = belief.surrogate()
    stats = collect(batches, mixture)
    return stats, stats.log_likelihood + stats.row_weight * log_constant


def evidence(of_rows: Tensor, belief: Belief, prior: Belief) -> Tensor:
    """The evidence lower bound in nats, with every constant; (*batch)."""
    return of_rows - belief.divergence(prior)


def elbo(batches: Batches, belief: Belief, prior: Belief) -> Tensor:
    r"""The evidence lower bound of a belief, with gradients in its parameters; (*batch), nats.

    .. math::
        \sum_n w_n \log \sum_k \exp E_q[\log w_k + \log \mathcal{N}(x_n; \mu_k, \Sigma_k)]
        - \mathrm{KL}(q \,\|\, p)

    It is at most log p(X), and equal to it where q is the exact posterior.
    """
    mixture, log_constant = belief.surrogate()
    total = torch.zeros_like(log_constant)
    for rows, weight in batches:
        row_weight = rows.shape[-2] if weight is None else weight.double().sum(-1).to(total)
        total = total + log_likelihood(rows, mixture, weight) + row_weight * log_constant
    return evidence(total, belief, prior)


def begin(batches: Batches | Streamed, prior: Belief, starts: Mixture) -> Belief:
    """The beliefs of a batch of starts: the prior, updated by their responsibilities."""
    return prior.updated(collect(batches, starts), starts.covariance)
