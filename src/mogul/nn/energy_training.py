"""Training autoencoders on their reconstruction and the energy of a mixture, jointly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

from mogul._threads import one_thread_if_small
from mogul.covariances.full import FullCovariance
from mogul.errors import DegenerateFitError
from mogul.functional import gmm_energy, gmm_params
from mogul.infer.em import m_step
from mogul.mixture import Mixture
from mogul.nn.energy_autoencoder import AEGMMNetwork, EnergyOutputs
from mogul.stats import Stats

__all__ = [
    "EnergyLoss",
    "EnergyRecord",
    "EnergyResult",
    "EnergySettings",
    "energy_loss",
    "latent_mixture",
    "train_energy",
]

_WARM_UP = 50
"""Steps over which the learning rate rises to its full size."""
_MOST_NORM = 5.0
"""Of the gradient of a network: longer ones, of rows far out say, are cut to it."""
_USUAL_Z_SIZE = 3
"""L + F of the networks that Zong and others (2018) give weights for."""
_RISE = 0.3
"""The share of the steps over which the weight of the divergence rises to its full size."""
_LEAST_ERROR = 1e-6
"""Of a mean squared error, in squared standard deviations, below which it counts as so large."""
_ROWS_TOGETHER = 4096
_ATTEMPTS, _ESCALATION = 12, 10.0
"""The jitter of the final mixture grows by this where a covariance has no factor."""


class EnergyLoss(NamedTuple):
    """The loss of a batch and what it is made of, before their weights.

    Attributes
    ----------
    total : Tensor, shape ()
    recon : Tensor
        The mean negative log-likelihood of a row about its reconstruction, in nats.
    energy : Tensor
        The mean energy, in nats.
    cov_diag : Tensor
        The sum of inverse variances.
    kl : Tensor
        The mean divergence from the prior, in nats; zero for AEGMM.
    """

    total: Tensor
    recon: Tensor
    energy: Tensor
    cov_diag: Tensor
    kl: Tensor


@dataclass(frozen=True)
class EnergySettings:
    """How to train.

    Attributes
    ----------
    max_epochs : int
        Zero leaves the network as it is.
    batch_size : int
    learning_rate : float
        Of Adam, at the start; it falls to zero as a cosine.
    w_energy, w_cov_diag : float
    jitter : float
        Added to variances, in squared units of z.
    noise : float
        Standard deviation of what is added to the rows that are encoded, not to those that they are
        compared with (Vincent and others 2008).
    recon_scale : float, optional
        The standard deviation of a feature about its reconstruction; that of the batch by default.
    w_recon, beta : float
        The weights of the likelihood and, of VAEGMM, of the divergence.
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    w_energy: float = 0.1
    w_cov_diag: float = 0.005
    jitter: float = 1e-6
    noise: float = 0.0
    recon_scale: float | None = None
    w_recon: float = 1.0
    beta: float = 1.0


@dataclass(frozen=True)
class EnergyRecord:
    """One pass over the rows: means over its batches.

    Attributes
    ----------
    member : int
        Which network of an ensemble.
    epoch : int
        Counted from 1.
    loss, recon, energy, cov_diag, kl : float
        As in :class:`EnergyLoss`.
    """

    member: int
    epoch: int
    loss: float
    recon: float
    energy: float
    cov_diag: float
    kl: float


@dataclass(frozen=True)
class EnergyResult:
    """How a training went.

    Attributes
    ----------
    history : list of EnergyRecord
    interrupted : bool
        Whether Ctrl-C or a callback ended it early.
    """

    history: list[EnergyRecord] = field(default_factory=list)
    interrupted: bool = False


