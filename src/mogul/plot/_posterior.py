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

from mogul.beliefs import Belief
from mogul.errors import InputError
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
from mogul.posterior import Posterior, SampledPosterior, VariationalPosterior
from mogul.posterior.quantities import quantity

_MOST_PANELS = 12
"""A figure of more panels is not read; of a large matrix the diagonal is drawn."""
_MOST_CURVES = 12
"""Components whose curves are drawn, the heaviest first: more would hide one another."""
_PANEL = (3.6, 2.6)
"""Inches of a panel."""
_TAIL = 5e-4
"""The probability in each tail that a curve leaves out."""
_POINTS = 161
_KDE_DRAWS = 4000
"""A smoothed curve of more draws looks the same."""
_MARGIN = 0.06
_LEAST_HEIGHT = 5e-3
"""Of its peak: where a curve is lower it is left out of the view, or the tail of a prior without
moments would press all else against the axis."""


@dataclass(frozen=True)
class _Curve:
    """A density at ascending points, and the ends of its interval."""

    x: np.ndarray
    height: np.ndarray
    ends: tuple[float, float]


def posterior(
    beliefs: Posterior | Belief,
    name: str = "means",
    *,
    prior: Belief | None = None,
    level: float = 0.95,
    correction: str = "none",
    components: Sequence[int] | None = None,
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
        The probability of the interval that is filled.
    correction : {"none", "linear_response"}, default "none"
        As for ``Posterior.interval``; with "linear_response" mean field's own curve is dotted.
    components : sequence of int, optional
        Whose curves to draw, by default the 12 heaviest.
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
    if isinstance(beliefs, Belief):
        beliefs = VariationalPosterior(beliefs, beliefs)
    if not isinstance(beliefs, Posterior):
        raise InputError(
            f"Expected a posterior or a belief; got {type(beliefs).__name__} (an estimator's is "
            "its posterior_)."
        )
    interval = beliefs.interval(name, level, correction).detach().cpu().numpy()
    shape = interval.shape[:-1]
    counted = quantity(name, beliefs.kind).counts_components(beliefs.kind)
    chosen = _components(beliefs, components) if counted else [None]
    panels = _panels(shape[1:] if counted else shape, name)
    grid = _grid(axes, len(panels))
    names = _names(beliefs, feature_names, panels)
    sources = [(beliefs, correction)]
    if correction != "none":
        sources.append((beliefs, "none"))
    curves = [_curves(source, name, level, how) for source, how in sources]
    before = None if prior is None else _prior_curves(prior, name, level)
    for ax, panel, words in zip(grid, panels, names, strict=True):
        at = [panel if k is None else (k, *panel) for k in chosen]
        _draw(ax, [curves[0][i] for i in at], chosen)
        for own in curves[1:]:
            _outline(ax, [own[i] for i in at], chosen)
        if before is not None:
            _draw_prior(ax, [before[i] for i in at])
        ax.set_xlabel(plain(_title(name, words)))
        tidy(ax)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    _say(grid[0], chosen, level, correction, before is not None)
    return grid


def _components(beliefs: Posterior, given: Sequence[int] | None) -> Sequence[int | None]:
    weights = beliefs.mean().weights.detach().cpu().numpy()
    if given is None:
        heaviest = np.argsort(-weights, kind="stable")[:_MOST_CURVES]
        return sorted(int(k) for k in heaviest)
    if any(not 0 <= k < len(weights) for k in given) or not len(given):
        raise InputError(
            f"components must be numbers from 0 to {len(weights) - 1}, at least one; got "
            f"{list(given)}."
        )
    return [int(k) for k in given]


def _panels(shape: tuple[int, ...], name: str) -> list[tuple[int, ...]]:
    """The entries of one component, each its own panel; of a symmetric matrix one half."""
    every = list(np.ndindex(*shape))
    if len(shape) == 2:
        every = [(i, j) for i, j in every if i >= j]
        if len(every) > _MOST_PANELS:
            every = [(i, i) for i in range(shape[0])]
    if len(every) > _MOST_PANELS:
        raise InputError(
            f"{name} have {len(every)} entries a component, too many for one picture; take the "
            "marginal of fewer features first."
        )
    return every


def _grid(axes: Any, n_panels: int) -> np.ndarray:
    if axes is not None:
        given = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
        if len(given) != n_panels:
            raise InputError(f"{len(given)} Axes were given for {n_panels} panels.")
        return given
    columns = min(n_panels, 3)
    rows = math.ceil(n_panels / columns)
    size = (max(_PANEL[0] * columns, 5.0), _PANEL[1] * rows + 0.5)
    _, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for spare in grid.ravel()[n_panels:]:
        spare.set_visible(False)
    return grid.ravel()[:n_panels]


def _names(
    beliefs: Posterior, given: Sequence[str] | None, panels: Sequence[tuple[int, ...]]
) -> list[str]:
    """What each panel is of, in words: features, by name or by position."""
    n_features = beliefs.mean().n_features
    names = given or beliefs.feature_names or [f"feature {i}" for i in range(n_features)]
    if len(names) != n_features:
        raise InputError(f"{len(names)} feature names were given for {n_features} features.")
    return [" and ".join(dict.fromkeys(names[i] for i in panel)) for panel in panels]


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
    if isinstance(beliefs, SampledPosterior):
        return _smoothed(beliefs, name, level)
    # A density is the derivative of the quantile function's inverse.
    p = np.concatenate(
        [np.geomspace(_TAIL, 0.02, 24)[:-1], np.linspace(0.02, 0.98, _POINTS),
         1 - np.geomspace(0.02, _TAIL, 24)[1:]]
    )  # fmt: skip
    x = beliefs._quantiles(name, torch.from_numpy(p), correction).detach().cpu().numpy()
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    ends = beliefs._quantiles(name, tails, correction).detach().cpu().numpy()
    found = {}
    for index in np.ndindex(*x.shape[:-1]):
        at = x[index]
        with np.errstate(all="ignore"):
            height = np.diff(p) / np.diff(at)
        found[index] = _Curve((at[1:] + at[:-1]) / 2, height, tuple(ends[index]))
    return found


def _smoothed(beliefs: SampledPosterior, name: str, level: float) -> dict[Any, _Curve]:
    n_kept = beliefs.draws.batch_shape.numel()
    values = beliefs.draw(name, min(n_kept, _KDE_DRAWS)).cpu().numpy()
    ends = beliefs.interval(name, level).cpu().numpy()
    found = {}
    for index in np.ndindex(*values.shape[1:]):
        mine = values[(slice(None), *index)]
        low, high = np.quantile(mine, [_TAIL, 1 - _TAIL])
        margin = 0.2 * (high - low)
        x = np.linspace(low - margin, high + margin, _POINTS)
        flat = not high > low
        height = np.zeros_like(x) if flat else scipy.stats.gaussian_kde(mine)(x)
        found[index] = _Curve(x, height, tuple(ends[index]))
    return found


def _prior_curves(prior: Belief, name: str, level: float) -> dict[Any, _Curve]:
    return _curves(VariationalPosterior(prior, prior), name, level, "none")


def _draw(ax: Axes, curves: list[_Curve], chosen: Sequence[int | None]) -> None:
    """Filled curves; the interval is filled more strongly."""
    for curve, k in zip(curves, chosen, strict=True):
        shade = COLOURS[0] if k is None else colour(k)
        style = DASHES[0] if k is None else DASHES[round_of_colours(k)]
        inside = (curve.x >= curve.ends[0]) & (curve.x <= curve.ends[1])
        ax.plot(
            curve.x, curve.height, color=shade, linestyle=style, linewidth=1.4, gid=f"curve {k}"
        )
        ax.fill_between(
            curve.x[inside], curve.height[inside], color=shade, alpha=0.35, linewidth=0,
            gid=f"interval {k}",
        )  # fmt: skip
    finite = [c for c in curves if np.isfinite(c.height).all() and len(c.x)]
    if finite:
        seen = [c.x[c.height >= _LEAST_HEIGHT * c.height.max()] for c in finite]
        low, high = min(x[0] for x in seen), max(x[-1] for x in seen)
        margin = _MARGIN * (high - low) or 0.5
        ax.set_xlim(low - margin, high + margin)
        ax.set_ylim(0, 1.08 * max(c.height.max() for c in finite) or 1.0)


def _outline(ax: Axes, curves: list[_Curve], chosen: Sequence[int | None]) -> None:
    """Dotted curves that may rise out of the picture of the wider ones."""
    top = ax.get_ylim()[1]
    for curve, k in zip(curves, chosen, strict=True):
        shade = COLOURS[0] if k is None else colour(k)
        ax.plot(
            curve.x, curve.height, color=shade, linestyle=":", linewidth=1.2, gid=f"own curve {k}"
        )
        if np.isfinite(curve.height).all():
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


def _say(
    ax: Axes, chosen: Sequence[int | None], level: float, correction: str, has_prior: bool
) -> None:
    kept = [k for k in chosen if k is not None]
    entries: list[Entry] = []
    if kept:
        entries += [
            (Line2D([], [], color=colour(k), linestyle=DASHES[round_of_colours(k)]), f"{k}")
            for k in kept
        ]
    shades = tuple(Patch(color=colour(k), alpha=0.35) for k in (kept or [0])[:3])
    entries.append((shades, f"{100 * level:g} % interval"))
    if correction != "none":
        entries.append((Line2D([], [], color=BARS, linestyle=":"), "mean field alone"))
    if has_prior:
        entries.append((Line2D([], [], color=BARS, linestyle="--"), "prior"))
    title = "component" if kept else None
    legend(ax, entries, ncols=min(len(entries), 4), title=title, title_fontsize="small",
           columnspacing=1.2)  # fmt: skip
