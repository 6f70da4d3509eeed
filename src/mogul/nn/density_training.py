"""Training several mixture density networks side by side, each with rows of its own held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import AdamW

from mogul._threads import one_thread_if_small
from mogul.nn.density_losses import has_missing
from mogul.nn.mixture_density_network import MixtureDensityNetwork
from mogul.nn.mlp import MLP

if TYPE_CHECKING:
    from mogul.nn.density_stream import StreamedData

__all__ = [
    "Networks",
    "Run",
    "TrainingData",
    "TrainingRecord",
    "TrainingResult",
    "TrainingSettings",
    "train",
]

_WARM_UP = 50
"""Steps over which the learning rate rises to its full size."""
_MOST_NORM = 5.0
"""Of the gradient of a network: longer ones, of rows far out say, are cut to it."""
_HELD_TOGETHER = 1 << 14
"""Rows that are held out and looked at in one go, over all networks."""


@dataclass(frozen=True)
class TrainingRecord:
    """One pass over the rows.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    loss : float
        The mean loss of the batches, over all networks, with noise; y in standard deviations.
    validation_loss : float
        The mean loss of the rows held out, over all networks.
    """

    epoch: int
    loss: float
    validation_loss: float


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes
    ----------
    max_epochs : int
    patience : int
        Epochs without progress of any network after which training ends.
    batch_size : int
    learning_rate : float
        At the start; it falls to zero as a cosine.
    weight_decay : float
        As in AdamW: each step multiplies weights by 1 − learning rate · weight decay.
    """

    max_epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class TrainingData:
    """Standardised rows, and which fold each is in.

    Attributes
    ----------
    x : Tensor, shape (N, d)
    y : Tensor, shape (N, D)
        NaN where it is missing.
    weight : Tensor, shape (N,)
    fold : Tensor, shape (N,)
        Network m does not see the rows of fold ``held[m]``, by which it is judged.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    fold: Tensor

    @property
    def n_rows(self) -> int:
        return len(self.x)

    @property
    def n_folds(self) -> int:
        return int(self.fold.max()) + 1


@dataclass(frozen=True)
class TrainingResult:
    """What a training found.

    Attributes
    ----------
    losses : Tensor, shape (M,)
        The least held-out loss of each network.
    epochs : Tensor, shape (M,)
        The epoch of each; zero for a network that never became better than its start.
    history : list of TrainingRecord
    interrupted : bool
        Whether Ctrl-C or a callback ended it early.
    """

    losses: Tensor
    epochs: Tensor
    history: list[TrainingRecord] = field(default_factory=list)
    interrupted: bool = False


def train(
    networks: Sequence[MixtureDensityNetwork],
    data: TrainingData | StreamedData,
    *,
    held: Sequence[int],
    noise: Sequence[float],
    settings: TrainingSettings,
    generator: torch.Generator,
    on_epoch: Callable[[TrainingRecord], bool | None] | None = None,
) -> TrainingResult:
    """Train networks of one form, in place; each ends as it was when its held-out loss was least.

    Fresh normal noise is added to x and y at every step (Rothfuss and others 2019).

    Parameters
    ----------
    networks : sequence of M MixtureDensityNetwork
    data : TrainingData or StreamedData
    held : sequence of M int
        The fold that each network is judged by.
    noise : sequence of M float
        Standard deviations of the noise, in those of the data.
    settings : TrainingSettings
    generator : torch.Generator
        Of batches and noise. Dropout draws from torch's own, which is seeded by it inside and left
        as it was.
    on_epoch : callable (TrainingRecord) → True to stop, optional
    """
    every = Networks(networks)
    device = every.parameters[0].device
    work = settings.batch_size * sum(p.numel() for p in every.parameters)
    seed = generator.initial_seed()
    own = [device] if device.type == "cuda" else []
    with one_thread_if_small(work), torch.random.fork_rng(devices=own):
        torch.manual_seed(seed)
        asked = list(held), list(noise), settings, generator
        if isinstance(data, TrainingData):
            return Run(every, data, *asked).go(on_epoch)
        from mogul.nn.density_stream import StreamedRun

        return StreamedRun(every, data, *asked).go(on_epoch)


class Networks:
    """Networks of one form as one: their parameters are stacked where their backbone allows it."""

    def __init__(self, networks: Sequence[MixtureDensityNetwork]):
        self.each, self.first = list(networks), networks[0]
        self.together = len(networks) > 1 and isinstance(self.first.backbone, MLP)
        if self.together:
            self._one = [_Outputs(one) for one in self.each]
            self._stacked, _ = stack_module_state(self._one)  # type: ignore[arg-type]
            self.parameters: list[Tensor] = list(self._stacked.values())
        else:
            self.parameters = [p for one in self.each for p in one.parameters()]

    def outputs(self, x: Tensor) -> Tensor:
        """(M, B, d) to (M, B, P)."""
        if not self.together:
            return torch.stack([one.outputs(x[m]) for m, one in enumerate(self.each)])

        def of_one(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self._one[0], parameters, (x,))

        return vmap(of_one, randomness="different")(self._stacked, x)

    def train(self, mode: bool) -> None:
        for one in self.each:
            one.train(mode)

    def gradient_norms(self) -> Tensor:
        """Of each network, (M)."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.together:
            return torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        each = [
            [p.grad.square().sum() for p in one.parameters() if p.grad is not None]
            for one in self.each
        ]
        return torch.stack([torch.stack(squares).sum().sqrt() for squares in each])

    def scale_gradients(self, factors: Tensor) -> None:
        """Multiply the gradients of each network by a factor of its own; zero also heals NaN."""
        if self.together:
            for p in self.parameters:
                assert p.grad is not None
                by = factors.reshape(-1, *[1] * (p.ndim - 1))
                p.grad.copy_(torch.where(by > 0, p.grad * by, 0.0))
            return
        for factor, one in zip(factors, self.each, strict=True):
            for p in one.parameters():
                if p.grad is not None:
                    p.grad.copy_(torch.where(factor > 0, p.grad * factor, 0.0))

    def snapshot(self) -> list[Tensor]:
        """Copies of all that can be trained or counted."""
        return [value.detach().clone() for value in self._state()]

    def _state(self) -> list[Tensor]:
        if self.together:
            return self.parameters
        return [v for one in self.each for v in one.state_dict(keep_vars=True).values()]

    @torch.no_grad()
    def keep(self, best: list[Tensor], better: Tensor) -> None:
        """Put those networks that are better into a snapshot."""
        if self.together:
            for kept, now in zip(best, self.parameters, strict=True):
                kept[better] = now.detach()[better]
            return
        n_each = len(best) // len(self.each)
        for i, (kept, now) in enumerate(zip(best, self._state(), strict=True)):
            if bool(better[i // n_each]):
                kept.copy_(now)

    @torch.no_grad()
    def restore(self, best: list[Tensor]) -> None:
        """Leave the networks as a snapshot has them."""
        if not self.together:
            for now, kept in zip(self._state(), best, strict=True):
                now.copy_(kept)
            return
        for name, kept in zip(self._stacked, best, strict=True):
            for one, mine in zip(self._one, kept, strict=True):
                one.get_parameter(name).copy_(mine)


class _Outputs(torch.nn.Module):
    """A network's outputs as a module's call, for ``functional_call``."""

    def __init__(self, network: MixtureDensityNetwork):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.outputs(x)


class Run:
    """The changing state of a training."""

    def __init__(
        self,
        networks: Networks,
        data: TrainingData,
        held: list[int],
        noise: list[float],
        settings: TrainingSettings,
        generator: torch.Generator,
    ):
        self.networks, self.data, self.settings = networks, data, settings
        self.generator = generator
        self.losses, self.missing = networks.first.row_losses, has_missing(data.y)
        device = data.x.device
        self.noise = torch.tensor(noise, device=device, dtype=data.x.dtype).reshape(-1, 1, 1)
        seen = [(data.fold != f).nonzero().flatten() for f in held]
        self.seen, self.n_seen = seen, min(len(rows) for rows in seen)
        self.judged, self.judged_weight = self._judged(held)
        n_steps = max(1, round(self.n_seen / settings.batch_size))
        self.size = -(-self.n_seen // n_steps)
        self.optimizer = AdamW(
            networks.parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.step, self.n_total = 0, n_steps * settings.max_epochs

    def _judged(self, held: list[int]) -> tuple[Tensor, Tensor]:
        """Held-out rows of each network, (M, J), the shorter filled up with rows of no weight."""
        each = [(self.data.fold == f).nonzero().flatten() for f in held]
        longest = max(len(rows) for rows in each)
        places = torch.stack([rows[torch.arange(longest) % len(rows)] for rows in each])
        counted = torch.stack([torch.arange(longest) < len(rows) for rows in each])
        weight = self.data.weight[places] * counted.to(places.device)
        total = weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        return places, weight / total

    def go(self, on_epoch: Callable[[TrainingRecord], bool | None] | None) -> TrainingResult:
        n_networks = len(self.networks.each)
        best, kept = self._judge(), self.networks.snapshot()
        when = torch.zeros(n_networks, dtype=torch.long, device=best.device)
        history: list[TrainingRecord] = []
        interrupted = False
        try:
            for epoch in range(1, self.settings.max_epochs + 1):
                loss = self._epoch()
                now = self._judge()
                better = now < best
                if bool(better.any()):
                    self.networks.keep(kept, better)
                best, when = torch.where(better, now, best), torch.where(better, epoch, when)
                history.append(TrainingRecord(epoch, loss, float(now.mean())))
                if on_epoch is not None and on_epoch(history[-1]):
                    interrupted = True
                    break
                if epoch - int(when.max()) >= self.settings.patience:
                    break
        except KeyboardInterrupt:
            interrupted = True
        self.networks.restore(kept)
        self.networks.train(False)
        return TrainingResult(best, when, history, interrupted)

    def _epoch(self) -> float:
        """One pass over the rows that each network sees; the mean loss."""
        self.networks.train(True)
        device = self.data.x.device
        order = torch.stack(
            [
                rows[torch.randperm(len(rows), generator=self.generator, device=device)]
                [: self.n_seen]
                for rows in self.seen
            ]
        )  # fmt: skip
        total = torch.zeros((), device=device)
        for places in order.split(self.size, 1):
            total += self._step(places) * places.shape[1]
        return float(total) / self.n_seen

    def _step(self, places: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.data.x[places], self.data.y[places], self.data.weight[places]
        each = self._losses(*parts).mean(1)
        each.sum().backward()
        self._move()
        return each.detach().mean()

    def _losses(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """The weighted loss of each row under each network, with noise, (M, B)."""
        x, y = self._noisy(x), self._noisy(y)
        return self.losses(self.networks.outputs(x), y, self.missing) * weight

    def _move(self) -> None:
        """One step of the optimiser along the gradients that are set."""
        self._set_rate()
        norms = self.networks.gradient_norms()
        factors = torch.where(torch.isfinite(norms), (_MOST_NORM / norms).clamp(max=1.0), 0.0)
        self.networks.scale_gradients(factors)
        self.optimizer.step()
        self.step += 1

    def _noisy(self, values: Tensor) -> Tensor:
        noise = torch.randn(
            values.shape, generator=self.generator, device=values.device, dtype=values.dtype
        )
        return values + self.noise * noise

    def _set_rate(self) -> None:
        rise = min(1.0, (self.step + 1) / _WARM_UP)
        fall = 0.5 * (1 + math.cos(math.pi * self.step / self.n_total))
        self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * rise * fall

    @torch.no_grad()
    def _judge(self) -> Tensor:
        """The mean loss of the rows that each network does not see, (M)."""
        self.networks.train(False)
        n_networks = len(self.judged)
        total = torch.zeros(n_networks, device=self.judged.device)
        at = max(1, _HELD_TOGETHER // n_networks)
        parts = zip(self.judged.split(at, 1), self.judged_weight.split(at, 1), strict=True)
        for places, weight in parts:
            each = self.losses(
                self.networks.outputs(self.data.x[places]), self.data.y[places], self.missing
            )
            total += (each * weight).sum(1)
        return torch.where(torch.isnan(total), torch.inf, total)
