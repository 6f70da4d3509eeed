"""One covariance matrix, shared by all components."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mogul._linalg import (
    add_to_diagonal,
    cholesky_report,
    exp_triangle,
    factor_from_precision,
    factor_from_precision_factor,
    factor_of_rows,
    is_symmetric,
    log_triangle,
    mahalanobis_whiten,
    merge_axis,
    on_diagonal,
    precision_factor,
    symmetric,
    transpose,
    triangle_units,
    widened_factor,
)
from mogul.covariances.base import Covariance
from mogul.covariances.full import FullCovariance

__all__ = ["TiedCovariance"]


class TiedCovariance(Covariance):
    """A shared covariance: ``factor`` holds its lower Cholesky factor, (*batch, D, D)."""

    name: ClassVar[str] = "tied"
    factor_ndim: ClassVar[int] = 2
    block_ndim: ClassVar[int] = 0
    shared_features: ClassVar[bool] = False  # rows are whitened by the shared factor first

    @staticmethod
    def factor_shape(n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    @staticmethod
    def n_free(n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def select(self, components: Tensor) -> Self:
        return replace(self, n_components=len(components))

    def merged(self, axis: int | None = None) -> FullCovariance:
        factor = merge_axis(self.scale_tril(), len(self.batch_shape), axis)
        return FullCovariance(factor, factor.shape[-3], self.n_features)

    @classmethod
    def _factorise(cls, covariances: Tensor) -> tuple[Tensor, Tensor]:
        factor, ok = cholesky_report(covariances)
        return factor, (ok & is_symmetric(covariances)).unsqueeze(-1)

    @classmethod
    def _factorise_precisions(cls, precisions: Tensor) -> tuple[Tensor, Tensor]:
        factor, ok = factor_from_precision(precisions)
        return factor, (ok & is_symmetric(precisions)).unsqueeze(-1)

    def _per_component(self, values: Tensor, n_axes: int) -> Tensor:
        """Repeat a shared tensor along a new K axis before its last ``n_axes``, as a view."""
        axis = values.ndim - n_axes
        shape = list(values.shape)
        return values.unsqueeze(axis).expand(*shape[:axis], self.n_components, *shape[axis:])

    @classmethod
    def from_precisions_cholesky(cls, upper: Tensor, n_components: int, n_features: int) -> Self:
        return cls(factor_from_precision_factor(upper), n_components, n_features)

    def covariances(self) -> Tensor:
        return self.factor @ transpose(self.factor)

    def precisions(self) -> Tensor:
        upper = precision_factor(self.factor)
        return upper @ transpose(upper)

    def precisions_cholesky(self) -> Tensor:
        return precision_factor(self.factor)

    def variances(self) -> Tensor:
        return self._per_component(self.factor.square().sum(-1), 1)

    def scale_tril(self) -> Tensor:
        return self._per_component(self.factor, 2)

    def whiten(self, difference: Tensor) -> Tensor:
        rows = mahalanobis_whiten(self.factor, difference.flatten(-3, -2))
        return rows.unflatten(-2, difference.shape[-3:-1])

    def colour(self, noise: Tensor) -> Tensor:
        return noise @ transpose(self.factor).unsqueeze(-3)

    def log_diagonal(self) -> Tensor:
        return self._per_component(torch.diagonal(self.factor, dim1=-2, dim2=-1).log(), 1)

    def marginal(self, features: Tensor) -> Self:
        factor = factor_of_rows(self.factor[..., features, :])
        return replace(self, factor=factor, n_features=len(features))

    def condition(self, given: Tensor, rest: Tensor, difference: Tensor) -> tuple[Tensor, Self]:
        joint = factor_of_rows(self.factor[..., torch.cat([given, rest]), :])
        n_given = len(given)
        known, cross = joint[..., :n_given, :n_given], joint[..., n_given:, :n_given]
        whitened = mahalanobis_whiten(known, difference.flatten(-3, -2))
        shift = (whitened @ transpose(cross)).unflatten(-2, difference.shape[-3:-1])
        left = replace(self, factor=joint[..., n_given:, n_given:], n_features=len(rest))
        return shift, left

    def scaled(self, log_factor: Tensor) -> Self:
        return replace(self, factor=self.factor * log_factor.exp()[..., None, None])

    def rescaled(self, scales: Tensor) -> Self:
        return replace(self, factor=scales.unsqueeze(-1) * self.factor)

    def widened(self, variance: Tensor) -> Self:
        return replace(self, factor=widened_factor(self.factor, variance))

    def encode(self, reference: Covariance | None = None) -> Tensor:
        return log_triangle(self.factor, None if reference is None else reference.factor)

    @classmethod
    def decode(
        cls, values: Tensor, n_components: int, n_features: int, reference: Covariance | None = None
    ) -> Self:
        factor = exp_triangle(values, n_features, None if reference is None else reference.factor)
        return cls(factor, n_components, n_features)

    @classmethod
    def chart_shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features * (n_features + 1) // 2,)

    @classmethod
    def chart_logarithms(cls, n_features: int) -> Tensor:
        return on_diagonal(n_features)

    @classmethod
    def chart_units(cls, scales: Tensor, n_components: int) -> Tensor:
        return triangle_units(scales)

    @classmethod
    def moment(cls, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
        weighted = (weight.unsqueeze(-1) * left).flatten(-3, -2)
        return transpose(weighted) @ right.expand_as(left).flatten(-3, -2)

    @classmethod
    def from_moment(
        cls, moment: Tensor, count: Tensor, n_features: int, floor: Tensor
    ) -> tuple[Self, Tensor]:
        covariances = symmetric(moment) / count.sum(-1)[..., None, None]
        factor, ok = cholesky_report(add_to_diagonal(covariances, floor))
        shared = cls(factor, count.shape[-1], n_features)
        return shared, ok.unsqueeze(-1).expand(count.shape)

    @classmethod
    def block_counts(cls, count: Tensor, n_features: int) -> Tensor:
        return count.sum(-1)

    @classmethod
    def spread(cls, values: Tensor, n_components: int) -> Tensor:
        return values[..., None, None].expand(*values.shape, n_components, 1)

    def block_log_det(self) -> Tensor:
        return 2 * torch.diagonal(self.factor, dim1=-2, dim2=-1).log().sum(-1)

    def features(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        white = torch.linalg.solve_triangular(self.factor, x, upper=False)
        return torch.sum(white.square(), -2, keepdim=True, out=out)

    @staticmethod
    def feature_pairs(n_features: int) -> list[tuple[int, int]]:
        return []

    def precision_diagonal(self) -> Tensor:
        return self._per_component(precision_factor(self.factor).square().sum(-1), 1)

    def quadratic_weights(self) -> Tensor:
        return self.factor.new_full((*self.batch_shape, 1, 1), -0.5)

    def precision_times(self, vectors: Tensor) -> Tensor:
        return vectors @ self.precisions()

    def raw_second(
        self, products: Tensor, responsibilities: Tensor | None = None, x: Tensor | None = None
    ) -> Tensor:
        assert responsibilities is not None
        assert x is not None
        return (responsibilities.sum(-2).unsqueeze(-2) * x) @ transpose(x)
