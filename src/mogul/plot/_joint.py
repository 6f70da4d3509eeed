"""Two features together and each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from mogul.errors import InputError
from mogul.mixture import Mixture
from mogul.plot._labels import draw_labels
from mogul.plot._line import draw_line
from mogul.plot._plane import draw_plane, plane_entries
from mogul.plot._scene import Scene, scene
from mogul.plot._style import legend, own_axes, plain, tidy

_SIZE = (7.0, 6.6)
_THICKNESS = 0.2
"""Of a marginal panel, against the main panel."""
_GAP = 0.02
"""Between a marginal panel and the main one."""


def joint(
    mixture: Mixture,
    data: Any = None,
    *,
    features: Any = None,
    coverage: Sequence[float] = (0.5, 0.9),
    labels: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    sample_weight: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw two features as :func:`density` does, with each on its own above and to the right.

    Parameters
    ----------
    mixture : Mixture
        One mixture, of batch shape ().
    data : array, tensor or frame, shape (N, D), optional
        Rows to compare with, of all features of the mixture.
    features : two ints or strings, optional
        The features across and up. Needed unless D is 2.
    coverage, labels, feature_names, sample_weight
        As for :func:`density`.
    ax : matplotlib Axes, optional
        The main panel; the others are its insets, just outside it. By default on a new figure.

    Returns
    -------
    Axes
        The main panel; its ``child_axes`` are the panels above and to the right.

    Raises
    ------
    InputError
        When the mixture is a batch, or the data do not fit it or hold NaN.

    Examples
    --------
    >>> from mogul import Mixture, plot
    >>> mixture = Mixture.from_parameters([1.0], [[0.0, 5.0]], [[1.0, 4.0]], "diag")
    >>> ax = plot.joint(mixture)
    >>> len(ax.child_axes)
    2
    """
    shown = scene(
        mixture,
        data,
        features=features,
        coverage=coverage,
        labels=labels,
        feature_names=feature_names,
        sample_weight=sample_weight,
    )
    if len(shown.names) != 2:
        raise InputError(
            f"A joint picture is of two features, not {len(shown.names)}; name two with features=."
        )
    ax = own_axes(ax, _SIZE)
    above = _panel(ax, shown, 0)
    _panel(ax, shown, 1)
    draw_plane(ax, shown)
    draw_labels(ax, shown, shown.means)
    ax.set(xlabel=plain(shown.names[0]), ylabel=plain(shown.names[1]))
    tidy(ax)
    legend(above, plane_entries(shown))
    return ax


def _panel(ax: Axes, shown: Scene, feature: int) -> Axes:
    """The marginal of the feature across (0), above the main panel, or up (1), right of it."""
    beside, vertical = 1 + _GAP, feature == 1
    if vertical:
        panel = ax.inset_axes((beside, 0.0, _THICKNESS, 1.0), sharey=ax)
    else:
        panel = ax.inset_axes((0.0, beside, 1.0, _THICKNESS), sharex=ax)
    draw_line(panel, shown.pick(feature), vertical=vertical)
    tidy(panel)
    _hide_density_axis(panel, vertical)
    return panel


def _hide_density_axis(panel: Axes, vertical: bool) -> None:
    """Its units help nobody here; the bars and the curve are read against each other."""
    panel.tick_params(labelbottom=False, labelleft=False, bottom=not vertical, left=vertical)
    panel.spines["bottom" if vertical else "left"].set_visible(False)
