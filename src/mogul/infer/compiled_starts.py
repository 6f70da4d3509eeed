"""What a fit begins with, compiled: k-means, the mixture that a partition is, a few iterations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from mogul._memory import LARGE_MIXTURE
from mogul._threads import at_hand, spread
from mogul.covariances import Covariance, DiagCovariance
from mogul.data.rows import Rows
from mogul.infer.compiled_em import blank_memory, climbing_rule, fit_one
from mogul.infer.em import likeliest
from mogul.kernels import _many
from mogul.kernels._kmeans import n_tries
from mogul.kernels._passes import Desk
from mogul.kernels._squarem import LEFT, Memory, Rule
from mogul.kernels._tiles import Plan
from mogul.kernels.compiled import as_array, as_lines, desk_for, empty_plan, shared_rows
from mogul.kernels.packed import PackedMixture

__all__ = ["Begun", "begin_best", "begin_each"]


_PASSES = 20
"""Over the rows, about, in a run of k-means."""
_SMALL = 1 << 19
"""Multiplications below which to wake another thread takes longer than it saves."""


@dataclass(frozen=True)
class Begun:
    """Where a few iterations of EM led from the mixture that a partition is.

    Attributes
    ----------
    end : PackedMixture
    value : float
        Its log-likelihood in nats per unit of row weight.
    values : list of float
        Those at the beginning of each iteration.
    start : callable, () → PackedMixture
        Where it began.
    """

    end: PackedMixture
    value: float
    values: list[float]
    start: Callable[[], PackedMixture]


class _Problem:
    """Rows to begin on, and how."""

    def __init__(
        self,
        rows: Rows,
        n_components: int,
        structure: type[Covariance],
        floor: float,
        tol: float,
        max_iter: int,
    ):
        self.values, self.weight = as_array(rows.values), as_lines(rows.weight, rows.values)
        self.shape = structure, n_components, rows.n_features
        self.floor, self.rule = float(floor), climbing_rule(tol, max_iter, "none")

    @property
    def n_rows(self) -> int:
        return len(self.values)

    @property
    def memory(self) -> Memory:
        return blank_memory(self.blank(), "none")

    def blank(self) -> PackedMixture:
        return PackedMixture.empty(*self.shape)

    def room(self, n_threads: int) -> tuple[Plan, Desk, int]:
        """Where as many threads climb."""
        n_least = shared_rows(*self.shape, self.n_rows, n_threads)
        plan = empty_plan(*self.shape, n_rows=n_least)
        return plan, desk_for(self.n_rows, n_least, plan, n_threads, self.shape[0]), n_threads

    def draws(self, n_runs: int, random_state: RandomState) -> NDArray[np.float64]:
        """Of runs of k-means."""
        k = self.shape[1]
        return random_state.uniform(size=(n_runs, k, n_tries(k)))

    def climb(
        self,
        labels: NDArray[np.int64],
        own: PackedMixture,
        rule: Rule,
        room: tuple[Plan, Desk, int],
    ) -> tuple[float, int, list[float]]:
        """From a partition: the log-likelihood, how it ended, and that at each iteration."""
        plan, desk, n_threads = room
        n_most = max(1, rule.max_iter)
        history = np.empty(n_most), np.empty(n_most, dtype=np.bool_)
        value, n_iter, state = fit_one(
            self.values, self.weight, plan, self.floor, rule, own, self.memory, desk, history,
            last=rule.max_iter, labels=labels, n_threads=n_threads,
        )  # fmt: skip
        return value, state, history[0][:n_iter].tolist()

    def start_of(self, labels: NDArray[np.int64]) -> PackedMixture:
        """The mixture that a partition is."""
        own = self.blank()
        self.climb(labels, own, self.rule._replace(max_iter=0), self.room(1))
        return own


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
    problem = _Problem(rows, n_components, structure, floor, tol, max_iter)
    n_runs, k, d = len(standardised), n_components, rows.n_features
    chances, scaled = problem.draws(n_runs, random_state), np.array(standardised, dtype=np.bool_)
    like = problem.blank()
    ends = tuple(np.empty((n_runs, *part.shape)) for part in like.arrays)
    labels = np.empty((n_runs, rows.n_rows), dtype=np.int64)
    history, found = np.empty((n_runs, max(1, max_iter))), np.empty(n_runs)
    n_iter, state = (np.empty(n_runs, dtype=np.int64) for _ in range(2))

    def run(own: slice) -> None:
        plan, desk, _ = problem.room(1)
        _many.fit_partitions(
            problem.values, problem.weight, chances[own], scaled[own], like.kind, plan,
            problem.floor, problem.rule, tuple(part[own] for part in ends), labels[own],
            problem.memory, desk, history[own], found[own], n_iter[own], state[own],
        )  # fmt: skip

    small = rows.n_rows * k * d * (_PASSES + max_iter) < _SMALL
    spans = [slice(0, n_runs)] if small else [slice(i, i + 1) for i in range(n_runs)]
    spread(run, spans, at_hand())
    if (state == LEFT).any():
        return None
    values = [each[:n] for each, n in zip(history.tolist(), n_iter.tolist(), strict=True)]
    return [
        Begun(
            PackedMixture(structure, *(part[i] for part in ends)),
            value,
            values[i],
            partial(problem.start_of, labels[i]),
        )
        for i, value in enumerate(found.tolist())
    ]


def begin_best(
    rows: Rows,
    n_components: int,
    structure: type[Covariance],
    floor: float,
    standardised: Sequence[bool],
    random_state: RandomState,
    *,
    tol: float,
    max_iter: int,
) -> Begun | None:
    """The likeliest of :func:`begin_each`.

    Of a large mixture the iterations are made run after run, by all threads together: no more than
    two are kept. Runs of k-means are side by side, since of these only labels are. Those that need
    a repair are passed over, and None means that all do.
    """
    problem = _Problem(rows, n_components, structure, floor, tol, max_iter)
    own = problem.blank()
    if own.factor.size < LARGE_MIXTURE:
        how = {"tol": tol, "max_iter": max_iter}
        begun = begin_each(rows, n_components, structure, floor, standardised, random_state, **how)
        return None if begun is None else begun[likeliest([one.value for one in begun])]

    def partition(run: tuple[NDArray[np.float64], bool]) -> NDArray[np.int64]:
        plan = empty_plan(DiagCovariance, *problem.shape[1:])  # covariances do not matter
        return _many.partition(problem.values, problem.weight, *run, plan)

    draws = problem.draws(len(standardised), random_state)
    runs = list(zip(draws, standardised, strict=True))
    best, found = None, []
    partitions, room = spread(partition, runs, at_hand()), problem.room(at_hand())
    for labels in partitions:
        value, state, values = problem.climb(labels, own, problem.rule, room)
        if state == LEFT:
            continue
        found.append(value)
        if likeliest(found) == len(found) - 1:
            spare = problem.blank() if best is None else best.end
            best, own = Begun(own, value, values, partial(problem.start_of, labels)), spare
    return best
