"""How the statistics of the E-step change with the densities that make the responsibilities.

The map is the Hessian of the log-likelihood in the coefficients of the densities: in full by
:func:`missing_information`, or applied to some directions by :func:`tangent_step`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from mogul._threads import in_threads, one_thread_if_small, shares
from mogul.covariances import Covariance
from mogul.kernels.reference import tiles
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["Coefficients", "missing_information", "tangent_step"]

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

    @staticmethod
    def flatten(
        count: Tensor, first: Tensor, second: Tensor, kind: type[Covariance], *, dual: bool = False
    ) -> Tensor:
        """As a vector without repetitions, (*batch, U): a symmetric matrix has one half.

        With ``dual`` the parts are statistics, whose entries off the diagonal count twice, so that
        the product of both vectors is :meth:`inner`.
        """
        n_batch = count.ndim - 1
        if kind.has_matrices():
            rows, columns = torch.tril_indices(*second.shape[-2:], device=second.device)
            second = second[..., rows, columns]
            if dual:
                second = second * torch.where(rows == columns, 1.0, 2.0).to(second)
        parts = (count, first, second)
        return torch.cat([part.flatten(n_batch) for part in parts], -1)


def missing_information(
    rows: Tensor, mixture: Mixture, sample_weight: Tensor | None = None
) -> Tensor:
    r"""The Hessian of the log-likelihood in the coefficients of the densities, (U, U).

    With φ the statistics of a row that is known to be of a component,

    .. math::
        \sum_n w_n \left( E_{r_n}[\varphi_n \varphi_n^\top]
        - E_{r_n}[\varphi_n] E_{r_n}[\varphi_n]^\top \right)

    which is what is lost by not knowing the component (Louis 1982). In the coordinates of
    :meth:`Coefficients.flatten`.

    Parameters
    ----------
    rows : Tensor, shape (N, D)
    mixture : Mixture
        A single one; the origin is its means.
    sample_weight : Tensor, shape (N,), optional
    """
    k, d = mixture.means.shape
    own = [_own_columns(mixture, i) for i in range(k)]
    n_unknown = own[0].numel()
    tile_rows = max(64, _TILE_ELEMENTS // max(n_unknown, k * d * d))

    def collect(span: slice) -> Tensor:
        total = mixture.means.new_zeros(n_unknown, n_unknown)
        for part in tiles(span, tile_rows):
            weight = None if sample_weight is None else sample_weight[part]
            _add_information(total, rows[part], mixture, own, weight)
        return total

    with one_thread_if_small(rows.shape[0] * n_unknown**2):
        return reduce(add, in_threads(collect, shares(rows.shape[0], tile_rows)))


@torch.no_grad()
def _own_columns(mixture: Mixture, component: int) -> Tensor:
    """Which coordinates the statistics of a row of one component have, boolean (U)."""
    k, d = mixture.means.shape
    one = torch.zeros(1, k, dtype=mixture.dtype, device=mixture.device)
    one[0, component] = 1.0
    return _row_statistics(one, one.new_ones(1, k, d), type(mixture.covariance))[0] != 0


@torch.no_grad()
def _add_information(
    total: Tensor, rows: Tensor, mixture: Mixture, own: list[Tensor], weight: Tensor | None
) -> None:
    kind = type(mixture.covariance)
    rows = rows.to(mixture.means)
    share = mixture.component_terms(rows).softmax(-2).T  # (S, K)
    root = share.new_ones(len(rows)) if weight is None else weight.to(share).sqrt()
    gap = rows.unsqueeze(-2) - mixture.means  # (S, K, D)
    expected = _row_statistics(share, gap, kind) * root.unsqueeze(-1)
    total.addmm_(expected.T, expected, alpha=-1.0)
    for k, columns in enumerate(own):
        known = torch.zeros_like(share)
        known[:, k] = share[:, k].sqrt() * root
        # Its statistics are linear in the share: with the root of it, their square has the share.
        mine = _row_statistics(known, gap, kind)[:, columns]
        at = columns.nonzero().flatten()
        total[at.unsqueeze(-1), at] += mine.T @ mine


def _row_statistics(share: Tensor, gap: Tensor, kind: type[Covariance]) -> Tensor:
    """Statistics of each row by itself, as vectors (S, U); shares (S, K), gaps (S, K, D)."""
    alone = gap.unsqueeze(-2)  # (S, K, 1, D): each row is a batch of one row
    second = kind.moment(share.unsqueeze(-1), alone, alone)
    first = share.unsqueeze(-1) * gap
    return Coefficients.flatten(share, first, second, kind, dual=True)


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

    def moved(part: slice) -> Coefficients:
        weight = None if sample_weight is None else sample_weight[part]
        return _tile(rows[part], mixture, change, weight)

    def collect(span: slice) -> Coefficients:
        # One at a time: the answer of a tile is as large as that of all rows.
        return reduce(_added, (moved(part) for part in tiles(span, tile_rows)))

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
