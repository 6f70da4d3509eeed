"""EM's map without torch: an E-step, an M-step and coordinates, each one compiled call.

Torch takes some microseconds for every small operation, and a map has a hundred of them: more than
the rows themselves cost when there are fewer than some ten thousand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mogul._threads import spread
from mogul.data.rows import Rows
from mogul.infer.ascent import PAYS_AFTER, Step
from mogul.infer.repair import split_into
from mogul.infer.stopping import STEADY, Trace
from mogul.kernels import _many, _tiles
from mogul.kernels import _parameters as code
from mogul.kernels._few import Screen
from mogul.kernels._local import collect_local, prefers_local
from mogul.kernels.compiled import (
    Sums,
    as_array,
    as_lines,
    check_width,
    collect_sums,
    cut,
    empty_plan,
    empty_screens,
    fill_screens,
    fits_one_core,
    is_exact,
)
from mogul.kernels.packed import KINDS, PackedMixture
from mogul.mixture import Mixture

__all__ = ["CompiledMap", "PackedChart", "fit_one", "mended"]

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor | None]]

_BURST = 100
"""Iterations, at most, between looks at whether somebody pressed Ctrl-C."""
_BURST_WORK = 1 << 28
"""Multiplications, at most, between these: a tenth of a second."""
_LONGEST_WAIT = 15
"""Passes, at most, that are not screened because one before them did not gain by it."""


class CompiledMap:
    """One pass over the rows for each of some mixtures: its log-likelihood, and EM's next mixture.

    Where rows or components are so far apart that the expanded form would cancel, statistics about
    each component's own mean take its place.

    Parameters
    ----------
    batches : iterable of (rows, weights), re-iterable
        On a CPU.
    like : Mixture
        Of the structure and size of all mixtures to come.
    floor : float
        Added to every variance.
    n_threads : int
    """

    def __init__(self, batches: Batches, like: Mixture, floor: float, n_threads: int):
        self.batches, self.floor, self.n_threads = batches, float(floor), n_threads
        n_rows = batches.n_rows if isinstance(batches, Rows) else None
        shape = like.n_components, like.n_features
        self.plan = empty_plan(type(like.covariance), *shape, n_rows=n_rows)
        self.screens = empty_screens(type(like.covariance), *shape, n_rows)
        self.waited = self.wait = 0  # passes
        self.expanded = not prefers_local(KINDS[type(like.covariance)], like.n_components)

    def __call__(self, points: Sequence[PackedMixture]) -> list[Step[PackedMixture]]:
        return [self._step(point) for point in points]

    def value(self, point: PackedMixture) -> float:
        """The log-likelihood in nats per unit of row weight."""
        return self._step(point).value

    def run(
        self, point: PackedMixture, trace: Trace, tol: float, max_iter: int, acceleration: str
    ) -> float | None:
        """Plain iterations in one compiled call, in place, as far as nothing else is to be done.

        They end at a mixture from which an :class:`~mogul.infer.ascent.Ascent` goes on: where EM
        turns out to be slow and would be accelerated, or a component collapses. When none has to,
        the answer is the log-likelihood of the point, else None.

        Of rows in one piece and few enough for one core; nothing is done with others.
        """
        if type(self.batches) is not Rows or acceleration == "squarem" or not max_iter:
            return None
        rows = as_array(self.batches.values)
        if not fits_one_core(len(rows), self.plan, self.n_threads):
            return None
        work = max(1, len(rows) * len(self.plan.weights))
        burst = max(1, min(_BURST, _BURST_WORK // work))
        if work < _BURST_WORK // _BURST:  # else another layout is compiled for, in seconds
            rows = np.ascontiguousarray(rows)
        weight = as_lines(self.batches.weight, self.batches.values)
        automatic = acceleration == "auto"
        rule = _many.Rule(float(tol), automatic, STEADY, PAYS_AFTER if automatic else math.inf)
        values = np.empty(_BURST)
        done, state, value = 0, _many.RUNNING, -math.inf
        while state == _many.RUNNING and done < max_iter:
            last = min(done + burst, int(max_iter))
            before = done
            value, done, state = fit_one(
                rows, weight, self.plan, self.floor, rule, point, values, done=done, last=last
            )
            for i in range(before, done):
                trace.record(float(values[i % _BURST]), accelerated=False)
        if state == _many.LEFT:
            return None
        trace.converged = state == _many.CONVERGED or trace.within(tol)
        return value

    def _step(self, point: PackedMixture) -> Step[PackedMixture]:
        step = self._expanded_step(point) if self.expanded else None
        if step is None:
            self.expanded = False  # what is far away stays there
            step = self._local_step(point)
        return step

    def _expanded_step(self, point: PackedMixture) -> Step[PackedMixture] | None:
        plan = self.plan
        plans = plan.centre, plan.sharpest, plan.weights, plan.whitening
        farthest = code.prepare(point.kind, *point.arrays, len(plan.left), *plans)
        if not farthest < plan.limit:
            return None
        sums = self._screened_sums(point)
        if sums is None:
            return None
        origin = plan.centre[None]
        return self._maximised(point, sums.products[0], sums.second[0], sums.totals[0], origin)

    def _screened_sums(self, point: PackedMixture) -> Sums | None:
        """As :meth:`_sums`, screened unless that gained nothing of late."""
        self.waited += 1
        if not self.screens or self.waited <= self.wait:
            return self._sums(())
        sums = self._sums(fill_screens(self.screens, point, self.plan))
        if sums is None:
            return None
        gained = 2 * sums.n_screened > sums.n_rows
        self.waited, self.wait = 0, 0 if gained else min(_LONGEST_WAIT, 1 + 2 * self.wait)
        counts = sums.products[0, :, len(self.plan.left) + len(self.plan.centre)]
        exact = is_exact(counts, point.log_weights, sums.totals[0, 0])
        return sums if exact else self._sums(())

    def _sums(self, screens: Sequence[Screen]) -> Sums | None:
        """Of all batches; None where a row is too far away for the expanded form."""
        found = None
        for rows, weight in self.batches:
            lines = as_lines(weight, rows), as_lines(None, rows)
            new = collect_sums(as_array(rows), *lines, self.plan, 1, self.n_threads, screens)
            if new.strays:
                return None
            found = new if found is None else found.plus(new)
        return found

    def _local_step(self, point: PackedMixture) -> Step[PackedMixture]:
        sums = self.plan.n_components, self.plan.n_sums
        shapes = [sums, (point.means.shape[1], _width(point)), (2,)]
        known = np.empty(0, dtype=np.int64)

        def collect(rows: NDArray, weight: NDArray[np.float64], span: slice) -> list[NDArray]:
            own = [np.zeros(shape) for shape in shapes]
            span_of = span.start, span.stop, weight, known, point.kind, self.plan
            collect_local(rows, *span_of, *point.arrays, *own)
            return own

        total = [np.zeros(shape) for shape in shapes]
        for values, weight in self.batches:
            rows = as_array(values)
            check_width(rows, self.plan)
            run = partial(collect, rows, as_lines(weight, values))
            spans = cut(len(rows), math.prod(sums), self.plan, self.n_threads)
            for found in spread(run, spans, self.n_threads):
                total = [a + b for a, b in zip(total, found, strict=True)]
        products, second, totals = total
        return self._maximised(point, products, second, totals, point.means)

    def _maximised(
        self,
        point: PackedMixture,
        products: NDArray[np.float64],
        second: NDArray[np.float64],
        totals: NDArray[np.float64],
        origin: NDArray[np.float64],
    ) -> Step[PackedMixture]:
        row_weight, log_likelihood = totals.tolist()
        mapped, ok = point.blank(), np.empty(point.n_components, dtype=np.bool_)
        n_made = len(self.plan.left)
        code.maximise(
            point.kind, n_made, products, second, row_weight, origin, point.means, self.floor,
            *mapped.arrays, ok,
        )  # fmt: skip
        bad = () if ok.all() else np.flatnonzero(~ok).tolist()
        return Step(log_likelihood / row_weight, mapped, bad)


def _width(point: PackedMixture) -> int:
    """Of the second moments of all components together."""
    return _tiles.padded(point.means.shape[1]) if point.kind == code.TIED else 0


def fit_one(
    rows: NDArray,
    weight: NDArray[np.float64],
    plan: _tiles.Plan,
    floor: float,
    rule: _many.Rule,
    own: PackedMixture,
    values: NDArray[np.float64],
    *,
    last: int,
    done: int = 0,
    partition: tuple[NDArray[np.float64], bool] | None = None,
    start: PackedMixture | None = None,
) -> tuple[float, int, int]:
    """See :func:`mogul.kernels._many.fit_one`; ``partition`` holds draws for k-means and a flag."""
    chance, standardised = partition or (np.empty((0, 0)), False)
    start = start or PackedMixture.empty(own.structure, 0, own.means.shape[1])
    check_width(rows, plan)
    return _many.fit_one(
        rows, weight, chance, standardised, own.kind, plan, _width(own), float(floor), rule,
        done, last, own.arrays, start.arrays, values,
    )  # fmt: skip


class PackedChart:
    """The coordinates of :class:`~mogul.infer.squarem.MixtureChart`, for packed mixtures."""

    def encode(self, point: PackedMixture, reference: PackedMixture) -> Tensor:
        k, d = point.means.shape
        values = np.empty(k * (1 + d) + math.prod(point.structure.chart_shape(k, d)))
        code.encode(
            point.kind,
            point.log_weights,
            point.means,
            point.factor,
            reference.means,
            reference.factor,
            values,
        )
        return torch.from_numpy(values)

    def decode(self, values: Tensor, reference: PackedMixture) -> PackedMixture:
        point = reference.blank()
        parts = point.log_weights, point.means, point.factor
        code.decode(point.kind, values.numpy(), reference.means, reference.factor, *parts)
        return point


def mended(point: PackedMixture, collapsed: Sequence[int]) -> PackedMixture | None:
    """With a component that collapsed replaced; see :func:`~mogul.infer.repair.split_into`."""
    ok = torch.ones(point.n_components, dtype=torch.bool)
    ok[list(collapsed)] = False
    whole = split_into(point.unpacked(), ok)
    return None if whole is None else PackedMixture.of(whole)
