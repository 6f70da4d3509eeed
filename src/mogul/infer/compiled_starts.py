"""What a fit begins with, compiled: k-means, the mixture that a partition is, a few iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import RandomState

from mogul._threads import at_hand, spread
from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.infer.compiled_em import blank_memory, climbing_rule, helped
from mogul.infer.em import likeliest
from mogul.kernels._kmeans import n_tries
from mogul.kernels._many import fit_partitions
from mogul.kernels._squarem import LEFT
from mogul.kernels.compiled import as_array, as_lines, desk_for, empty_plan, shared_rows
from mogul.kernels.packed import PackedMixture

__all__ = ["Begun", "begin_each", "begin_likeliest"]


_PASSES = 20
"""Over the rows, about, in a run of k-means."""
_SMALL = 1 << 19
"""Multiplications below which to wake another thread takes longer than it saves."""
_LARGE = 1 << 19
"""Numbers of a mixture, 4 MB, from which on few of them are kept at a time."""


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
    keeps_starts: bool = True,
) -> list[Begun] | None:
    """A run of k-means for each item of ``standardised``, and up to ``max_iter`` iterations of EM.

    None where a component needs a repair. Without ``keeps_starts`` each begins where it ended.
    """
    k, d = n_components, rows.n_features
    values, weight = as_array(rows.values), as_lines(rows.weight, rows.values)
    rule = climbing_rule(tol, max_iter, "none")
    chances = random_state.uniform(size=(len(standardised), k, n_tries(k)))
    like = PackedMixture.empty(structure, k, d)
    scaled = np.array(standardised, dtype=np.bool_)
    shapes = [(len(scaled), *part.shape) for part in like.arrays]
    ends = tuple(map(np.empty, shapes))
    starts = tuple(
        np.empty(shape if keeps_starts else (len(scaled), *(0,) * (len(shape) - 1)))
        for shape in shapes
    )
    history, found = np.empty((len(scaled), max(1, max_iter))), np.empty(len(scaled))
    n_iter, state = (np.empty(len(scaled), dtype=np.int64) for _ in range(2))

    n_runs, n_threads = len(standardised), at_hand()
    small = rows.n_rows * k * d * (_PASSES + max_iter) < _SMALL
    shares = [slice(0, n_runs)] if small else [slice(i, i + 1) for i in range(n_runs)]
    n_each = 1 if small else max(1, n_threads // n_runs)
    n_least = shared_rows(structure, k, d, rows.n_rows, n_each)

    def run(own: slice) -> None:
        plan = empty_plan(structure, k, d, n_rows=n_least)
        desk = desk_for(rows.n_rows, n_least, plan, n_each, structure)
        before, after = (tuple(part[own] for part in side) for side in (starts, ends))
        with helped(n_each, values, weight, like.kind, plan, after[1][0], desk):
            fit_partitions(
                values, weight, chances[own], scaled[own], like.kind, plan, float(floor), rule,
                before, after, blank_memory(like), desk, history[own], found[own], n_iter[own],
                state[own],
            )  # fmt: skip

    spread(run, shares, n_threads)
    if (state == LEFT).any():
        return None
    first, last = (
        [PackedMixture(structure, *(part[i] for part in side)) for i in range(n_runs)]
        for side in (starts if keeps_starts else ends, ends)
    )
    made = n_iter.tolist() if keeps_starts else [0] * n_runs
    seen = [each[:n] for each, n in zip(history.tolist(), made, strict=True)]
    return [Begun(*one) for one in zip(first, last, found.tolist(), seen, strict=True)]


def begin_likeliest(
    rows: Rows,
    n_components: int,
    structure: type[Covariance],
    floor: float,
    standardised: Sequence[bool],
    random_state: RandomState,
    **short: Any,
) -> Begun | None:
    """The likeliest of :func:`begin_each`; of large mixtures, one after another without starts."""
    asked = rows, n_components, structure, floor
    if PackedMixture.empty(structure, n_components, rows.n_features).factor.size < _LARGE:
        begun = begin_each(*asked, standardised, random_state, **short)
        return begun[likeliest([one.value for one in begun])] if begun else None
    best: Begun | None = None
    for scaled in standardised:
        begun = begin_each(*asked, [scaled], random_state, **short, keeps_starts=False)
        if begun is None:
            return None
        if best is None or likeliest([best.value, begun[0].value]):
            best = begun[0]
    return best