def energy_loss(
    x: Tensor, outputs: EnergyOutputs, settings: EnergySettings, weight: Tensor | None = None
) -> EnergyLoss:
    r"""Reconstruction, energy and the penalty of small variances, of a batch.

    .. math::
        -w_R \overline{\log \mathcal N(x \mid \hat x, \sigma^2 I)}
        + \tfrac{3}{L + F} \Bigl( w_E\, \overline{E(z)} + w_\Sigma \sum_{kd} 1 / \Sigma_{kdd} \Bigr)
        + \beta \overline{\operatorname{KL}(q(c \mid x) \,\|\, \mathcal N(0, I))}

    with the mixture that the batch's own memberships imply (:func:`mogul.functional.gmm_params`),
    its covariances shrunk as by a prior of L + F + 2 rows, and the last term of VAEGMM only. σ is
    ``recon_scale``, or what is likeliest for the batch (Rybkin, Daniilidis and Levine 2021): so
    reconstruction and energy are both in nats a row. Energy and penalty grow with the length of z;
    the weights are for the length of three that Zong and others (2018) give them for.

    Parameters
    ----------
    x : Tensor, shape (N, D)
        Standardised.
    outputs : EnergyOutputs
    settings : EnergySettings
    weight : Tensor, shape (N,), optional
        Of each row, one on average.
    """
    n_features = x.shape[-1]
    squares = (x - outputs.recon).square().sum(-1)
    gamma = outputs.gamma
    if weight is not None:
        squares, gamma = squares * weight, gamma * weight.unsqueeze(-1)
    error, zero = squares.mean(), x.new_zeros(())
    params = gmm_params(
        outputs.z, gamma, jitter=settings.jitter, shrinkage=outputs.z.shape[-1] + 2.0
    )
    energies, cov_diag = gmm_energy(outputs.z, *params, return_mean=False, jitter=settings.jitter)
    energy = (energies if weight is None else energies * weight).mean()
    share = _USUAL_Z_SIZE / outputs.z.shape[-1]
    penalty = share * (settings.w_energy * energy + settings.w_cov_diag * cov_diag)
    if settings.recon_scale is None:
        variance = error / n_features + _LEAST_ERROR
    else:
        variance = error.new_tensor(settings.recon_scale**2)
    recon = 0.5 * (error / variance + n_features * (2 * math.pi * variance).log())
    total = settings.w_recon * recon + penalty
    if outputs.kl is None:
        return EnergyLoss(total, recon, energy, cov_diag, zero)
    kl = (outputs.kl if weight is None else outputs.kl * weight).mean()
    total = total + settings.beta * kl
    return EnergyLoss(total, recon, energy, cov_diag, kl)


def train_energy(
    network: AEGMMNetwork,
    x: Tensor,
    settings: EnergySettings,
    generator: torch.Generator,
    *,
    weight: Tensor | None = None,
    member: int = 0,
    on_epoch: Callable[[EnergyRecord], bool | None] | None = None,
) -> EnergyResult:
    """Train a network in place.

    Parameters
    ----------
    network : AEGMMNetwork
    x : Tensor, shape (N, D)
        Standardised.
    settings : EnergySettings
    generator : torch.Generator
        Of batches and noise. Dropout draws from torch's own, which is seeded by it inside and left
        as it was.
    weight : Tensor, shape (N,), optional
    member : int, default 0
        That records tell.
    on_epoch : callable (EnergyRecord) → True to stop, optional
    """
    history: list[EnergyRecord] = []
    interrupted = False
    if not settings.max_epochs:
        return EnergyResult(history)
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        return EnergyResult(history)
    work = settings.batch_size * max(p.numel() for p in parameters)
    own = [x.device] if x.device.type == "cuda" else []
    run = _Run(network, x, weight, settings, generator)
    with one_thread_if_small(work), torch.random.fork_rng(devices=own):
        torch.default_generator.manual_seed(generator.initial_seed())
        if own:
            with torch.cuda.device(x.device):
                torch.cuda.manual_seed(generator.initial_seed())
        network.train()
        try:
            for epoch in range(1, settings.max_epochs + 1):
                history.append(EnergyRecord(member, epoch, *run.epoch()))
                if on_epoch is not None and on_epoch(history[-1]):
                    interrupted = True
                    break
        except KeyboardInterrupt:
            interrupted = True
    network.eval()
    if history and run.n_skipped == run.step:
        raise DegenerateFitError(
            "No step of the training had a finite gradient; smaller w_energy and w_cov_diag or "
            "another recon_scale may help."
        )
    return EnergyResult(history, interrupted)


