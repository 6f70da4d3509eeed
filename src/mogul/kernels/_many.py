"""Many small fits, compiled: everything from the starts to the last iteration."""

from __future__ import annotations

import math

import numpy as np

from mogul.kernels._kmeans import MOST_ITERATIONS, TOL, hard_sums, kmeans
from mogul.kernels._parameters import maximise, prepare
from mogul.kernels._tiles import _padded, collect
from mogul.kernels._vectors import PANEL, compiled, inner

__all__ = ["CONVERGED", "FAILED", "RUNNING", "climb", "fit_each"]

RUNNING, CONVERGED, FAILED = range(3)
"""How a fit ended: out of iterations, converged, or beyond what is done here."""

_NOISE = 1e-13
"""A relative gain of the log-likelihood that is rounding."""


@compiled
def fit_each(
    rows, ends, first, last, weight, chance, kind, plan, width, floor, tol, max_iter, short,
    log_weights, means, factor, value, n_iter, state,
):  # fmt: skip
    """Fit data sets ``first`` to ``last``, each the rows from one of ``ends`` to the next.

    Each starts from ``chance.shape[1]`` runs of k-means, every other one on standardised columns;
    the one that ``short`` iterations of EM bring furthest goes on. A fit that needs a repair or is
    of clusters too far apart for the expanded form is left FAILED.
    """
    k, d = means.shape[1:]
    best = np.empty(k), np.empty((k, d)), np.empty(factor.shape[1:])
    for m in range(first, last):
        x = rows[ends[m] : ends[m + 1]]
        w = weight[:, ends[m] : ends[m + 1]]
        best_value, worst_value = -math.inf, math.inf
        for start in range(chance.shape[1]):
            own = log_weights[m], means[m], factor[m]
            found = -math.inf
            if _begin(x, w, chance[m, start], start % 2 == 1, kind, plan, width, floor, own):
                found, _, _ = _climb(x, w, kind, plan, width, floor, tol, short, True, own)
            worst_value = min(worst_value, found)
            if found > best_value:
                best_value = found
                _copy(own, best)
        if worst_value == -math.inf:  # it may well be the best once it is repaired
            state[m] = FAILED
            continue
        own = log_weights[m], means[m], factor[m]
        _copy(best, own)
        value[m], n_iter[m], state[m] = _climb(
            x, w, kind, plan, width, floor, tol, max_iter, True, own
        )


@compiled
def climb(
    rows, weight, kind, plan, width, floor, tol, max_iter, log_weights, means, factor
):  # fmt: skip
    """EM from one mixture, in place; its log-likelihood per row, −inf where it needs a repair."""
    own = log_weights, means, factor
    value, _, _ = _climb(rows, weight, kind, plan, width, floor, tol, max_iter, False, own)
    return value


@inner
def _copy(source, target):
    """One mixture's arrays into another's."""
    for k in range(source[0].shape[0]):
        target[0][k] = source[0][k]
        for d in range(source[1].shape[1]):
            target[1][k, d] = source[1][k, d]
    for b in range(source[2].shape[0]):
        for i in range(source[2].shape[1]):
            for j in range(source[2].shape[2]):
                target[2][b, i, j] = source[2][b, i, j]


@inner
def _clear(sums):
    for i in range(sums.shape[1]):
        for j in range(sums.shape[2]):
            sums[0, i, j] = 0.0


@inner
def _all(ok):
    fine = True
    for k in range(ok.shape[0]):
        fine &= ok[k]
    return fine


