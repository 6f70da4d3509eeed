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
        shapes = {
            code.FULL: (k, d, d),
            code.TIED: (1, d, d),
            code.DIAG: (k, 1, d),
            code.SPHERICAL: (k, 1, 1),
        }
        factor = np.empty(shapes[KINDS[structure]])
        return cls(structure, np.empty(k), np.empty((k, d)), factor)

    @classmethod
    def of(cls, mixture: Mixture) -> PackedMixture:
        """A single mixture."""
        packed = cls.empty(type(mixture.covariance), *mixture.means.shape)
        packed.log_weights[:] = mixture.log_weights.detach().numpy()
        packed.means[:] = mixture.means.detach().numpy()
        packed.factor[:] = mixture.covariance.factor.detach().numpy().reshape(packed.factor.shape)
        return packed

    def unpacked(self) -> Mixture:
        k, d = self.means.shape
        factor = torch.from_numpy(self.factor).reshape(self.structure.factor_shape(k, d))
        log_weights, means = torch.from_numpy(self.log_weights), torch.from_numpy(self.means)
        return Mixture(log_weights, means, self.structure(factor, k, d))

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
