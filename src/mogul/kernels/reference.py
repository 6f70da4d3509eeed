"""The E-step in plain torch: the truth that faster kernels are tested against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from mogul._memory import LARGE_MIXTURE
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["ReferenceKernel", "drawn", "scored", "tiles"]

_TILE_ELEMENTS = 1 << 19
"""Rows × components × features held at once: 4 MB, the share of a core's caches."""
_ACCELERATOR_ELEMENTS = 1 << 23
"""The same where there is one cache for all: 32 MB of float32."""
_FEWEST_ROWS = 256
"""Rows of a tile, at least: a few components at a time where all of them would leave fewer. To add
the statistics of a tile to the others takes as long, if components have many, as hundreds of rows.
"""
_LEAST = 0.85
"""Of the logarithm of the smallest normal number: e⁻⁶⁰² in float64."""


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
        return max(_FEWEST_ROWS, self._most_elements // max(1, self.mixture.means.numel()))

    @property
    def _most_elements(self) -> int:
        if self.mixture.means.device.type != "cpu":
            return _ACCELERATOR_ELEMENTS
        is_large = self.mixture.covariance.factor.numel() >= LARGE_MIXTURE
        return _TILE_ELEMENTS // 4 if is_large else _TILE_ELEMENTS  # below OWN_PAGES

    def _components(self, n_rows: int) -> list[Tensor | None]:
        """Which are worked on at a time over so many rows; None for all of them."""
        mixture = self.mixture
        k, n_elements = mixture.n_components, max(1, n_rows) * mixture.means.numel()
        at_a_time = max(1, k * self._most_elements // max(1, n_elements))
        if at_a_time >= k:
            return [None]
        return list(torch.arange(k, device=mixture.device).split(at_a_time))

    def terms(self, rows: Tensor) -> Tensor:
        """Log w_k + log N(x; μ_k, Σ_k) for rows (*batch or (), S, D); (*batch, K, S)."""
        rows = rows.to(self.mixture.means)
        parts = self._components(rows.shape[-2])
        return _joined([self.mixture.component_terms(rows, part) for part in parts], -2)

    def score(self, rows: Tensor, what: str) -> Tensor:
        """What is asked of each row, by :func:`scored`."""
        return scored(self.terms, rows, self.tile_rows, what)

    def collect(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None = None
    ) -> Stats:
        """Statistics of rows (*batch or (), N, D).

        With ``uniform`` (*batch, N) each row is of one component, drawn by its responsibilities.
        """
        total: Stats | None = None
        for part in list(tiles(slice(0, rows.shape[-2]), self.tile_rows)) or [slice(0, 0)]:
            weight = None if sample_weight is None else sample_weight[..., part]
            chance = None if uniform is None else uniform[..., part]
            total = self._with_tile(total, rows[..., part, :], weight, chance)
        assert total is not None
        return total

    def _with_tile(
        self,
        total: Stats | None,
        rows: Tensor,
        sample_weight: Tensor | None,
        uniform: Tensor | None,
    ) -> Stats:
        """The statistics of one more tile and what there was, whose memory is taken if it may be.

        Statistics of large mixtures are large.
        """
        rows = rows.to(self.mixture.means)
        terms = self.terms(rows)
        log_prob = terms.logsumexp(-2)  # (*batch, S)
        shares = _without_least(terms - log_prob.unsqueeze(-2)).exp()
        if uniform is not None:
            shares = drawn(shares, uniform)
        if sample_weight is None:
            weight = log_prob.new_ones(log_prob.shape[-1:])
        else:
            weight = sample_weight.to(log_prob)
        shares = shares * weight.unsqueeze(-2)
        known = None
        if total is not None and not (shares.requires_grad or total.second.requires_grad):
            known = total.first, total.second
        first, second = self._moments(rows, shares, known)
        tile = Stats(
            count=shares.sum(-1).double(),
            first=first,
            second=second,
            origin=self.origin,
            row_weight=weight.double().sum(-1).expand(self.mixture.batch_shape),
            log_likelihood=(weight * log_prob).sum(-1).double(),
        )
        if total is None or known is None:
            return tile if total is None else total + tile
        return replace(
            tile,  # whose moments are those of all
            count=total.count + tile.count,
            row_weight=total.row_weight + tile.row_weight,
            log_likelihood=total.log_likelihood + tile.log_likelihood,
        )

    def _moments(
        self, rows: Tensor, shares: Tensor, known: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Sums about the means, of rows and of products of their columns; added to those known."""
        kind, axis = type(self.mixture.covariance), shares.ndim - 2
        found: list[tuple[Tensor, Tensor]] = []
        start = 0  # counted here: to ask a device for it would wait for the device
        for part in self._components(rows.shape[-2]):
            own, means = shares, self.mixture.means
            if part is not None:
                own, means = own[..., part, :], means[..., part, :]
            gap = rows.unsqueeze(-3) - means.unsqueeze(-2)
            first = (own.unsqueeze(-2) @ gap).squeeze(-2).double()
            second = kind.moment(own, gap, gap).double()
            if known is None:
                found.append((first, second))
                continue
            stop = start + own.shape[axis]
            places = (slice(None),) * axis + (slice(start, stop),)
            start = stop
            known[0][places].add_(first)
            known[1][places if kind.block_ndim else ...].add_(second)
        if known is not None:
            return known
        firsts, seconds = zip(*found, strict=True)
        if not kind.block_ndim:  # of all components together
            return _joined(firsts, axis), reduce(torch.add, seconds)
        return _joined(firsts, axis), _joined(seconds, axis)


def _without_least(logarithms: Tensor) -> Tensor:
    """Those of numbers near the smallest there are, as of zero.

    Products with such numbers take a processor ten times as long as others.
    """
    least = _LEAST * math.log(torch.finfo(logarithms.dtype).tiny)
    return logarithms.masked_fill(logarithms < least, -math.inf)


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)


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
