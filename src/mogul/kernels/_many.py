"""Small fits, compiled: everything from the starts to the last iteration."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mogul.kernels._kmeans import MOST_ITERATIONS, TOL, kmeans
from mogul.kernels._local import collect_local, prefers_local
from mogul.kernels._parameters import maximise, prepare
from mogul.kernels._tiles import _padded, collect
from mogul.kernels._vectors import PANEL, ZERO, compiled, inner, spliced

__all__ = ["CONVERGED", "LEFT", "RUNNING", "Rule", "fit_each", "fit_one"]

RUNNING, CONVERGED, LEFT = range(3)
"""How a climb ended: out of iterations, converged, or at a mixture that others must go on from."""

_NOISE = 1e-13
"""A relative gain of the log-likelihood that is rounding."""


class Rule(NamedTuple):
    """When a climb ends; see :class:`mogul.infer.stopping.Trace`.

    It has converged when an iteration gains less than ``tol`` and, if ``patient``, less remains to
    be gained by Aitken's estimate (Böhning and others 1994). It is left when it converges linearly,
    two ratios of gains differing by less than ``steady``, and needs more than ``most`` iterations.
    """

    tol: float
    patient: bool
    steady: float
    most: float


@compiled
def fit_one(
    rows, weight, chance, standardised, kind, plan, width, floor, rule, done, last, own, start,
    values,
):  # fmt: skip
    """Fit one mixture, in place, up to iteration ``last``.

    Parameters
    ----------
    rows, weight : (N, D) and (0 or 1, N)
    chance : (K, L) or (0, 0)
        Draws for a run of k-means whose partition is the start; ``own`` is, where there are none.
    standardised : bool
        Whether k-means sees standardised columns.
    kind, plan, width, floor
        As elsewhere; ``width`` is that of the second moments of all components together.
    rule : Rule
    done : int
        Iterations that were made before, whose values are known.
    own : log-weights, means and factor
    start : likewise, or of no components
        Filled with what a partition gave.
    values : (L,), L ≥ 4
        The latest log-likelihoods per row, that at the beginning of iteration i at i mod L.

    Returns
    -------
    value : float
        The log-likelihood per row of ``own``; −inf when it was LEFT.
    done : int
    state : int
    """
    if chance.shape[0]:
        if not _begin(rows, weight, chance, standardised, kind, plan, width, floor, own):
            return -math.inf, 0, LEFT
        if start[0].shape[0]:
            _copy(own, start)
    return _climb(rows, weight, kind, plan, width, floor, rule, done, last, own, values)


@compiled
def fit_each(
    rows, ends, first, last, weight, chance, kind, plan, width, floor, rule, max_iter, short,
    log_weights, means, factor, value, n_iter, state,
):  # fmt: skip
    """Fit data sets ``first`` to ``last``, each the rows from one of ``ends`` to the next.

    Each starts from ``chance.shape[1]`` runs of k-means, every other one on standardised columns;
    the one that ``short`` iterations of EM bring furthest goes on. A fit that needs a repair is
    LEFT.
    """
    k, d = means.shape[1:]
    best = np.empty(k), np.empty((k, d)), np.empty(factor.shape[1:])
    nothing = np.empty(0), np.empty((0, 0)), np.empty((0, 0, 0))
    values = np.empty(4)
    n_starts = chance.shape[1]
    for m in range(first, last):
        x = rows[ends[m] : ends[m + 1]]
        w = np.ascontiguousarray(weight[:, ends[m] : ends[m + 1]])  # of the type compiled for
        own = log_weights[m], means[m], factor[m]
        best_value, worst_value = -math.inf, math.inf
        for s in range(n_starts + 1):  # the last of them goes on from the best
            final = s == n_starts
            if final:
                if worst_value == -math.inf:  # it may well be the best once it is repaired
                    state[m] = LEFT
                    break
                _copy(best, own)
            found, n, how = fit_one(
                x, w, chance[m, 0, :0] if final else chance[m, s], s % 2 == 1, kind, plan, width,
                floor, rule, ZERO, max_iter if final else short, own, nothing, values,
            )  # fmt: skip
            if final:
                value[m], n_iter[m], state[m] = found, n, how
                break
            if found != found:
                found = -math.inf
            worst_value = min(worst_value, found)
            if found > best_value:
                best_value = found
                _copy(own, best)


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


@spliced
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
    count = np.zeros(k)
    middle = np.zeros((k, d))
    for i in range(n_rows):
        mass = weight[0, i] if weight.shape[0] else 1.0
        count[labels[i]] += mass
        for j in range(d):
            middle[labels[i], j] += mass * x[i, j]
    for c in range(k):
        for j in range(d):
            middle[c, j] = middle[c, j] / count[c] if count[c] > 0.0 else mean[j]
    n_made = plan.left.shape[0]
    sums = np.zeros((k, n_made + _padded(plan.n_lines)))
    second = np.zeros((d, width))
    totals = np.zeros(2)
    ok = np.empty(k, dtype=np.bool_)
    collect_local(
        x, ZERO, n_rows, weight, labels, kind, plan, log_weights, middle, factor,
        sums, second, totals,
    )  # fmt: skip
    maximise(
        kind, n_made, sums, second, totals[0], middle, middle, floor, log_weights, means, factor, ok
    )
    return _all(ok)


@spliced
def _climb(x, weight, kind, plan, width, floor, rule, done, last, own, values):
    """EM from ``own``, in place; see :func:`fit_one`."""
    log_weights, means, factor = own
    k, d = means.shape
    n_made = plan.left.shape[0]
    n_tiles = (x.shape[0] + plan.tile_panels * PANEL - 1) // (plan.tile_panels * PANEL)
    sums = np.empty((1, k, n_made + _padded(plan.n_lines)))
    second = np.empty((1, d, width))
    totals = np.empty((1, 2))
    strays = np.zeros(n_tiles, dtype=np.bool_)
    ok = np.empty(k, dtype=np.bool_)
    new = np.empty(k), np.empty((k, d)), np.empty(factor.shape)
    none = np.empty((0, x.shape[0]))
    state = RUNNING
    unknown = np.empty(0, dtype=np.int64)
    local = prefers_local(kind, k)
    for iteration in range(done, last + 1):
        _clear(sums)
        _clear(second)
        totals[0, 0], totals[0, 1] = 0.0, 0.0
        if not local:
            farthest = prepare(
                kind, log_weights, means, factor, n_made,
                plan.centre, plan.sharpest, plan.weights, plan.whitening,
            )  # fmt: skip
            local = not farthest < plan.limit
        if not local:
            collect(x, ZERO, x.shape[0], weight, none, plan, sums, second, totals, strays)
            for tile in range(n_tiles):
                local |= strays[tile]
            if local:
                _clear(sums)
                _clear(second)
                totals[0, 0], totals[0, 1] = 0.0, 0.0
        if local:  # what is far away stays there
            collect_local(
                x, ZERO, x.shape[0], weight, unknown, kind, plan, log_weights, means, factor,
                sums[0], second[0], totals[0],
            )  # fmt: skip
        value = totals[0, 1] / totals[0, 0]
        if state == CONVERGED or iteration == last:
            return value, iteration, state
        values[iteration % values.shape[0]] = value
        maximise(
            kind, n_made, sums[0], second[0], totals[0, 0],
            means if local else plan.centre.reshape(1, d), means, floor,
            new[0], new[1], new[2], ok,
        )  # fmt: skip
        if not _all(ok):
            return -math.inf, iteration, LEFT
        state = _judge(values, iteration, rule)
        if state == LEFT:
            return -math.inf, iteration, LEFT
        _copy(new, own)
    return -math.inf, last, state


@inner
def _judge(values, i, rule):
    """Whether iteration ``i``, counted from 0, is the last."""
    n = values.shape[0]
    value = values[i % n]
    gain = value - values[(i - 1) % n] if i > 0 else math.inf
    before = values[(i - 1) % n] - values[(i - 2) % n] if i > 1 else math.inf
    close = abs(gain) < rule.tol
    if not rule.patient:
        return CONVERGED if close else RUNNING
    if i < 2:
        return RUNNING
    if gain <= _NOISE * (1.0 + abs(value)):
        return CONVERGED if close else RUNNING
    if not gain < before:
        return RUNNING
    left = gain * gain / (before - gain)
    if close and left < rule.tol:
        return CONVERGED
    if i < 3 or not left > rule.tol:
        return RUNNING
    first = values[(i - 2) % n] - values[(i - 3) % n]
    ratio = gain / before
    linear = before < first and abs(ratio - before / first) <= rule.steady
    if linear and math.log(max(rule.tol, 1e-300) / left) / math.log(ratio) > rule.most:
        return LEFT
    return RUNNING
