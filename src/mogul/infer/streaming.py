"""A mixture that follows a stream: incremental EM with forgetting."""

from __future__ import annotations

import torch

from mogul.data.rows import Rows
from mogul.infer.criteria import mean_log_likelihood
from mogul.infer.em import EMSettings, m_step, mend, stack
from mogul.kernels import e_step
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["absorb", "statistics_of", "stepwise"]

_FORGETTING, _DELAY = 0.6, 2.0
"""Of the step size (t + 2)^−0.6, as Liang and Klein (2009) have it."""


def statistics_of(mixture: Mixture, n_rows: float, floor: float) -> Stats:
    """The statistics of ``n_rows`` rows that an M-step with this floor makes the mixture of."""
    covariance, d = mixture.covariance, mixture.n_features
    count = n_rows * mixture.weights
    values = covariance.covariances()
    values = values - floor * (torch.eye(d).to(values) if covariance.has_matrices() else 1.0)
    counts = covariance.at_blocks(covariance.block_counts(count, d))
    total = count.sum(-1)
    return Stats(
        count,
        torch.zeros_like(mixture.means),
        counts * values,
        mixture.means,
        total,
        torch.zeros_like(total),
    )


def absorb(
    stats: Stats, mixture: Mixture, rows: Rows, keep: float, settings: EMSettings
) -> tuple[Stats, Mixture]:
    """One step of EM on new rows together with what is kept of the old ones.

    Parameters
    ----------
    stats : Stats
        Of the rows so far.
    mixture : Mixture
        That they made.
    rows : Rows
    keep : float
        What the old rows count now, from 0 to 1; 1 forgets nothing.
    settings : EMSettings
        Of which floor and shrinkage count.

    References
    ----------
    Neal and Hinton (1998), incremental EM; Cappé and Moulines (2009), with forgetting.
    """
    new = e_step(rows.values, mixture, rows.weight)
    both = mixture.covariance.recentre(stats, new.origin) * keep + new
    found, ok = m_step(
        both,
        type(mixture.covariance),
        settings.floor,
        settings.shrinkage,
        settings.uncorrelated,
    )
    if not bool(ok.all()):
        mended, usable = mend(stack([found]), ok.unsqueeze(0))
        if not bool(usable.all()):
            return stats, mixture  # such rows are passed over
        found = mended[0]
        both = statistics_of(found, float(both.row_weight), settings.floor)
    return both, found


def stepwise(
    mixture: Mixture, rows: Rows, seen: float, settings: EMSettings
) -> tuple[Mixture, float]:
    """One step of stepwise EM: mean statistics move towards those of a batch (Cappé and Moulines).

    Parameters
    ----------
    mixture : Mixture
    rows : Rows
    seen : float
        The weight of all rows before, on which the size of the step depends.
    settings : EMSettings
        Of which floor and shrinkage count.

    Returns
    -------
    mixture : Mixture
    log_likelihood : float
        Per unit of row weight of the batch, before the step.
    """
    step = (seen / rows.total_weight + _DELAY) ** -_FORGETTING
    before = statistics_of(mixture, 1.0, settings.floor)
    value = mean_log_likelihood(rows, mixture)
    return absorb(before, mixture, rows.scaled_to(step), 1 - step, settings)[1], value
