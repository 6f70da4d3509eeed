"""Drawing one feature: the density, its components, a histogram, regions of stated coverage."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mogul.plot._levels import points, thresholds, view
from mogul.plot._scene import Scene
from mogul.plot._style import BARS, DASHES, INK, Entry, colour, round_of_colours, shares, tints

_MOST_BARS = 80
"""More bars than that are narrower than the eye separates."""
_FEWEST_BARS = 8
"""With fewer bars a histogram hides even one mode."""
_COARSE_STEP = 0.1
"""Values recorded in steps above this part of a bar make bars of whole steps: with any other width
some bars would hold one recorded value more than others, and stand out for nothing."""
_BAR_OF_CONSTANT = 1 / 8
"""The part of the view that one bar takes when all values are equal."""
_TALLEST_OVER_BARS = 3.0
"""A peak may be this many times as tall as the tallest bar before it runs out of the picture: a
component on repeated values would otherwise flatten everything else."""
_LEAST_HEIGHT = 2e-3
"""The part of the peak below which a component would only colour the axis."""
_THICK, _THIN = 2.4, 1.1
"""Lines of the whole and of its parts: both are seen where they coincide."""
_HEADROOM = 1.1
"""The end of the density's axis, in peaks: a number must fit above the tallest."""


def draw_line(ax: Axes, scene: Scene, *, vertical: bool = False, thickness: float = _THICK) -> None:
    """Draw a scene of one feature along the x axis, or along y if ``vertical``."""
    x = points(scene, 0)
    parts = scene.mixture.component_log_prob(x[:, None]).exp().numpy()  # (I, K)
    total = parts.sum(axis=1)
    _draw_regions(ax, scene, x, total, vertical)
    bars = _draw_histogram(ax, scene, vertical)
    parts[parts < _LEAST_HEIGHT * total.max()] = np.nan
    ax.plot(*_turn(x, total, vertical), color=INK, linewidth=thickness, gid="density")
    for k in scene.components:  # on top, or the whole would hide a component that stands alone
        style = DASHES[round_of_colours(k)]
        ax.plot(*_turn(x, parts[:, k], vertical), color=colour(k), linestyle=style, linewidth=_THIN)
    along, up = (ax.set_ylim, ax.set_xlim) if vertical else (ax.set_xlim, ax.set_ylim)
    along(view(scene, 0))
    up(0.0, _top(total.max(), bars))


def line_entries(ax: Axes, scene: Scene) -> list[Entry]:
    """What the legend of a scene of one feature says, once it is drawn along the x axis."""
    kept = scene.components[:3]
    lines = tuple(Line2D([], [], color=colour(k), linewidth=_THIN) for k in kept)
    entries: list[Entry] = [
        (Line2D([], [], color=INK, linewidth=_THICK), _say_density(ax, scene)),
        (lines, "components, times their weights"),
    ]
    if len(scene.rows):
        entries.append((Line2D([], [], color=BARS), f"histogram of {len(scene.rows):,} rows"))
    if scene.coverage:
        fills = tuple(Patch(facecolor=tint) for tint in tints(len(scene.coverage)))
        words = f"smallest regions that hold {shares(scene.coverage)} of the mixture"
        entries.append((fills, words))
    return entries


def _say_density(ax: Axes, scene: Scene) -> str:
    peak = float(scene.mixture.log_prob(points(scene, 0)[:, None]).max().exp())
    in_sight = peak <= ax.get_ylim()[1]
    return "density" if in_sight else f"density (its peak, {peak:.3g}, is out of the picture)"


def peaks(scene: Scene) -> np.ndarray:
    """The tops of the components, (K, 2)."""
    means = scene.means[:, 0]
    log_tops = scene.mixture.component_log_prob(means[:, None]).diagonal()
    return np.stack([means, torch.exp(log_tops).numpy()], axis=1)


def _turn(x: np.ndarray, height: np.ndarray, vertical: bool) -> tuple[np.ndarray, np.ndarray]:
    return (height, x) if vertical else (x, height)


def _top(peak: float, bars: float) -> float:
    """The end of the density's axis, for a peak and the tallest bar (zero without data)."""
    shown = min(peak, _TALLEST_OVER_BARS * bars) if bars else peak
    return _HEADROOM * max(shown, bars)


def _draw_regions(ax: Axes, scene: Scene, x: np.ndarray, total: np.ndarray, vertical: bool) -> None:
    """Tint under the curve where the density is highest, the largest region first."""
    fill = ax.fill_betweenx if vertical else ax.fill_between
    levels = np.exp(thresholds(scene.mixture, scene.coverage))
    shades = list(zip(scene.coverage, levels, tints(len(levels)), strict=True))
    for coverage, level, tint in reversed(shades):
        for low, high in intervals_above(x, total, level):
            inside = np.concatenate([[low], x[(x > low) & (x < high)], [high]])
            height = np.interp(inside, x, total)
            fill(inside, height, color=tint, linewidth=0.0, gid=f"region {coverage:g}")


def intervals_above(x: np.ndarray, height: np.ndarray, level: float) -> np.ndarray:
    """Where a curve given at ascending points lies above a level, (intervals, 2)."""
    above = height > level
    at = np.flatnonzero(above[1:] != above[:-1])  # crossed between a point and the next
    crossed = x[at] + (level - height[at]) / (height[at + 1] - height[at]) * (x[at + 1] - x[at])
    ends = [x[:1][above[:1]], crossed, x[-1:][above[-1:]]]
    return np.concatenate(ends).reshape(-1, 2)


def _draw_histogram(ax: Axes, scene: Scene, vertical: bool) -> float:
    """Draw the histogram, if there are data, and return its height."""
    values = scene.rows[:, 0]
    if not len(values):
        return 0.0
    heights, edges = np.histogram(
        values, bin_edges(values, view(scene, 0)), weights=scene.row_weights, density=True
    )
    ax.stairs(
        heights,
        edges,
        orientation="horizontal" if vertical else "vertical",
        color=BARS,
        linewidth=0.9,
        gid="histogram",
    )
    return float(heights.max())


def bin_edges(values: np.ndarray, within: tuple[float, float]) -> np.ndarray:
    """Edges of bars: half the width of Freedman and Diaconis' rule (1981), in whole steps.

    The rule is meant for one mode. In a mixture the quartiles lie in different modes, and the
    width that follows blurs them.
    """
    low, high = values.min(), values.max()
    if not high > low:
        half = _BAR_OF_CONSTANT * (within[1] - within[0]) / 2
        return np.array([low - half, low + half])
    width = _bar_width(values)
    step = np.diff(np.unique(values)).min()
    if step > _COARSE_STEP * width:
        width = max(1, round(width / step)) * step
        low = low - step / 2  # between recorded values, where no value falls on an edge
    n_bars = math.floor((high - low) / width) + 1
    return low + width * np.arange(n_bars + 1)


def _bar_width(values: np.ndarray) -> float:
    quarter, three = np.quantile(values, [0.25, 0.75])
    wanted = (three - quarter) / len(values) ** (1 / 3)
    span = values.max() - values.min()
    return float(np.clip(wanted, span / _MOST_BARS, span / _FEWEST_BARS))
