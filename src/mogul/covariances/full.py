"""One covariance matrix per component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from mogul._linalg import (
    add_to_diagonal,
    by_parts,
    cholesky_report,
    exp_triangle,
    factor_from_precision,
    factor_from_precision_factor,
    factor_of_rows,
    is_symmetric,
    log_triangle,
    mahalanobis_whiten,
    on_diagonal,
    precision_factor,
    symmetric,
    transpose,
    triangle_units,
    widened_factor,
)
from mogul.covariances.base import Covariance

__all__ = ["FullCovariance"]


class FullCovariance(Covariance):
    """Unrestricted covariances: ``factor`` holds lower Cholesky factors, (*batch, K, D, D)."""

    name: ClassVar[str] = "full"
    factor_ndim: ClassVar[int] = 3
    block_ndim: ClassVar[int] = 1

    @staticmethod
    def factor_shape(n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    @staticmethod
    def n_free(n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def select(self, components: Tensor) -> Self:
        return replace(
            self, factor=self.factor[..., components, :, :], n_components=len(components)
        )

    @classmethod
    def _factorise(cls, covariances: Tensor) -> tuple[Tensor, Tensor]:
        return by_parts(_symmetric_only(cholesky_report), covariances)

    @classmethod
    def _factorise_precisions(cls, precisions: Tensor) -> tuple[Tensor, Tensor]:
        return by_parts(_symmetric_only(factor_from_precision), precisions)

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
        return torch.linalg.vector_norm(self.factor, dim=-1).square()

    def scale_tril(self) -> Tensor:
        return self.factor

    def whiten(self, difference: Tensor) -> Tensor:
        return mahalanobis_whiten(self.factor, difference)

    def colour(self, noise: Tensor) -> Tensor:
        return noise @ transpose(self.factor)

    def log_diagonal(self) -> Tensor:
        return torch.diagonal(self.factor, dim1=-2, dim2=-1).log()

    def marginal(self, features: Tensor) -> Self:
        factor = factor_of_rows(self.factor[..., features, :])
        return replace(self, factor=factor, n_features=len(features))

    def condition(self, given: Tensor, rest: Tensor, difference: Tensor) -> tuple[Tensor, Self]:
        joint = factor_of_rows(self.factor[..., torch.cat([given, rest]), :])
        n_given = len(given)
        known, cross = joint[..., :n_given, :n_given], joint[..., n_given:, :n_given]
        shift = mahalanobis_whiten(known, difference) @ transpose(cross)
        left = replace(self, factor=joint[..., n_given:, n_given:], n_features=len(rest))
        return shift, left

    def scaled(self, log_factor: Tensor) -> Self:
        return replace(self, factor=self.factor * log_factor.exp()[..., None, None, None])

    def rescaled(self, scales: Tensor) -> Self:
        return replace(self, factor=scales.unsqueeze(-1) * self.factor)

    def widened(self, variance: Tensor) -> Self:
        return replace(self, factor=widened_factor(self.factor, variance.unsqueeze(-1)))

    def encode(self, reference: Covariance | None = None) -> Tensor:
        return log_triangle(self.factor, None if reference is None else reference.factor).flatten(
            -2
        )

    @classmethod
    def decode(
        cls, values: Tensor, n_components: int, n_features: int, reference: Covariance | None = None
    ) -> Self:
        triangle = values.unflatten(-1, (n_components, -1))
        factor = exp_triangle(triangle, n_features, None if reference is None else reference.factor)
        return cls(factor, n_components, n_features)

    @classmethod
    def chart_shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features * (n_features + 1) // 2)

    @classmethod
    def chart_logarithms(cls, n_features: int) -> Tensor:
        return on_diagonal(n_features)

    @classmethod
    def chart_units(cls, scales: Tensor, n_components: int) -> Tensor:
        return triangle_units(scales).expand(cls.chart_shape(n_components, len(scales)))

    @classmethod
    def moment(cls, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return transpose(weight.unsqueeze(-1) * left) @ right

    @classmethod
    def from_moment(
        cls, moment: Tensor, count: Tensor, n_features: int, floor: Tensor
    ) -> tuple[Self, Tensor]:
        def factorise(moment: Tensor, count: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
            covariances = add_to_diagonal(moment / count[..., None, None], floor)
            return cholesky_report(symmetric(covariances))

        factor, ok = by_parts(factorise, moment, count, floor.unsqueeze(-1))
        return cls(factor, count.shape[-1], n_features), ok

    @classmethod
    def block_counts(cls, count: Tensor, n_features: int) -> Tensor:
        return count

    @classmethod
    def spread(cls, values: Tensor, n_components: int) -> Tensor:
        return values.unsqueeze(-1)

    def block_log_det(self) -> Tensor:
        return 2 * self.log_diagonal().sum(-1)

    def features(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return pair_products(x, out)

    @staticmethod
    def feature_pairs(n_features: int) -> list[tuple[int, int]]:
        return [(i, j) for i in range(n_features) for j in range(i + 1)]

    def precision_diagonal(self) -> Tensor:
        return precision_factor(self.factor).square().sum(-1)

    def quadratic_weights(self) -> Tensor:
        rows, columns = torch.tril_indices(self.n_features, self.n_features)
        halves = torch.where(rows == columns, -0.5, -1.0).to(self.factor)
        return self.precisions()[..., rows, columns] * halves

    def precision_times(self, vectors: Tensor) -> Tensor:
        return (self.precisions() @ vectors.unsqueeze(-1)).squeeze(-1)

    def raw_second(
        self, products: Tensor, responsibilities: Tensor | None = None, x: Tensor | None = None
    ) -> Tensor:
        rows, columns = torch.tril_indices(self.n_features, self.n_features)
        moment = products.new_empty((*products.shape[:-1], self.n_features, self.n_features))
        moment[..., rows, columns] = products
        moment[..., columns, rows] = products
        return moment


def _symmetric_only(
    factorise: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def checked(matrices: Tensor) -> tuple[Tensor, Tensor]:
        factor, ok = factorise(matrices)
        return factor, ok & is_symmetric(matrices)

    return checked


def pair_products(x: Tensor, out: Tensor | None = None) -> Tensor:
    """The products of features, i ≥ j: (D, S) to (D (D + 1) / 2, S)."""
    n_features = x.shape[-2]
    if out is None:
        out = x.new_empty((n_features * (n_features + 1) // 2, x.shape[-1]))
    if x.is_cuda:  # one kernel for all
        rows, columns = torch.tril_indices(n_features, n_features, device=x.device)
        return torch.mul(x[rows], x[columns], out=out)
    start = 0
    for i in range(n_features):
        torch.mul(x[: i + 1], x[i], out=out[start : start + i + 1])
        start += i + 1
    return out
