"""Whether predicted distributions hold what they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.stats import binom

from mogul import calibration as figures
from mogul.mixture import Mixture
from mogul.plot._style import BARS, COLOURS, INK, Entry, colour, legend, own_axes, plain, tidy

_SIZE = (4.8, 4.4)
_WIDE = (6.0, 3.6)
_BINS = 20
_CHANCE = 0.95


def pit(mixture: Mixture, y: Any, *, bins: int = _BINS, ax: Axes | None = None) -> Axes:
    """Draw the histogram of the probability integral transform: flat when predictions are right.

    A hump in the middle says that the predictions are too wide, a valley that they are too narrow,
    a slope that they are too high or too low (Gneiting, Balabdaoui and Raftery 2007).

    Parameters
    ----------
    mixture : Mixture, batch shape (N,)
        What was predicted, as by ``predict_mixture``.
    y : array-like, shape (N,) or (N, D)
        What was seen. Several outputs are drawn in one histogram.
    bins : int, default 20
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import torch
    >>> from mogul import Mixture, plot
    >>> many = Mixture.from_parameters([[1.0]] * 50, [[[0.0]]] * 50, [[[1.0]]] * 50, "diag")
    >>> y = many.sample(generator=torch.Generator().manual_seed(0))
    >>> plot.pit(many, y).get_xlabel()
    'probability integral transform'
    """
    values = figures.pit(mixture, y).detach().cpu().numpy().ravel()
    values = values[~np.isnan(values)]
    ax = own_axes(ax, _WIDE)
    n = len(values)
    ax.hist(values, bins=bins, range=(0, 1), weights=np.full(n, bins / n), color=COLOURS[0],
            alpha=0.5, gid="pit")  # fmt: skip
    low, high = binom.ppf([(1 - _CHANCE) / 2, (1 + _CHANCE) / 2], n, 1 / bins) * bins / n
    ax.axhspan(low, high, color=BARS, alpha=0.25, linewidth=0, gid="chance")
    ax.axhline(1.0, color=INK, linewidth=1.0)
    ax.set(xlabel="probability integral transform", ylabel="density", xlim=(0, 1))
    entries: list[Entry] = [
        (Patch(color=COLOURS[0], alpha=0.5), f"{n:,} values seen"),
        (Patch(color=BARS, alpha=0.25), f"where {100 * _CHANCE:g} % of bars are by chance"),
    ]
    legend(ax, entries)
    tidy(ax)
    return ax


def calibration(mixture: Mixture, y: Any, *, ax: Axes | None = None) -> Axes:
    """Draw how often values lie below their predicted quantiles, against how often they should.

    Parameters
    ----------
    mixture : Mixture, batch shape (N,)
    y : array-like, shape (N,) or (N, D)
        A curve for each output.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    p, share = figures.calibration_curve(mixture, y)
    return _against(
        mixture, y, p, share, ax, "predicted probability", "share of values below the quantile"
    )


def coverage(mixture: Mixture, y: Any, *, ax: Axes | None = None) -> Axes:
    """Draw how often equal-tailed intervals hold the values, against their level.

    The legend also says how wide 90 % intervals are.

    Parameters
    ----------
    mixture : Mixture, batch shape (N,)
    y : array-like, shape (N,) or (N, D)
        A curve for each output.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
    """
    p, share = figures.coverage(mixture, y)
    widths = figures.sharpness(mixture, 0.9).tolist()
    said = [f"intervals of 90 % are {width:.3g} wide on average" for width in widths]
    return _against(
        mixture, y, p, share, ax, "level of the interval", "share of values inside", said
    )


def _against(
    mixture: Mixture,
    y: Any,
    p: Any,
    share: Any,
    ax: Axes | None,
    asked: str,
    found: str,
    said: list[str] | None = None,
) -> Axes:
    """Shares against probabilities, with what chance would do to right predictions."""
    known = ~figures.pit(mixture, y).isnan()
    x = p.cpu().numpy()
    ax = own_axes(ax, _SIZE)
    n = int(known.sum(0).min())
    low, high = (binom.ppf(q, n, x) / n for q in ((1 - _CHANCE) / 2, (1 + _CHANCE) / 2))
    ax.fill_between(x, low, high, color=BARS, alpha=0.25, linewidth=0, gid="chance")
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1.0)
    names = mixture.feature_names or [f"output {d}" for d in range(mixture.n_features)]
    entries: list[Entry] = []
    for d in range(mixture.n_features):
        ax.plot(x, share[:, d].cpu().numpy(), color=colour(d), linewidth=1.8, gid=f"curve {d}")
        words = plain(names[d]) if mixture.n_features > 1 or mixture.feature_names else "values"
        words = f"{words} of {n:,} rows" + (f"; {said[d]}" if said else "")
        entries.append((Line2D([], [], color=colour(d)), words))
    entries.append(
        (Patch(color=BARS, alpha=0.25), f"where right predictions are {100 * _CHANCE:g} % of times")
    )
    ax.set(xlabel=asked, ylabel=found, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    legend(ax, entries, letters=52)
    tidy(ax)
    return ax
