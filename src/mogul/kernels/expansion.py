"""The log-densities of a mixture as linear functions of products of columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mogul.kernels.reference import ReferenceKernel
from mogul.mixture import Mixture

__all__ = ["Expansion", "expansion_limit", "is_near_in_float32"]

_LIMIT_PER_FEATURE = 1e6
"""The largest quadratic form, per feature, that is summed in expanded form: float64 then leaves
log-densities right to about 1e-10. Rows beyond it go to the reference."""

_FARTHEST_IN_FLOAT32 = 1000.0


class Expansion:
    r"""The coefficients of :math:`-\tfrac12 x^\top \Lambda_k x + h_k^\top x + c_k`.

    About a common origin, for all components of a batch of mixtures. The form cancels where a row
    is far from that origin in units of the narrowest component, which
    :math:`\bigl(\sum_j \sqrt{\Lambda_{jj}} |x_j|\bigr)^2 \ge x^\top \Lambda x` bounds: kernels give
    rows beyond ``limit`` to ``fallback``. ``farthest`` is the largest :math:`\mu^\top \Lambda \mu`.
    """

    own_threads = False

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        covariance = mixture.covariance
        self.centre = _centre(mixture)  # (D,)
        shifted = mixture.means - self.centre
        self.origin = self.centre.expand_as(shifted)
        linear = covariance.precision_times(shifted)  # (*batch, K, D)
        self.quadratic = covariance.quadratic_weights()  # (*batch, K or 1, F)
        constant = mixture.log_weights - covariance.log_diagonal().sum(-1)
        constant = constant - 0.5 * (linear * shifted).sum(-1)
        self.constant = constant - 0.5 * mixture.n_features * math.log(2 * math.pi)
        parts = [linear, self.constant.unsqueeze(-1)]
        self.shared = covariance.shared_features
        self.weights = torch.cat([self.quadratic, *parts] if self.shared else parts, -1)
        sharpest = covariance.precision_diagonal().reshape(-1, mixture.n_features).amax(0)
        self.sharpest = sharpest.sqrt()
        self.limit = expansion_limit(mixture.n_features)
        farthest = shifted.abs().reshape(-1, mixture.n_features).amax(0)
        self.is_near = bool(farthest @ self.sharpest < self.limit)
        self.farthest = (linear * shifted).sum(-1).max()
        self.fallback = ReferenceKernel(mixture)


def expansion_limit(n_features: int) -> float:
    """The largest root of a quadratic form that is summed in expanded form."""
    return math.sqrt(_LIMIT_PER_FEATURE * n_features)


def is_near_in_float32(squared_distance: Tensor) -> bool:
    """Whether float32 leaves log-densities and covariances right to about 1e-4.

    ``squared_distance`` is the largest of a mean from the common origin, in units of its own
    covariance. Rows farther than all means lose no more digits than a difference of their
    log-densities does in any form.
    """
    return bool(squared_distance <= _FARTHEST_IN_FLOAT32)


def _centre(mixture: Mixture) -> Tensor:
    """About the mean of all the mixtures of a batch, (D,), to an eighth of a standard deviation.

    The mixtures that an M-step made from the same rows have the same mean but for rounding; its
    last digits are dropped so that one of them alone is computed exactly as it is in a batch.
    """
    axes = tuple(range(len(mixture.batch_shape)))
    mean, variance = mixture.mean, mixture.variance
    if axes:
        mean, variance = mean.mean(axes), variance.mean(axes)
    unit = torch.exp2(variance.sqrt().log2().floor() - 3)
    return (mean / unit).round() * unit
