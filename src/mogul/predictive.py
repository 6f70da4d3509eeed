"""The density of a new row when the parameters of a mixture are uncertain.

Such a density has heavier tails than any mixture of Gaussians with parameters at their means, and
integrates to one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from mogul._random import normal, standard_gamma
from mogul.covariances import Covariance
from mogul.errors import InputError
from mogul.mixture import Mixture

__all__ = ["NormalGammaMixture", "PredictiveMixture", "StudentTMixture"]

_TILE_ELEMENTS = 1 << 20
"""Numbers that one tile of an evaluation holds, about 8 MB."""
_NODES = 128
"""Points at which the logarithm of a precision is taken. They are closer than a standard deviation
of every integrand, where the trapezoid rule is right to nine digits."""
_FARTHEST = 200.0
"""Scales from its centre up to which a density is resolved: there a row is of a precision hundreds
of times below those of the others."""


class PredictiveMixture(Distribution, ABC):
    """A mixture of K densities in D dimensions, of which the components are not Gaussian.

    A ``torch.distributions`` object with batch shape () and event shape (D,).
    """

    def __init__(self, logits: Tensor, means: Tensor):
        self.log_weights = torch.log_softmax(logits, -1)
        self.means = means
        super().__init__(torch.Size(), means.shape[-1:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def n_components(self) -> int:
        return self.means.shape[-2]

    @property
    def n_features(self) -> int:
        return self.means.shape[-1]

    @property
    def weights(self) -> Tensor:
        """The expected weights, (K,)."""
        return self.log_weights.exp()

    @property
    def mean(self) -> Tensor:
        """E[x], (D,)."""
        return self.weights @ self.means

    @property
    @abstractmethod
    def component_variance(self) -> Tensor:
        """The variance of each feature in each component, (K, D); infinite where there is none."""

    @property
    def variance(self) -> Tensor:
        """The variance of each feature, (D,)."""
        within = torch.where(self.weights.unsqueeze(-1) > 0, self.component_variance, 0.0)
        return self.weights @ (within + (self.means - self.mean).square())

    @property
    @abstractmethod
    def _row_elements(self) -> int:
        """Numbers that one row takes in :meth:`component_terms`."""

    @abstractmethod
    def component_terms(self, rows: Tensor) -> Tensor:
        """Log w_k + log p_k(x) for rows (S, D); (K, S)."""

    @abstractmethod
    def _placed(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draws (S, D) of the components in ``labels`` (S)."""

    @abstractmethod
    def marginal(self, features: Tensor) -> PredictiveMixture:
        """The density of some features, by their positions, in the given order."""

    def log_prob(self, value: Any) -> Tensor:
        """The log-density in nats; (*sample, D) to (*sample)."""
        return self._by_row(value, lambda terms: terms.logsumexp(-2))

    def responsibilities(self, value: Any) -> Tensor:
        """The probability of each component given a row; (*sample, D) to (*sample, K)."""
        return self._by_row(value, lambda terms: terms.softmax(-2).transpose(-1, -2))

    def predict(self, value: Any) -> Tensor:
        """The most probable component given a row; (*sample, D) to (*sample)."""
        return self._by_row(value, lambda terms: terms.argmax(-2))

    def _by_row(self, value: Any, answer: Callable[[Tensor], Tensor]) -> Tensor:
        rows, shape = self._as_rows(value)
        parts = rows.split(max(1, _TILE_ELEMENTS // self._row_elements))
        found = torch.cat([answer(self.component_terms(part)) for part in parts])
        return found.reshape((*shape, *found.shape[1:]))

    def _as_rows(self, value: Any) -> tuple[Tensor, torch.Size]:
        """Values (*sample, D) as rows, and the shape of the sample."""
        try:
            x = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, float))
        except (TypeError, ValueError):
            raise InputError("The values must be numbers, in rows of equal length.") from None
        x = x.to(self.means)
        if x.ndim == 0 or x.shape[-1] != self.n_features:
            raise InputError(
                f"The values have shape {tuple(x.shape)}; expected the last axis to hold "
                f"{self.n_features} features."
            )
        return x.reshape(-1, self.n_features), x.shape[:-1]

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draw; (*sample, D)."""
        return self.sample_with_labels(sample_shape, generator=generator)[0]

    @torch.no_grad()
    def sample_with_labels(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw values (*sample, D) and the components they came from (*sample)."""
        shape = torch.Size(sample_shape)
        labels = torch.zeros(0, dtype=torch.long, device=self.means.device)
        if shape.numel():
            labels = torch.multinomial(self.weights, shape.numel(), True, generator=generator)
        return (
            self._placed(labels, generator).reshape(*shape, self.n_features),
            labels.reshape(shape),
        )


