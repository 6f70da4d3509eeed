"""Mixtures of one-dimensional normals: cdf, quantiles, intervals, highest-density regions, CRPS.

Everywhere ``weights``, ``means`` and ``scales`` have shape (*, K) and broadcast against values of
shape (*).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["cdf", "crps", "density", "hdr", "icdf", "survival"]

_BISECTIONS = 2200
"""More halvings than float64 has exponents and digits; the loop stops when no bracket shrinks."""
_GRID_HALF_WIDTH = 9.0
"""Standard deviations of a component beyond which its density is below float64's resolution."""
_GRID_STEPS = 36
"""Grid points per component for finding turning points: a spacing of half a standard deviation."""
_THRESHOLD_BISECTIONS = 70
"""The logarithm of a height lies in an interval of length 1500, which they cut to 1e-18."""
_HERMITE: dict[int, Callable[[Tensor], Tensor]] = {
    1: lambda z: -z,
    2: lambda z: z.square() - 1,
    3: lambda z: z * (3 - z.square()),
}
"""The n-th derivative of exp(−z²/2) divided by it."""


def _standardise(value: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    return (value.unsqueeze(-1) - means) / scales


def _normal_cdf(z: Tensor) -> Tensor:
    # Not torch.special.ndtr, which is (1 + erf) / 2: at −7 only five digits are right, at −9 none.
    return 0.5 * torch.special.erfc(z * -math.sqrt(0.5))


def density(value: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """The probability density; shape (*)."""
    z = _standardise(value, means, scales)
    return (weights * torch.exp(-0.5 * z.square()) / scales).sum(-1) / math.sqrt(2 * math.pi)


def cdf(value: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """P(X ≤ value)."""
    return (weights * _normal_cdf(_standardise(value, means, scales))).sum(-1)


def survival(value: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """P(X > value), accurate where the cdf rounds to one."""
    return (weights * _normal_cdf(-_standardise(value, means, scales))).sum(-1)


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
    least = torch.finfo(root.dtype).tiny  # between far components the density may underflow
    slope = density(at, weights, means, scales).detach().clamp_min(least)
    gap = probability - cdf(at, weights, means, scales)
    step = torch.where(inside, (gap - gap.detach()) / slope, 0.0)
    return root + step


def _bisect_quantile(probability: Tensor, weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    upper_half = probability > 0.5
    tail = torch.where(upper_half, 1 - probability, probability)
    z = torch.special.ndtri(tail).unsqueeze(-1)
    quantiles = means + scales * torch.where(upper_half.unsqueeze(-1), -z, z)
    carries = weights > 0  # a component of weight zero must not widen the bracket
    low = torch.where(carries, quantiles, torch.inf).amin(-1)
    high = torch.where(carries, quantiles, -torch.inf).amax(-1)

    def is_below(middle: Tensor) -> Tensor:
        return torch.where(
            upper_half,
            survival(middle, weights, means, scales) > tail,
            cdf(middle, weights, means, scales) < tail,
        )

    return _bisect(low, high, is_below)


def _bisect(low: Tensor, high: Tensor, is_below: Callable[[Tensor], Tensor]) -> Tensor:
    """Halve brackets until their ends are neighbouring numbers; ``is_below`` asks for the upper."""
    middle = 0.5 * low + 0.5 * high
    for _ in range(_BISECTIONS):
        if not bool(((low < middle) & (middle < high)).any()):
            break
        below = is_below(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        middle = 0.5 * low + 0.5 * high
    return middle


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
    knots = _knots(weights, means, scales)
    spread = (weights.unsqueeze(-2), means.unsqueeze(-2), scales.unsqueeze(-2))
    heights = density(knots, *spread)
    left, right = knots[..., :-1], knots[..., 1:]
    rising = heights[..., 1:] >= heights[..., :-1]
    low_height = torch.minimum(heights[..., 1:], heights[..., :-1])
    high_height = torch.maximum(heights[..., 1:], heights[..., :-1])
    at_left, at_right = cdf(left, *spread), cdf(right, *spread)

    def crossing(threshold: Tensor) -> Tensor:
        """Where each stretch meets the threshold, at its ends when it does not."""
        return _bisect(left, right, lambda x: (density(x, *spread) < threshold) == rising)

    def mass(threshold: Tensor) -> Tensor:
        at = cdf(crossing(threshold), *spread)
        partial = torch.where(rising, at_right - at, at - at_left)
        whole = torch.where(low_height >= threshold, at_right - at_left, partial)
        return torch.where(high_height < threshold, 0.0, whole).sum(-1)

    ceiling = heights.amax(-1)
    floor = torch.full_like(ceiling, torch.finfo(ceiling.dtype).tiny)
    for _ in range(_THRESHOLD_BISECTIONS):
        threshold = floor.sqrt() * ceiling.sqrt()  # heights may differ by many orders of magnitude
        too_much = mass(threshold.unsqueeze(-1)) > level
        floor = torch.where(too_much, threshold, floor)
        ceiling = torch.where(too_much, ceiling, threshold)
    threshold = (floor.sqrt() * ceiling.sqrt()).unsqueeze(-1)
    cuts = crossing(threshold)
    cut_here = (low_height < threshold) & (high_height >= threshold)
    starts = torch.where(cut_here & rising, cuts, torch.inf)
    ends = torch.where(cut_here & ~rising, cuts, torch.inf)
    return _padded_intervals(starts, ends, weights.shape[-1])


def _padded_intervals(starts: Tensor, ends: Tensor, n: int) -> Tensor:
    """The first ``n`` intervals in ascending order, infinity meaning none; (*, n, 2)."""
    region = torch.stack([starts.sort(-1).values, ends.sort(-1).values], -1)[..., :n, :]
    missing = region.new_full((*region.shape[:-2], n - region.shape[-2], 2), torch.nan)
    return torch.cat([torch.where(torch.isfinite(region), region, torch.nan), missing], -2)


def _knots(weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """The turning points of the density between two ends of the line, ascending; (*, M).

    Two turning points close together show no change of sign on a grid. Between them the next
    derivative has a zero, which parts them once it joins the grid: hence higher derivatives first.
    """
    steps = torch.linspace(-_GRID_HALF_WIDTH, _GRID_HALF_WIDTH, _GRID_STEPS + 1).to(means)
    grid = (means.unsqueeze(-1) + scales.unsqueeze(-1) * steps).flatten(-2).sort(-1).values
    for order in (3, 2):
        zeros = _zeros_of_derivative(order, grid, weights, means, scales)
        grid = torch.cat([grid, zeros], -1).sort(-1).values
    turning = _zeros_of_derivative(1, grid, weights, means, scales).sort(-1).values
    n_turning = max((turning < grid[..., -1:]).sum(-1).flatten().tolist(), default=0)
    return torch.cat([grid[..., :1], turning[..., :n_turning], grid[..., -1:]], -1)


def _zeros_of_derivative(
    order: int, grid: Tensor, weights: Tensor, means: Tensor, scales: Tensor
) -> Tensor:
    """Where a derivative of the density changes sign between neighbours of a grid; (*, M − 1).

    Where it does not, the last point of the grid stands in.
    """
    spread = (weights.unsqueeze(-2), means.unsqueeze(-2), scales.unsqueeze(-2))
    positive = _derivative_sign(order, grid, *spread)
    from_positive, to_positive = positive[..., :-1], positive[..., 1:]
    zeros = _bisect(
        grid[..., :-1],
        grid[..., 1:],
        lambda x: _derivative_sign(order, x, *spread) == from_positive,
    )
    return torch.where(from_positive != to_positive, zeros, grid[..., -1:])


def _derivative_sign(
    order: int, value: Tensor, weights: Tensor, means: Tensor, scales: Tensor
) -> Tensor:
    """Whether a derivative of the density is positive, even where the density underflows."""
    z = _standardise(value, means, scales)
    exponent = weights.log() - 0.5 * z.square() - (order + 1) * scales.log()
    size = torch.exp(exponent - exponent.amax(-1, keepdim=True))
    return (_HERMITE[order](z) * size).sum(-1) > 0
