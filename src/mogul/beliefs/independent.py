"""The semi-conjugate belief: normal means, independent of Gamma precisions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Normal

from mogul._random import normal
from mogul.beliefs.base import ComponentBelief
from mogul.beliefs.wishart import WishartPrecisions
from mogul.covariances import Covariance
from mogul.predictive import NormalGammaMixture
from mogul.stats import Stats

__all__ = ["IndependentComponents"]


@dataclass(frozen=True)
class IndependentComponents(ComponentBelief):
    r"""Means whose spread does not depend on the precisions, for blocks of one number.

    .. math::
        \mu_{kd} \sim \mathcal{N}(m_{kd}, s_{kd}^2), \qquad
        \tau \sim \mathrm{Gamma}(\nu / 2, S / 2)

    Given responsibilities, each of the two is conjugate when the other is known: the coordinate
    update of one uses the expectations of the other (Bishop 2006, §10.1.3).

    Attributes
    ----------
    means : Tensor, shape (*batch, K, D)
    scales : Tensor, shape (*batch, K, D)
        Standard deviations s.
    precisions : WishartPrecisions
        Of blocks of one number.
    """

    means: Tensor
    scales: Tensor
    precisions: WishartPrecisions

    @property
    def loc(self) -> Tensor:
        return self.means

    @property
    def exchangeable(self) -> bool:
        parts = [self.means, self.scales, self.precisions.by_component()]
        return all(bool((part == part[..., :1, :]).all()) for part in parts)

    def expected(self) -> tuple[Covariance, Tensor]:
        covariance = self.precisions.expected()
        n_components, n_features = self.means.shape[-2:]
        gap = self.kind.component_sum(self.precisions.log_det_gap(), n_components, n_features)
        doubt = (covariance.precision_diagonal() * self.scales.square()).sum(-1)
        return covariance, 0.5 * (gap - doubt)

    def _means_given(self, stats: Stats, covariance: Covariance) -> tuple[Tensor, Tensor]:
        """Location and scale of the means for known responsibilities and precisions."""
        each = covariance.precision_diagonal()
        own = self.scales.square().reciprocal()
        precision = own + stats.count.unsqueeze(-1) * each
        shift = (own * (self.means - stats.origin) + each * stats.first) / precision
        return stats.origin + shift, precision.rsqrt()

    def _precisions_given(
        self, stats: Stats, means: Tensor, scales: Tensor | None = None
    ) -> WishartPrecisions:
        """The belief of precisions for known responsibilities and means, known but for scales."""
        second = self.precisions.scale.recentre(stats, means).second
        if scales is not None:
            doubt = scales.unsqueeze(-2)
            second = second + self.kind.moment(stats.count.unsqueeze(-1), doubt, doubt)
        counts = self.kind.block_counts(stats.count, self.means.shape[-1])
        scale = self.precisions.scale.covariances() + second
        return self.precisions.with_scale(self.precisions.degrees + counts, scale)

    def updated(self, stats: Stats, covariance: Covariance) -> Self:
        means, scales = self._means_given(stats, covariance)
        return type(self)(means, scales, self._precisions_given(stats, means, scales))

    def stepped(self, prior: Self, stats: Stats, step: float) -> Self:
        goal, goal_scales = prior._means_given(stats, self.precisions.expected())
        there = step * goal_scales.square().reciprocal()
        precision = (1 - step) * self.scales.square().reciprocal() + there
        means = self.means + there / precision * (goal - self.means)
        scales = precision.rsqrt()
        target = prior._precisions_given(stats, means, scales)
        degrees = torch.lerp(self.precisions.degrees, target.degrees, step)
        scale = torch.lerp(self.precisions.scale.covariances(), target.scale.covariances(), step)
        return type(self)(means, scales, self.precisions.with_scale(degrees, scale))

    def resampled(
        self, stats: Stats, covariance: Covariance, generator: torch.Generator | None
    ) -> tuple[Tensor, Covariance]:
        loc, scales = self._means_given(stats, covariance)
        means = loc + scales * normal(loc, loc.shape, generator)
        return means, self._precisions_given(stats, means).sample((), generator)

    def divergence(self, other: Self) -> Tensor:
        ratio = self.scales / other.scales
        gap = (self.means - other.means) / other.scales
        of_means = 0.5 * (ratio.square() + gap.square() - 1) - ratio.log()
        return of_means.sum((-1, -2)) + self.precisions.divergence(other.precisions)

    def sample(
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, Covariance]:
        covariance = self.precisions.sample(shape, generator)
        noise = normal(self.means, torch.Size((*shape, *self.means.shape)), generator)
        return self.means + self.scales * noise, covariance

    def log_prob(self, means: Tensor, covariance: Covariance) -> Tensor:
        z = (means - self.means) / self.scales
        each = -0.5 * (z.square() + math.log(2 * math.pi)) - self.scales.log()
        return each.sum((-1, -2)) + self.precisions.log_prob(covariance)

    def selected(self, components: Tensor) -> Self:
        return type(self)(
            self.means[..., components, :],
            self.scales[..., components, :],
            self.precisions.selected(components),
        )

    def hyperparameters(self) -> dict[str, Tensor]:
        return {}

    def mean_distribution(self) -> Normal:
        return Normal(self.means, self.scales, validate_args=False)

    def mean_marginals(self) -> tuple[Tensor, Tensor]:
        return torch.full_like(self.scales, torch.inf), self.scales

    def mean_covariance(self) -> Tensor:
        return torch.diag_embed(self.scales.square())

    def predictive(self, weights: Tensor) -> NormalGammaMixture:
        spread = self.kind.spread
        n_components = self.means.shape[-2]
        rates = self.precisions.scale.covariances()
        return NormalGammaMixture(
            weights.log(),
            self.means,
            self.scales,
            spread(self.precisions.degrees, n_components) / 2,
            spread(rates, n_components) / 2,
        )

    def encode(self, reference: Self) -> Tensor:
        parts = [
            ((self.means - reference.means) / reference.scales).reshape(-1),
            (self.scales / reference.scales).log().reshape(-1),
            self.precisions.encode(reference.precisions),
        ]
        return torch.cat(parts)

    def decode(self, values: Tensor) -> Self:
        n = self.means.numel()
        shift, log_ratio, rest = values.split([n, n, values.numel() - 2 * n])
        means = self.means + self.scales * shift.reshape(self.means.shape)
        scales = self.scales * log_ratio.reshape(self.scales.shape).exp()
        return type(self)(means, scales, self.precisions.decode(rest))
