"""A mixture as the arrays that compiled code takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mogul.covariances import (
    Covariance,
    DiagCovariance,
    FullCovariance,
    SphericalCovariance,
    TiedCovariance,
)
from mogul.kernels import _parameters as code
from mogul.mixture import Mixture

__all__ = ["KINDS", "PackedMixture"]

KINDS: dict[type[Covariance], int] = {
    FullCovariance: code.FULL,
    TiedCovariance: code.TIED,
    DiagCovariance: code.DIAG,
    SphericalCovariance: code.SPHERICAL,
}
"""The structures as compiled code knows them."""


@dataclass(frozen=True)
class PackedMixture:
    """A single mixture as three arrays; see :mod:`mogul.kernels._parameters`."""

    structure: type[Covariance]
    log_weights: NDArray[np.float64]
    means: NDArray[np.float64]
    factor: NDArray[np.float64]

    @classmethod
    def empty(
        cls, structure: type[Covariance], n_components: int, n_features: int
    ) -> PackedMixture:
        """Arrays of the right shapes, to be filled in."""
        k, d = n_components, n_features
        factor = np.empty(cls._factor_shape(structure, k, d))
        return cls(structure, np.empty(k), np.empty((k, d)), factor)

    @classmethod
    def of(cls, mixture: Mixture) -> PackedMixture:
        """A single mixture, whose memory it shares where that lies as it must: not to be moved."""
        kind = type(mixture.covariance)
        parts = mixture.log_weights, mixture.means, mixture.covariance.factor
        log_weights, means, factor = (
            np.ascontiguousarray(part.detach().numpy(), np.float64) for part in parts
        )
        factor = factor.reshape(cls._factor_shape(kind, *means.shape))
        return cls(kind, log_weights, means, factor)

    @staticmethod
    def _factor_shape(structure: type[Covariance], k: int, d: int) -> tuple[int, int, int]:
        shapes = {
            code.FULL: (k, d, d),
            code.TIED: (1, d, d),
            code.DIAG: (k, 1, d),
            code.SPHERICAL: (k, 1, 1),
        }
        return shapes[KINDS[structure]]

    def unpacked(self) -> Mixture:
        k, d = self.means.shape
        factor = torch.from_numpy(self.factor).reshape(self.structure.factor_shape(k, d))
        log_weights, means = torch.from_numpy(self.log_weights), torch.from_numpy(self.means)
        return Mixture(log_weights, means, self.structure(factor, k, d))

    def copy(self) -> PackedMixture:
        return PackedMixture(self.structure, *(part.copy() for part in self.arrays))

    def blank(self) -> PackedMixture:
        """One of the same size, to be filled in."""
        return PackedMixture.empty(self.structure, *self.means.shape)

    @property
    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        return self.log_weights, self.means, self.factor

    @property
    def kind(self) -> int:
        return KINDS[self.structure]

    @property
    def n_components(self) -> int:
        return len(self.log_weights)
