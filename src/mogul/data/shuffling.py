"""Rows of a source in random order, as far as memory allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mogul.data.sources import Source, ahead

__all__ = ["minibatches"]

_POOL_BYTES = 1 << 26
"""Rows that are mixed with each other, as float32."""

Part = tuple[np.ndarray, np.ndarray | None]


def minibatches(
    source: Source,
    n_rows: int,
    n_batches: int,
    rng: np.random.Generator,
    *,
    pool_rows: int | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """All rows of positive weight once, in random order, in so many batches.

    Blocks are read in random order, and rows are drawn from a pool of 64 MB that they fill. Rows
    that are further apart in a file than the pool is long meet in a batch only where their blocks
    come one after the other by chance.

    Parameters
    ----------
    source : Source
    n_rows : int
        Those of positive weight.
    n_batches : int
        Their sizes differ by one row at most, so that some are empty where there are fewer rows.
    rng : numpy Generator
    pool_rows : int, optional
    """
    pool = pool_rows or max(1, _POOL_BYTES // (4 * source.n_features))
    mixed = _mixed(_counted(source, rng), pool, rng)
    sizes = [n_rows // n_batches + (i < n_rows % n_batches) for i in range(n_batches)]
    held: list[Part] = []
    n_held = 0
    for size in sizes:
        while n_held < size:
            part = next(mixed, None)
            if part is None:
                break
            held.append(part)
            n_held += len(part[0])
        batch, held = _cut(held, size, source.n_features)
        n_held -= len(batch[0])
        values, weight = batch
        yield torch.from_numpy(values), None if weight is None else torch.from_numpy(weight)


def _counted(source: Source, rng: np.random.Generator) -> Iterator[Part]:
    """Blocks in random order, without rows of no weight."""
    for block in ahead(source.scattered(rng)):
        counted = block.counted()
        if len(counted.values):
            yield counted.values, counted.weight


def _mixed(parts: Iterator[Part], pool: int, rng: np.random.Generator) -> Iterator[Part]:
    """The same rows: half of a full pool, drawn at random, leaves it as more come in."""
    held: list[Part] = []
    n_held = 0
    for part in parts:
        held.append(part)
        n_held += len(part[0])
        if n_held >= pool:
            drawn, rest = _halves(_joined(held), rng)
            yield drawn
            held, n_held = [rest], len(rest[0])
    if held:
        values, weight = _joined(held)
        order = rng.permutation(len(values))
        yield values[order], None if weight is None else weight[order]


def _halves(part: Part, rng: np.random.Generator) -> tuple[Part, Part]:
    values, weight = part
    order = rng.permutation(len(values))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    if weight is None:
        return (values[first], None), (values[second], None)
    return (values[first], weight[first]), (values[second], weight[second])


def _joined(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([values for values, _ in parts])
    if all(weight is None for _, weight in parts):
        return values, None
    each = [np.ones(len(v)) if w is None else w for v, w in parts]
    return values, np.concatenate(each)


def _cut(parts: list[Part], size: int, n_features: int) -> tuple[Part, list[Part]]:
    """The first rows of some parts, and what is left."""
    taken: list[Part] = []
    for i, (values, weight) in enumerate(parts):
        if size < len(values):
            head, tail = values[:size], values[size:]
            split = (None, None) if weight is None else (weight[:size], weight[size:])
            return _joined([*taken, (head, split[0])]), [(tail, split[1]), *parts[i + 1 :]]
        taken.append((values, weight))
        size -= len(values)
    if not taken:
        return (np.empty((0, n_features)), None), []
    return _joined(taken), []
