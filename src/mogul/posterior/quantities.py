"""What can be asked of a posterior: parameters and functions of them, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from mogul.beliefs import Belief
from mogul.beliefs.wishart import without_moments
from mogul.covariances import Covariance
from mogul.errors import UnknownNameError
from mogul.mixture import Mixture

__all__ = ["PARAMETERS", "QUANTITIES", "Quantity", "quantity"]

_MOST_DRAWS, _FEWEST_DRAWS = 10_000, 500
_DRAWN_NUMBERS = 1 << 23
"""Numbers that are drawn, where quantiles are those of draws: 64 MB."""


@dataclass(frozen=True)
class Monotone:
    """A quantity as a monotone function of another, entry by entry or of its diagonal."""

    base: Quantity
    function: Callable[[Tensor], Tensor] = lambda values: values
    falls: bool = False


class Quantity(ABC):
    """A tensor that is a function of a mixture's parameters, and its moments under a belief."""

    name: ClassVar[str]
    numbers_only: ClassVar[bool] = False
    """Whether it exists only where precisions are numbers (diag, spherical)."""

    @abstractmethod
    def of(self, mixture: Mixture) -> Tensor:
        """Its value for each mixture of a batch, (*batch, *shape)."""

    @abstractmethod
    def mean(self, belief: Belief) -> Tensor:
        """Its expectation under a single belief, with gradients; ``shape``."""

    @abstractmethod
    def covariance(self, belief: Belief) -> Tensor:
        """The covariance of its entries in row-major order, (Q, Q)."""

    @abstractmethod
    def quantiles(self, belief: Belief, probabilities: Tensor, variance: Tensor) -> Tensor:
        """Quantiles (*shape, P) when its variances are those given, ``shape``.

        Of the distribution that the entry has under the belief, with another variance where
        ``variance`` is not the belief's own. Where the entry has no variance they are the belief's.
        """

    def quantiles_of(self, kind: type[Covariance]) -> Monotone:
        """Which quantity's quantiles to take, and what function of them these are."""
        return Monotone(self)

    def counts_components(self, kind: type[Covariance]) -> bool:
        """Whether the first axis is that of the components."""
        return True

    def entries(self, shape: torch.Size, kind: type[Covariance]) -> list[tuple[int, ...]]:
        """The indices of its distinct entries: a symmetric matrix has each but once."""
        every = list(np.ndindex(*shape))
        if not (self._of_matrices and kind.has_matrices()):
            return every
        return [index for index in every if index[-2] >= index[-1]]

    _of_matrices: ClassVar[bool] = False
    """Whether its last axes are a matrix where precisions are."""

    def check(self, kind: type[Covariance]) -> None:
        """Refuse a quantity that a covariance structure does not have."""
        if self.numbers_only and kind.has_matrices():
            raise UnknownNameError(
                f"{self.name!r} exists where precisions are numbers, for diag and spherical; this "
                f"posterior is {kind.name}, so ask for 'covariances' or 'precisions'."
            )


class _Weights(Quantity):
    name: ClassVar[str] = "weights"

    def of(self, mixture: Mixture) -> Tensor:
        return mixture.weights

    def mean(self, belief: Belief) -> Tensor:
        return belief.weights.mean()

    def covariance(self, belief: Belief) -> Tensor:
        return belief.weights.covariance()

    def quantiles(self, belief: Belief, probabilities: Tensor, variance: Tensor) -> Tensor:
        return belief.weights.quantiles(probabilities, variance)


class _LogWeights(_Weights):
    name: ClassVar[str] = "log_weights"

    def of(self, mixture: Mixture) -> Tensor:
        return mixture.log_weights

    def mean(self, belief: Belief) -> Tensor:
        return belief.weights.expected_log()

    def covariance(self, belief: Belief) -> Tensor:
        return belief.weights.log_covariance()

    def quantiles_of(self, kind: type[Covariance]) -> Monotone:
        return Monotone(QUANTITIES["weights"], torch.log)


class _Means(Quantity):
    name: ClassVar[str] = "means"

    def of(self, mixture: Mixture) -> Tensor:
        return mixture.means

    def mean(self, belief: Belief) -> Tensor:
        return belief.components.loc

    def covariance(self, belief: Belief) -> Tensor:
        return torch.block_diag(*belief.components.mean_covariance())

    def quantiles(self, belief: Belief, probabilities: Tensor, variance: Tensor) -> Tensor:
        degrees, scale = belief.components.mean_marginals()
        own = torch.diagonal(belief.components.mean_covariance(), dim1=-2, dim2=-1)
        wider = torch.where(torch.isfinite(own), (variance / own).sqrt(), 1.0)
        unit = _quantiles(scipy.stats.t, probabilities, degrees)
        return self.mean(belief).unsqueeze(-1) + unit * (scale * wider).unsqueeze(-1)


