"""Cross-fitting of rows that are read in batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from mogul.data.rows import Rows
from mogul.data.sources import Block, Source, ahead
from mogul.data.views import View, chosen, lots
from mogul.infer.held_out import CONCENTRATION_STEPS, Form
from mogul.infer.maximum_likelihood import FixedParts
from mogul.infer.streams import fit_source
from mogul.infer.team import Team
from mogul.kernels import log_prob
from mogul.mixture import Mixture

__all__ = ["CrossFitSource", "cross_fit_source"]


@dataclass(frozen=True)
class CrossFitSource:
    """A mixture for each fold, and scores of rows that it has not seen.

    Attributes
    ----------
    mixtures : list of V Mixture
    scores : list of V arrays
        Log-densities of rows of each fold, by the mixture that left them out: of all rows, or of so
        many drawn at random as were asked for.
    """

    mixtures: list[Mixture]
    scores: list[np.ndarray]


def cross_fit_source(
    source: Source,
    form: Form,
    n_folds: int,
    random_state: RandomState,
    *,
    sample: Rows,
    n_rows: int,
    n_scores: int,
    seed: int,
    trim: float = 0.0,
) -> CrossFitSource:
    """As :func:`~mogul.infer.held_out.cross_fit`, for a source; the fold of a row depends on its
    place.

    Parameters
    ----------
    source : Source
    form : Form
    n_folds : int
    random_state : RandomState
    sample : Rows
        Some of the rows, to find densities below which a share ``trim`` lies.
    n_rows : int
        In all.
    n_scores : int
        About how many scores to keep.
    seed : int
        Of the folds; the same in all processes.
    trim : float, default 0.0
    """
    settings = form.settings(source.n_features)

    def fold(block: Block) -> np.ndarray:
        return (lots(block, seed) * n_folds).astype(int)

    def fitted(rows: Source, before: Mixture | None = None) -> Mixture:
        return fit_source(
            rows,
            form.n_components,
            form.covariance_type,
            settings,
            method="kmeans",
            n_init=1,
            random_state=random_state,
            fixed=FixedParts(),
            continue_from=None if before is None else (before, -torch.inf),
            device=torch.device("cpu"),
        ).mixture

    mixtures = []
    for v in range(n_folds):
        others = View(source, lambda block, v=v: chosen(block, fold(block) != v))
        mixture = fitted(others)
        for _ in range(CONCENTRATION_STEPS if trim else 0):
            least = _quantile(log_prob(sample.values, mixture), sample.weight, trim)
            dense = View(
                others,
                lambda block, mixture=mixture, least=least: chosen(
                    block, _scores(block.values, mixture) >= least
                ),
            )
            mixture = fitted(dense, mixture)
        mixtures.append(mixture)
    share = min(1.0, n_scores / n_rows)
    return CrossFitSource(mixtures, _left_out(source, mixtures, share, seed))


def _quantile(values: Tensor, weight: Tensor | None, share: float) -> float:
    """The value below which a share of the weight lies."""
    if weight is None:
        return float(torch.quantile(values, share))
    order = values.argsort()
    below = weight[order].cumsum(0) / weight.sum()
    return float(values[order[int((below < share).sum().clamp(max=len(order) - 1))]])


def _left_out(source: Source, mixtures: list[Mixture], share: float, seed: int) -> list[np.ndarray]:
    """A share of the rows of each fold, scored by the mixture that has not seen them."""
    team, n_folds = Team(), len(mixtures)
    part = source.shard(team.rank, team.size) if source.shared else source

    def own() -> list[np.ndarray]:
        found: list[list[np.ndarray]] = [[] for _ in mixtures]
        for block in ahead(part.checked_blocks()):
            fold, rest = np.divmod(lots(block, seed) * n_folds, 1)
            counted = rest < share
            if block.weight is not None:
                counted &= block.weight > 0
            for v, mixture in enumerate(mixtures):
                found[v].append(_scores(block.values[counted & (fold == v)], mixture))
        return [np.concatenate(one) if one else np.empty(0) for one in found]

    parts = team.gather(own)
    return [np.concatenate([one[v] for one in parts]) for v in range(n_folds)]


def _scores(values: np.ndarray, mixture: Mixture) -> np.ndarray:
    return log_prob(torch.from_numpy(values), mixture).numpy()
