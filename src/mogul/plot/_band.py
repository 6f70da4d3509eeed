"""The predictive density of one feature, and how sure the posterior is of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mogul.mixture import Mixture
from mogul.plot._line import bin_edges
from mogul.plot._scene import scene
from mogul.plot._style import BARS, COLOURS, INK, Entry, legend, own_axes, plain, tidy
from mogul.posterior import Posterior, SampledPosterior

_SIZE = (6.4, 4.2)
_POINTS = 400
_REACH = 4.0
"""Standard deviations of the outermost components that the view reaches beyond their means."""


def credible_density(
    posterior: Posterior,
    data: Any = None,
    *,
    feature: int | str = 0,
    level: float = 0.95,
    n: int = 400,
    sample_weight: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the density of one feature with a band that holds it, point by point.

    The line is the average of the densities of ``n`` draws of the posterior, which is the
    predictive density; the band reaches from one quantile of these densities to the other.

    Parameters
    ----------
    posterior : Posterior
    data : array, tensor or frame, shape (N, D), optional
        Rows to compare with, as a histogram.
    feature : int or str, default 0
    level : float, default 0.95
        The probability of the band at each point.
    n : int, default 400
        Draws.
    sample_weight : array, shape (N,), optional
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets, plot
    >>> data = datasets.old_faithful()
    >>> model = BayesianGaussianMixture(2, random_state=0).fit(data)
    >>> plot.credible_density(model.posterior_, data, feature="waiting_minutes").get_xlabel()
    'waiting_minutes'
    """
    if isinstance(posterior, SampledPosterior):
        n = min(n, posterior.draws.batch_shape.numel())
    ends = posterior.interval("weights", level)  # refuses a level that is none
    whole = scene(posterior.mean(), data, sample_weight=sample_weight).pick(feature)
    draws = posterior.sample(n).marginal(feature)
    x = _points(whole.mixture, whole.rows)
    heights = draws.log_prob(torch.from_numpy(x)[:, None, None].to(ends)).exp().cpu().numpy()
    low, high = np.quantile(heights, [(1 - level) / 2, (1 + level) / 2], axis=1)
    ax = own_axes(ax, _SIZE)
    entries: list[Entry] = []
    if len(whole.rows):
        edges = bin_edges(whole.rows[:, 0], (x[0], x[-1]))
        bars, _ = np.histogram(whole.rows[:, 0], edges, weights=whole.row_weights, density=True)
        ax.stairs(bars, edges, color=BARS, linewidth=0.9, gid="histogram")
        entries.append((Line2D([], [], color=BARS), f"histogram of {len(whole.rows):,} rows"))
    ax.fill_between(x, low, high, color=COLOURS[0], alpha=0.3, linewidth=0, gid="band")
    ax.plot(x, heights.mean(1), color=INK, linewidth=1.6, gid="density")
    entries = [
        (Line2D([], [], color=INK), "posterior predictive density"),
        (Patch(color=COLOURS[0], alpha=0.3), f"{100 * level:g} % credible band, point by point"),
        *entries,
    ]
    ax.set(xlabel=plain(whole.names[0]), ylabel="density", xlim=(x[0], x[-1]))
    ax.set_ylim(bottom=0)
    tidy(ax)
    legend(ax, entries)
    return ax


def _points(mixture: Mixture, rows: np.ndarray) -> np.ndarray:
    """Ascending points that cover the components that carry weight, and the rows."""
    carries = (mixture.weights > 1e-3).numpy()
    means = mixture.means[:, 0].numpy()[carries]
    reach = _REACH * mixture.covariance.variances()[:, 0].sqrt().numpy()[carries]
    low, high = (means - reach).min(), (means + reach).max()
    if len(rows):
        low, high = min(low, rows.min()), max(high, rows.max())
    return np.linspace(low, high, _POINTS)
