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
from mogul.covariances import Covariance
from mogul.errors import UnknownNameError
from mogul.mixture import Mixture

__all__ = ["PARAMETERS", "QUANTITIES", "Quantity", "quantity"]


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
        ``variance`` is not the belief's own.
        """

    def quantiles_of(self, kind: type[Covariance]) -> Monotone:
        """Which quantity's quantiles to take, and what function of them these are."""
        return Monotone(self)

    def counts_components(self, kind: type[Covariance]) -> bool:
        """Whether the first axis is that of the components."""
        return True

    def entries(self, shape: torch.Size) -> list[tuple[int, ...]]:
        """The indices of its distinct entries: a symmetric matrix has each but once."""
        every = list(np.ndindex(*shape))
        if not self._is_matrix(shape):
            return every
        return [index for index in every if index[-2] >= index[-1]]

    def _is_matrix(self, shape: torch.Size) -> bool:
        return False

    def check(self, kind: type[Covariance]) -> None:
        """Refuse a quantity that a covariance structure does not have."""
        if self.numbers_only and _has_matrices(kind):
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
        mean = self.mean(belief)
        total = mean * (1 - mean) / variance - 1  # of a Beta distribution's two counts
        counts = (mean * total, (1 - mean) * total)
        found = _quantiles(scipy.stats.beta, probabilities, *counts)
        return torch.where(torch.isfinite(found), found, mean.unsqueeze(-1))  # one component


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

    def _is_matrix(self, shape: torch.Size) -> bool:
        return len(shape) >= 2 and shape[-1] == shape[-2] and self._matrices

    _matrices: ClassVar[bool] = True

    def counts_components(self, kind: type[Covariance]) -> bool:
        return kind.block_ndim > 0

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
        return _off_diagonal_normal(belief, found, mean, variance, probabilities)


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
        known = torch.isfinite(variance) & torch.isfinite(mean)
        shape = torch.where(known, shape, precisions.scale.at_blocks(own))
        scale = torch.where(known, scale, precisions.scale.covariances() / 2)
        found = _quantiles(scipy.stats.invgamma, probabilities, shape) * scale.unsqueeze(-1)
        return _off_diagonal_normal(belief, found, mean, variance, probabilities)

    def quantiles_of(self, kind: type[Covariance]) -> Monotone:
        if _has_matrices(kind):
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
    _matrices: ClassVar[bool] = False

    def of(self, mixture: Mixture) -> Tensor:
        return _variances(type(mixture.covariance), mixture.covariances).sqrt()

    def mean(self, belief: Belief) -> Tensor:
        # A variance is inverse Gamma with shape (ν − p + 1) / 2 and scale half of S's entry.
        precisions = belief.components.precisions
        half = _variances(belief.components.kind, precisions.scale.covariances()) / 2
        shape = (precisions.degrees - precisions.size + 1) / 2
        shape = shape.reshape(*shape.shape, *[1] * (half.ndim - shape.ndim))
        return half.sqrt() * ((shape - 0.5).lgamma() - shape.lgamma()).exp()

    def covariance(self, belief: Belief) -> Tensor:
        """With the correlations of the variances, which is exact for the diagonal."""
        kind = belief.components.kind
        mean = belief.components.precisions.inverse_mean()
        square = _variances(kind, mean).flatten() - self.mean(belief).flatten().square()
        every = torch.arange(mean.numel()).reshape(mean.shape)
        chosen = _variances(kind, every).flatten()
        of_variances = super().covariance(belief)[chosen][:, chosen]
        scale = (square / of_variances.diagonal()).sqrt()
        return scale.unsqueeze(-1) * of_variances * scale

    def quantiles_of(self, kind: type[Covariance]) -> Monotone:
        if not _has_matrices(kind):
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


def _has_matrices(kind: type[Covariance]) -> bool:
    return kind.factor_ndim > kind.block_ndim


def _variances(kind: type[Covariance], covariances: Tensor) -> Tensor:
    """The diagonals where the structure has matrices, else all of it."""
    matrices = _has_matrices(kind)
    return torch.diagonal(covariances, dim1=-2, dim2=-1) if matrices else covariances


def _quantiles(family: Any, probabilities: Tensor, *shape: Tensor) -> Tensor:
    """Quantiles of a scipy family whose shape parameters are given, (*shape, P)."""
    arrays = [one.detach().cpu().numpy()[..., None] for one in shape]
    p = probabilities.cpu().numpy()
    with np.errstate(all="ignore"):
        found = np.where(p <= 0.5, family.ppf(p, *arrays), family.isf(1 - p, *arrays))
    return torch.from_numpy(found).to(shape[0])


def _off_diagonal_normal(
    belief: Belief, found: Tensor, mean: Tensor, variance: Tensor, probabilities: Tensor
) -> Tensor:
    """Quantiles of entries that may be negative, which have no family of their own: normal."""
    if not _has_matrices(belief.components.kind):
        return found
    z = torch.special.ndtri(probabilities).to(mean)
    normal = mean.unsqueeze(-1) + z * variance.sqrt().unsqueeze(-1)
    eye = torch.eye(mean.shape[-1], dtype=torch.bool, device=mean.device).unsqueeze(-1)
    return torch.where(eye, found, normal)
