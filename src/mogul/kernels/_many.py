"""Small fits, compiled: everything from the starts to the last iteration."""

from __future__ import annotations

import math

import numpy as np

from mogul.kernels._kmeans import MOST_ITERATIONS, TOL, kmeans
from mogul.kernels._local import add_local, prefers_local, sharpen_local
from mogul.kernels._parameters import maximise, prepare
from mogul.kernels._passes import add_up, dismiss, pass_over
from mogul.kernels._squarem import (
    CONVERGED,
    LEFT,
    RUNNING,
    Rule,
    advance,
    copy_mixture,
    fall_back,
    forget,
    is_pending,
    judge,
    rejects,
)
from mogul.kernels._tiles import BY_ROW, KNOWN, POOLED, _padded, pooled_squares
from mogul.kernels._vectors import NO, ZERO, compiled, inner, spliced

__all__ = ["fit_each", "fit_one", "fit_partitions", "partition"]


@compiled
def partition(rows, weight, chance, standardised, plan):
    """Labels (N,) of a run of k-means with the draws ``chance`` (K, L).

    Of standardised columns if that is asked for; the plan's centre is then the mean of the rows.
    """
    n_rows, d = rows.shape
    mean, scale = np.zeros(d), np.zeros(d)
    total = 0.0
    for i in range(n_rows):
        mass = weight[0, i] if weight.shape[0] else 1.0
        total += mass
        for j in range(d):
            mean[j] += mass * rows[i, j]
    mean /= total
    for i in range(n_rows):
        mass = weight[0, i] if weight.shape[0] else 1.0
        for j in range(d):
            scale[j] += mass * (rows[i, j] - mean[j]) ** 2
    variance = 0.0
    for j in range(d):
        variance += scale[j] / (total * d)
        plan.sharpest[j], plan.centre[j] = 0.0, mean[j]
    units, tol = np.ones(d), TOL * variance
    if standardised:
        tol = TOL
        for j in range(d):
            units[j] = 1.0 / math.sqrt(scale[j] / total) if scale[j] > 0.0 else 1.0
    return kmeans(rows, weight, plan, units, chance.shape[0], chance, MOST_ITERATIONS, tol)


@compiled
def fit_one(
    rows, weight, labels, kind, plan, floor, rule, done, last, own, memory, desk, values,
    accelerated,
):  # fmt: skip
    """Fit one mixture, in place, up to iteration ``last``.

    Parameters
    ----------
    rows, weight : (N, D) and (0 or 1, N)
    labels : (N,) or (0,)
        A partition that is the start; ``own`` is, where there is none.
    kind, plan, floor
        As elsewhere.
    rule : Rule
    done : int
        Iterations that were made before, whose values are known.
    own : log-weights, means and factor
    memory : Memory
        What the iterations before left, to be gone on from.
    desk : Desk
        Of which each of its stretches is a thread's at a time; others may lend a hand.
    values, accelerated : (L,)
        The latest log-likelihoods per row, that at the beginning of iteration i at i mod L, and
        whether it began at a proposal.

    Returns
    -------
    value : float
        The log-likelihood per row of ``own``; −inf when it was LEFT, or is to be gone on with.
    done : int
    state : int
        RUNNING, CONVERGED, or LEFT where a component collapsed: at the mixture before it did.
    """
    if labels.shape[0]:
        if not _of_partition(rows, weight, labels, kind, plan, desk, floor, own):
            dismiss(desk)
            return -math.inf, 0, LEFT
        forget(memory.numbers, NO, -math.inf)
    ended = _climb(
        rows, weight, kind, plan, floor, rule, done, last, own, memory, desk, values, accelerated
    )
    dismiss(desk)
    return ended


@compiled
def fit_partitions(
    rows, weight, chance, standardised, kind, plan, floor, rule, ends, labels, memory, desk,
    values, value, n_iter, state,
):  # fmt: skip
    """Fit one mixture from each of some runs of k-means.

    ``chance`` (S, K, L) and ``standardised`` (S,) are as of :func:`partition`, whose ``labels``
    (S, N) are filled in; ``ends`` are arrays of S mixtures, ``values`` (S, most iterations).
    """
    accelerated = np.empty(values.shape[1], dtype=np.bool_)
    for i in range(chance.shape[0]):
        labels[i] = partition(rows, weight, chance[i], standardised[i], plan)
        value[i], n_iter[i], state[i] = fit_one(
            rows, weight, labels[i], kind, plan, floor, rule, ZERO, rule.max_iter,
            (ends[0][i], ends[1][i], ends[2][i]), memory, desk, values[i], accelerated,
        )  # fmt: skip