@inner
def _begin(x, weight, chance, standardised, kind, plan, width, floor, own):
    """The mixture of a k-means partition; False where a component of it is degenerate."""
    log_weights, means, factor = own
    n_rows, d = x.shape
    k = len(log_weights)
    mean, scale = np.zeros(d), np.zeros(d)
    total = 0.0
    for i in range(n_rows):
        mass = weight[0, i] if weight.shape[0] else 1.0
        total += mass
        for j in range(d):
            mean[j] += mass * x[i, j]
    mean /= total
    for i in range(n_rows):
        mass = weight[0, i] if weight.shape[0] else 1.0
        for j in range(d):
            scale[j] += mass * (x[i, j] - mean[j]) ** 2
    variance = 0.0
    for j in range(d):
        variance += scale[j] / (total * d)
        plan.sharpest[j], plan.centre[j] = 0.0, mean[j]
    if standardised:
        unit = np.empty((n_rows, d))
        for j in range(d):
            size = math.sqrt(scale[j] / total) if scale[j] > 0.0 else 1.0
            for i in range(n_rows):
                unit[i, j] = (x[i, j] - mean[j]) / size
        for j in range(d):
            plan.centre[j] = 0.0
        labels = kmeans(unit, weight, plan, k, chance, MOST_ITERATIONS, TOL)
        for j in range(d):
            plan.centre[j] = mean[j]
    else:
        tol = TOL * variance
        labels = kmeans(x, weight, plan, k, chance, MOST_ITERATIONS, tol)
    n_made = plan.left.shape[0]
    sums = np.zeros((k, n_made + _padded(d + 1)))
    second = np.zeros((d, width))
    ok = np.empty(k, dtype=np.bool_)
    old = np.empty((k, d))
    for c in range(k):
        for j in range(d):
            old[c, j] = mean[j]
    mass = hard_sums(x, weight, plan, labels, sums, second)
    maximise(
        kind, n_made, sums, second, mass, plan.centre, old, floor, log_weights, means, factor, ok
    )
    return _all(ok)


@inner
def _climb(x, weight, kind, plan, width, floor, tol, max_iter, patient, own):
    """EM, in place; the last log-likelihood per row, the iterations, and how it ended.

    It has converged when an iteration gains less than ``tol`` and, if ``patient``, less remains to
    be gained by Aitken's estimate (Böhning and others 1994).
    """
    log_weights, means, factor = own
    k, d = means.shape
    n_made = plan.left.shape[0]
    n_tiles = (x.shape[0] + plan.tile_panels * PANEL - 1) // (plan.tile_panels * PANEL)
    sums = np.empty((1, k, n_made + _padded(d + 1)))
    second = np.empty((1, d, width))
    totals = np.empty((1, 2))
    strays = np.zeros(n_tiles, dtype=np.bool_)
    ok = np.empty(k, dtype=np.bool_)
    old = np.empty((k, d))
    none = np.empty((0, x.shape[0]))
    before, step = -math.inf, math.inf
    state = RUNNING
    for iteration in range(max_iter + 1):
        farthest = prepare(
            kind, log_weights, means, factor, n_made,
            plan.centre, plan.sharpest, plan.weights, plan.whitening,
        )  # fmt: skip
        if not farthest < plan.limit:
            return -math.inf, iteration, FAILED
        _clear(sums)
        _clear(second)
        totals[0, 0], totals[0, 1] = 0.0, 0.0
        collect(x, 0, x.shape[0], weight, none, plan, sums, second, totals, strays)
        lost = False
        for tile in range(n_tiles):
            lost |= strays[tile]
        if lost:
            return -math.inf, iteration, FAILED
        value = totals[0, 1] / totals[0, 0]
        if state == CONVERGED or iteration == max_iter:
            return value, iteration, state
        last, step = step, value - before
        before = value
        for c in range(k):
            for j in range(d):
                old[c, j] = means[c, j]
        maximise(
            kind, n_made, sums[0], second[0], totals[0, 0], plan.centre, old, floor,
            log_weights, means, factor, ok,
        )  # fmt: skip
        if not _all(ok):
            return -math.inf, iteration, FAILED
        if abs(step) < tol and not patient:
            state = CONVERGED
        elif abs(step) < tol and iteration > 1:
            small = step <= _NOISE * (1.0 + abs(value))
            if small or (step < last and step * step / (last - step) < tol):
                state = CONVERGED
    return before, max_iter, state
