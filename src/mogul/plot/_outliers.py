"""Outlier scores, how well they tell outliers apart, and why a row is one."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from mogul._checks import check_count
from mogul.errors import InputError
from mogul.explanation import Explanation
from mogul.plot._style import BARS, COLOURS, INK, Entry, legend, own_axes, plain, tidy

_WIDE = (6.0, 3.6)
_SQUARE = (4.8, 4.4)
_BINS = 60
_SHOWN = 0.005
"""Scores below this quantile of ordinary rows are piled up in the first bar."""
_MOST_FEATURES = 12


def outlier_scores(
    scores: Any, threshold: float | None = None, labels: Any = None, *, ax: Axes | None = None
) -> Axes:
    """Draw the distribution of scores and the threshold below which rows are outliers.

    Scores far below the others are piled up at the left end.

    Parameters
    ----------
    scores : array-like, shape (N,)
        As of ``score_samples``: lower is stranger.
    threshold : float, optional
        ``offset_``.
    labels : array-like, shape (N,), optional
        1 for rows known to be outliers: they are drawn apart.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import plot
    >>> scores = np.random.default_rng(0).normal(size=500)
    >>> plot.outlier_scores(scores, threshold=-2.3).get_xlabel()
    'score: log-density, nats'
    """
    values = _scores(scores)
    known = np.zeros(len(values), bool) if labels is None else _labels(labels, len(values))
    usual = values[~known] if (~known).any() else values
    low, high = np.quantile(usual, _SHOWN), values.max()
    if threshold is not None:
        low = min(low, threshold)
    span = (high - low) or 1.0
    low, high = low - 0.15 * span, high + 0.02 * span
    held = np.maximum(values, low)
    ax = own_axes(ax, _WIDE)
    edges = np.linspace(low, high, _BINS + 1)
    entries: list[Entry] = []
    groups = [(~known, COLOURS[0], "rows" if labels is None else "ordinary rows")]
    if known.any():
        groups.append((known, COLOURS[1], "outliers"))
    for some, shade, said in groups:
        if some.any():
            share = np.full(int(some.sum()), 1 / some.sum())
            ax.hist(held[some], edges, weights=share, color=shade, alpha=0.5, gid=said)
            entries.append((Patch(color=shade, alpha=0.5), f"{int(some.sum()):,} {said}"))
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=1.2, gid="threshold")
        below = float(np.mean(values < threshold))
        mark = Line2D([], [], color=INK, linewidth=1.2)
        entries.append((mark, f"threshold {threshold:.4g}: {100 * below:.2g} % below"))
    beyond = int((values < low).sum())
    if beyond:
        ax.annotate(
            f"{beyond:,} further left", (0.01, 0.97), xycoords="axes fraction", va="top",
            color=INK, fontsize="small",
        )  # fmt: skip
    ax.set(xlabel="score: log-density, nats", ylabel="share of rows", xlim=(edges[0], edges[-1]))
    legend(ax, entries)
    tidy(ax)
    return ax


def roc(scores: Any, labels: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the share of outliers found against the share of ordinary rows called outliers.

    Parameters
    ----------
    scores : array-like, shape (N,)
        Lower is stranger.
    labels : array-like, shape (N,)
        1 for outliers.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from mogul import plot
    >>> plot.roc([-9.0, -1.0, -2.0, -8.0], [1, 0, 0, 1]).get_ylabel()
    'outliers found'
    """
    values, known = _both(scores, labels)
    false, found, _ = roc_curve(known, -values)
    ax = own_axes(ax, _SQUARE)
    ax.plot([0, 1], [0, 1], color=BARS, linewidth=1.0, linestyle=":")
    (line,) = ax.plot(false, found, color=COLOURS[0], linewidth=1.8, gid="roc")
    area = roc_auc_score(known, -values)
    ax.set(xlabel="ordinary rows called outliers", ylabel="outliers found", xlim=(0, 1),
           ylim=(0, 1.01))  # fmt: skip
    legend(ax, [(line, f"area {area:.3f}")])
    tidy(ax)
    return ax


