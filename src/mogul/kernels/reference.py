"""The E-step in plain torch: the truth that faster kernels are tested against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor

from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["ReferenceKernel", "drawn", "scored", "tiles"]

_TILE_ELEMENTS = 1 << 19
"""Rows × components × features held at once: 4 MB, the share of a core's caches."""
_ACCELERATOR_ELEMENTS = 1 << 23
"""The same where there is one cache for all: 32 MB of float32."""


class ReferenceKernel:
    """Whitens by triangular solves and sums about the components' means.

    Runs on any device, in the type of the mixture, and gradients flow through it.
    """

    own_threads = False
    """Whether a kernel divides rows among threads by itself."""

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        self.origin = mixture.means.double()

    @property
    def tile_rows(self) -> int:
        per_row = max(1, self.mixture.means.numel())
        on_cpu = self.mixture.means.device.type == "cpu"
        return max(16, (_TILE_ELEMENTS if on_cpu else _ACCELERATOR_ELEMENTS) // per_row)

    def terms(self, rows: Tensor) -> Tensor:
        """Log w_k + log N(x; μ_k, Σ_k) for rows (*batch or (), S, D); (*batch, K, S)."""
        return self.mixture.component_terms(rows.to(self.mixture.means))

    def score(self, rows: Tensor, what: str) -> Tensor:
        """What is asked of each row, by :func:`scored`."""
        return scored(self.terms, rows, self.tile_rows, what)

    def collect(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None = None
    ) -> Stats:
        """Statistics of rows (*batch or (), N, D).

        With ``uniform`` (*batch, N) each row is of one component, drawn by its responsibilities.
        """
        if not rows.shape[-2]:
            return self._collect_tile(rows, sample_weight, uniform)
        return reduce(
            add,
            (
                self._collect_tile(
                    rows[..., part, :],
                    None if sample_weight is None else sample_weight[..., part],
                    None if uniform is None else uniform[..., part],
                )
                for part in tiles(slice(0, rows.shape[-2]), self.tile_rows)
            ),
        )

    def _collect_tile(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None
    ) -> Stats:
        rows = rows.to(self.mixture.means)
        terms = self.mixture.component_terms(rows)
        log_prob = terms.logsumexp(-2)  # (*batch, S)
        shares = (terms - log_prob.unsqueeze(-2)).exp()
        if uniform is not None:
            shares = drawn(shares, uniform)
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


_ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_prob": lambda terms: terms.logsumexp(-2),
    "labels": lambda terms: terms.argmax(-2),
    "responsibilities": lambda terms: terms.softmax(-2).transpose(-1, -2),
}


def scored(terms: Callable[[Tensor], Tensor], rows: Tensor, tile_rows: int, what: str) -> Tensor:
    """What is asked of each row, tile by tile; (*batch, N), or (*batch, N, K) responsibilities.

    Parameters
    ----------
    terms : callable, rows (S, D) → (*batch, K, S)
    what : {"log_prob", "labels", "responsibilities"}
    """
    answer = _ANSWERS[what]
    n_rows = rows.shape[-2]
    parts = list(tiles(slice(0, n_rows), tile_rows)) or [slice(0, 0)]
    axis = -2 if what == "responsibilities" else -1
    return torch.cat([answer(terms(rows[..., part, :])) for part in parts], axis)


def drawn(shares: Tensor, uniform: Tensor) -> Tensor:
    """One component for each row, one where it is and zero elsewhere; (*batch, K, S) to the same.

    ``shares`` need not be normalised; ``uniform`` (*batch, S) are numbers between 0 and 1.
    """
    below = shares.cumsum(-2)
    # Strictly below the total, so that a row never falls to what comes after all weight.
    level = uniform * below[..., -1, :] * (1 - torch.finfo(shares.dtype).eps)
    reached = (below > level.unsqueeze(-2)).to(shares)
    hot = reached.clone()
    hot[..., 1:, :] -= reached[..., :-1, :]
    return hot


def tiles(span: slice, tile_rows: int) -> Iterator[slice]:
    """Rows ``span`` in stretches of ``tile_rows``, the last of them shorter."""
    for start in range(span.start, span.stop, tile_rows):
        yield slice(start, min(start + tile_rows, span.stop))
