"""What is believed of a parameter, before or after rows were seen: one curve for each component."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mogul._checks import check_level
from mogul.beliefs import Belief
from mogul.errors import InputError
from mogul.plot._beliefs import checked_names, checked_posterior, checked_prior, positions
from mogul.plot._style import (
    BARS,
    COLOURS,
    DASHES,
    Entry,
    colour,
    legend,
    plain,
    round_of_colours,
    tidy,
)
from mogul.posterior import Posterior, VariationalPosterior
from mogul.posterior.base import needed_components
from mogul.posterior.quantities import quantity

_MOST_PANELS = 12
"""A figure of more panels is not read; of a large matrix the diagonal is drawn."""
_HELD = 0.99
_MOST_CURVES = 12
"""Components whose curves are drawn, the heaviest first: more would hide one another."""
_PANEL = (3.6, 2.6)
"""Inches of a panel."""
_OF_WEIGHTS = ("weights", "log_weights")
_TAIL = 5e-4
"""The probability in each tail that a curve leaves out."""
_POINTS = 161
_KDE_DRAWS = 4000
"""A smoothed curve of more draws looks the same."""
_MARGIN = 0.06
_LEAST_HEIGHT = 5e-3
"""Of its peak: where a curve is lower it is left out of the view, or the tail of a prior without
moments would press all else against the axis."""

_EDGE = 0.02
"""Of the view: nearer to its ends a density that grows without limit leaves the picture."""


@dataclass(frozen=True)
class _Curve:
    """A density at ascending points, and the ends of its interval."""

    x: np.ndarray
    height: np.ndarray
    ends: tuple[float, float]

    @property
    def _at_edge(self) -> bool:
        """Whether it is highest near an end of its range, where it may grow without limit."""
        low, high = self.x[0], self.x[-1]
        margin = _EDGE * (high - low)
        return not low + margin <= self.x[int(self.height.argmax())] <= high - margin

    def seen(self) -> np.ndarray:
        """The points that the view is to show."""
        if self._at_edge:
            return self.x
        return self.x[self.height >= _LEAST_HEIGHT * self.height.max()]

    def top(self, low: float, high: float) -> float:
        """The height that the view is to show, from ``low`` to ``high``."""
        margin = _EDGE * (high - low)
        inside = (self.x >= low + margin) & (self.x <= high - margin)
        cut = self._at_edge and bool(inside.any())
        return float(self.height[inside].max() if cut else self.height.max())


def posterior(
    beliefs: Posterior | Belief,
    name: str = "means",
    *,
    prior: Belief | None = None,
    level: float = 0.95,
    correction: str = "none",
    components: Sequence[int] | None = None,
    features: Sequence[int | str] | None = None,
    feature_names: Sequence[str] | None = None,
    axes: Any = None,
) -> np.ndarray:
    """Draw what is believed of a quantity: a panel for each feature, a curve for each component.

    Parameters
    ----------
    beliefs : Posterior or Belief
        An estimator's ``posterior_``, or its ``prior_``.
    name : str, default "means"
        "weights", "means", "precisions", "covariances", "standard_deviations" and so on. Of a
        matrix of more than 12 entries the diagonal is drawn.
    prior : Belief, optional
        Whose density is drawn for comparison, dashed, where it reaches into the picture.
    level : float, default 0.95
        The probability of the interval that is filled; 0 for none.
    correction : {"none", "linear_response"}, default "none"
        As for ``Posterior.interval``; with "linear_response" mean field's own curve is dotted.
    components : sequence of int, optional
        Whose curves to draw: by default those that hold 99 % of the weight, at most 12; of a belief
        that has all components the same, as most priors, the first.
    features : int, str or sequence of them, optional
        Whose panels to draw, by position or name; all by default.
    feature_names : sequence of D strings, optional
    axes : array of matplotlib Axes, optional
        Where to draw, one for each panel; by default on a new figure.

    Returns
    -------
    ndarray of Axes

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets, plot
    >>> model = BayesianGaussianMixture(2, random_state=0).fit(datasets.old_faithful())
    >>> plot.posterior(model.posterior_, "means", prior=model.prior_).shape
    (2,)
    """
    alike = isinstance(beliefs, Belief) and _are_alike(beliefs, name)
    if isinstance(beliefs, Belief):
        beliefs = VariationalPosterior(beliefs, beliefs)
    checked_posterior(beliefs)
    checked_prior(prior)
    level = 0.0 if level == 0 else check_level(level)
    names = checked_names(beliefs, feature_names)
    shape = beliefs.expectation(name).shape
    counted = quantity(name, beliefs.kind).counts_components(beliefs.kind)
    given = [0] if alike and components is None else components
    chosen = _components(beliefs, given) if counted else [None]
    wanted = None if features is None else positions(features, names)
    panels = _panels(shape[1:] if counted else shape, name, wanted)
    grid = _grid(axes, len(panels))
    beliefs.std(name, correction)  # warns where it is too narrow
    curves = [_curves(beliefs, name, level, correction)]
    if correction != "none":
        curves.append(_curves(beliefs, name, level, "none"))
    before = None if prior is None else _prior_curves(prior, name, level)
    titles = [_title(name, " and ".join(dict.fromkeys(names[i] for i in p))) for p in panels]
    seen = False
    for ax, panel, title in zip(grid, panels, titles, strict=True):
        at = [panel if k is None else (k, *panel) for k in chosen]
        seen |= _draw(ax, [curves[0][i] for i in at], chosen)
        for own in curves[1:]:
            _outline(ax, [own[i] for i in at], chosen)
        if before is not None:
            _draw_prior(ax, [before[i] for i in at])
        ax.set_xlabel(plain(title))
        tidy(ax)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    named = [] if alike and components is None else [k for k in chosen if k is not None]
    if seen:
        _say(grid[0], named, level, correction, before is not None)
    return grid


def _are_alike(belief: Belief, name: str) -> bool:
    """Whether a belief has all components the same in some quantity."""
    mean = quantity(name, belief.components.kind).mean(belief)
    known = bool((mean == mean[:1]).all())
    return known and (name in _OF_WEIGHTS or belief.components.exchangeable)


def _components(beliefs: Posterior, given: Sequence[int] | None) -> Sequence[int | None]:
    weights = beliefs.mean().weights.detach().cpu().numpy()
    if given is None:
        heaviest = needed_components(weights, _HELD)[:_MOST_CURVES]
        return sorted(int(k) for k in heaviest)
    listed = [given] if isinstance(given, (int, np.integer)) else list(given)
    sound = all(isinstance(k, (int, np.integer)) and 0 <= k < len(weights) for k in listed)
    if not sound or not listed or len(set(listed)) != len(listed):
        raise InputError(
            f"components must be numbers from 0 to {len(weights) - 1}, at least one and each but "
            f"once; got {listed}."
        )
    return [int(k) for k in listed]


def _panels(shape: tuple[int, ...], name: str, features: list[int] | None) -> list[tuple[int, ...]]:
    """The entries of one component, each its own panel; of a symmetric matrix one half."""
    every = list(np.ndindex(*shape))
    if features is not None:
        every = [index for index in every if set(index) <= set(features)]
        every.sort(key=lambda index: [features.index(i) for i in index])
    if len(shape) == 2:
        every = [(i, j) for i, j in every if i >= j]
        if len(every) > _MOST_PANELS:
            every = [(i, j) for i, j in every if i == j]
    if len(every) > _MOST_PANELS:
        raise InputError(
            f"{name} have {len(every)} entries a component, too many for one picture; choose some "
            f"by features=, at most {_MOST_PANELS}."
        )
    return every


def _grid(axes: Any, n_panels: int) -> np.ndarray:
    if axes is not None:
        given = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
        if len(given) != n_panels or any(not isinstance(ax, Axes) for ax in given):
            raise InputError(
                f"axes must be matplotlib Axes, one for each of {n_panels} panels; got "
                f"{len(given)}."
            )
        return given
    columns = min(n_panels, 3)
    rows = math.ceil(n_panels / columns)
    size = (max(_PANEL[0] * columns, 5.0), _PANEL[1] * rows + 0.5)
    _, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for spare in grid.ravel()[n_panels:]:
        spare.set_visible(False)
    return grid.ravel()[:n_panels]


def _title(name: str, words: str) -> str:
    single = {
        "weights": "weight",
        "log_weights": "log weight",
        "means": "mean",
        "precisions": "precision",
        "log_precisions": "log precision",
        "covariances": "covariance" if " and " in words else "variance",
        "standard_deviations": "standard deviation",
    }[name]
    return f"{single} of {words}" if words else single


def _curves(beliefs: Posterior, name: str, level: float, correction: str) -> dict[Any, _Curve]:
    """The density of every entry, by its index."""
    if beliefs.n_kept is not None:
        return _smoothed(beliefs, name, level)
    # A density is the derivative of the quantile function's inverse.
    p = np.concatenate(
        [np.geomspace(_TAIL, 0.02, 24)[:-1], np.linspace(0.02, 0.98, _POINTS),
         1 - np.geomspace(0.02, _TAIL, 24)[1:]]
    )  # fmt: skip
    x = beliefs._quantiles(name, torch.from_numpy(p), correction).detach().cpu().numpy()
    ends = _ends(beliefs, name, level, correction)
    found = {}
    for index in np.ndindex(*x.shape[:-1]):
        at, places = np.unique(x[index], return_index=True)  # at a bound many may be equal
        height = np.diff(p[places]) / np.diff(at)
        found[index] = _Curve((at[1:] + at[:-1]) / 2, height, tuple(ends[index]))
    return found


def _ends(beliefs: Posterior, name: str, level: float, correction: str) -> np.ndarray:
    """Of intervals; of the level 0 the median twice, between which there is nothing to fill."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return beliefs._quantiles(name, tails, correction).detach().cpu().numpy()