def precision_recall(scores: Any, labels: Any, *, ax: Axes | None = None) -> Axes:
    """Draw which share of the rows called outliers is right against the share of outliers found.

    Parameters
    ----------
    scores : array-like, shape (N,)
        Lower is stranger.
    labels : array-like, shape (N,)
        1 for outliers.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from mogul import plot
    >>> plot.precision_recall([-9.0, -1.0, -2.0, -8.0], [1, 0, 0, 1]).get_xlabel()
    'outliers found'
    """
    values, known = _both(scores, labels)
    right, found, _ = precision_recall_curve(known, -values)
    ax = own_axes(ax, _SQUARE)
    base = ax.axhline(known.mean(), color=BARS, linewidth=1.0, linestyle=":")
    (line,) = ax.step(found, right, where="post", color=COLOURS[0], linewidth=1.8, gid="precision")
    ax.set(xlabel="outliers found", ylabel="right among those called outliers", xlim=(0, 1),
           ylim=(0, 1.01))  # fmt: skip
    area = average_precision_score(known, -values)
    legend(ax, [(line, f"average precision {area:.3f}"), (base, "by chance")])
    tidy(ax)
    return ax


def contributions(explanation: Explanation, row: int = 0, *, ax: Axes | None = None) -> Axes:
    """Draw what each feature adds to the energy of one row, largest first.

    Parameters
    ----------
    explanation : Explanation
        As of ``MixtureOutlierDetector.explain``.
    row : int, default 0
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        With the twelve features that count most; the others, where they are several, are drawn
        together.

    Examples
    --------
    >>> import numpy as np
    >>> from mogul import plot
    >>> from mogul.explanation import Explanation
    >>> told = Explanation(np.array([[0.5, 7.0, -0.2]]), ("heat", "noise", "load"))
    >>> [text.get_text() for text in plot.contributions(told).get_yticklabels()]
    ['noise', 'heat', 'load']
    """
    n_rows = len(explanation.contributions)
    if check_count(row, "row", 0) >= n_rows:
        raise InputError(f"row must be below {n_rows}, the number of rows explained; got {row}.")
    values = explanation.contributions[row]
    order = np.argsort(-np.abs(values), kind="stable")
    n_shown = _MOST_FEATURES if len(order) > _MOST_FEATURES + 1 else len(order)
    shown, rest = order[:n_shown], order[n_shown:]
    shown = shown[np.argsort(-values[shown], kind="stable")]
    names = [plain(explanation.feature_names[j]) for j in shown]
    heights = values[shown]
    if len(rest):
        names.append(f"{len(rest)} others")
        heights = np.append(heights, values[rest].sum())
    ax = own_axes(ax, (6.0, 1.2 + 0.3 * len(names)))
    shades = [COLOURS[1] if value > 0 else COLOURS[0] for value in heights]
    bars = ax.barh(np.arange(len(names)), heights, color=shades, alpha=0.7, gid="contributions")
    ax.bar_label(bars, [f"{value:+.3g}" for value in heights], padding=3, color=INK,
                 fontsize="small")  # fmt: skip
    ax.axvline(0, color=BARS, linewidth=1.0)
    ax.set_yticks(np.arange(len(names)), names)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    total = float(explanation.excess[row])
    ax.set(xlabel=f"nats beyond an ordinary row; {total:+.3g} in all")
    tidy(ax)
    return ax


def _both(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    values = _scores(scores)
    known = _labels(labels, len(values))
    if known.all() or not known.any():
        raise InputError("labels must hold both ordinary rows (0) and outliers (1).")
    return values, known


def _scores(scores: Any) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise InputError("scores must be a list of finite numbers, one a row.")
    return values


def _labels(labels: Any, n_rows: int) -> np.ndarray:
    known = np.asarray(labels)
    if known.shape != (n_rows,) or not np.isin(known, (0, 1)).all():
        raise InputError(
            f"labels must be {n_rows} numbers, 0 for an ordinary row and 1 for an outlier."
        )
    return known.astype(bool)
