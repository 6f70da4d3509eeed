"""Sufficient statistics of a Gaussian mixture, as a vector space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["Stats"]


@dataclass(frozen=True)
class Stats:
    r"""Weighted sums over rows, about an origin per component.

    With responsibilities :math:`r_{nk}` and row weights :math:`w_n`,

    .. math::
        S_0 = \sum_n w_n r_{nk}, \quad S_1 = \sum_n w_n r_{nk} (x_n - o_k), \quad
        S_2 = \sum_n w_n r_{nk} (x_n - o_k)(x_n - o_k)^\top .

    Sums about an origin near each cluster keep their digits where raw sums of squares lose them:
    in float32 a cluster 1000 standard deviations from zero has a covariance error of 1e-7 instead
    of 1.9 (Chan, Golub and LeVeque 1983 analyse the same shift for one cluster).

    Two statistics may be added when they share an origin; batches, files and processes therefore
    combine by plain addition, and an all-reduce of :meth:`pack` is a sum.

    Attributes
    ----------
    count : Tensor, shape (*batch, K)
    first : Tensor, shape (*batch, K, D)
    second : Tensor
        The part of :math:`S_2` that the covariance structure needs, in the structure's shape.
    origin : Tensor, shape (*batch, K, D)
    row_weight : Tensor, shape (*batch)
        :math:`\sum_n w_n`.
    log_likelihood : Tensor, shape (*batch)
        :math:`\sum_n w_n \log p(x_n)` under the mixture that made the responsibilities.
    """

    count: Tensor
    first: Tensor
    second: Tensor
    origin: Tensor
    row_weight: Tensor
    log_likelihood: Tensor

    def __add__(self, other: Stats) -> Stats:
        return self._combine(other, 1.0)

    def __sub__(self, other: Stats) -> Stats:
        return self._combine(other, -1.0)

    def __mul__(self, scale: float) -> Stats:
        return replace(self, **{name: getattr(self, name) * scale for name in _SUMS})

    __rmul__ = __mul__

    def _combine(self, other: Stats, sign: float) -> Stats:
        sums = {name: getattr(self, name) + sign * getattr(other, name) for name in _SUMS}
        return replace(self, **sums)

    def zero(self) -> Stats:
        """The neutral element with this one's shapes and origin."""
        return replace(self, **{name: torch.zeros_like(getattr(self, name)) for name in _SUMS})

    def mean_log_likelihood(self) -> Tensor:
        """Log-likelihood per unit of row weight, in nats; shape (*batch)."""
        return self.log_likelihood / self.row_weight

    def pack(self) -> Tensor:
        """All sums (not the origin) as one flat float64 buffer."""
        return torch.cat([getattr(self, name).reshape(-1).to(torch.float64) for name in _SUMS])

    def unpack(self, buffer: Tensor) -> Stats:
        """The statistics whose :meth:`pack` is ``buffer``, with this one's shapes and origin.

        They lie where ``buffer`` does.
        """
        sizes = [getattr(self, name).numel() for name in _SUMS]
        parts = buffer.split(sizes)
        shaped = {
            name: part.reshape(getattr(self, name).shape).to(getattr(self, name).dtype)
            for name, part in zip(_SUMS, parts, strict=True)
        }
        return replace(self, **shaped)

    def to(self, device: torch.device) -> Stats:
        """The same statistics on another device, by one transfer of all sums."""
        if self.count.device == device:
            return self
        return replace(self.unpack(self.pack().to(device)), origin=self.origin.to(device))

    @classmethod
    def stack(cls, several: Sequence[Stats]) -> Stats:
        """Those of single mixtures as those of a batch."""
        names = [f.name for f in fields(cls)]
        return cls(**{name: torch.stack([getattr(one, name) for one in several]) for name in names})

    def index(self, index: Tensor | int | slice) -> Stats:
        """Some of the batch, as by indexing its first axis."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})


_SUMS = tuple(f.name for f in fields(Stats) if f.name != "origin")
