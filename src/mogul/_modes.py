"""The global mode of a Gaussian mixture."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["global_mode"]

_RIDGE_FRACTIONS = (0.25, 0.5, 0.75)
_MAX_PAIRED_COMPONENTS = 32
"""Edges join only so many of the highest components: pairs would outnumber the means many times."""
_MAX_STEPS = 1000
"""Newton's steps make a dozen the rule; mean shift alone needs hundreds where modes are flat."""


def global_mode(log_weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    r"""The highest point of the density, for each mixture of a batch.

    Every stationary point lies on the ridgeline manifold
    :math:`(\sum_k a_k \Lambda_k)^{-1} \sum_k a_k \Lambda_k \mu_k` (Ray and Lindsay 2005), so its
    vertices (the means), its middle and points of its edges start the ascents. Each ascent is the
    mean-shift fixed point, which never lowers the density (Carreira-Perpiñán 2000), with a Newton
    step after each where that does not lower it either; the best end wins.

    Parameters
    ----------
    log_weights : Tensor, shape (B, K)
    means : Tensor, shape (B, K, D)
    factors : Tensor, shape (B, K, D, D)
        Lower Cholesky factors of the covariances.

    Returns
    -------
    Tensor, shape (B, D)
    """
    precisions = torch.cholesky_inverse(factors)
    height = log_weights - torch.diagonal(factors, dim1=-2, dim2=-1).log().sum(-1)
    pulls = (precisions @ means.unsqueeze(-1)).squeeze(-1)  # (B, K, D)
    mixture = (height, means, precisions, pulls)
    points = _starts(log_weights, *mixture)
    tolerance = torch.finfo(means.dtype).eps ** 0.5
    for _ in range(_MAX_STEPS):
        moved = _newton(_mean_shift(points, *mixture), *mixture)
        length = _squared_length(moved - points, precisions)
        points = moved
        if bool((length < tolerance**2).all()):
            break
    best = _log_density(points, *mixture).argmax(-1)
    found = points.take_along_dim(best[:, None, None], 1)
    # The density is level to rounding about its mode, and no judge of steps this short.
    step = _newton_step(found, *mixture)
    short = _squared_length(step, precisions) < tolerance
    return torch.where(short.unsqueeze(-1), found + step, found).squeeze(1)


def _squared_length(steps: Tensor, precisions: Tensor) -> Tensor:
    """In units of the component that is narrowest in that direction; (B, S)."""
    gap = steps.unsqueeze(-2)  # (B, S, 1, D)
    return (gap.unsqueeze(-2) @ precisions.unsqueeze(1) @ gap.unsqueeze(-1)).amax((-1, -2, -3))


def _starts(
    log_weights: Tensor, height: Tensor, means: Tensor, precisions: Tensor, pulls: Tensor
) -> Tensor:
    """Points of the ridgeline: the means, the middle and points between pairs; (B, S, D)."""
    share = torch.softmax(log_weights, -1)[..., None]
    middle = torch.linalg.solve(
        (share[..., None] * precisions).sum(1, keepdim=True), (share * pulls).sum(1, keepdim=True)
    )
    highest = height.topk(min(height.shape[-1], _MAX_PAIRED_COMPONENTS)).indices
    precisions = precisions.take_along_dim(highest[..., None, None], 1)
    pulls = pulls.take_along_dim(highest[..., None], 1)
    i, j = torch.triu_indices(highest.shape[-1], highest.shape[-1], offset=1)
    edges = [
        torch.linalg.solve(
            (1 - a) * precisions[:, i] + a * precisions[:, j],
            (1 - a) * pulls[:, i] + a * pulls[:, j],
        )
        for a in _RIDGE_FRACTIONS
    ]
    return torch.cat([means, middle, *edges], 1)


def _terms(points: Tensor, height: Tensor, means: Tensor, precisions: Tensor) -> Tensor:
    """Log of weight times density, up to a constant; (B, S, K)."""
    gap = points.unsqueeze(-2) - means.unsqueeze(1)  # (B, S, K, D)
    form = torch.einsum("bskd,bkde,bske->bsk", gap, precisions, gap)
    return height.unsqueeze(1) - 0.5 * form


def _log_density(points, height, means, precisions, pulls) -> Tensor:
    return torch.logsumexp(_terms(points, height, means, precisions), -1)


def _mean_shift(points, height, means, precisions, pulls) -> Tensor:
    share = torch.softmax(_terms(points, height, means, precisions), -1)
    matrix = torch.einsum("bsk,bkde->bsde", share, precisions)
    return torch.linalg.solve(matrix, torch.einsum("bsk,bkd->bsd", share, pulls))


def _newton_step(points, height, means, precisions, pulls) -> Tensor:
    """To where the log-density would be stationary; zero where that is nowhere."""
    share = torch.softmax(_terms(points, height, means, precisions), -1)
    force = pulls.unsqueeze(1) - torch.einsum("bkde,bse->bskd", precisions, points)
    gradient = torch.einsum("bsk,bskd->bsd", share, force)
    matrix = torch.einsum("bsk,bkde->bsde", share, precisions)
    outer = torch.einsum("bsk,bskd,bske->bsde", share, force, force)
    curvature = matrix - outer + gradient.unsqueeze(-1) * gradient.unsqueeze(-2)
    step, info = torch.linalg.solve_ex(curvature, gradient)
    exists = (info == 0) & torch.isfinite(step).all(-1)
    return torch.where(exists.unsqueeze(-1), step, 0.0)


def _newton(points, height, means, precisions, pulls) -> Tensor:
    """One Newton step of the log-density, kept where it does not lower it."""
    trial = points + _newton_step(points, height, means, precisions, pulls)
    before = _log_density(points, height, means, precisions, pulls)
    after = _log_density(trial, height, means, precisions, pulls)
    return torch.where((after >= before).unsqueeze(-1), trial, points)
