"""Two means and how they depend on each other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from mogul._checks import check_level
from mogul.errors import InputError, MeanFieldWarning
from mogul.plot._beliefs import checked_names, checked_posterior
from mogul.plot._style import (
    BARS,
    COLOURS,
    INK,
    Entry,
    legend,
    own_axes,
    plain,
    shares,
    tidy,
)
from mogul.posterior import Posterior

_SIZE = (5.4, 4.6)
_DRAWS = 1000
"""Points that show the shape and leave the ellipses to be seen."""
_VIEW = 3.6
"""Standard deviations that the view reaches to each side."""


def joint_posterior(
    posterior: Posterior,
    first: tuple[int, int] = (0, 0),
    second: tuple[int, int] = (0, 1),
    *,
    coverage: Sequence[float] = (0.5, 0.95),
    correction: str = "none",
    feature_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the joint posterior of two means: draws, and ellipses of stated probability.

    Parameters
    ----------
    posterior : Posterior
    first, second : (component, feature), default (0, 0) and (0, 1)
        The two means.
    coverage : sequence of float, default (0.5, 0.95)
        Probabilities of the ellipses, those of a normal distribution with the posterior's
        covariance.
    correction : {"none", "linear_response"}, default "none"
        With "linear_response" the ellipses are the corrected ones, and mean field's are dotted.
    feature_names : sequence of D strings, optional
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets, plot
    >>> model = BayesianGaussianMixture(2, random_state=0).fit(datasets.old_faithful())
    >>> plot.joint_posterior(model.posterior_).get_xlabel()
    'mean of eruption_minutes, component 0'
    """
    means = checked_posterior(posterior).expectation("means").detach().cpu().numpy()
    names = checked_names(posterior, feature_names)
    places = [_check(place, means.shape) for place in (first, second)]
    if places[0] == places[1]:
        raise InputError(f"Two different means are needed; got {first} twice.")
    coverage = [check_level(c, "A coverage") for c in np.atleast_1d(np.asarray(coverage, object))]
    if not coverage:
        raise InputError("Give at least one coverage, 0.95 say.")
    index = [k * means.shape[1] + d for k, d in places]
    centre = means.ravel()[index]
    covariance = _covariance(posterior, index, correction)
    ax = own_axes(ax, _SIZE)
    n_draws = min(_DRAWS, posterior.n_kept or _DRAWS)
    drawn = posterior.draw("means", n_draws).cpu().numpy()
    drawn = drawn.reshape(len(drawn), -1)[:, index]
    (points,) = ax.plot(
        *drawn.T, linestyle="", marker=".", markersize=3, color=BARS, alpha=0.5, gid="draws"
    )
    _draw_ellipses(ax, centre, covariance, coverage, "-", COLOURS[0], "ellipse")
    own = "mean field" if correction != "none" else "the posterior"
    entries: list[Entry] = [
        (points, f"{len(drawn):,} draws of {own}"),
        (Line2D([], [], color=COLOURS[0]), f"ellipses that hold {shares(coverage)}"),
    ]
    if correction != "none":
        with warnings.catch_warnings():  # it is drawn for comparison
            warnings.simplefilter("ignore", MeanFieldWarning)
            narrow = _covariance(posterior, index, "none")
        _draw_ellipses(ax, centre, narrow, coverage, ":", INK, "own ellipse")
        entries[1] = (entries[1][0], f"{entries[1][1]}, by linear response")
        entries.append((Line2D([], [], color=INK, linestyle=":"), "those of mean field alone"))
    _finish(ax, places, centre, covariance, names)
    legend(ax, entries, letters=60)
    return ax


def _check(place: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    pair = list(place) if isinstance(place, Iterable) else [place]
    if len(pair) != 2 or any(not isinstance(one, Integral) for one in pair):
        raise InputError(
            f"A mean is named by two numbers, its component and its feature; got {place!r}."
        )
    k, d = pair
    if not (0 <= k < shape[0] and 0 <= d < shape[1]):
        raise InputError(
            f"There is no mean at component {k}, feature {d}; there are {shape[0]} components and "
            f"{shape[1]} features, counted from 0."
        )
    return int(k), int(d)


def _covariance(posterior: Posterior, index: list[int], correction: str) -> np.ndarray:
    whole = posterior.covariance("means", correction).detach().cpu().numpy()
    return whole[np.ix_(index, index)]


def _draw_ellipses(
    ax: Axes,
    centre: np.ndarray,
    covariance: np.ndarray,
    coverage: Sequence[float],
    style: str,
    shade: str,
    gid: str,
) -> None:
    values, vectors = np.linalg.eigh(covariance)
    angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
    for share in coverage:
        reach = math.sqrt(-2 * math.log1p(-share))  # chi-square of two degrees of freedom
        width, height = 2 * reach * np.sqrt(values[::-1])
        line: dict[str, Any] = {"edgecolor": shade, "linestyle": style, "linewidth": 1.6}
        shape = Ellipse((centre[0], centre[1]), width, height, angle=angle, fill=False, **line)
        shape.set_gid(f"{gid} {share:g}")
        ax.add_patch(shape)


def _finish(
    ax: Axes,
    places: Sequence[tuple[int, int]],
    centre: np.ndarray,
    covariance: np.ndarray,
    names: Sequence[str],
) -> None:
    reach = _VIEW * np.sqrt(np.diag(covariance))
    ax.set_xlim(centre[0] - reach[0], centre[0] + reach[0])
    ax.set_ylim(centre[1] - reach[1], centre[1] + reach[1])
    words = [plain(f"mean of {names[d]}, component {k}") for k, d in places]
    ax.set(xlabel=words[0], ylabel=words[1])
    tidy(ax)