@compiled
def fit_each(
    rows, ends, first, last, weight, chance, kind, plan, floor, rule, short,
    log_weights, means, factor, memory, desk, value, n_iter, state,
):  # fmt: skip
    """Fit data sets ``first`` to ``last``, each the rows from one of ``ends`` to the next.

    Each starts from ``chance.shape[1]`` runs of k-means, every other one on standardised columns;
    the one that ``short`` iterations of EM bring furthest goes on. A fit that needs a repair is
    LEFT.
    """
    k, d = means.shape[1:]
    best = np.empty(k), np.empty((k, d)), np.empty(factor.shape[1:])
    values, accelerated = np.empty(1), np.empty(1, dtype=np.bool_)
    labels = np.empty(0, dtype=np.int64)
    n_starts = chance.shape[1]
    brief = Rule(rule.tol, bool(NO), rule.steady, rule.most, short)
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
                copy_mixture(best, own)
                forget(memory.numbers, NO, -math.inf)
                labels = labels[:0]
            else:
                labels = partition(x, w, chance[m, s], s % 2 == 1, plan)
            found, n, how = fit_one(
                x, w, labels, kind, plan, floor, rule if final else brief, ZERO,
                rule.max_iter if final else short, own, memory, desk, values, accelerated,
            )  # fmt: skip
            if final:
                value[m], n_iter[m], state[m] = found, n, how
                break
            if found != found:
                found = -math.inf
            worst_value = min(worst_value, found)
            if found > best_value:
                best_value = found
                copy_mixture(own, best)


@inner
def _is_same(one, other):
    same = True
    for i in range(one.shape[0]):
        same &= one[i] == other[i]
    return same


@inner
def _any(strays):
    found = False
    for i in range(strays.shape[0]):
        for j in range(strays.shape[1]):
            found |= strays[i, j]
    return found


@inner
def _all(ok):
    fine = True
    for k in range(ok.shape[0]):
        fine &= ok[k]
    return fine


@spliced
def _of_partition(x, weight, labels, kind, plan, desk, floor, own):
    """The mixture that a partition is; False where a component of it is degenerate."""
    log_weights, means, factor = own
    n_rows, d = x.shape
    k = len(log_weights)
    count = np.zeros(k)
    middle, mean = np.zeros((k, d)), np.zeros(d)
    for i in range(n_rows):
        mass = weight[0, i] if weight.shape[0] else 1.0
        count[labels[i]] += mass
        for j in range(d):
            middle[labels[i], j] += mass * x[i, j]
    total = count.sum()
    for c in range(k):
        for j in range(d):
            mean[j] += middle[c, j] / total
    for c in range(k):
        for j in range(d):
            middle[c, j] = middle[c, j] / count[c] if count[c] > 0.0 else mean[j]
    n_made = plan.left.shape[0]
    sums = np.zeros((k, n_made + _padded(plan.n_lines)))
    second = np.zeros((d, desk.second.shape[3]))
    totals = np.zeros(2)
    ok = np.empty(k, dtype=np.bool_)
    add_local(
        x, ZERO, n_rows, weight, labels, kind, plan, middle, desk.sharp, sums, second, totals
    )  # fmt: skip
    maximise(
        kind, n_made, sums, second, totals[0], middle, middle, floor, log_weights, means, factor, ok
    )
    return _all(ok)


@spliced
def _climb(x, weight, kind, plan, floor, rule, done, last, own, memory, desk, values, accelerated):
    """EM from ``own``, in place; see :func:`fit_one`."""
    log_weights, means, factor = own
    k, d = means.shape
    n_made = plan.left.shape[0]
    sums, second, totals = desk.sums[0, 0], desk.second[0, 0], desk.totals[0, 0]
    ok = np.empty(k, dtype=np.bool_)
    new = np.empty(k), np.empty((k, d)), np.empty(factor.shape)
    state = RUNNING
    local = prefers_local(kind, plan)
    squares, centre = POOLED, np.full(d, math.nan)
    iteration = done
    while True:
        if state == RUNNING and iteration == last:
            if last < rule.max_iter:
                return -math.inf, iteration, RUNNING
            if is_pending(memory):
                fall_back(memory, own)
        if not local:
            farthest = prepare(
                kind, log_weights, means, factor, n_made,
                plan.centre, plan.sharpest, plan.weights, plan.whitening,
            )  # fmt: skip
            local = not farthest < plan.limit  # what is far away stays there
        if squares == KNOWN and not _is_same(plan.centre, centre):
            squares = POOLED
        if local:
            sharpen_local(kind, log_weights, factor, desk.sharp)
        pass_over(x, weight, kind, plan, means, desk, local, squares)
        if not local and _any(desk.strays):
            local = True
            continue
        add_up(desk, squares == KNOWN and not local)
        if not local and plan.whitening.shape[0] and squares != BY_ROW:
            found = pooled_squares(plan.whitening, ZERO, second, d)
            if not abs(found) < math.inf:
                squares = BY_ROW
                continue
            totals[1] -= 0.5 * found
            squares = KNOWN
            for j in range(d):
                centre[j] = plan.centre[j]
        value = totals[1] / totals[0]
        if state == CONVERGED or iteration == last:
            return value, iteration, state
        if rejects(memory, value):
            fall_back(memory, own)
            continue
        maximise(
            kind, n_made, sums, second, totals[0],
            means if local else plan.centre.reshape(1, d), means, floor,
            new[0], new[1], new[2], ok,
        )  # fmt: skip
        if not _all(ok):
            if not is_pending(memory):
                return -math.inf, iteration, LEFT
            fall_back(memory, own)
            continue
        place = iteration % values.shape[0]
        values[place], accelerated[place] = value, is_pending(memory)
        state = judge(memory, value, rule)
        iteration += 1
        if state == CONVERGED:
            copy_mixture(new, own)
        else:
            advance(kind, memory, own, value, new)
