"""Inputs and outputs of a regression, read in batches from one source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mogul.data.shuffling import minibatches
from mogul.data.sources import Block, ahead
from mogul.data.views import View, chosen, lots
from mogul.errors import InputError
from mogul.infer.streams import Share
from mogul.nn.density_stream import StreamedData
from mogul.nn.density_training import TrainingData
from mogul.nn.mixture_density_network import MixtureDensityNetwork

__all__ = ["regression_stream"]

_HELD_OUT = 1 << 14
"""Rows of each fold that networks are judged by."""


def regression_stream(
    share: Share,
    inputs: Sequence[int],
    outputs: Sequence[int],
    n_folds: int,
    n_judged: int,
    network: MixtureDensityNetwork,
) -> StreamedData:
    """The rows of a source, in the standard units of a network.

    Parameters
    ----------
    share : Share
    inputs, outputs : sequence of int
        Columns of the source.
    n_folds : int
        A row's fold depends on its place in the source.
    n_judged : int
        The first folds, by which networks are judged.
    network : MixtureDensityNetwork
    """
    columns = _Columns(share, list(inputs), list(outputs), n_folds, n_judged, network)
    return StreamedData(
        columns.held_out(), share.found.n_rows, n_folds, columns.batches, share.team
    )


@dataclass
class _Columns:
    share: Share
    inputs: list[int]
    outputs: list[int]
    n_folds: int
    n_judged: int
    network: MixtureDensityNetwork
    n_passes: int = 0

    def held_out(self) -> TrainingData:
        """Some rows of each fold that a network is judged by, of all processes."""
        wanted = min(1.0, _HELD_OUT * self.n_folds / self.share.found.n_rows)

        def own() -> tuple[np.ndarray, np.ndarray]:
            values, weights = [], []
            for block in ahead(self.share.part.checked_blocks()):
                lot = lots(block, self.share.seed)
                fold, rest = np.divmod(lot * self.n_folds, 1)
                wanted_here = (fold < self.n_judged) & (rest < wanted)
                kept = chosen(self._with_fold(block), wanted_here).counted()
                values.append(kept.values)
                weights.append(np.ones(len(kept.values)) if kept.weight is None else kept.weight)
            empty = np.empty((0, self.share.part.n_features + 1), dtype=np.float32)
            return np.concatenate([empty, *values]), np.concatenate([np.empty(0), *weights])

        parts = self.share.team.gather(own)
        values = np.concatenate([values for values, _ in parts])
        weight = np.concatenate([weight for _, weight in parts])
        found = np.bincount(values[:, -1].astype(int), minlength=self.n_judged)
        if not found.all():
            raise InputError(
                "No row would be held out for some network; take a larger validation_fraction."
            )
        return self._standard(torch.from_numpy(values), torch.from_numpy(weight))

    def batches(self, n_batches: int) -> Iterator[TrainingData]:
        """The rows of this process once, in a new random order."""
        self.n_passes += 1
        rng = np.random.default_rng([self.share.seed, self.n_passes, self.share.team.rank])
        view = View(self.share.part, self._with_fold)
        view.n_features += 1
        for values, weight in minibatches(view, self.share.found.own_rows, n_batches, rng):
            yield self._standard(values, weight)

    def _with_fold(self, block: Block) -> Block:
        """Rows with their folds as one more column."""
        fold = (lots(block, self.share.seed) * self.n_folds).astype(int)
        return replace(block, values=np.c_[block.values, fold.astype(block.values.dtype)])

    def _standard(self, values: Tensor, weight: Tensor | None) -> TrainingData:
        network, found = self.network, self.share.found
        values = values.to(self.share.device)
        if weight is None:
            weight = torch.ones(len(values), dtype=torch.float64)
        dtype = network.head.linear.weight.dtype
        y = (values[:, self.outputs].double() - network.head.loc) / network.head.scale
        return TrainingData(
            network.standardised(values[:, self.inputs].double()),
            y.to(dtype),
            (weight * (found.n_rows / found.total_weight)).to(self.share.device, dtype),
            values[:, -1].long(),
        )
