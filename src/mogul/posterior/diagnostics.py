"""How far an approximate posterior is from the exact one: Pareto-smoothed importance sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["ParetoK", "pareto_k"]

_PRIOR_WEIGHT = 10.0
"""Exceedances that the prior of the shape, at one half, is worth (Vehtari and others 2024)."""
_FEWEST_EXCEEDANCES = 5
_FEW_DRAWS = 225
"""Up to so many draws a fifth of them is the tail, above it thrice the square root."""
_SAME = 1e-8
"""Nats by which log-ratios differ by rounding: the approximation is then exact."""
_GOOD, _USABLE = 0.5, 0.7


@dataclass(frozen=True)
class ParetoK:
    """The shape k̂ of the tail of importance ratios p(X, θ) / q(θ), and what it says.

    Attributes
    ----------
    value : float
    n_draws : int
    """

    value: float
    n_draws: int

    @property
    def verdict(self) -> str:
        """In words (Yao, Vehtari, Simpson and Gelman 2018; Vehtari and others 2024)."""
        reliable = min(1 - 1 / math.log10(self.n_draws), _USABLE)
        if self.value < min(_GOOD, reliable):
            return "good: the approximation is close to the posterior"
        if self.value < reliable:
            return "usable: the approximation is rough, and importance weights can repair it"
        return (
            "poor: the approximation differs from the posterior; use linear response for intervals "
            'or inference="gibbs"'
        )

    def __str__(self) -> str:
        return f"k̂ = {self.value:.2f}, {self.verdict}"


def pareto_k(log_ratios: np.ndarray) -> float:
    r"""The shape of the generalised Pareto distribution of the largest ratios.

    The tail is the :math:`\min(S/5, 3\sqrt S)` largest of S ratios, in excess of the next
    (Vehtari, Simpson, Gelman, Yao and Gabry 2024). Minus infinity when all ratios are the same,
    infinity when there are too few.

    Parameters
    ----------
    log_ratios : ndarray, shape (S,)
    """
    ordered = np.sort(np.asarray(log_ratios, dtype=np.float64))
    n = len(ordered)
    n_tail = math.floor(3 * math.sqrt(n)) if n > _FEW_DRAWS else n // 5
    if n_tail < _FEWEST_EXCEEDANCES:
        return math.inf
    largest = ordered[-1]
    if largest - ordered[-n_tail - 1] < _SAME:
        return -math.inf
    threshold = math.exp(ordered[-n_tail - 1] - largest)
    return _generalised_pareto_shape(np.exp(ordered[-n_tail:] - largest) - threshold)


def _generalised_pareto_shape(exceedances: np.ndarray) -> float:
    """By Zhang and Stephens (2009), drawn towards one half by a weak prior.

    The posterior mean of the ratio of shape and scale is found on a grid of its quantiles, and the
    shape from it. Ascending exceedances.
    """
    n = len(exceedances)
    top, quarter = exceedances[-1], exceedances[int(n / 4 + 0.5) - 1]
    if not quarter > 0:  # ties with the threshold
        return math.inf
    n_grid = 30 + int(math.sqrt(n))
    share = np.arange(1, n_grid + 1) - 0.5
    grid = 1 / top + (1 - np.sqrt(n_grid / share)) / (3 * quarter)
    shape = np.log1p(-grid[:, None] * exceedances).mean(1)
    profile = n * (np.log(-grid / shape) - shape - 1)
    weight = np.exp(profile - profile.max())
    ratio = (weight * grid).sum() / weight.sum()
    found = float(np.log1p(-ratio * exceedances).mean())
    return (n * found + _PRIOR_WEIGHT * 0.5) / (n + _PRIOR_WEIGHT)
