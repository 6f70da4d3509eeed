"""The rows of another source, changed or chosen as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from mogul.data.sources import Block, Source

__all__ = ["View", "chosen", "lots"]


class View(Source):
    """What a function makes of each block of a source.

    Parameters
    ----------
    source : Source
        Checked before the function sees it, so that errors name its own rows.
    change : callable, Block → Block
        Of as many columns as before.
    """

    def __init__(self, source: Source, change: Callable[[Block], Block]):
        self.source, self.change = source, change
        self.names, self.n_features = source.names, source.n_features
        self.once, self.shared = source.once, source.shared

    def blocks(self) -> Iterator[Block]:
        return map(self.change, self.source.blocks())

    def checked_blocks(self) -> Iterator[Block]:
        return map(self.change, self.source.checked_blocks())

    def scattered(self, rng: np.random.Generator) -> Iterator[Block]:
        return map(self.change, self.source.scattered(rng))

    def shard(self, rank: int, size: int) -> View:
        return View(self.source.shard(rank, size), self.change)


def chosen(block: Block, kept: np.ndarray) -> Block:
    """The rows of a block where a mask is true."""
    weight = None if block.weight is None else block.weight[kept]
    return replace(block, values=block.values[kept], weight=weight)


def lots(block: Block, seed: int) -> np.ndarray:
    """A number from 0 to 1 for each row, drawn at random, that depends on its place and the seed.

    So a row has the same number in every pass, whoever reads it.
    """
    bits = np.random.PCG64([seed, block.group, 1])
    bits.advance(block.first)
    return np.random.Generator(bits).random(len(block.values))