class _OfPrecisions(Quantity):
    """Entries of the precisions or of their inverses, block by block."""

    _of_matrices: ClassVar[bool] = True

    def counts_components(self, kind: type[Covariance]) -> bool:
        return kind.block_ndim > 0

    def _with_off_diagonal(
        self, belief: Belief, found: Tensor, variance: Tensor, probabilities: Tensor
    ) -> Tensor:
        """Quantiles ``found`` with those of entries that may be negative put in.

        They have no family of their own: normal, or those of draws where there is no variance.
        """
        if not belief.components.kind.has_matrices():
            return found
        z = torch.special.ndtri(probabilities).to(variance)
        values = self.mean(belief).unsqueeze(-1) + z * variance.sqrt().unsqueeze(-1)
        eye = torch.eye(variance.shape[-1], dtype=torch.bool, device=variance.device)
        unknown = ~(torch.isfinite(variance) | eye)
        if bool(unknown.any()):
            n_draws = max(_FEWEST_DRAWS, min(_MOST_DRAWS, _DRAWN_NUMBERS // variance.numel()))
            seeded = torch.Generator(device=variance.device).manual_seed(0)
            drawn = self.of(belief.detach().sample((n_draws,), generator=seeded))[:, unknown]
            order = drawn.sort(0).values
            at = (probabilities.to(variance) * (n_draws - 1)).round().long()
            values[unknown] = order[at].T
        return torch.where(eye.unsqueeze(-1), found, values)

    @staticmethod
    def _blocks(values: Tensor) -> Tensor:
        """Covariances of the entries of each block (*blocks, p², p²) as one matrix."""
        return torch.block_diag(*values.reshape(-1, *values.shape[-2:]))


class _Precisions(_OfPrecisions):
    name: ClassVar[str] = "precisions"

    def of(self, mixture: Mixture) -> Tensor:
        return mixture.covariance.precisions()

    def mean(self, belief: Belief) -> Tensor:
        return belief.components.expected()[0].precisions()

    def covariance(self, belief: Belief) -> Tensor:
        return self._blocks(belief.components.precisions.precision_covariance())

    def quantiles(self, belief: Belief, probabilities: Tensor, variance: Tensor) -> Tensor:
        mean = self.mean(belief)
        unit = _quantiles(scipy.stats.gamma, probabilities, mean.square() / variance)
        found = unit * (variance / mean).unsqueeze(-1)
        return self._with_off_diagonal(belief, found, variance, probabilities)


class _Covariances(_OfPrecisions):
    name: ClassVar[str] = "covariances"

    def of(self, mixture: Mixture) -> Tensor:
        return mixture.covariances

    def mean(self, belief: Belief) -> Tensor:
        return belief.components.precisions.inverse_mean()

    def covariance(self, belief: Belief) -> Tensor:
        return self._blocks(belief.components.precisions.inverse_covariance())

    def quantiles(self, belief: Belief, probabilities: Tensor, variance: Tensor) -> Tensor:
        mean, precisions = self.mean(belief), belief.components.precisions
        shape = mean.square() / variance + 2
        scale = mean * (shape - 1)
        # A variance is inverse Gamma, also where it has no moments, as under many priors.
        own = (precisions.degrees - precisions.size + 1) / 2
        known = torch.isfinite(variance)
        shape = torch.where(known, shape, precisions.scale.at_blocks(own))
        scale = torch.where(known, scale, precisions.scale.covariances() / 2)
        found = _quantiles(scipy.stats.invgamma, probabilities, shape) * scale.unsqueeze(-1)
        return self._with_off_diagonal(belief, found, variance, probabilities)

    def quantiles_of(self, kind: type[Covariance]) -> Monotone:
        if kind.has_matrices():
            return Monotone(self)
        return Monotone(QUANTITIES["precisions"], torch.reciprocal, falls=True)


class _LogPrecisions(_Precisions):
    name: ClassVar[str] = "log_precisions"
    numbers_only: ClassVar[bool] = True

    def of(self, mixture: Mixture) -> Tensor:
        return mixture.covariance.precisions().log()

    def mean(self, belief: Belief) -> Tensor:
        return belief.components.precisions.expected_log_det()

    def covariance(self, belief: Belief) -> Tensor:
        return torch.diag(torch.polygamma(1, belief.components.precisions.degrees.flatten() / 2))

    def quantiles_of(self, kind: type[Covariance]) -> Monotone:
        return Monotone(QUANTITIES["precisions"], torch.log)


class _StandardDeviations(_Covariances):
    """Square roots of the variances, (K, D), or as many as the structure has of its own."""

    name: ClassVar[str] = "standard_deviations"
    _of_matrices: ClassVar[bool] = False

    def of(self, mixture: Mixture) -> Tensor:
        return _variances(type(mixture.covariance), mixture.covariances).sqrt()

    def mean(self, belief: Belief) -> Tensor:
        # A variance is inverse Gamma with shape (ν − p + 1) / 2 and scale half of S's entry.
        precisions = belief.components.precisions
        half = _variances(belief.components.kind, precisions.scale.covariances()) / 2
        shape = (precisions.degrees - precisions.size + 1) / 2
        shape = shape.reshape(*shape.shape, *[1] * (half.ndim - shape.ndim))
        finite = shape > 0.5
        safe = torch.where(finite, shape, 1.0)
        found = half.sqrt() * ((safe - 0.5).lgamma() - safe.lgamma()).exp()
        return torch.where(finite, found, torch.inf)

    def covariance(self, belief: Belief) -> Tensor:
        """With the correlations of the variances, which is exact for the diagonal."""
        precisions, kind = belief.components.precisions, belief.components.kind
        square = _variances(kind, precisions.inverse_mean())
        finite = torch.isfinite(square).flatten()
        own = torch.where(finite, (square - self.mean(belief).square()).flatten(), 0.0)
        shape = precisions.scale.covariances().shape
        every = torch.arange(shape.numel(), device=own.device).reshape(shape)
        chosen = _variances(kind, every).flatten()
        comoments = self._blocks(precisions.inverse_comoments())[chosen][:, chosen]
        root = torch.where(finite, own / comoments.diagonal(), 0.0).sqrt()
        return without_moments(root.unsqueeze(-1) * comoments * root, finite)

    def quantiles_of(self, kind: type[Covariance]) -> Monotone:
        if not kind.has_matrices():
            return Monotone(QUANTITIES["precisions"], torch.rsqrt, falls=True)
        return Monotone(QUANTITIES["covariances"], _roots_of_diagonal)


def _roots_of_diagonal(values: Tensor) -> Tensor:
    """(*, D, D, P) to (*, D, P)."""
    return torch.diagonal(values, dim1=-3, dim2=-2).transpose(-1, -2).sqrt()


QUANTITIES: dict[str, Quantity] = {
    one.name: one
    for one in (
        _Weights(),
        _LogWeights(),
        _Means(),
        _Precisions(),
        _LogPrecisions(),
        _Covariances(),
        _StandardDeviations(),
    )
}
"""All that has a name."""
PARAMETERS = ("weights", "means", "precisions")
"""What a posterior is a mapping of: the parameters that the prior speaks of."""


def quantity(name: Any, kind: type[Covariance]) -> Quantity:
    """The quantity of that name, when the structure has it."""
    if not isinstance(name, str) or name not in QUANTITIES:
        raise UnknownNameError(
            f"The posterior knows nothing of {name!r}; ask for {', '.join(map(repr, QUANTITIES))}."
        )
    QUANTITIES[name].check(kind)
    return QUANTITIES[name]


def _variances(kind: type[Covariance], covariances: Tensor) -> Tensor:
    """The diagonals where the structure has matrices, else all of it."""
    return torch.diagonal(covariances, dim1=-2, dim2=-1) if kind.has_matrices() else covariances


def _quantiles(family: Any, probabilities: Tensor, *shape: Tensor) -> Tensor:
    """Quantiles of a scipy family whose shape parameters are given, (*shape, P)."""
    arrays = [one.detach().cpu().numpy()[..., None] for one in shape]
    p = probabilities.cpu().numpy()
    with np.errstate(all="ignore"):
        found = np.where(p <= 0.5, family.ppf(p, *arrays), family.isf(1 - p, *arrays))
    return torch.from_numpy(found).to(shape[0])
