"""The conjugate belief of means and precisions: Normal–Wishart, or Normal–Gamma."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Distribution, StudentT

from mogul._random import normal
from mogul._student import MultivariateStudentT
from mogul.beliefs.base import ComponentBelief
from mogul.beliefs.wishart import WishartPrecisions, without_moments
from mogul.covariances import Covariance
from mogul.predictive import StudentTMixture
from mogul.stats import Stats

__all__ = ["NormalWishartComponents"]


@dataclass(frozen=True)
class NormalWishartComponents(ComponentBelief):
    r"""Means of a precision in proportion to that of the rows.

    .. math::
        \mu_k \mid \Lambda_k \sim \mathcal{N}(m_k, (\kappa_k \Lambda_k)^{-1}), \qquad
        \Lambda \sim \text{Wishart, block by block}

    Conjugate: for given responsibilities the posterior is of this family, and exact (DeGroot 1970;
    Bishop 2006, §10.2). ``tied`` shares one Λ among all components.

    Attributes
    ----------
    means : Tensor, shape (*batch, K, D)
        m.
    mean_precision : Tensor, shape (*batch, K)
        κ, in rows.
    precisions : WishartPrecisions
    """

    means: Tensor
    mean_precision: Tensor
    precisions: WishartPrecisions

    @property
    def loc(self) -> Tensor:
        return self.means

    @property
    def exchangeable(self) -> bool:
        parts = [self.means, self.mean_precision.unsqueeze(-1), self.precisions.by_component()]
        return all(bool((part == part[..., :1, :]).all()) for part in parts)

    def expected(self) -> tuple[Covariance, Tensor]:
        covariance = self.precisions.expected()
        n_components, n_features = self.means.shape[-2:]
        gap = self.kind.component_sum(self.precisions.log_det_gap(), n_components, n_features)
        return covariance, 0.5 * (gap - n_features / self.mean_precision)

    def updated(self, stats: Stats, covariance: Covariance) -> Self:
        precision = self.mean_precision + stats.count
        weighted = self.mean_precision.unsqueeze(-1) * (self.means - stats.origin) + stats.first
        means = stats.origin + weighted / precision.unsqueeze(-1)
        scatter = covariance.recentre(stats, means).second
        gap = (self.means - means).unsqueeze(-2)
        between = self.kind.moment(self.mean_precision.unsqueeze(-1), gap, gap)
        degrees = self.precisions.degrees + self.kind.block_counts(
            stats.count, self.means.shape[-1]
        )
        scale = self.precisions.scale.covariances() + scatter + between
        return type(self)(means, precision, self.precisions.with_scale(degrees, scale))

    def stepped(self, prior: Self, stats: Stats, step: float) -> Self:
        target = prior.updated(stats, self.precisions.scale)
        # Natural parameters about this belief's means: κ, κ (m − o), S + κ (m − o)(m − o)ᵀ and ν.
        precision = torch.lerp(self.mean_precision, target.mean_precision, step)
        move = target.means - self.means
        share = step * target.mean_precision / precision
        means = self.means + share.unsqueeze(-1) * move
        weight = step * target.mean_precision * (1 - share)  # of what is between the two means
        gap = move.unsqueeze(-2)
        between = self.kind.moment(weight.unsqueeze(-1), gap, gap)
        scale = torch.lerp(
            self.precisions.scale.covariances(), target.precisions.scale.covariances(), step
        )
        degrees = torch.lerp(self.precisions.degrees, target.precisions.degrees, step)
        spread = self.precisions.with_scale(degrees, scale + between)
        return type(self)(means, precision, spread)

    def resampled(
        self, stats: Stats, covariance: Covariance, generator: torch.Generator | None
    ) -> tuple[Tensor, Covariance]:
        return self.updated(stats, covariance).sample((), generator)

    def divergence(self, other: Self) -> Tensor:
        covariance = self.precisions.expected()
        gap = (self.means - other.means).unsqueeze(-2)
        distance = covariance.whiten(gap).square().sum((-1, -2))  # (*batch, K)
        ratio = other.mean_precision / self.mean_precision
        n_features = self.means.shape[-1]
        of_means = n_features * (ratio - 1 - ratio.log()) + other.mean_precision * distance
        return 0.5 * of_means.sum(-1) + self.precisions.divergence(other.precisions)

    def sample(
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, Covariance]:
        covariance = self.precisions.sample(shape, generator)
        noise = normal(self.means, torch.Size((*shape, *self.means.shape)), generator)
        scaled = noise / self.mean_precision.sqrt().unsqueeze(-1)
        return self.means + covariance.colour(scaled.unsqueeze(-2)).squeeze(-2), covariance

    def log_prob(self, means: Tensor, covariance: Covariance) -> Tensor:
        gap = covariance.whiten((means - self.means).unsqueeze(-2)).square().sum((-1, -2))
        n_features = self.means.shape[-1]
        constant = 0.5 * n_features * (self.mean_precision.log() - math.log(2 * math.pi))
        each = constant - covariance.log_diagonal().sum(-1) - 0.5 * self.mean_precision * gap
        return each.sum(-1) + self.precisions.log_prob(covariance)

    def selected(self, components: Tensor) -> Self:
        return type(self)(
            self.means[..., components, :],
            self.mean_precision[..., components],
            self.precisions.selected(components),
        )

    def _student(self, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """Degrees of freedom f = ν − p + 1, and ``multiplier`` (*batch, K) over f; (*batch, K, G).

        What has the precision Λ_k / multiplier, of which Λ_k is believed this, has a Student t
        distribution with these degrees of freedom and S times the second answer as its scale.
        """
        nu = self.kind.spread(self.precisions.degrees, self.means.shape[-2])
        degrees = nu - self.precisions.size + 1
        return degrees, multiplier.unsqueeze(-1) / degrees

    def hyperparameters(self) -> dict[str, Tensor]:
        per_row = self.kind.rows_per_block(self.means.shape[-1])
        return {
            "mean_precision": self.mean_precision,
            "degrees_of_freedom": self.precisions.degrees / per_row,
        }

    def mean_distribution(self) -> Distribution:
        degrees, scale = self.mean_marginals()
        if self.kind.feature_blocks:
            return StudentT(degrees, self.means, scale, validate_args=False)
        f, multiplier = self._student(self.mean_precision.reciprocal())
        factor = self.precisions.scale.scale_tril() * multiplier.sqrt().unsqueeze(-1)
        return MultivariateStudentT(f.squeeze(-1), self.means, factor)

    def mean_marginals(self) -> tuple[Tensor, Tensor]:
        degrees, multiplier = self._student(self.mean_precision.reciprocal())
        scale = (self.precisions.scale.variances() * multiplier).sqrt()
        return degrees.expand(scale.shape), scale

    def mean_covariance(self) -> Tensor:
        degrees, multiplier = self._student(self.mean_precision.reciprocal())
        finite = degrees > 2
        wider = multiplier * torch.where(finite, degrees / (degrees - 2), 1.0)
        stretch = wider.expand(self.means.shape).sqrt()
        factor = self.precisions.scale.scale_tril() * stretch.unsqueeze(-1)
        return without_moments(factor @ factor.transpose(-1, -2), finite.expand(self.means.shape))

    def predictive(self, weights: Tensor) -> StudentTMixture:
        degrees, multiplier = self._student((self.mean_precision + 1) / self.mean_precision)
        scale = self.precisions.scale
        return StudentTMixture(weights.log(), self.means, scale, multiplier, degrees)

    def encode(self, reference: Self) -> Tensor:
        unit = reference.precisions.expected()
        gap = (self.means - reference.means).unsqueeze(-2)
        shift = unit.whiten(gap).squeeze(-2) * reference.mean_precision.sqrt().unsqueeze(-1)
        parts = [
            (self.mean_precision / reference.mean_precision).log(),
            shift.reshape(-1),
            self.precisions.encode(reference.precisions),
        ]
        return torch.cat(parts)

    def decode(self, values: Tensor) -> Self:
        k, d = self.means.shape
        log_ratio, shift, rest = values.split([k, k * d, values.numel() - k - k * d])
        scaled = shift.reshape(k, 1, d) / self.mean_precision.sqrt()[:, None, None]
        means = self.means + self.precisions.expected().colour(scaled).squeeze(-2)
        precision = self.mean_precision * log_ratio.exp()
        return type(self)(means, precision, self.precisions.decode(rest))
