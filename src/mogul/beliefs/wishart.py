"""Wishart beliefs of precisions, block by block; a Gamma belief where a block is a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Wishart

from mogul._linalg import symmetric
from mogul._random import normal, standard_gamma
from mogul.beliefs.record import Record
from mogul.covariances import Covariance

__all__ = ["WishartDistribution", "WishartPrecisions", "without_moments"]


@dataclass(frozen=True)
class WishartPrecisions(Record):
    r"""Independent Wishart distributions of the blocks of the precisions, in any structure.

    .. math::
        p(\Lambda_b) \propto |\Lambda_b|^{(\nu_b - p - 1)/2} \exp(-\tfrac12 \operatorname{tr}
        S_b \Lambda_b), \qquad E[\Lambda_b] = \nu_b S_b^{-1}

    For blocks of one number this is Gamma(ν/2, S/2).

    Attributes
    ----------
    degrees : Tensor, shape (*batch, *blocks)
        ν, the degrees of freedom, above p − 1.
    scale : Covariance
        Its covariances are the S.
    """

    degrees: Tensor
    scale: Covariance

    @property
    def kind(self) -> type[Covariance]:
        return type(self.scale)

    @property
    def size(self) -> int:
        """The order p of a block."""
        return self.scale.block_size(self.scale.n_features)

    def with_scale(self, degrees: Tensor, scale: Tensor) -> Self:
        """The same family with other parameters; ``scale`` in the shape of ``covariances``."""
        k, d = self.scale.n_components, self.scale.n_features
        tidy = symmetric(scale) if self.kind.has_matrices() else scale
        return type(self)(degrees, self.kind.from_covariances(tidy, k, d))

    def widened(self, variance: float) -> Self:
        """A guess of the covariances, S / ν, that has ``variance`` more in every feature."""
        wide = self.expected().widened(self.degrees.new_tensor(variance))
        factor = wide.factor * wide.at_blocks(self.degrees.sqrt())
        return type(self)(self.degrees, replace(wide, factor=factor))

    # --- moments ------------------------------------------------------------------------------

    def expected(self) -> Covariance:
        """The inverse of E[Λ], S / ν."""
        root = self.scale.at_blocks(self.degrees.sqrt())
        return replace(self.scale, factor=self.scale.factor / root)

    def log_det_gap(self) -> Tensor:
        """E[log |Λ|] − log |E[Λ]| of each block, (*batch, *blocks); negative."""
        p = self.size
        return self._over_order(torch.digamma) + p * (math.log(2) - self.degrees.log())

    def expected_log_det(self) -> Tensor:
        """E[log |Λ|] of each block, (*batch, *blocks)."""
        own = self._over_order(torch.digamma) + self.size * math.log(2)
        return own - self.scale.block_log_det()

    def _over_order(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Σ f((ν − i) / 2) for i from 0 to p − 1."""
        order = torch.arange(self.size, dtype=self.degrees.dtype, device=self.degrees.device)
        return function((self.degrees.unsqueeze(-1) - order) / 2).sum(-1)

    def _total(self, blocks: Tensor) -> Tensor:
        """The sum over blocks, (*batch, *blocks) to (*batch)."""
        return blocks.flatten(-self.kind.block_ndim).sum(-1) if self.kind.block_ndim else blocks

    def _log_normaliser(self) -> Tensor:
        """Of each block: what the density above is to be divided by; (*batch, *blocks)."""
        p = self.size
        gammas = self._over_order(torch.lgamma) + p * (p - 1) / 4 * math.log(math.pi)
        inside = p * math.log(2) - self.scale.block_log_det()
        return 0.5 * self.degrees * inside + gammas

    def divergence(self, other: Self) -> Tensor:
        """KL(self ‖ other) in nats, of all blocks; (*batch)."""
        blocks = 0.5 * (self.degrees - other.degrees) * self.expected_log_det()
        blocks = blocks + other._log_normaliser() - self._log_normaliser()
        blocks = blocks - 0.5 * self.size * self.degrees
        return self._total(blocks) + 0.5 * _inner(other.scale, self.expected())

    def precision_covariance(self) -> Tensor:
        """Cov of the entries of each block of Λ, (*batch, *blocks, p², p²)."""
        unit = self._matrices(self.scale.precisions())
        pairs = _pairs(unit, unit)
        return self.degrees[..., None, None] * (pairs + _swapped(pairs))

    def inverse_mean(self) -> Tensor:
        """E[Λ⁻¹] = S / (ν − p − 1), in the shape of ``covariances``; infinite if there is none."""
        freedom = self.scale.at_blocks(self.degrees - self.size - 1)
        finite = freedom > 0
        # Divided by one where there is no mean, so that gradients of the others stay finite.
        return torch.where(
            finite, self.scale.covariances() / torch.where(finite, freedom, 1.0), torch.inf
        )

    def inverse_covariance(self) -> Tensor:
        """Cov of the entries of each block of Λ⁻¹, (*batch, *blocks, p², p²).

        Where there is none, variances are infinite and covariances NaN (Press 1982, §5.2).
        """
        nu = self.degrees - self.size
        finite = nu > 3
        bottom = torch.where(finite, nu * (nu - 1).square() * (nu - 3), 1.0)
        return without_moments(
            self.inverse_comoments() / bottom[..., None, None], finite.unsqueeze(-1)
        )

    def inverse_comoments(self) -> Tensor:
        """The covariance of the entries of each block of Λ⁻¹, but for a factor.

        2 S_ij S_kl + (ν − p − 1)(S_ik S_jl + S_il S_jk): it has correlations where there is a mean.
        """
        scale = self._matrices(self.scale.covariances())
        pairs, flat = _pairs(scale, scale), scale.flatten(-2)
        both = pairs + _swapped(pairs)
        own = 2 * flat.unsqueeze(-1) * flat.unsqueeze(-2)
        return own + (self.degrees - self.size - 1)[..., None, None] * both

    def _matrices(self, values: Tensor) -> Tensor:
        """Blocks as matrices, (*batch, *blocks, p, p)."""
        lead = values.shape[: values.ndim - self.kind.factor_ndim + self.kind.block_ndim]
        return values.reshape(*lead, self.size, self.size)

    # --- draws --------------------------------------------------------------------------------

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Covariance:
        """Covariances, the inverses of drawn precisions; batch shape (*shape, *batch)."""
        p, degrees = self.size, self.degrees.expand((*shape, *self.degrees.shape))
        factor = self.scale.factor.expand(*shape, *self.scale.factor.shape)
        if p == 1:
            root = (2 * standard_gamma(degrees / 2, generator)).sqrt()
            return replace(self.scale, factor=factor / self.scale.at_blocks(root))
        # Bartlett's decomposition from the last row up: with S = L Lᵀ, the precision is
        # L⁻ᵀ Bᵀ B L⁻¹ with B lower triangular, and its inverse has the factor L B⁻¹.
        order = torch.arange(p - 1, -1, -1, dtype=degrees.dtype, device=degrees.device)
        diagonal = (2 * standard_gamma((degrees.unsqueeze(-1) - order) / 2, generator)).sqrt()
        below = normal(factor, factor.shape, generator).tril(-1)
        lower = below + torch.diag_embed(diagonal)
        drawn = torch.linalg.solve_triangular(lower, factor, upper=False, left=False)
        return replace(self.scale, factor=drawn)

    def log_prob(self, covariance: Covariance) -> Tensor:
        """Log-density of the precisions whose inverses are given, of all blocks; (*batch)."""
        log_det = -covariance.block_log_det()
        blocks = 0.5 * (self.degrees - self.size - 1) * log_det - self._log_normaliser()
        return self._total(blocks) - 0.5 * _inner(self.scale, covariance)

    def distribution(self) -> Distribution:
        """As a ``torch.distributions`` object: Gamma for numbers, Wishart for matrices."""
        if not self.kind.has_matrices():
            return Gamma(self.degrees / 2, self.scale.covariances() / 2)
        return WishartDistribution(self)

    def by_component(self) -> Tensor:
        """All that is believed of each component's precision, (*batch, K, M)."""
        degrees = self.kind.spread(self.degrees, self.scale.n_components)
        return torch.cat([degrees, self.scale.dense().flatten(-2)], -1)

    # --- a chart ------------------------------------------------------------------------------

    def selected(self, components: Tensor) -> Self:
        """Some components, in the given order."""
        counted = self.kind.block_ndim > 0
        axis = self.degrees.ndim - self.kind.block_ndim
        degrees = self.degrees.index_select(axis, components) if counted else self.degrees
        return type(self)(degrees, self.scale.select(components))

    def encode(self, reference: Self) -> Tensor:
        """Logarithms of degrees, and the chart of the expected covariances S / ν; a vector.

        Both relative to ``reference``. Strength and place are then apart: the information between
        them vanishes, where that of ν and S is nearly singular when ν is large.
        """
        free = self.size - 1
        degrees = ((self.degrees - free) / (reference.degrees - free)).log()
        place = self.expected().encode(reference.expected())
        return torch.cat([degrees.reshape(-1), place.reshape(-1)])

    def decode(self, values: Tensor) -> Self:
        """The inverse of :meth:`encode`, of which this is the reference."""
        n, free = self.degrees.numel(), self.size - 1
        degrees = free + (self.degrees - free) * values[:n].reshape(self.degrees.shape).exp()
        k, d = self.scale.n_components, self.scale.n_features
        expected = self.kind.decode(values[n:], k, d, self.expected())
        factor = expected.factor * expected.at_blocks(degrees.sqrt())
        return type(self)(degrees, replace(expected, factor=factor))


