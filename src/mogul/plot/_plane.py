"""Drawing two features: points, regions of stated coverage, ellipses, numbers of components."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch

from mogul.plot._levels import log_density, points, radius, thresholds, view
from mogul.plot._scene import Scene
from mogul.plot._style import (
    DASHES,
    MARKERS,
    Entry,
    colour,
    round_of_colours,
    shares,
    tints,
)

_EDGE = "#8695aa"
"""The outline of a region: without it the palest tint has no visible end on some screens."""
_POINT_AREA = 14.0
"""Square points of one row of ordinary weight."""
_FEW_POINTS = 400
"""Above so many points each is drawn smaller, so that they do not grow into one patch."""
_LEAST_AREA = 0.3
"""The least of the ordinary area that a point keeps: it must still show its colour."""
_MOST_AREA = 12.0
"""How many times that area a heavy row may take before it hides its neighbours."""
_CROWD = 12
"""Above so many components their outlines are drawn thinner."""


def draw_plane(ax: Axes, scene: Scene, *, point_area: float = _POINT_AREA) -> None:
    """Draw a scene of two features, all but the numbers of components."""
    draw_regions(ax, scene)
    _draw_points(ax, scene, point_area)
    draw_ellipses(ax, scene)
    ax.set_xlim(view(scene, 0))
    ax.set_ylim(view(scene, 1))


def plane_entries(scene: Scene) -> list[Entry]:
    """What the legend of a scene of two features says."""
    entries: list[Entry] = []
    if scene.coverage:
        words = shares(scene.coverage)
        fills = [Patch(facecolor=t, edgecolor=_EDGE) for t in tints(len(scene.coverage))]
        entries.append((tuple(fills), f"smallest regions that hold {words} of the mixture"))
        lines = [Line2D([], [], color=colour(k)) for k in scene.components[:3]]
        entries.append((tuple(lines), f"ellipses that hold {words} of their component"))
    if len(scene.rows):
        entries.append((_dots(scene), _say_rows(len(scene.rows), len(scene.shown))))
    return entries


def _dots(scene: Scene) -> tuple[Line2D, ...]:
    """Marks of the first few components for a legend."""
    style = {"linestyle": "", "markersize": 4}
    return tuple(
        Line2D([], [], color=colour(k), marker=MARKERS[round_of_colours(k)], **style)
        for k in scene.components[:3]
    )


def _say_rows(n_rows: int, n_shown: int) -> str:
    some = f"{n_shown:,} of {n_rows:,}" if n_shown < n_rows else f"{n_rows:,}"
    return f"{some} rows, coloured by most probable component"


def draw_regions(ax: Axes, scene: Scene) -> None:
    """Fill the highest-density regions of the mixture, the largest first."""
    if not scene.coverage:
        return
    x, y = points(scene, 0), points(scene, 1)
    heights = log_density(scene.mixture, x, y)
    levels = thresholds(scene.mixture, scene.coverage)
    shades = zip(scene.coverage, levels, tints(len(levels)), strict=True)
    for coverage, level, tint in reversed(list(shades)):
        above = max(heights.max(), level) + 1.0
        region = ax.contourf(x, y, heights, levels=[level, above], colors=[tint], zorder=0.5)
        region.set(edgecolor=_EDGE, linewidth=0.6, gid=f"region {coverage:g}")


def _draw_points(ax: Axes, scene: Scene, area: float) -> None:
    """Draw the shown rows; one collection for each mark, so that colours mix in the order drawn."""
    weight = scene.row_weights / (scene.row_weights.mean() if len(scene.rows) else 1.0)
    dense = min(1.0, math.sqrt(_FEW_POINTS / max(1, len(scene.shown))))
    areas = area * max(dense, _LEAST_AREA) * np.minimum(weight[scene.shown], _MOST_AREA)
    colours = np.array([colour(k) for k in scene.component], dtype=object)
    rounds = np.array([round_of_colours(k) for k in scene.component], dtype=int)
    for marker in np.unique(rounds):
        mine = rounds == marker
        x, y = scene.rows[scene.shown[mine]].T
        ax.scatter(
            x,
            y,
            s=areas[mine],
            c=list(colours[mine]),
            marker=MARKERS[marker],
            alpha=0.6,
            linewidths=0.0,
            gid="rows",
        )


def draw_ellipses(ax: Axes, scene: Scene) -> None:
    """Outline every component at every coverage."""
    width = 0.9 if len(scene.components) > _CROWD else 1.4
    for k in scene.components:
        for coverage in scene.coverage:
            outline = _ellipse(scene, k, radius(coverage))
            outline.set(edgecolor=colour(k), linestyle=DASHES[round_of_colours(k)])
            outline.set(facecolor="none", linewidth=width, gid=f"ellipse {k} {coverage:g}")
            ax.add_patch(outline)


def _ellipse(scene: Scene, k: int, reach: float) -> Ellipse:
    """Where component k's Mahalanobis distance from its mean is ``reach``."""
    factor = scene.mixture.covariance.scale_tril()[k].numpy()
    # The singular values of the factor are the half-axes; eigenvalues of the covariance would
    # lose the short one to rounding when the ellipse is thin.
    axes, lengths, _ = np.linalg.svd(factor)
    angle = math.degrees(math.atan2(axes[1, 0], axes[0, 0]))
    width, height = 2 * reach * lengths
    return Ellipse(tuple(scene.means[k]), width, height, angle=angle)