def _smoothed(beliefs: Posterior, name: str, level: float) -> dict[Any, _Curve]:
    values = beliefs.draw(name, min(beliefs.n_kept or 0, _KDE_DRAWS)).cpu().numpy()
    ends = _ends(beliefs, name, level, "none")
    found = {}
    for index in np.ndindex(*values.shape[1:]):
        mine = values[(slice(None), *index)]
        low, high = np.quantile(mine, [_TAIL, 1 - _TAIL])
        margin = 0.2 * (high - low)
        x = np.linspace(low - margin, high + margin, _POINTS)
        if high > low:
            curve = _Curve(x, scipy.stats.gaussian_kde(mine)(x), tuple(ends[index]))
        else:  # all draws are one number
            curve = _Curve(x[:0], x[:0], tuple(ends[index]))
        found[index] = curve
    return found


def _prior_curves(prior: Belief, name: str, level: float) -> dict[Any, _Curve]:
    return _curves(VariationalPosterior(prior, prior), name, level, "none")


def _draw(ax: Axes, curves: list[_Curve], chosen: Sequence[int | None]) -> bool:
    """Filled curves; the interval is filled more strongly. Whether there is any."""
    for curve, k in zip(curves, chosen, strict=True):
        if not len(curve.x):
            continue
        shade = COLOURS[0] if k is None else colour(k)
        style = DASHES[0] if k is None else DASHES[round_of_colours(k)]
        inside = (curve.x >= curve.ends[0]) & (curve.x <= curve.ends[1])
        ax.plot(
            curve.x, curve.height, color=shade, linestyle=style, linewidth=1.4, gid=f"curve {k}"
        )
        if inside.any():
            ax.fill_between(
                curve.x[inside], curve.height[inside], color=shade, alpha=0.35, linewidth=0,
                gid=f"interval {k}",
            )  # fmt: skip
    finite = [c for c in curves if len(c.x) and np.isfinite(c.height).all()]
    if finite:
        seen = [c.seen() for c in finite]
        low, high = min(x[0] for x in seen), max(x[-1] for x in seen)
        margin = _MARGIN * (high - low) or 0.5
        ax.set_xlim(low - margin, high + margin)
        ax.set_ylim(0, 1.08 * max(c.top(low, high) for c in finite) or 1.0)
    else:
        ax.text(0.5, 0.5, _why_none(curves), transform=ax.transAxes, ha="center", va="center",
                fontsize="small")  # fmt: skip
        ax.set_xticks([])
    return bool(finite)