class StudentTMixture(PredictiveMixture):
    r"""A mixture of Student t densities: the predictive density of a conjugate belief.

    A component is a product over its G independent groups of features, all in one (full, tied,
    spherical) or one for each (diag), of

    .. math::
        \mathrm{St}(x; m, \Sigma, f) \propto |\Sigma|^{-1/2}
        \left(1 + \tfrac1f (x - m)^\top \Sigma^{-1} (x - m)\right)^{-(f + n)/2}

    with n features in the group (DeGroot 1970, §5.6).

    Parameters
    ----------
    logits : Tensor, shape (K,)
    means : Tensor, shape (K, D)
    scale : Covariance
    multiplier : Tensor, shape (K, G)
        Σ is the matrix of ``scale`` times it.
    degrees : Tensor, shape (K, G)
        The degrees of freedom f.
    """

    def __init__(
        self,
        logits: Tensor,
        means: Tensor,
        scale: Covariance,
        multiplier: Tensor,
        degrees: Tensor,
    ):
        self.scale, self.multiplier, self.degrees = scale, multiplier, degrees
        super().__init__(logits, means)

    @property
    def component_variance(self) -> Tensor:
        wider = self.multiplier * self.degrees / (self.degrees - 2)
        finite = torch.where(self.degrees > 2, wider, torch.inf)
        return self.scale.variances() * finite

    @property
    def _row_elements(self) -> int:
        return self.means.numel()

    def marginal(self, features: Tensor) -> StudentTMixture:
        """The density of some features, by their positions, in the given order."""
        return StudentTMixture(
            self.log_weights,
            self.means[:, features],
            self.scale.marginal(features),
            _of_groups(self.multiplier, features, self.n_features),
            _of_groups(self.degrees, features, self.n_features),
        )

    def component_terms(self, rows: Tensor) -> Tensor:
        n_groups = self.degrees.shape[-1]
        size = self.n_features // n_groups
        white = self.scale.whiten(rows - self.means.unsqueeze(-2)).square()  # (K, S, D)
        squares = white.unflatten(-1, (n_groups, size)).sum(-1)  # (K, S, G)
        f = self.degrees
        tail = 0.5 * (f + size)
        constant = tail.lgamma() - (0.5 * f).lgamma()
        constant = constant - 0.5 * size * (f * self.multiplier * math.pi).log()
        total = self.log_weights + constant.sum(-1) - self.scale.log_diagonal().sum(-1)
        bend = (tail.unsqueeze(-2) * (squares / (f * self.multiplier).unsqueeze(-2)).log1p()).sum(
            -1
        )
        return total.unsqueeze(-1) - bend

    def _placed(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = normal(self.means, torch.Size((len(labels), self.n_features)), generator)
        chi = 2 * standard_gamma(self.degrees[labels] / 2, generator)
        stretch = (self.multiplier[labels] * self.degrees[labels] / chi).sqrt()  # (S, G)
        stretch = stretch.repeat_interleave(self.n_features // stretch.shape[-1], -1)
        unit = Mixture(self.log_weights, torch.zeros_like(self.means), self.scale)
        return self.means[labels] + stretch * unit.place(noise, labels)


class NormalGammaMixture(PredictiveMixture):
    r"""The predictive density of normal means that are independent of Gamma precisions.

    .. math::
        p_k(x) = \prod_g \int \prod_{d \in g} \mathcal{N}(x_d \mid m_{kd}, s_{kd}^2 + 1/\tau)\,
        \mathrm{Gamma}(\tau \mid a_{kg}, b_{kg})\, d\tau

    It has no closed form. The integral over log τ is a sum by the trapezoid rule, on a grid that
    reaches far below the mode: itself a density that integrates to one, with its logarithm right to
    1e-5 out to 200 scales (to 1e-7 from a = 1 on).

    Parameters
    ----------
    logits : Tensor, shape (K,)
    means, scales : Tensor, shape (K, D)
        m and s, standard deviations.
    concentration, rate : Tensor, shape (K, G)
        a and b, for each group of features that shares a precision: one, or one a feature.
    """

    def __init__(
        self, logits: Tensor, means: Tensor, scales: Tensor, concentration: Tensor, rate: Tensor
    ):
        super().__init__(logits, means)
        self.scales, self.concentration, self.rate = scales, concentration, rate
        log_tau, log_shares = _grid(concentration, rate)  # (J, K, G) each
        size = means.shape[-1] // rate.shape[-1]
        noise = (-log_tau).exp().repeat_interleave(size, -1)
        self._variances = scales.square() + noise  # (J, K, D)
        self._log_shares = log_shares

    @property
    def component_variance(self) -> Tensor:
        a = self.concentration
        noise = torch.where(a > 1, self.rate / (a - 1), torch.inf)
        size = self.n_features // noise.shape[-1]
        return self.scales.square() + noise.repeat_interleave(size, -1)

    @property
    def _row_elements(self) -> int:
        return self._variances.numel()

    def marginal(self, features: Tensor) -> NormalGammaMixture:
        """The density of some features, by their positions, in the given order."""
        return NormalGammaMixture(
            self.log_weights,
            self.means[:, features],
            self.scales[:, features],
            _of_groups(self.concentration, features, self.n_features),
            _of_groups(self.rate, features, self.n_features),
        )

    def component_terms(self, rows: Tensor) -> Tensor:
        squares = (rows - self.means.unsqueeze(-2)).square()  # (K, S, D)
        variances = self._variances.unsqueeze(-2)  # (J, K, 1, D)
        each = -0.5 * (squares / variances + (2 * math.pi * variances).log())
        n_groups = self.rate.shape[-1]
        groups = each.unflatten(-1, (n_groups, -1)).sum(-1)  # (J, K, S, G)
        mixed = (groups + self._log_shares.unsqueeze(-2)).logsumexp(0)
        return self.log_weights.unsqueeze(-1) + mixed.sum(-1)

    def _placed(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = normal(self.means, torch.Size((len(labels), self.n_features)), generator)
        precision = standard_gamma(self.concentration[labels], generator) / self.rate[labels]
        size = self.n_features // precision.shape[-1]
        variance = self.scales[labels].square() + 1 / precision.repeat_interleave(size, -1)
        return self.means[labels] + variance.sqrt() * noise


def _of_groups(values: Tensor, features: Tensor, n_features: int) -> Tensor:
    """What each feature has of its own, (K, D), of some features; (K, 1) is of any of them."""
    return values if values.shape[-1] < n_features else values[:, features]


def _grid(concentration: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Points of log τ and the logarithms of their shares, (J, K, G), for τ ~ Gamma(a, b)."""
    a, b = concentration.detach(), rate.detach()
    deviation = a.rsqrt()
    middle = (a / b).log()
    # A row z scales away is of a precision 1 + z² / 2a times smaller. The lower tail is e^(a t).
    below = (_FARTHEST**2 / (2 * a)).log1p() + torch.maximum(9 * deviation, 36 / a)
    above = ((8 * a.sqrt() + 24) / a).log1p()
    step = torch.linspace(0, 1, _NODES, dtype=a.dtype, device=a.device).reshape(-1, 1, 1)
    log_tau = middle - below + step * (above + below)
    # The grid stays where it is while shares follow the parameters, gradients included.
    log_shares = concentration * log_tau - rate * log_tau.exp()
    return log_tau, log_shares.log_softmax(0)
