"""The multivariate Student t distribution, which torch does not have."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from mogul._linalg import mahalanobis_whiten
from mogul._random import normal, standard_gamma

__all__ = ["MultivariateStudentT"]


class MultivariateStudentT(Distribution):
    r"""Multivariate Student t, :math:`p(x) \propto (1 + \tfrac1f |L^{-1}(x - m)|^2)^{-(f + D)/2}`.

    Parameters
    ----------
    df : Tensor, shape (*batch)
        Degrees of freedom f.
    loc : Tensor, shape (*batch, D)
    scale_tril : Tensor, shape (*batch, D, D)
        L, lower triangular; the covariance is L Lᵀ f / (f − 2).
    """

    has_rsample = True

    def __init__(self, df: Tensor, loc: Tensor, scale_tril: Tensor):
        self.df, self.loc, self.scale_tril = df, loc, scale_tril
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        """Its location, where there is a mean: NaN up to one degree of freedom."""
        return torch.where(self.df.unsqueeze(-1) > 1, self.loc, torch.nan)

    @property
    def covariance_matrix(self) -> Tensor:
        """Infinite up to two degrees of freedom."""
        wider = torch.where(self.df > 2, self.df / (self.df - 2), torch.inf)
        product = self.scale_tril @ self.scale_tril.transpose(-1, -2)
        return product * wider[..., None, None]

    @property
    def variance(self) -> Tensor:
        return torch.diagonal(self.covariance_matrix, dim1=-2, dim2=-1)

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def rsample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        shape = torch.Size(sample_shape)
        noise = normal(self.loc, shape + self.loc.shape, generator)
        chi = 2 * standard_gamma(self.df.expand(shape + self.df.shape) / 2, generator)
        wide = noise * (self.df / chi).sqrt().unsqueeze(-1)
        return self.loc + (self.scale_tril @ wide.unsqueeze(-1)).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        d = self.loc.shape[-1]
        gap = (value - self.loc).unsqueeze(-2)
        square = mahalanobis_whiten(self.scale_tril, gap).square().sum((-1, -2))
        tail = 0.5 * (self.df + d)
        constant = tail.lgamma() - (0.5 * self.df).lgamma() - 0.5 * d * (math.pi * self.df).log()
        log_det = torch.diagonal(self.scale_tril, dim1=-2, dim2=-1).log().sum(-1)
        return constant - log_det - tail * (square / self.df).log1p()