def _why_none(curves: list[_Curve]) -> str:
    """Why there is nothing to draw."""
    known = [curve.ends[0] for curve in curves if math.isfinite(curve.ends[0])]
    return f"{known[0]:g} for certain" if known else "no variance, so no curve"


def _outline(ax: Axes, curves: list[_Curve], chosen: Sequence[int | None]) -> None:
    """Dotted curves that may rise out of the picture of the wider ones."""
    top = ax.get_ylim()[1]
    for curve, k in zip(curves, chosen, strict=True):
        shade = COLOURS[0] if k is None else colour(k)
        ax.plot(
            curve.x, curve.height, color=shade, linestyle=":", linewidth=1.2, gid=f"own curve {k}"
        )
        if len(curve.height) and np.isfinite(curve.height).all():
            top = max(top, 1.08 * curve.height.max())
    ax.set_ylim(0, top)


def _draw_prior(ax: Axes, curves: list[_Curve]) -> None:
    """Dashed, within the limits that the posterior set; one line where all are the same."""
    limits = ax.get_xlim(), ax.get_ylim()
    drawn: list[np.ndarray] = []
    for curve in curves:
        seen = np.isfinite(curve.height) & np.isfinite(curve.x)
        if not seen.any() or any(np.array_equal(curve.x, x) for x in drawn):
            continue
        drawn.append(curve.x)
        ax.plot(
            curve.x[seen], curve.height[seen], color=BARS, linestyle="--", linewidth=1.2,
            gid="prior",
        )  # fmt: skip
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])


def _say(ax: Axes, kept: Sequence[int], level: float, correction: str, has_prior: bool) -> None:
    entries: list[Entry] = []
    if kept:
        entries += [
            (Line2D([], [], color=colour(k), linestyle=DASHES[round_of_colours(k)]), f"{k}")
            for k in kept
        ]
    shades = tuple(Patch(color=colour(k), alpha=0.35) for k in (kept or [0])[:3])
    if level:
        entries.append((shades, f"{100 * level:g} % interval"))
    if correction != "none":
        entries.append((Line2D([], [], color=BARS, linestyle=":"), "mean field alone"))
    if has_prior:
        entries.append((Line2D([], [], color=BARS, linestyle="--"), "prior"))
    if not entries:
        return
    title = "component" if kept else None
    legend(ax, entries, ncols=min(len(entries), 4), title=title, title_fontsize="small",
           columnspacing=1.2)  # fmt: skip
