"""Rows in memory, with their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Moments", "Rows"]


@dataclass(frozen=True)
class Moments:
    """The first two moments of some rows.

    Attributes
    ----------
    total_weight : float
    mean : Tensor, shape (D,), float64
    scatter : Tensor, shape (D, D), float64
        The weighted sum of the products of their deviations from the mean.
    """

    total_weight: float
    mean: Tensor
    scatter: Tensor

    @property
    def n_features(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class Rows:
    """A table of N rows and D features, re-iterable in batches that carry their weights.

    Attributes
    ----------
    values : Tensor, shape (N, D)
    weight : Tensor, shape (N,), optional
        Row weights; None means one each.
    """

    values: Tensor
    weight: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        yield self.values, self.weight

    @property
    def n_rows(self) -> int:
        return self.values.shape[0]

    @property
    def n_features(self) -> int:
        return self.values.shape[1]

    @cached_property
    def total_weight(self) -> float:
        return float(self.n_rows if self.weight is None else self.weight.sum())

    def mean(self) -> Tensor:
        """The weighted mean of each feature, float64, (D,)."""
        if self.weight is None:
            return self.values.mean(0, dtype=torch.float64)
        return self.weight.double() @ self.values.double() / self.total_weight

    def moments(self) -> Moments:
        """Weight, mean and scatter."""
        mean = self.mean()
        gap = self.values.double() - mean
        weighted = gap if self.weight is None else gap * self.weight.double().unsqueeze(-1)
        return Moments(self.total_weight, mean, weighted.T @ gap)

    def scaled_to(self, total_weight: float) -> Rows:
        """The same rows, whose weights add up to ``total_weight``."""
        weight = self.values.new_ones(self.n_rows) if self.weight is None else self.weight
        return Rows(self.values, weight.double() * (total_weight / self.total_weight))

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Rows]:
        """All rows once in a new random order, in batches whose sizes differ by one row at most."""
        n_batches = -(-self.n_rows // batch_size)
        if n_batches <= 1:
            yield self
            return
        order = torch.randperm(self.n_rows, generator=generator, device=generator.device)
        for part in order.tensor_split(n_batches):
            batch = self.take(part.to(self.values.device))
            if batch.total_weight > 0:
                yield batch

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on another device."""
        weight = None if self.weight is None else self.weight.to(device)
        return Rows(self.values.to(device), weight)

    def take(self, index: Tensor) -> Rows:
        """Some rows, with their weights."""
        return Rows(self.values[index], None if self.weight is None else self.weight[index])
