"""One variance per component and feature."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mogul.covariances.base import Covariance

__all__ = ["DiagCovariance"]


class DiagCovariance(Covariance):
    """Diagonal covariances: ``factor`` holds standard deviations, (*batch, K, D)."""

    name: ClassVar[str] = "diag"
    factor_ndim: ClassVar[int] = 2
    block_ndim: ClassVar[int] = 2
    feature_blocks: ClassVar[bool] = True
    requirement: ClassVar[str] = "positive"

    @staticmethod
    def factor_shape(n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    @staticmethod
    def n_free(n_components: int, n_features: int) -> int:
        return n_components * n_features

    def select(self, components: Tensor) -> Self:
        return replace(self, factor=self.factor[..., components, :], n_components=len(components))

    @classmethod
    def _factorise(cls, covariances: Tensor) -> tuple[Tensor, Tensor]:
        ok = (covariances > 0) & torch.isfinite(covariances)
        return torch.where(ok, covariances, 1.0).sqrt(), ok.all(-1)

    @classmethod
    def _factorise_precisions(cls, precisions: Tensor) -> tuple[Tensor, Tensor]:
        ok = (precisions > 0) & torch.isfinite(precisions)
        return torch.where(ok, precisions, 1.0).rsqrt(), ok.all(-1)

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
        return self.factor.square()

    def scale_tril(self) -> Tensor:
        return torch.diag_embed(self.factor)

    def whiten(self, difference: Tensor) -> Tensor:
        return difference / self.factor.unsqueeze(-2)

    def colour(self, noise: Tensor) -> Tensor:
        return noise * self.factor.unsqueeze(-2)

    def log_diagonal(self) -> Tensor:
        return self.factor.log()

    def marginal(self, features: Tensor) -> Self:
        return replace(self, factor=self.factor[..., features], n_features=len(features))

    def condition(self, given: Tensor, rest: Tensor, difference: Tensor) -> tuple[Tensor, Self]:
        shift = difference.new_zeros((*difference.shape[:-1], len(rest)))
        return shift, self.marginal(rest)

    def scaled(self, log_factor: Tensor) -> Self:
        return replace(self, factor=self.factor * log_factor.exp()[..., None, None])

    def rescaled(self, scales: Tensor) -> Self:
        return replace(self, factor=self.factor * scales)

    def widened(self, variance: Tensor) -> Self:
        return replace(self, factor=(self.factor.square() + variance[..., None, None]).sqrt())

    def encode(self, reference: Covariance | None = None) -> Tensor:
        ratio = self.factor if reference is None else self.factor / reference.factor
        return ratio.log().flatten(-2)

    @classmethod
    def decode(
        cls, values: Tensor, n_components: int, n_features: int, reference: Covariance | None = None
    ) -> Self:
        factor = values.unflatten(-1, (n_components, n_features)).exp()
        if reference is not None:
            factor = factor * reference.factor
        return cls(factor, n_components, n_features)

    @classmethod
    def moment(cls, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return (weight.unsqueeze(-2) @ (left * right)).squeeze(-2)

    @classmethod
    def from_moment(
        cls, moment: Tensor, count: Tensor, n_features: int, floor: Tensor
    ) -> tuple[Self, Tensor]:
        factor, ok = cls._factorise(moment / count.unsqueeze(-1) + floor[..., None, None])
        return cls(factor, count.shape[-1], n_features), ok

    @classmethod
    def block_counts(cls, count: Tensor, n_features: int) -> Tensor:
        return count.unsqueeze(-1).expand(*count.shape, n_features)

    @classmethod
    def spread(cls, values: Tensor, n_components: int) -> Tensor:
        return values

    def block_log_det(self) -> Tensor:
        return 2 * self.factor.log()

    def features(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.square(x, out=out)

    @staticmethod
    def feature_pairs(n_features: int) -> list[tuple[int, int]]:
        return [(i, i) for i in range(n_features)]

    def precision_diagonal(self) -> Tensor:
        return self.precisions()

    def quadratic_weights(self) -> Tensor:
        return -0.5 * self.precisions()

    def precision_times(self, vectors: Tensor) -> Tensor:
        return vectors * self.precisions()

    def raw_second(
        self, products: Tensor, responsibilities: Tensor | None = None, x: Tensor | None = None
    ) -> Tensor:
        return products
