"""The numbers behind a picture: where to look, on which points, at which levels of density."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import chi2

from mogul.mixture import Mixture
from mogul.plot._scene import Scene

_THRESHOLD_DRAWS = 1 << 14
"""Draws behind a highest-density threshold: its coverage is then within 0.4 percentage points."""
_EVEN_POINTS = 160
"""Points that are spread evenly over an axis: about one every three pixels."""
_POINTS_OF_COMPONENT = np.linspace(-4.0, 4.0, 17)
"""Standard deviations from each mean where there are points too, or spikes would be missed."""
_MOST_POINTS_OF_COMPONENTS = 600
"""More points along an axis than that are thinned out: they are closer than pixels."""
_MARGIN = 0.04
"""The part of its range that a view adds on either side."""
_LEAST_SPAN = 1e-13
"""A range this small against its values is rounding error in float64."""
_OPENING = 1e-6
"""The half-width that such a range is given, against its values."""
_REACH = 3.0
"""Standard deviations of each component that a view shows at least: its density there is about
a hundredth of its peak."""


def radius(coverage: float) -> float:
    """Standard deviations from the mean within which a plane normal has this probability."""
    return math.sqrt(chi2.ppf(coverage, 2))


def thresholds(mixture: Mixture, coverage: tuple[float, ...]) -> list[float]:
    """The log-density that a draw exceeds with each probability: edges of highest-density regions.

    A threshold is a quantile of the log-density over the mixture's own draws (Hyndman 1996), which
    unlike a sum over a grid sees components of any size.
    """
    generator = torch.Generator().manual_seed(0)
    heights = mixture.log_prob(mixture.sample((_THRESHOLD_DRAWS,), generator=generator))
    return [float(np.quantile(heights.numpy(), 1 - c)) for c in coverage]


def view(scene: Scene, feature: int) -> tuple[float, float]:
    """The range of a feature to look at: all the data, and every component to its outline."""
    reach = max([_REACH, *(radius(c) for c in scene.coverage)])
    kept = scene.components
    centre, scale = scene.means[kept, feature], scene.scales[kept, feature]
    ends = np.concatenate([centre - reach * scale, centre + reach * scale, scene.rows[:, feature]])
    low, high = ends.min(), ends.max()
    size = max(abs(low), abs(high))
    margin = _MARGIN * (high - low)
    if high - low <= _LEAST_SPAN * size:  # it rounds away, and an axis needs two ends
        margin = _OPENING * size or 1.0
    return float(low - margin), float(high + margin)


def points(scene: Scene, feature: int) -> np.ndarray:
    """Where to evaluate the density along a feature, ascending: evenly, and close to the means."""
    low, high = view(scene, feature)
    kept = scene.components
    offsets = scene.scales[kept, feature, None] * _POINTS_OF_COMPONENT
    close = np.sort((scene.means[kept, feature, None] + offsets).ravel())
    close = close[(close > low) & (close < high)]
    step = -(-len(close) // _MOST_POINTS_OF_COMPONENTS)
    means = scene.means[kept, feature]  # kept when thinning: a peak must be on the grid
    return np.unique(
        np.concatenate([np.linspace(low, high, _EVEN_POINTS), close[:: step or 1], means])
    )


def log_density(mixture: Mixture, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The log-density over the grid of x (I,) and y (J,); (J, I), as matplotlib wants it."""
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    return mixture.log_prob(grid).numpy()
