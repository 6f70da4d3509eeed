"""k-means‖: many centres in few passes over the rows."""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState

__all__ = ["parallel_seeds"]

_ROUNDS = 5
_OVERSAMPLING = 1.0
"""Rows drawn in a round, in clusters."""
_CHUNK_NUMBERS = 1 << 22
"""Distances that are held at once."""


def parallel_seeds(
    rows: np.ndarray, weight: np.ndarray, n_clusters: int, random_state: RandomState
) -> np.ndarray:
    """Centres to start k-means from, (n_clusters, D): k-means‖ (Bahmani and others 2012).

    k-means++ draws one centre after another, with a pass over the rows for each. Here each of five
    passes draws about K at once, every row with a chance in proportion to its squared distance
    from those before; k-means++ then draws K of them, each weighted by the rows that are nearest to
    it.

    Parameters
    ----------
    rows : ndarray, shape (N, D)
    weight : ndarray, shape (N,)
    n_clusters : int
    random_state : RandomState
    """
    from sklearn.cluster import kmeans_plusplus

    first = random_state.choice(len(rows), p=weight / weight.sum())
    chosen = [rows[first : first + 1]]
    nearest, distance = _nearest(rows, chosen[0])
    for _ in range(_ROUNDS):
        potential = weight * distance
        total = potential.sum()
        if total <= 0:
            break
        chance = np.minimum(1.0, _OVERSAMPLING * n_clusters * potential / total)
        drawn = rows[random_state.random_sample(len(rows)) < chance]
        if not len(drawn):
            continue
        before = sum(map(len, chosen))
        chosen.append(drawn)
        label, gap = _nearest(rows, drawn)
        closer = gap < distance
        nearest = np.where(closer, label + before, nearest)
        distance = np.minimum(gap, distance)
    candidates = np.concatenate(chosen)
    if len(candidates) < n_clusters:  # few distinct rows
        more = random_state.choice(len(rows), n_clusters, replace=False)
        return np.concatenate([candidates, rows[more]])[:n_clusters]
    mass = np.bincount(nearest, weight, minlength=len(candidates))
    centres, _ = kmeans_plusplus(
        candidates, n_clusters, sample_weight=mass, random_state=random_state
    )
    return centres


def _nearest(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each row, and the squared distance from it; in float32."""
    rows, centres = rows.astype(np.float32), centres.astype(np.float32)
    half = 0.5 * (centres**2).sum(1)
    label, distance = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    step = max(1, _CHUNK_NUMBERS // len(centres))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        closeness = part @ centres.T - half
        best = closeness.argmax(1)
        label[start : start + step] = best
        closest = closeness[np.arange(len(part)), best]
        distance[start : start + step] = (part**2).sum(1) - 2.0 * closest
    return label, np.maximum(distance, 0.0)
