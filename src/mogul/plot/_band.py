"""The predictive density of one feature, and how sure the posterior is of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from mogul._checks import check_count, check_level
from mogul.mixture import Mixture
from mogul.plot._beliefs import checked_names, checked_posterior, positions
from mogul.plot._line import bin_edges
from mogul.plot._scene import scene
from mogul.plot._style import BARS, COLOURS, INK, Entry, legend, own_axes, plain, tidy
from mogul.posterior import Posterior, VariationalPosterior
from mogul.predictive import PredictiveMixture

_SIZE = (6.4, 4.2)
_POINTS = 400
_RESPONSES = 80
"""Points at which linear response is asked; it changes slowly between them."""
_REACH = 4.0
"""Standard deviations of the outermost components that the view reaches beyond their means."""


def credible_density(
    posterior: Posterior,
    data: Any = None,
    *,
    feature: int | str = 0,
    level: float = 0.95,
    correction: str = "none",
    n: int = 400,
    sample_weight: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the density of one feature with a band that holds it, point by point.

    The line is the posterior predictive density, and the band reaches from one quantile of the
    densities of ``n`` draws of the posterior to the other.

    Parameters
    ----------
    posterior : Posterior
    data : array, tensor or frame, shape (N, D), optional
        Rows to compare with, as a histogram.
    feature : int or str, default 0
    level : float, default 0.95
        The probability of the band at each point.
    correction : {"none", "linear_response"}, default "none"
        Mean-field bands are too narrow where components overlap; "linear_response" widens them
        about their median by what the density's standard deviation lacks.
    n : int, default 400
        Draws; as many as there are of a sampled posterior of fewer.
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
    level, n = check_level(level), check_count(n, "n", 2)
    names = checked_names(checked_posterior(posterior), None)
    chosen = positions([feature], names)
    posterior.std("weights", correction)  # warns where it is too narrow, and refuses the unknown
    whole = scene(posterior.mean(), data, sample_weight=sample_weight).pick(chosen)
    draws = posterior.sample(min(n, posterior.n_kept or n)).marginal(chosen)
    x = _points(whole.mixture, whole.rows)
    at = torch.from_numpy(x).unsqueeze(-1).to(draws.means)
    heights = draws.log_prob(at.unsqueeze(1)).cpu().numpy()  # logarithms, (points, draws)
    if correction != "none":
        heights = _widened(posterior, heights, at, chosen)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.exp(np.quantile(heights, tails, axis=1))
    line = _density(posterior.predictive(), at, chosen).cpu().numpy()
    ax = own_axes(ax, _SIZE)
    entries: list[Entry] = []
    if len(whole.rows):
        edges = bin_edges(whole.rows[:, 0], (x[0], x[-1]))
        bars, _ = np.histogram(whole.rows[:, 0], edges, weights=whole.row_weights, density=True)
        ax.stairs(bars, edges, color=BARS, linewidth=0.9, gid="histogram")
        entries.append((Line2D([], [], color=BARS), f"histogram of {len(whole.rows):,} rows"))
    ax.fill_between(x, low, high, color=COLOURS[0], alpha=0.3, linewidth=0, gid="band")
    ax.plot(x, line, color=INK, linewidth=1.6, gid="density")
    entries = [
        (Line2D([], [], color=INK), "posterior predictive density"),
        (
            Patch(color=COLOURS[0], alpha=0.3),
            f"{100 * level:g} % credible band, {_how(correction)}",
        ),
        *entries,
    ]
    ax.set(xlabel=plain(whole.names[0]), ylabel="density", xlim=(x[0], x[-1]))
    ax.set_ylim(bottom=0)
    tidy(ax)
    legend(ax, entries)
    return ax


def _how(correction: str) -> str:
    return "point by point" if correction == "none" else "corrected by linear response"


def _density(predictive: PredictiveMixture, at: Tensor, chosen: list[int]) -> Tensor:
    return predictive.marginal(torch.tensor(chosen)).log_prob(at).exp()


def _widened(
    posterior: Posterior, heights: np.ndarray, at: Tensor, chosen: list[int]
) -> np.ndarray:
    """Logarithms of densities of draws, as far apart as linear response has them.

    The predictive density is an expectation under the posterior, so what mean field's variance of
    the density lacks is what linear response adds to that expectation.
    """
    assert isinstance(posterior, VariationalPosterior)  # draws have refused a correction
    some = np.unique(np.linspace(0, len(at) - 1, _RESPONSES).round().astype(int))
    excess = posterior.linear_response.excess(
        lambda belief: _density(belief.predictive(), at[some], chosen)
    ).diagonal()
    own = np.exp(heights[some]).var(1)
    more = np.sqrt(1 + np.maximum(excess.cpu().numpy(), 0) / own)
    wider = np.interp(np.arange(len(at)), some, more)[:, None]
    middle = np.median(heights, axis=1, keepdims=True)
    return middle + wider * (heights - middle)


def _points(mixture: Mixture, rows: np.ndarray) -> np.ndarray:
    """Ascending points that cover the components that carry weight, and the rows."""
    carries = (mixture.weights > 1e-3).numpy()
    means = mixture.means[:, 0].numpy()[carries]
    reach = _REACH * mixture.covariance.variances()[:, 0].sqrt().numpy()[carries]
    low, high = (means - reach).min(), (means + reach).max()
    if len(rows):
        low, high = min(low, rows.min()), max(high, rows.max())
    return np.linspace(low, high, _POINTS)
