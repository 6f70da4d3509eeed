"""Mixtures of one-dimensional normals: cdf, quantiles, intervals, highest-density regions, CRPS.

Everywhere ``weights``, ``means`` and ``scales`` have shape (*, K) and broadcast against values of
shape (*).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cdf", "crps", "density", "hdr", "icdf", "survival"]

_BISECTIONS = 200
"""More halvings than float64 has digits; the loop stops when no interval shrinks any further."""
_GRID_HALF_WIDTH = 9.0
"""Standard deviations of a component beyond which its density is below float64's resolution."""
_GRID_STEPS = 36
"""Grid points per component for finding turning points: a spacing of half a standard deviation."""


def _standardise(value: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    return (value.unsqueeze(-1) - means) / scales


def density(value: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """The probability density; shape (*)."""
    z = _standardise(value, means, scales)
    return (weights * torch.exp(-0.5 * z.square()) / scales).sum(-1) / math.sqrt(2 * math.pi)


def cdf(value: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """P(X ≤ value)."""
    return (weights * torch.special.ndtr(_standardise(value, means, scales))).sum(-1)


def survival(value: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """P(X > value), accurate where the cdf rounds to one."""
    return (weights * torch.special.ndtr(-_standardise(value, means, scales))).sum(-1)


def icdf(probability: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """The quantile function, differentiable in the parameters and the probability.

    The quantile lies between the least and the greatest quantile of the components, which
    brackets a bisection; probabilities above one half use the survival function, so that both
    tails are resolved. A last Newton step carries the gradient of the implicit function.
    """
    shape = torch.broadcast_shapes(probability.shape, weights.shape[:-1])
    probability = probability.expand(shape)
    with torch.no_grad():
        root = _bisect_quantile(probability, weights, means, scales)
    if not torch.is_grad_enabled() or not any(
        t.requires_grad for t in (probability, weights, means, scales)
    ):
        return root
    inside = torch.isfinite(root)
    at = torch.where(inside, root, torch.zeros_like(root))
    slope = density(at, weights, means, scales).detach()
    gap = probability - cdf(at, weights, means, scales)
    step = torch.where(inside, (gap - gap.detach()) / slope.clamp_min(1e-300), 0.0)
    return root + step


def _bisect_quantile(probability: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    upper_half = probability > 0.5
    tail = torch.where(upper_half, 1 - probability, probability)
    z = torch.special.ndtri(tail).unsqueeze(-1)
    quantiles = means + scales * torch.where(upper_half.unsqueeze(-1), -z, z)
    carries = weights > 0  # a component of weight zero must not widen the bracket
    low = torch.where(carries, quantiles, torch.inf).amin(-1)
    high = torch.where(carries, quantiles, -torch.inf).amax(-1)
    for _ in range(_BISECTIONS):
        middle = torch.where(torch.isfinite(low + high), 0.5 * low + 0.5 * high, low)
        if bool(((middle <= low) | (middle >= high) | ~torch.isfinite(middle)).all()):
            break
        below = torch.where(
            upper_half,
            survival(middle, weights, means, scales) > tail,
            cdf(middle, weights, means, scales) < tail,
        )
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(torch.isfinite(low + high), 0.5 * low + 0.5 * high, low)


def crps(value: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """The continuous ranked probability score, in closed form (Grimit and others 2006).

    E|X − y| − ½ E|X − X'|, where E|N(m, s²)| = m (2Φ(m/s) − 1) + 2 s φ(m/s).
    """
    to_value = weights * _mean_absolute(value.unsqueeze(-1) - means, scales)
    spread = torch.sqrt(scales.unsqueeze(-1).square() + scales.unsqueeze(-2).square())
    between = _mean_absolute(means.unsqueeze(-1) - means.unsqueeze(-2), spread)
    pairs = weights.unsqueeze(-1) * weights.unsqueeze(-2) * between
    return to_value.sum(-1) - 0.5 * pairs.sum((-1, -2))


def _mean_absolute(mean: Tensor, scale: Tensor) -> Tensor:
    z = mean / scale
    normal = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return mean * torch.special.erf(z / math.sqrt(2)) + 2 * scale * normal


def hdr(level: float, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """The highest-density region: the smallest set of probability ``level``.

    Returns (*, K, 2): up to K intervals in ascending order (a mixture of K normals on the line has
    at most K modes), the unused rows NaN. The region is {x : f(x) ≥ t}; the density is monotone
    between its turning points, so each stretch holds at most one end of an interval, and t is found
    by bisection on the probability that lies above it (Hyndman 1996).
    """
    knots = _monotone_knots(weights, means, scales)  # (*, M), increasing, turning points included
    spread = (weights.unsqueeze(-2), means.unsqueeze(-2), scales.unsqueeze(-2))
    heights = density(knots, *spread)
    left, right = knots[..., :-1], knots[..., 1:]
    rising = heights[..., 1:] >= heights[..., :-1]
    low_height = torch.minimum(heights[..., 1:], heights[..., :-1])
    high_height = torch.maximum(heights[..., 1:], heights[..., :-1])
    at_left, at_right = cdf(left, *spread), cdf(right, *spread)

    def crossing(threshold: Tensor) -> Tensor:
        """Where each stretch meets the threshold, at its ends when it does not."""
        low, high = left, right
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = density(middle, *spread) >= threshold
            go_left = above == rising
            high, low = torch.where(go_left, middle, high), torch.where(go_left, low, middle)
        return 0.5 * (low + high)

    def mass(threshold: Tensor) -> Tensor:
        at = cdf(crossing(threshold), *spread)
        partial = torch.where(rising, at_right - at, at - at_left)
        whole = torch.where(low_height >= threshold, at_right - at_left, partial)
        return torch.where(high_height < threshold, 0.0, whole).sum(-1)

    floor, ceiling = torch.zeros_like(heights[..., 0]), heights.amax(-1)
    for _ in range(70):
        threshold = 0.5 * (floor + ceiling)
        too_much = mass(threshold.unsqueeze(-1)) > level
        floor = torch.where(too_much, threshold, floor)
        ceiling = torch.where(too_much, ceiling, threshold)
    threshold = (0.5 * (floor + ceiling)).unsqueeze(-1)
    cuts = crossing(threshold)
    cut_here = (low_height < threshold) & (high_height >= threshold)
    starts = torch.where(cut_here & rising, cuts, torch.inf)
    ends = torch.where(cut_here & ~rising, cuts, torch.inf)
    n_components = weights.shape[-1]
    region = torch.stack([starts.sort(-1).values, ends.sort(-1).values], -1)[..., :n_components, :]
    return torch.where(torch.isfinite(region), region, torch.nan)


def _monotone_knots(weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """A sorted grid between whose neighbours the density is monotone."""
    steps = torch.linspace(-_GRID_HALF_WIDTH, _GRID_HALF_WIDTH, _GRID_STEPS + 1).to(means)
    grid = (means.unsqueeze(-1) + scales.unsqueeze(-1) * steps).flatten(-2).sort(-1).values
    spread = (weights.unsqueeze(-2), means.unsqueeze(-2), scales.unsqueeze(-2))
    slope = _slope(grid, *spread)
    turns = slope[..., :-1] * slope[..., 1:] < 0
    low, high = grid[..., :-1], grid[..., 1:]
    rising = slope[..., :-1] > 0
    for _ in range(60):
        middle = 0.5 * (low + high)
        go_right = (_slope(middle, *spread) > 0) == rising
        low, high = torch.where(go_right, middle, low), torch.where(go_right, high, middle)
    turning = torch.where(turns, 0.5 * (low + high), grid[..., :-1])
    return torch.cat([grid, turning], -1).sort(-1).values


def _slope(value: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """The density's derivative, up to a positive constant, scaled so that it does not underflow."""
    z = _standardise(value, means, scales)
    exponent = weights.log() - 0.5 * z.square() - 2 * scales.log()
    return -(z * torch.exp(exponent - exponent.amax(-1, keepdim=True))).sum(-1)
