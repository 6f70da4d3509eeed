"""Training a generator against a critic, by the schedule of a tutorial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from mogul._threads import one_thread_if_small
from mogul.nn.slogan import Critic, Generator, pair_distances, slogan_loss

__all__ = [
    "SloganRecord",
    "SloganResult",
    "SloganSettings",
    "critic_steps",
    "learning_rate",
    "train_slogan",
]

_EVERY = 100
"""Generator steps between two records, and between two long stretches of critic steps."""
_FIRST = 10
"""Generator steps before each of which the critic is trained for long."""
_LONGER = 10
"""How many times as many critic steps a long stretch has."""
_MEMORY = 0.999
"""Of the average of the generator's weights, a step."""
_STAGES, _FALL = 3, 3.0
"""The learning rate is divided by 3 after each third of the steps."""


@dataclass(frozen=True)
class SloganRecord:
    """The last critic step before a generator step, every hundred of those; means over a batch.

    Attributes
    ----------
    step : int
        Generator steps made before.
    real : float
        The critic of real rows, in standard deviations.
    generated : float
        The critic of generated rows.
    penalty : float
        The penalty on slopes, over the rows of a batch.
    """

    step: int
    real: float
    generated: float
    penalty: float

    @property
    def distance(self) -> float:
        """What the critic says of the Wasserstein distance, in standard deviations."""
        return self.generated - self.real


@dataclass(frozen=True)
class SloganSettings:
    """How to train.

    Attributes
    ----------
    n_steps : int
        Of the generator.
    batch_size : int
    critic_steps : int
        Before each generator step; ten times as many before the first ten and every hundredth.
    lipschitz_weight : float
    learning_rate : float
        Of Adam at first; divided by three after each third of the steps.
    betas : pair of float
        Of Adam.
    """

    n_steps: int
    batch_size: int
    critic_steps: int
    lipschitz_weight: float
    learning_rate: float
    betas: tuple[float, float]


@dataclass(frozen=True)
class SloganResult:
    """How a training went.

    Attributes
    ----------
    n_steps : int
        That were made.
    history : list of SloganRecord
    interrupted : bool
        Whether Ctrl-C or a callback ended it early.
    """

    n_steps: int
    history: list[SloganRecord] = field(default_factory=list)
    interrupted: bool = False


def critic_steps(step: int, usual: int) -> int:
    """How many steps of the critic come before a step of the generator."""
    return usual * (_LONGER if step < _FIRST or step % _EVERY == 0 else 1)


def learning_rate(step: int, n_steps: int, first: float) -> float:
    """A staircase: divided by three after each third of the steps."""
    return first / _FALL ** (_STAGES * step // n_steps)


def train_slogan(
    critic: Critic,
    generator: Generator,
    rows: Tensor,
    weight: Tensor | None,
    settings: SloganSettings,
    source: torch.Generator,
    on_record: Callable[[SloganRecord], bool | None] | None = None,
) -> SloganResult:
    """Train both networks, in place.

    The generator ends with an exponential average of its weights over about the last thousand
    steps: at a constant learning rate the two networks circle, and the middle is nearer to the data
    than the circle is (Yazıcı and others 2019).

    Parameters
    ----------
    critic, generator : Critic, Generator
    rows : Tensor, shape (N, D)
        Standardised.
    weight : Tensor, shape (N,), optional
        Batches are drawn with probabilities in proportion to it.
    settings : SloganSettings
    source : torch.Generator
        Of batches and noise.
    on_record : callable (SloganRecord) → True to stop, optional

    Returns
    -------
    SloganResult
    """
    critic.train()
    generator.train()
    run = _Run(critic, generator, _batches(rows, weight, settings.batch_size, source), settings)
    history: list[SloganRecord] = []
    interrupted = False
    work = settings.batch_size * max(settings.batch_size, _largest(critic), _largest(generator))
    with one_thread_if_small(work):
        try:
            for step in range(settings.n_steps):
                record = run.step(step, source)
                if record is not None:
                    history.append(record)
                    if on_record is not None and on_record(record):
                        interrupted = True
                        break
        except KeyboardInterrupt:
            interrupted = True
    run.adopt_average()
    critic.eval()
    generator.eval()
    return SloganResult(run.counted, history, interrupted)


class _Run:
    """Two optimisers and what they take turns with."""

    def __init__(
        self,
        critic: Critic,
        generator: Generator,
        batches: Iterator[Tensor],
        settings: SloganSettings,
    ):
        self.critic, self.generator = critic, generator
        self.batches, self.settings = batches, settings
        options = {"lr": settings.learning_rate, "betas": settings.betas, "fused": True}
        self.of_critic = Adam(critic.parameters(), **options)
        self.of_generator = Adam(generator.parameters(), **options)
        self.trained = list(generator.parameters())
        self.average = [torch.zeros_like(p) for p in self.trained]
        self.counted = 0
        """Steps of the generator that were made."""

    def step(self, step: int, source: torch.Generator) -> SloganRecord | None:
        """Some steps of the critic, then one of the generator."""
        s = self.settings
        rate = learning_rate(step, s.n_steps, s.learning_rate)
        _set_rate(self.of_critic, rate)
        _set_rate(self.of_generator, rate)
        record = None
        n_critic = critic_steps(step, s.critic_steps)
        for i in range(n_critic):
            real, generated, penalty = self._critic_step(source)
            if step % _EVERY == 0 and i == n_critic - 1:
                parts = (float(part) / s.batch_size for part in (real, generated, penalty))
                record = SloganRecord(step, *parts)
        self.of_generator.zero_grad(set_to_none=True)
        made = self.generator.sample(s.batch_size, source)
        self.critic(made).sum().backward(inputs=self.trained)
        self.of_generator.step()
        self._count()
        return record

    @torch.no_grad()
    def _count(self) -> None:
        """Put the weights of now into the average; each of few steps counts alike."""
        self.counted += 1
        share = max(1 - _MEMORY, 1 / self.counted)
        torch._foreach_lerp_(self.average, self.trained, share)  # pyright: ignore

    @torch.no_grad()
    def adopt_average(self) -> None:
        """Leave the generator with its average."""
        if self.counted:
            for p, mean in zip(self.trained, self.average, strict=True):
                p.copy_(mean)

    def _critic_step(self, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        real = next(self.batches)
        with torch.no_grad():
            made = self.generator.sample(len(real), source)
        f_real, f_made = self.critic(torch.cat([real, made])).split(len(real))
        weight = self.settings.lipschitz_weight
        loss = slogan_loss(f_real, f_made, pair_distances(real, made), weight)
        self.of_critic.zero_grad(set_to_none=True)
        loss.total.backward()
        self.of_critic.step()
        return loss.real.detach(), loss.generated.detach(), loss.penalty.detach()


def _batches(
    rows: Tensor, weight: Tensor | None, size: int, source: torch.Generator
) -> Iterator[Tensor]:
    """Rows drawn with replacement, for ever."""
    ends = None if weight is None else weight.double().cumsum(0)
    while True:
        if ends is None:
            places = torch.randint(len(rows), (size,), generator=source, device=rows.device)
        else:
            u = torch.rand(size, generator=source, device=rows.device, dtype=ends.dtype)
            places = torch.searchsorted(ends, u * ends[-1], right=True).clamp(max=len(rows) - 1)
        yield rows[places]


def _set_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _largest(network: torch.nn.Module) -> int:
    """Of its tables of weights."""
    return max(p.numel() for p in network.parameters())
