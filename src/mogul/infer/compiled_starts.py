"""What a fit begins with, compiled: k-means, the mixture that a partition is, a few iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from mogul._threads import at_hand, spread
from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.infer.compiled_em import blank_memory, climbing_rule
from mogul.kernels._kmeans import n_tries
from mogul.kernels._many import fit_partitions
from mogul.kernels._squarem import LEFT
from mogul.kernels.compiled import as_array, as_lines, desk_for, empty_plan
from mogul.kernels.packed import PackedMixture

__all__ = ["Begun", "begin_each"]


_PASSES = 20
"""Over the rows, about, in a run of k-means."""
_SMALL = 1 << 19
"""Multiplications below which to wake another thread takes longer than it saves."""


@dataclass(frozen=True)
class Begun:
    """A mixture that a partition is, and where a few iterations of EM led from it.

    Attributes
    ----------
    start, end : PackedMixture
    value : float
        The log-likelihood of the end in nats per unit of row weight.
    values : list of float
        Those at the beginning of each iteration.
    """

    start: PackedMixture
    end: PackedMixture
    value: float
    values: list[float]


def begin_each(
    rows: Rows,
    n_components: int,
    structure: type[Covariance],
    floor: float,
    standardised: Sequence[bool],
    random_state: RandomState,
    *,
    tol: float = 0.0,
    max_iter: int = 0,
) -> list[Begun] | None:
    """A run of k-means for each item of ``standardised``, and up to ``max_iter`` iterations of EM.

    None where a component needs a repair.
    """
    k, d = n_components, rows.n_features
    values, weight = as_array(rows.values), as_lines(rows.weight, rows.values)
    rule = climbing_rule(tol, max_iter, "none")
    chances = random_state.uniform(size=(len(standardised), k, n_tries(k)))
    like = PackedMixture.empty(structure, k, d)
    scaled = np.array(standardised, dtype=np.bool_)
    starts, ends = (
        tuple(np.empty((len(scaled), *part.shape)) for part in like.arrays) for _ in range(2)
    )
    history, found = np.empty((len(scaled), max(1, max_iter))), np.empty(len(scaled))
    n_iter, state = (np.empty(len(scaled), dtype=np.int64) for _ in range(2))

    def run(own: slice) -> None:
        plan = empty_plan(structure, k, d, n_rows=rows.n_rows)
        desk = desk_for(rows.n_rows, rows.n_rows, plan, 1, structure)
        mixtures = (tuple(part[own] for part in side) for side in (starts, ends))
        fit_partitions(
            values, weight, chances[own], scaled[own], like.kind, plan, float(floor), rule,
            *mixtures, blank_memory(like), desk, history[own], found[own], n_iter[own], state[own],
        )  # fmt: skip

    n_runs = len(standardised)
    small = rows.n_rows * k * d * (_PASSES + max_iter) < _SMALL
    shares = [slice(0, n_runs)] if small else [slice(i, i + 1) for i in range(n_runs)]
    spread(run, shares, at_hand())
    if (state == LEFT).any():
        return None
    first, last = (
        [PackedMixture(structure, *(part[i] for part in side)) for i in range(n_runs)]
        for side in (starts, ends)
    )
    values = [each[:n] for each, n in zip(history.tolist(), n_iter.tolist(), strict=True)]
    return [Begun(*one) for one in zip(first, last, found.tolist(), values, strict=True)]
