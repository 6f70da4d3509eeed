"""The first pass over a source: what is in it, whether it can be used, and a sample of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mogul.data.rows import Rows
from mogul.data.sources import Block, Source, ahead
from mogul.errors import InputError
from mogul.infer.team import Team

__all__ = ["Survey", "survey"]


@dataclass(frozen=True)
class Survey:
    """What one pass over all rows found.

    Attributes
    ----------
    n_rows : int
        Those of positive weight.
    total_weight : float
    sample : Rows
        All rows where they are few enough, else drawn by weight, in the order of the source. Rows
        that have weights keep them, divided by the chance that they had: sums over the sample
        estimate those over all rows, whatever the weights.
    extremes : ndarray, shape (2, D)
        The lowest and the highest value of each column.
    own_rows : int
        Rows of positive weight that this process reads.
    """

    n_rows: int
    total_weight: float
    sample: Rows
    extremes: np.ndarray
    own_rows: int

    @property
    def constant(self) -> list[int]:
        """Columns that hold one value only."""
        lowest, highest = self.extremes
        return np.flatnonzero(lowest == highest).tolist()


@dataclass
class _Part:
    """What a process has seen of its own rows."""

    keys: np.ndarray  # (m,), the largest of all rows
    places: np.ndarray  # (m, 2): group, row
    values: np.ndarray  # (m, D)
    weight: np.ndarray | None
    n_rows: int
    total_weight: float
    lowest: np.ndarray
    highest: np.ndarray


def survey(source: Source, size: int, seed: int, team: Team) -> Survey:
    """Read all rows once, check them, and draw ``size`` of them.

    Each row has a number drawn at random, the logarithm of a uniform one divided by its weight; the
    rows of the largest are kept (Efraimidis and Spirakis 2006). Beyond the largest number of the
    others, −t, a row of weight w comes with probability 1 − exp(−w t), by which its weight is
    divided (Horvitz and Thompson 1952; Duffield, Lund and Thorup 2007). The numbers depend on the
    seed and on a row's place in the source only, so the sample does not depend on who reads which
    rows.

    Raises
    ------
    InputError
        When a value is not finite, a weight is negative or not finite, or no row has any.
    """
    parts = team.gather(lambda: _seen(source, size + 1, seed))
    n_rows = sum(part.n_rows for part in parts)
    if not n_rows:
        raise InputError("The source has no row of positive weight; expected at least one.")
    keys = np.concatenate([part.keys for part in parts])
    places = np.concatenate([part.places for part in parts])
    values = np.concatenate([part.values for part in parts])
    weights = [part.weight for part in parts]
    chosen = _largest(keys, size)
    chosen = chosen[np.lexsort(places[chosen].T[::-1])]
    weight = None
    if any(one is not None for one in weights):
        each = [np.ones(len(p.keys)) if p.weight is None else p.weight for p in parts]
        own = np.concatenate(each)[chosen]
        if n_rows > size:
            threshold = -np.sort(keys)[-size - 1]
            own = own / -np.expm1(-own * threshold)
        weight = torch.from_numpy(own)
    lowest = np.min([part.lowest for part in parts], axis=0)
    highest = np.max([part.highest for part in parts], axis=0)
    return Survey(
        n_rows,
        sum(part.total_weight for part in parts),
        Rows(torch.from_numpy(values[chosen]), weight),
        np.stack([lowest, highest]),
        parts[team.rank].n_rows,
    )


def _seen(source: Source, size: int, seed: int) -> _Part:
    d = source.n_features
    part = _Part(
        np.empty(0), np.empty((0, 2), dtype=np.int64), np.empty((0, d), dtype=np.float32), None,
        0, 0.0, np.full(d, np.inf), np.full(d, -np.inf),
    )  # fmt: skip
    group, source_of_keys = -1, np.random.default_rng(0)
    for block in ahead(source.checked_blocks()):
        if block.group != group:
            group, source_of_keys = block.group, np.random.default_rng([seed, block.group])
        uniform = source_of_keys.random(len(block.values))
        _add(part, block, np.log1p(-uniform), size)
    return part


def _add(part: _Part, block: Block, keys: np.ndarray, size: int) -> None:
    values, weight = block.values, block.weight
    rows = np.arange(len(values))
    if weight is not None:
        rows = rows[weight > 0]
        values, weight = values[rows], weight[rows]
        keys = keys[rows] / weight
    if not len(values):
        return
    part.n_rows += len(values)
    part.total_weight += float(len(values) if weight is None else weight.sum())
    every = len(values) == len(block.values)  # rows of no weight do not count
    lowest, highest = block.extremes if every else (values.min(0), values.max(0))
    part.lowest = np.minimum(part.lowest, lowest)
    part.highest = np.maximum(part.highest, highest)
    if len(part.keys) == size:
        better = np.flatnonzero(keys > part.keys.min())  # few, once many rows have passed
        keys, values, rows = keys[better], values[better], rows[better]
        weight = None if weight is None else weight[better]
    if weight is not None or part.weight is not None:
        own = np.ones(len(part.keys)) if part.weight is None else part.weight
        new = np.ones(len(keys)) if weight is None else weight
        part.weight = np.concatenate([own, new])
    places = np.stack([np.full(len(rows), block.group), block.first + rows], 1)
    part.keys = np.concatenate([part.keys, keys])
    part.places = np.concatenate([part.places, places])
    part.values = np.concatenate([part.values, values]) if len(part.values) else values.copy()
    kept = _largest(part.keys, size)
    if len(kept) < len(part.keys):
        part.keys, part.places, part.values = part.keys[kept], part.places[kept], part.values[kept]
        part.weight = None if part.weight is None else part.weight[kept]


def _largest(keys: np.ndarray, size: int) -> np.ndarray:
    if len(keys) <= size:
        return np.arange(len(keys))
    return np.argpartition(keys, len(keys) - size)[-size:]
