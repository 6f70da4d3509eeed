"""A mixture that follows a stream: incremental EM with forgetting."""

from __future__ import annotations

import torch

from mogul.data.rows import Rows
from mogul.infer.em import EMSettings, m_step, mend, stack
from mogul.kernels import e_step
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["absorb", "statistics_of"]


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
