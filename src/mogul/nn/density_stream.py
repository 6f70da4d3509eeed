"""Training mixture density networks on rows that are read in batches, by one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mogul.nn.density_training import (
    Networks,
    Run,
    TrainingData,
    TrainingRecord,
    TrainingResult,
    TrainingSettings,
)

__all__ = ["StreamedData", "StreamedRun"]


class Sharing(Protocol):
    """Processes that train the same networks on different rows."""

    def decide(self, work: Callable[[], Any]) -> Any:
        """What ``work`` answers in the first process, or its error, in all."""

    def total(self, work: Callable[[], Tensor], like: Tensor) -> Tensor:
        """The sum over processes of what ``work`` answers, a vector like ``like``."""
        ...


@dataclass(frozen=True)
class StreamedData:
    """Standardised rows that are read in batches, and those held out, in memory.

    Attributes
    ----------
    held_out : TrainingData
        Rows of every fold that a network is judged by, the same in all processes.
    n_rows : int
        Of all processes.
    n_folds : int
    batches : callable, n → iterator of TrainingData
        The rows of this process once, in a new random order, in n batches.
    team : Sharing
    """

    held_out: TrainingData
    n_rows: int
    n_folds: int
    batches: Callable[[int], Iterator[TrainingData]]
    team: Sharing


class StreamedRun(Run):
    """A training in which all networks see the same batches, each without the rows of its fold.

    Gradients are added up over processes, so that a batch is what these read together.
    """

    def __init__(
        self,
        networks: Networks,
        data: StreamedData,
        held: list[int],
        noise: list[float],
        settings: TrainingSettings,
        generator: torch.Generator,
    ):
        super().__init__(networks, data.held_out, held, noise, settings, generator)
        self.stream = data
        self.held = torch.tensor(held, device=data.held_out.x.device).unsqueeze(1)
        self.n_batches = max(1, round(data.n_rows / settings.batch_size))
        self.n_total = self.n_batches * settings.max_epochs
        n_numbers = len(held) + sum(p.numel() for p in networks.parameters)
        self.like = torch.zeros(n_numbers, device=data.held_out.x.device)

    def go(self, on_epoch: Callable[[TrainingRecord], bool | None] | None) -> TrainingResult:
        def told(record: TrainingRecord) -> bool:
            """What the first process's callbacks say."""
            return self.stream.team.decide(lambda: bool(on_epoch is not None and on_epoch(record)))

        return super().go(told)

    def _epoch(self) -> float:
        self.networks.train(True)
        batches = self.stream.batches(self.n_batches)
        total = sum(float(self._add_up(batches)) for _ in range(self.n_batches))
        return total / self.n_batches

    def _add_up(self, batches: Iterator[TrainingData]) -> Tensor:
        """One step; the mean loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        found = self.stream.team.total(lambda: self._own_part(next(batches)), self.like)
        each = found[: len(self.held)]
        start = len(each)
        for p in self.networks.parameters:
            p.grad = found[start : start + p.numel()].reshape(p.shape).to(p.dtype)
            start += p.numel()
        self._move()
        return each.mean()

    def _own_part(self, batch: TrainingData) -> Tensor:
        """What this process adds to each network's loss and to its gradients."""
        if not len(batch.x):
            return self.like
        seen = batch.fold.unsqueeze(0) != self.held
        weight = batch.weight * seen * (self.stream.n_folds / (self.stream.n_folds - 1))
        x, y = (part.expand(len(self.held), *part.shape) for part in (batch.x, batch.y))
        each = self._losses(x, y, weight).sum(1) * (self.n_batches / self.stream.n_rows)
        each.sum().backward()
        every = self.networks.parameters
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in every]
        return torch.cat([each.detach(), *(part.flatten() for part in parts)]).to(self.like)

    def _judge(self) -> Tensor:
        judge = super()._judge
        found = self.stream.team.decide(lambda: judge().cpu())
        return found.to(self.held.device)
