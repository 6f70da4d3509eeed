"""One variance per component."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mogul.covariances.base import Covariance
from mogul.covariances.diag import DiagCovariance

__all__ = ["SphericalCovariance"]


class SphericalCovariance(Covariance):
    """Multiples of the identity: ``factor`` holds standard deviations, (*batch, K)."""

    name: ClassVar[str] = "spherical"
    factor_ndim: ClassVar[int] = 1
    block_ndim: ClassVar[int] = 1
    requirement: ClassVar[str] = "positive"

    @staticmethod
    def factor_shape(n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    @staticmethod
    def n_free(n_components: int, n_features: int) -> int:
        return n_components

    def select(self, components: Tensor) -> Self:
        return replace(self, factor=self.factor[..., components], n_components=len(components))

    @classmethod
    def _factorise(cls, covariances: Tensor) -> tuple[Tensor, Tensor]:
        ok = (covariances > 0) & torch.isfinite(covariances)
        return torch.where(ok, covariances, 1.0).sqrt(), ok

    @classmethod
    def _factorise_precisions(cls, precisions: Tensor) -> tuple[Tensor, Tensor]:
        ok = (precisions > 0) & torch.isfinite(precisions)
        return torch.where(ok, precisions, 1.0).rsqrt(), ok

    def _per_feature(self, values: Tensor) -> Tensor:
        return values.unsqueeze(-1).expand(*values.shape, self.n_features)

    @classmethod
    def from_precisions_cholesky(cls, upper: Tensor, n_components: int, n_features: int) -> Self:
        return cls(upper.reciprocal(), n_components, n_features)

    def covariances(self) -> Tensor:
        return self.factor.square()

    def precisions(self) -> Tensor:
        return self.factor.square().reciprocal()

    def precisions_cholesky(self) -> Tensor:
        return self.factor.reciprocal()

    def variances(self) -> Tensor:
        return self._per_feature(self.factor.square())

    def scale_tril(self) -> Tensor:
        return torch.diag_embed(self._per_feature(self.factor))

    def whiten(self, difference: Tensor) -> Tensor:
        return difference / self.factor[..., None, None]

    def colour(self, noise: Tensor) -> Tensor:
        return noise * self.factor[..., None, None]

    def log_diagonal(self) -> Tensor:
        return self._per_feature(self.factor.log())

    def marginal(self, features: Tensor) -> Self:
        return replace(self, n_features=len(features))

    def condition(self, given: Tensor, rest: Tensor, difference: Tensor) -> tuple[Tensor, Self]:
        shift = difference.new_zeros((*difference.shape[:-1], len(rest)))
        return shift, self.marginal(rest)

    def scaled(self, log_factor: Tensor) -> Self:
        return replace(self, factor=self.factor * log_factor.exp()[..., None])

    def rescaled(self, scales: Tensor) -> Covariance:
        if bool((scales == scales[0]).all()):
            return replace(self, factor=self.factor * scales[0])
        return DiagCovariance(
            self.factor.unsqueeze(-1) * scales, self.n_components, self.n_features
        )

    def widened(self, variance: Tensor) -> Self:
        return replace(self, factor=(self.factor.square() + variance[..., None]).sqrt())

    def encode(self, reference: Covariance | None = None) -> Tensor:
        return (self.factor if reference is None else self.factor / reference.factor).log()

    @classmethod
    def decode(
        cls, values: Tensor, n_components: int, n_features: int, reference: Covariance | None = None
    ) -> Self:
        factor = values.exp() if reference is None else values.exp() * reference.factor
        return cls(factor, n_components, n_features)

    @classmethod
    def moment(cls, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return (weight * (left * right).sum(-1)).sum(-1)

    @classmethod
    def from_moment(
        cls, moment: Tensor, count: Tensor, n_features: int, floor: Tensor
    ) -> tuple[Self, Tensor]:
        factor, ok = cls._factorise(moment / (n_features * count) + floor[..., None])
        return cls(factor, count.shape[-1], n_features), ok

    @classmethod
    def block_counts(cls, count: Tensor, n_features: int) -> Tensor:
        return n_features * count

    @classmethod
    def spread(cls, values: Tensor, n_components: int) -> Tensor:
        return values.unsqueeze(-1)

    def block_log_det(self) -> Tensor:
        return 2 * self.factor.log()

    def features(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.sum(x.square(), -2, keepdim=True, out=out)

    @staticmethod
    def feature_pairs(n_features: int) -> list[tuple[int, int]]:
        return [(n_features + 1, n_features)]

    def precision_diagonal(self) -> Tensor:
        return self._per_feature(self.precisions())

    def quadratic_weights(self) -> Tensor:
        return -0.5 * self.precisions().unsqueeze(-1)

    def precision_times(self, vectors: Tensor) -> Tensor:
        return vectors * self.precisions().unsqueeze(-1)

    def raw_second(
        self, products: Tensor, responsibilities: Tensor | None = None, x: Tensor | None = None
    ) -> Tensor:
        return products.squeeze(-1)
