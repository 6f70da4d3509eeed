"""Entropy and Kullback–Leibler divergence of Gaussian mixtures: estimates and bounds."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mogul._linalg import factor_of_rows

__all__ = ["KLDivergence", "entropy_bounds", "gaussian_kl", "normal_quasi_sample", "variational_kl"]

_BOUND_STEPS = 100
_LEAST_LOG_WEIGHT = -1e4
"""It rounds to a weight of zero, and differences of it are numbers where those of −∞ are not."""


class KLDivergence(NamedTuple):
    """An estimate of KL(p‖q) in nats, its standard error, and a bound it cannot truly exceed."""

    value: Tensor
    standard_error: Tensor
    upper_bound: Tensor


def normal_quasi_sample(n: int, n_features: int, like: Tensor, seed: int) -> Tensor:
    """``n`` points of a scrambled Sobol sequence mapped to the standard normal; (n, D).

    Dimensions beyond what Sobol directions exist for are drawn independently, same seed.
    """
    n_sobol = min(n_features, torch.quasirandom.SobolEngine.MAXDIM)
    engine = torch.quasirandom.SobolEngine(n_sobol, scramble=True, seed=seed)
    uniform = engine.draw(n, dtype=torch.float64)
    if n_features > n_sobol:
        generator = torch.Generator().manual_seed(seed)
        more = torch.rand(n, n_features - n_sobol, dtype=torch.float64, generator=generator)
        uniform = torch.cat([uniform, more], -1)
    return torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12)).to(like)


def gaussian_kl(mean_p: Tensor, factor_p: Tensor, mean_q: Tensor, factor_q: Tensor) -> Tensor:
    """KL(N_i ‖ M_j) for all pairs: (*, K, D), (*, K, D, D) and (*, J, …) give (*, K, J)."""
    whitened = torch.linalg.solve_triangular(
        factor_q.unsqueeze(-4), factor_p.unsqueeze(-3), upper=False
    )  # (*, K, J, D, D)
    gap = mean_q.unsqueeze(-3) - mean_p.unsqueeze(-2)  # (*, K, J, D)
    distance = torch.linalg.solve_triangular(factor_q.unsqueeze(-4), gap.unsqueeze(-1), upper=False)
    half_log_p = torch.diagonal(factor_p, dim1=-2, dim2=-1).log().sum(-1)
    half_log_q = torch.diagonal(factor_q, dim1=-2, dim2=-1).log().sum(-1)
    log_ratio = half_log_q.unsqueeze(-2) - half_log_p.unsqueeze(-1)
    n_features = mean_p.shape[-1]
    size = whitened.square().sum((-1, -2)) + distance.square().sum((-1, -2))
    return log_ratio + 0.5 * (size - n_features)


def variational_kl(log_p: Tensor, log_q: Tensor, pairwise: Tensor) -> Tensor:
    r"""The variational upper bound of KL(p‖q) of Hershey and Olsen (2007, §7).

    Splitting both mixtures into pieces :math:`\psi_{j|i}` and :math:`\phi_{i|j}` gives
    KL ≤ KL(φ‖ψ) + Σ φ KL(N_i‖M_j); alternating the two closed-form minimisations lowers it.

    Parameters
    ----------
    log_p : Tensor, shape (*, K)
    log_q : Tensor, shape (*, J)
    pairwise : Tensor, shape (*, K, J)
        From :func:`gaussian_kl`.
    """
    log_p = log_p.clamp_min(_LEAST_LOG_WEIGHT).unsqueeze(-1)
    log_q = log_q.clamp_min(_LEAST_LOG_WEIGHT).unsqueeze(-2)
    log_psi = (log_p + log_q).expand(pairwise.shape)  # pieces of q's component j, summing to q_j
    log_phi = log_psi
    for _ in range(_BOUND_STEPS):
        log_phi = log_p + torch.log_softmax(log_psi - pairwise, -1)
        log_psi = log_q + torch.log_softmax(log_phi, -2)
    mass = log_phi.exp()
    gap = torch.where(mass > 0, log_phi - log_psi + pairwise, 0.0)
    return (mass * gap).sum((-1, -2))


def entropy_bounds(log_weights: Tensor, means: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the entropy (Kolchinsky and Tracey 2017).

    −Σ w_i log Σ w_j exp(−d_ij) plus the mean entropy of the components, with d the Bhattacharyya
    distance below and the Kullback–Leibler divergence above.
    """
    n_features = means.shape[-1]
    half_log = torch.diagonal(factors, dim1=-2, dim2=-1).log().sum(-1)
    own = half_log + 0.5 * n_features * (1 + math.log(2 * math.pi))
    weights = log_weights.exp()

    def bound(distance: Tensor) -> Tensor:
        cross = torch.logsumexp(log_weights.unsqueeze(-2) - distance, -1)
        return (weights * (own - cross)).sum(-1)

    # The factor of (Σ_i + Σ_j) / 2, without forming it: a product would square the condition.
    pairs = torch.broadcast_tensors(factors.unsqueeze(-4), factors.unsqueeze(-3))
    middle = factor_of_rows(torch.cat(pairs, -1) * math.sqrt(0.5))
    gap = (means.unsqueeze(-3) - means.unsqueeze(-2)).unsqueeze(-1)
    form = torch.linalg.solve_triangular(middle, gap, upper=False).square().sum((-1, -2))
    half_log_middle = torch.diagonal(middle, dim1=-2, dim2=-1).log().sum(-1)
    average = 0.5 * (half_log.unsqueeze(-1) + half_log.unsqueeze(-2))
    bhattacharyya = form / 8 + half_log_middle - average
    return bound(bhattacharyya), bound(gaussian_kl(means, factors, means, factors))
