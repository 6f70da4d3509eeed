"""What a fit begins with, compiled: k-means, the mixture that a partition is, a few iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from mogul._threads import at_hand, spread
from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.infer.compiled_em import blank_memory, climbing_rule, fit_one
from mogul.kernels import _squarem
from mogul.kernels._kmeans import n_tries
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
    """

    start: PackedMixture
    end: PackedMixture
    value: float


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

    def run(own: range) -> list[Begun | None]:
        plan = empty_plan(structure, k, d, n_rows=rows.n_rows)
        memory = blank_memory(PackedMixture.empty(structure, k, d))
        desk = desk_for(rows.n_rows, rows.n_rows, plan, 1)
        history = np.empty(1), np.empty(1, dtype=np.bool_)
        found: list[Begun | None] = []
        for i in own:
            start, end = (PackedMixture.empty(structure, k, d) for _ in range(2))
            partition = chances[i], standardised[i]
            value, _, state = fit_one(
                values, weight, plan, floor, rule, end, memory, desk, history, last=max_iter,
                partition=partition, start=start,
            )  # fmt: skip
            found.append(None if state == _squarem.LEFT else Begun(start, end, value))
        return found

    n_runs = len(standardised)
    small = rows.n_rows * k * d * (_PASSES + max_iter) < _SMALL
    shares = [range(n_runs)] if small else [range(i, i + 1) for i in range(n_runs)]
    begun = [one for found in spread(run, shares, at_hand()) for one in found if one is not None]
    return begun if len(begun) == n_runs else None