class WishartDistribution(Wishart):
    """torch's Wishart distribution, drawn from by :meth:`WishartPrecisions.sample`.

    torch's own sampler takes every sound draw for a singular one, warns of it and draws again.
    """

    def __init__(self, belief: WishartPrecisions):
        self._belief = belief
        scale_tril = torch.linalg.cholesky(belief.scale.precisions())
        super().__init__(belief.degrees, scale_tril=scale_tril, validate_args=False)

    def rsample(
        self,
        sample_shape: Any = (),
        max_try_correction: Any = None,  # torch's, of no use here
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self._belief.sample(tuple(sample_shape), generator).precisions()


def _inner(scale: Covariance, covariance: Covariance) -> Tensor:
    """Σ tr(S Λ) over blocks, (*batch), from S and Λ⁻¹ as covariances."""
    products = scale.covariances() * covariance.precisions()
    return products.flatten(-scale.factor_ndim).sum(-1)


def _pairs(left: Tensor, right: Tensor) -> Tensor:
    """Products left_ik right_jl at [ij, kl]; (*, p, p) twice to (*, p², p²)."""
    product = left[..., :, None, :, None] * right[..., None, :, None, :]
    return product.flatten(-2).flatten(-3, -2)


def _swapped(pairs: Tensor) -> Tensor:
    """The same with k and l exchanged."""
    p = math.isqrt(pairs.shape[-1])
    return pairs.unflatten(-1, (p, p)).transpose(-1, -2).flatten(-2)


def without_moments(covariance: Tensor, finite: Tensor) -> Tensor:
    """A covariance (*, n, n) in which some entries have no variance, ``finite`` (*, n or 1).

    Their variances are infinite, and their covariances NaN, but for those that are zero.
    """
    both = finite.unsqueeze(-1) & finite.unsqueeze(-2)
    eye = torch.eye(covariance.shape[-1], dtype=torch.bool, device=covariance.device)
    without = torch.where(eye, torch.inf, torch.nan).to(covariance)
    return torch.where(both | ((covariance == 0) & ~eye), covariance, without)
