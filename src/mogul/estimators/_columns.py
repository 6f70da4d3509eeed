"""By what columns of very different size are brought to one."""

from __future__ import annotations

import numpy as np

__all__ = ["column_units", "in_units"]

_CONSTANT = 0.01
"""The unit of a column that is constant, as a share of its value."""
_FARTHEST = 1e150
_ROUNDING = 1e-12
"""Of its value: a column that spreads less is constant."""


def column_units(
    array: np.ndarray, weight: np.ndarray | None, clipped: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column.

    They are winsorised where a share ``clipped`` of the rows may be outliers: values beyond that
    share at either end count as lying there, so that a few far rows do not set the unit. Of a
    column that is constant but for such values the plain ones are taken. Of a constant column the
    unit is a hundredth of its value, so that any change is strange; of zeros it is one, as they
    do not tell what a large change is.
    """
    wide = array.astype(np.float64)
    loc, scale = _moments(wide, weight)
    constant = scale <= _ROUNDING * np.abs(loc)
    if clipped:
        low, high = _weighted_quantiles(wide, weight, (clipped, 1 - clipped))
        inner_loc, inner_scale = _moments(wide.clip(low, high), weight)
        sound = inner_scale > _ROUNDING * np.abs(inner_loc)
        loc, scale = np.where(sound, inner_loc, loc), np.where(sound, inner_scale, scale)
    unit = np.where(loc == 0, 1.0, _CONSTANT * np.abs(loc))
    return loc, np.where(constant, unit, scale)


def in_units(array: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Rows in float64, less ``loc``, divided by ``scale``; no further out than can be squared."""
    with np.errstate(over="ignore"):
        return ((array.astype(np.float64) - loc) / scale).clip(-_FARTHEST, _FARTHEST)


def _moments(array: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    largest = np.maximum(np.abs(array).max(axis=0), np.finfo(np.float64).tiny)  # squares overflow
    parts = array / largest
    loc = np.average(parts, axis=0, weights=weight)
    scale = np.sqrt(np.average((parts - loc) ** 2, axis=0, weights=weight))
    return loc * largest, scale * largest


def _weighted_quantiles(
    array: np.ndarray, weight: np.ndarray | None, levels: tuple[float, ...]
) -> np.ndarray:
    """Values of each column at which the share of the weight below reaches each level."""
    given = np.ones(len(array)) if weight is None else weight
    order = array.argsort(axis=0)
    share = given[order].cumsum(axis=0) / given.sum()
    at = np.stack([(share < level - 1e-12).sum(axis=0) for level in levels])
    return np.take_along_axis(np.take_along_axis(array, order, 0), at, 0)
