"""The E-step in plain torch: the truth that faster kernels are tested against."""

from __future__ import annotations

from torch import Tensor

from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["ReferenceKernel"]

_TILE_ELEMENTS = 1 << 19
"""Rows × components × features held at once: 4 MB, the share of a core's caches."""


class ReferenceKernel:
    """Whitens by triangular solves and sums about the components' means.

    Runs on any device, in the type of the mixture, and gradients flow through it.
    """

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        self.origin = mixture.means.double()

    @property
    def tile_rows(self) -> int:
        per_row = max(1, self.mixture.means.numel())
        return max(16, _TILE_ELEMENTS // per_row)

    def terms(self, rows: Tensor) -> Tensor:
        """Log w_k + log N(x; μ_k, Σ_k) for rows (*batch or (), S, D); (*batch, K, S)."""
        return self.mixture.component_terms(rows.to(self.mixture.means))

    def collect(self, rows: Tensor, sample_weight: Tensor | None) -> Stats:
        """Statistics of one tile of rows, (*batch or (), S, D)."""
        rows = rows.to(self.mixture.means)
        terms = self.mixture.component_terms(rows)
        log_prob = terms.logsumexp(-2)  # (*batch, S)
        shares = (terms - log_prob.unsqueeze(-2)).exp()
        if sample_weight is None:
            weight = log_prob.new_ones(log_prob.shape[-1:])
        else:
            weight = sample_weight.to(log_prob)
        shares = shares * weight.unsqueeze(-2)
        gap = rows.unsqueeze(-3) - self.mixture.means.unsqueeze(-2)
        return Stats(
            count=shares.sum(-1).double(),
            first=(shares.unsqueeze(-2) @ gap).squeeze(-2).double(),
            second=self.mixture.covariance.moment(shares, gap, gap).double(),
            origin=self.origin,
            row_weight=weight.double().sum(-1).expand(self.mixture.batch_shape),
            log_likelihood=(weight * log_prob).sum(-1).double(),
        )
