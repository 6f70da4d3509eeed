"""Every feature on its own and every pair of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mogul.errors import InputError
from mogul.mixture import Mixture
from mogul.plot._labels import draw_labels
from mogul.plot._line import draw_line
from mogul.plot._plane import draw_plane, plane_entries
from mogul.plot._scene import Scene, scene
from mogul.plot._style import Entry, legend, plain, tidy

_PANEL = 2.0
"""Inches of a panel's side."""
_LEAST_SIDE = 7.2
"""Inches of a grid's side, however few its panels: the legend needs half of it."""
_THICKNESS = 1.6
"""The line of a density in such a panel."""
_POINT_AREA = 6.0
"""Square points of a row, in a panel a third as wide as a picture of its own."""


def pairs(
    mixture: Mixture,
    data: Any = None,
    *,
    features: Any = None,
    max_features: int = 6,
    coverage: Sequence[float] = (0.5, 0.9),
    labels: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    sample_weight: Any = None,
    axes: Any = None,
) -> np.ndarray:
    """Draw every pair of features below the diagonal, and each feature on its own on it.

    Parameters
    ----------
    mixture : Mixture
        One mixture, of batch shape ().
    data : array, tensor or frame, shape (N, D), optional
        Rows to compare with, of all features of the mixture.
    features : sequence of F ints or strings, optional
        The features to draw, two or more, by default all.
    max_features : int, default 6
        When no features are named, only so many are drawn, and the legend says so.
    coverage, labels, feature_names, sample_weight
        As for :func:`density`.
    axes : array of matplotlib Axes, shape (F, F), optional
        Where to draw; by default on a new figure.

    Returns
    -------
    ndarray of Axes, shape (F, F)
        Those above the diagonal are hidden.

    Raises
    ------
    InputError
        When the mixture is a batch, the data do not fit it or hold NaN, or the axes are not (F, F).

    Examples
    --------
    >>> from mogul import Mixture, plot
    >>> mixture = Mixture.from_parameters([1.0], [[0.0, 5.0, 9.0]], [1.0], "spherical")
    >>> plot.pairs(mixture).shape
    (3, 3)
    """
    whole = scene(
        mixture,
        data,
        coverage=coverage,
        labels=labels,
        feature_names=feature_names,
        sample_weight=sample_weight,
    )
    n_features = len(whole.names)
    shown = whole.pick(range(min(max_features, n_features)) if features is None else features)
    _check_several(shown)
    grid = _grid(axes, len(shown.names))
    for row, column in np.ndindex(grid.shape):
        _draw_panel(grid.item(row, column), shown, row, column)
    entries = plane_entries(shown) + _say_left_out(shown, n_features, named=features is not None)
    _add_legend(grid, entries)
    return grid


def _check_several(shown: Scene) -> None:
    if len(shown.names) < 2:
        raise InputError(
            "Pairs need two features or more; draw a single one with mogul.plot.density."
        )


def _grid(axes: Any, n: int) -> np.ndarray:
    if axes is None:
        side = max(_PANEL * n, _LEAST_SIDE)
        _, made = plt.subplots(n, n, figsize=(side, side), layout="constrained", squeeze=False)
        return np.asarray(made, dtype=object)
    grid = np.asarray(axes, dtype=object)
    if grid.shape != (n, n):
        raise InputError(f"axes have shape {grid.shape}; expected ({n}, {n}), one row a feature.")
    return grid


def _draw_panel(ax: Axes, shown: Scene, row: int, column: int) -> None:
    """Draw one panel, with names and numbers only where the grid ends."""
    if column > row:
        ax.set_axis_off()
        return
    if column == row:
        draw_line(ax, shown.pick(row), thickness=_THICKNESS)
        ax.set_yticks([])  # each panel has a density scale of its own
        ax.spines["left"].set_visible(False)
    else:
        part = shown.pick([column, row])
        draw_plane(ax, part, point_area=_POINT_AREA)
        draw_labels(ax, part, part.means)
    tidy(ax)
    _name_edges(ax, shown, row, column)


def _name_edges(ax: Axes, shown: Scene, row: int, column: int) -> None:
    last = row == len(shown.names) - 1
    ax.tick_params(labelbottom=last, labelleft=column == 0)
    if last:
        ax.set_xlabel(plain(shown.names[column]))
    if column == 0 and row > 0:
        ax.set_ylabel(plain(shown.names[row]))


def _say_left_out(shown: Scene, n_features: int, *, named: bool) -> list[Entry]:
    """A line of the legend for features that were left out without being asked to."""
    if named or len(shown.names) == n_features:
        return []
    words = f"the first {len(shown.names)} of {n_features} features"
    return [(Line2D([], [], linestyle=""), words)]


def _add_legend(grid: np.ndarray, entries: Sequence[Entry]) -> None:
    """Write the legend into the empty half of the grid."""
    if not entries:
        return
    corner = {"loc": "upper right", "bbox_to_anchor": (1.0, 1.0)}
    # It is wider than its panel; the layout must not make the column as wide as the words.
    legend(grid[0, -1], entries, **corner).set_in_layout(False)
