"""The density of a mixture over one or two features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from mogul.errors import InputError
from mogul.mixture import Mixture
from mogul.plot._labels import draw_labels
from mogul.plot._line import draw_line, line_entries, peaks
from mogul.plot._plane import draw_plane, plane_entries
from mogul.plot._scene import Scene, scene
from mogul.plot._style import legend, own_axes, plain, tidy

_SIZE = (6.4, 4.8)
_LIFT = 1.4
"""How far above its component's peak a number stands, in font sizes: the peak stays in sight."""


def density(
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
    """Draw the density of a mixture over one or two features, with data and components.

    Over one feature: the density, each component times its weight, and a histogram of the data.
    Over two: the data coloured by their most probable component, and each component's ellipses.
    In both, the smallest regions that hold the stated shares of the mixture are tinted.

    Parameters
    ----------
    mixture : Mixture
        One mixture, of batch shape ().
    data : array, tensor or frame, shape (N, D), optional
        Rows to compare with, of all features of the mixture. At most 5,000 are drawn as points,
        always the same ones; a histogram counts all.
    features : int, str, or a sequence of one or two of them, optional
        Features to draw, the others integrated out. Needed when D > 2.
    coverage : sequence of float, default (0.5, 0.9)
        Probabilities of the regions and ellipses; none for an empty sequence.
    labels : sequence of K strings, optional
        Names of the components, by default their numbers as ``mixture.predict`` gives them. An
        empty sequence writes none.
    feature_names : sequence of D strings, optional
        Names of the axes, by default the mixture's own, else a frame's.
    sample_weight : array-like, shape (N,), optional
        Weights of the rows: heights of the bars, areas of the points.
    ax : matplotlib Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        When the mixture is a batch, or the data do not fit it or hold NaN.

    References
    ----------
    Hyndman (1996), "Computing and graphing highest density regions".

    Examples
    --------
    >>> from mogul import Mixture, plot
    >>> mixture = Mixture.from_parameters(
    ...     [0.3, 0.7], [[0.0, 0.0], [4.0, 1.0]], [1.0, 2.0], "spherical",
    ...     feature_names=["length_cm", "width_cm"],
    ... )
    >>> plot.density(mixture).get_xlabel()
    'length_cm'
    >>> plot.density(mixture, features="width_cm").get_ylabel()
    'density'
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
    draw = {1: _over_one, 2: _over_two}.get(len(shown.names))
    if draw is None:
        raise InputError(
            f"A density is drawn over one or two features, not {len(shown.names)}; name them with "
            "features=, or use mogul.plot.pairs."
        )
    ax = own_axes(ax, _SIZE)
    draw(ax, shown)
    tidy(ax)
    return ax


def _over_one(ax: Axes, shown: Scene) -> None:
    draw_line(ax, shown)
    draw_labels(ax, shown, peaks(shown), lift=_LIFT)
    ax.set(xlabel=plain(shown.names[0]), ylabel="density")
    legend(ax, line_entries(ax, shown))


def _over_two(ax: Axes, shown: Scene) -> None:
    draw_plane(ax, shown)
    draw_labels(ax, shown, shown.means)
    ax.set(xlabel=plain(shown.names[0]), ylabel=plain(shown.names[1]))
    legend(ax, plane_entries(shown))
