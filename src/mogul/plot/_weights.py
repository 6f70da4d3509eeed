"""Which components a posterior keeps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mogul._checks import check_share
from mogul.beliefs import Belief
from mogul.plot._beliefs import checked_posterior, checked_prior
from mogul.plot._style import BARS, COLOURS, INK, Entry, legend, own_axes, tidy
from mogul.posterior import Posterior
from mogul.posterior.base import needed_components

_SIZE = (6.4, 3.8)
_FEW = 14
"""Up to so many components each has its number below its bar; more numbers would run together."""


def components(
    posterior: Posterior,
    *,
    prior: Belief | None = None,
    keep: float = 0.99,
    level: float = 0.95,
    correction: str = "none",
    ax: Axes | None = None,
) -> Axes:
    """Draw the weights of the components, heaviest first, and which of them are needed.

    Parameters
    ----------
    posterior : Posterior
    prior : Belief, optional
        Whose expected weights are marked for comparison.
    keep : float, default 0.99
        The components that hold so much of the weight together are coloured, the others grey.
    level : float, default 0.95
        The probability of the intervals.
    correction : {"none", "linear_response"}, default "none"
        Of the intervals.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets, plot
    >>> model = BayesianGaussianMixture(6, random_state=0).fit(datasets.old_faithful())
    >>> plot.components(model.posterior_).get_title(loc="left")
    '2 of 6 components hold 99 % of the weight'
    """
    keep = check_share(keep)
    checked_prior(prior)
    weights = checked_posterior(posterior).expectation("weights").detach().cpu().numpy()
    ends = posterior.interval("weights", level, correction).detach().cpu().numpy()
    order = np.argsort(-weights, kind="stable")
    n_kept = len(needed_components(weights, keep))
    ax = own_axes(ax, _SIZE)
    x = np.arange(len(weights))
    shades = [COLOURS[0] if i < n_kept else BARS for i in x]
    ax.bar(x, weights[order], color=shades, alpha=0.75, width=0.7)
    low, high = ends[order].T
    ax.vlines(x, low, high, color=INK, linewidth=1.4, gid="intervals")
    entries: list[Entry] = [
        (Patch(color=COLOURS[0], alpha=0.75), "expected weight"),
        (Line2D([], [], color=INK), f"{100 * level:g} % interval"),
    ]
    if prior is not None:
        before = np.sort(prior.weights.mean().detach().cpu().numpy())[::-1]
        (marks,) = ax.plot(
            x, before, linestyle="", marker="_", markersize=10, color=COLOURS[1], gid="prior"
        )
        entries.append((marks, "expected by the prior"))
    if len(x) <= _FEW:
        ax.set_xticks(x, [str(k) for k in order])
        ax.set_xlabel("component, heaviest first")
    else:
        ax.set_xlabel("components by weight, heaviest first")
        ax.set_xticks([])
    ax.set_ylabel("weight")
    ax.set_ylim(bottom=0)
    ax.set_title(
        f"{n_kept} of {len(weights)} components hold {100 * keep:g} % of the weight",
        loc="left",
        fontsize="medium",
    )
    tidy(ax)
    legend(ax, entries, loc="upper left", bbox_to_anchor=(0.0, -0.16), ncols=len(entries))
    return ax
