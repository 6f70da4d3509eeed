"""How the statistics of the E-step change with the densities that make the responsibilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from mogul._threads import in_threads, one_thread_if_small, shares
from mogul.kernels.reference import tiles
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["Coefficients", "tangent_step"]

_TILE_ELEMENTS = 1 << 19
"""Directions × components × rows × features held at once."""


@dataclass(frozen=True)
class Coefficients:
    r"""Of a log-density in the statistics of a row, about an origin per component: dual to Stats.

    .. math::
        \rho_{nk} = \alpha_k + \beta_k^\top (x_n - o_k)
        + \langle \Gamma_k, (x_n - o_k)(x_n - o_k)^\top \rangle

    Attributes
    ----------
    count : Tensor, shape (*batch, K)
        α.
    first : Tensor, shape (*batch, K, D)
        β.
    second : Tensor, shape (*batch, *factor_shape)
        Γ, in the covariance structure's shape.
    """

    count: Tensor
    first: Tensor
    second: Tensor

    def inner(self, stats: Stats | Coefficients) -> Tensor:
        """Σ_n Σ_k r_nk ρ_nk from the statistics, () without batch axes."""
        parts = ((self.count, stats.count), (self.first, stats.first), (self.second, stats.second))
        return reduce(add, ((mine * theirs).sum() for mine, theirs in parts))


def tangent_step(
    rows: Tensor,
    mixture: Mixture,
    change: Coefficients,
    sample_weight: Tensor | None = None,
) -> Coefficients:
    r"""The derivative of the statistics when log-densities change, in several directions at once.

    The responsibilities of a row change by :math:`r_{nk}(\dot\rho_{nk} - \sum_j r_{nj}
    \dot\rho_{nj})`; these are summed up as the E-step sums responsibilities. The map is the Hessian
    of the log-likelihood in the coefficients, symmetric and positive semidefinite.

    Parameters
    ----------
    rows : Tensor, shape (N, D)
    mixture : Mixture
        A single one; the origin is its means.
    change : Coefficients, batch shape (B,)
        The directions.
    sample_weight : Tensor, shape (N,), optional

    Returns
    -------
    Coefficients, batch shape (B,)
        Changes of count, first and second.
    """
    per_row = max(1, len(change.count) * mixture.means.numel())
    tile_rows = max(16, _TILE_ELEMENTS // per_row)
    work = rows.shape[0] * per_row * mixture.n_features

    def collect(span: slice) -> Coefficients:
        parts = [
            _tile(
                rows[part], mixture, change, None if sample_weight is None else sample_weight[part]
            )
            for part in tiles(span, tile_rows)
        ]
        return reduce(_added, parts)

    with one_thread_if_small(work):
        spans = [span for span in shares(rows.shape[0], tile_rows) if span.stop > span.start]
        return reduce(_added, in_threads(collect, spans))


@torch.no_grad()
def _tile(
    rows: Tensor, mixture: Mixture, change: Coefficients, weight: Tensor | None
) -> Coefficients:
    kind = type(mixture.covariance)
    rows = rows.to(mixture.means)
    share = mixture.component_terms(rows).softmax(-2)  # (K, S)
    gap = rows - mixture.means.unsqueeze(-2)  # (K, S, D)

    def second(weights: Tensor) -> Tensor:
        return kind.moment(weights, gap, gap)

    # The quadratic forms are the transpose of the moment, which is linear in the rows' weights.
    transpose = torch.func.vjp(second, torch.zeros_like(share))[1]
    (curved,) = torch.func.vmap(transpose)(change.second)  # (B, K, S)
    linear = (change.first.unsqueeze(-2) @ gap.transpose(-1, -2)).squeeze(-2)
    density = curved + linear + change.count.unsqueeze(-1)
    mine = share * density
    moved = mine - share * mine.sum(-2, keepdim=True)
    if weight is not None:
        moved = moved * weight.to(moved)
    return Coefficients(moved.sum(-1), (moved.unsqueeze(-2) @ gap).squeeze(-2), second(moved))


def _added(one: Coefficients, other: Coefficients) -> Coefficients:
    return Coefficients(one.count + other.count, one.first + other.first, one.second + other.second)