class _Run:
    """The changing state of a training."""

    def __init__(
        self,
        network: AEGMMNetwork,
        x: Tensor,
        weight: Tensor | None,
        settings: EnergySettings,
        generator: torch.Generator,
    ):
        self.network, self.x, self.settings, self.generator = network, x, settings, generator
        self.weight = None if weight is None else weight / weight.mean()
        self.n_skipped = 0
        self.n_batches = max(1, len(x) // settings.batch_size)
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = Adam(self.parameters, lr=settings.learning_rate, fused=True)
        self.step, self.n_total = 0, self.n_batches * settings.max_epochs

    def epoch(self) -> list[float]:
        """One pass over the rows; the mean of each part of the loss."""
        n = len(self.x)
        order = torch.randperm(n, generator=self.generator, device=self.x.device)
        total = self.x.new_zeros(len(EnergyLoss._fields))
        for places in order.tensor_split(self.n_batches):
            total += self._step(places) * len(places)
        return (total / n).tolist()

    def _step(self, places: Tensor) -> Tensor:
        x, weight, noise, seen = self.x[places], None, None, None
        if self.weight is not None:
            weight = self.weight[places]
        if self.network.variational:
            noise = self._drawn(len(x), self.network.latent_size)
        if self.settings.noise:
            seen = x + self.settings.noise * self._drawn(*x.shape)
        rise = min(1.0, self.step / (_RISE * self.n_total))  # else q(c | x) may never leave N(0, I)
        settings = replace(self.settings, beta=self.settings.beta * rise)
        loss = energy_loss(x, self.network(x, noise, seen=seen), settings, weight)
        self._set_rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, _MOST_NORM)
        if bool(torch.isfinite(norm)):  # a step into nowhere is not made
            self.optimizer.step()
        else:
            self.n_skipped += 1
        self.step += 1
        return torch.stack([part.detach() for part in loss])

    def _drawn(self, *shape: int) -> Tensor:
        options = {"device": self.x.device, "dtype": self.x.dtype}
        return torch.randn(shape, generator=self.generator, **options)

    def _set_rate(self) -> None:
        rise = min(1.0, (self.step + 1) / _WARM_UP)
        fall = 0.5 * (1 + math.cos(math.pi * self.step / self.n_total))
        self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * rise * fall


@torch.no_grad()
def latent_mixture(
    network: AEGMMNetwork,
    x: Tensor,
    *,
    weight: Tensor | None = None,
    noise: Tensor | None = None,
    jitter: float = 1e-6,
) -> Mixture:
    """The mixture that memberships imply over all rows, by statistics that are summed up in parts.

    Parameters
    ----------
    network : AEGMMNetwork
        In evaluation mode.
    x : Tensor, shape (N, D)
    weight : Tensor, shape (N,), optional
        Of each row; all of them together count as N rows.
    noise : Tensor, shape (S, L), optional
        Every row counts with each of these draws, by 1 / S.
    jitter : float, default 1e-6
        Added to variances.

    Returns
    -------
    Mixture
        Of z, with a component for each that has members; covariances are shrunk as in training.

    Raises
    ------
    DegenerateFitError
        When there is no such mixture, as of latent rows that are not finite.
    """
    if weight is not None:
        weight = weight / weight.mean()
    draws = [None] if noise is None else list(noise)
    origin = stats = None
    for part, given in _parts(x, weight):
        for draw in draws:
            outputs = network(part, draw)
            gamma = outputs.gamma / len(draws)
            if given is not None:
                gamma = gamma * given.unsqueeze(-1)
            z = outputs.z.double()
            if origin is None:
                origin = z.mean(0).expand(gamma.shape[-1], -1).contiguous()
            new = _collected(z, gamma.double(), origin)
            stats = new if stats is None else stats + new
    assert stats is not None
    floor = jitter
    for _ in range(_ATTEMPTS):
        mixture, ok = m_step(
            stats, FullCovariance, floor, stats.origin.shape[-1] + 2.0, uncorrelated=True
        )
        filled = mixture.log_weights > -torch.inf
        if bool(ok[filled].all()) and bool(filled.any()):
            return mixture.select(filled.nonzero().flatten())
        floor *= _ESCALATION
    raise DegenerateFitError(
        "The latent rows have no mixture: they are not finite or all the same; train with a "
        "smaller learning_rate or a larger jitter."
    )


def _parts(x: Tensor, weight: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    for at in range(0, len(x), _ROWS_TOGETHER):
        part = slice(at, at + _ROWS_TOGETHER)
        yield x[part], None if weight is None else weight[part]


def _collected(z: Tensor, gamma: Tensor, origin: Tensor) -> Stats:
    gap = z - origin.unsqueeze(1)  # (K, N, L)
    count = gamma.sum(0)
    return Stats(
        count=count,
        first=(gamma.T.unsqueeze(1) @ gap).squeeze(1),
        second=FullCovariance.moment(gamma.T, gap, gap),
        origin=origin,
        row_weight=count.sum(),
        log_likelihood=count.new_zeros(()),
    )
