"""k-means, compiled, on the panels of the E-step: where a fit begins."""

from __future__ import annotations

import math

import numpy as np

from mogul.kernels._blocks import BLOCK, accumulate, multiply, n_blocked, unblock
from mogul.kernels._tiles import (
    _empty_lines,
    _load_tile,
    _load_weight,
    _padded,
    padded_lines,
)
from mogul.kernels._vectors import (
    LANES,
    NO,
    PANEL,
    YES,
    ZERO,
    compiled,
    fma,
    inner,
    leaf,
    load,
    magnitude,
    maximum,
    splat,
    store,
    total,
    unless_below,
)

__all__ = ["MOST_ITERATIONS", "TOL", "kmeans", "n_tries"]

MOST_ITERATIONS = 100
TOL = 1e-3
"""How far centres still move when k-means ends, in squared distance, as a part of the mean variance
of the columns. Ten times as far as in scikit-learn, since EM goes on from there: on 243 tables fits
ended as high, to 0.0003 nats a row, after four fifths of the time."""
_MOST_SELECTED = 32
"""Up to so many clusters, the few columns of their rows are added up by a matrix product."""
_PANELS = 8
"""Panels whose columns are added up at a time."""


def n_tries(n_clusters: int) -> int:
    """How many rows are drawn for each centre: as many as in scikit-learn."""
    return 2 + int(math.log(n_clusters))


@compiled
def kmeans(rows, weight, plan, units, n_clusters, chance, max_iter, tol):
    """Labels (N,) of Lloyd's algorithm from greedy k-means++ (Arthur and Vassilvitskii 2007).

    Parameters
    ----------
    rows : (N, D)
    weight : (0 or 1, N)
    plan : Plan
        Of which the centre counts, near the mean of the rows.
    units : (D,)
        What columns are multiplied by, for distances.
    n_clusters : int
    chance : (n_clusters, L) numbers between 0 and 1
        For each further centre L rows are drawn, and the best of them is kept.
    max_iter : int
    tol : float
        Lloyd's algorithm ends when the centres moved less, in squared distance all together.
    """
    n_rows, n_features = rows.shape
    n_panels = (n_rows + PANEL - 1) // PANEL
    lines = _empty_lines(n_panels, n_features)
    _load_tile(rows, ZERO, n_rows, plan, lines, np.empty((0, 0)))
    _scale(lines, n_panels, units)
    mass = np.empty(n_panels * PANEL)
    _load_weight(weight, ZERO, ZERO, n_rows, mass)
    squares = _squares(lines, n_panels, n_features)
    centres = _seeds(lines, squares, mass, n_rows, n_features, n_clusters, chance)
    labels, distance = np.empty(n_panels * PANEL), np.empty(n_panels * PANEL)
    for iteration in range(max_iter):
        _assign(lines, squares, n_features, centres, labels, distance)
        moved = _move(rows, lines, plan.centre, units, mass, distance, labels, centres)
        if moved <= tol and iteration > 0:
            break
    _assign(lines, squares, n_features, centres, labels, distance)
    return labels[:n_rows].astype(np.int64)


@leaf
def _scale(lines, n_panels, units):
    """Columns in other units."""
    n_features = units.shape[0]
    for panel in range(n_panels):
        at = panel * padded_lines(n_features) * PANEL
        for d in range(n_features):
            unit = splat(units[d])
            for v in range(at + d * PANEL, at + (d + 1) * PANEL, LANES):
                store(lines, v, unit * load(lines, v))


@inner
def _squares(lines, n_panels, n_features):
    """The squared lengths of all rows."""
    squares = np.empty(n_panels * PANEL)
    for at in range(0, n_panels * PANEL, LANES):
        base = at // PANEL * padded_lines(n_features) * PANEL + at % PANEL
        value = splat(0.0)
        for d in range(n_features):
            x = load(lines, base + d * PANEL)
            value = value + x * x
        store(squares, at, value)
    return squares


@leaf
def _blocked_centres(centres, n_clusters, weights):
    """Weights of `multiply` with which the terms are x · c − ½ c · c."""
    n_features = centres.shape[1]
    for k in range(n_clusters):
        block = k // BLOCK * BLOCK
        step = min(BLOCK, n_clusters - block)
        at = block * (n_features + 1) + k - block
        half = 0.0
        for d in range(n_features):
            weights[at] = centres[k, d]
            half += centres[k, d] * centres[k, d]
            at += step
        weights[at] = -0.5 * half


@inner
def _seeds(lines, squares, mass, n_rows, n_features, n_clusters, chance):
    """Rows far from each other, each the best of some drawn by squared distance."""
    n_tries = chance.shape[1]
    centres = np.empty((n_clusters, n_features))
    candidates = np.empty((n_tries, n_features))
    weights = np.empty(n_tries * (n_features + 1))
    n_panels = squares.shape[0] // PANEL
    terms = np.empty(n_tries * PANEL)
    nearest = np.empty(squares.shape[0])
    chances = np.empty(squares.shape[0])
    for i in range(squares.shape[0]):
        nearest[i], chances[i] = math.inf, mass[i]
    ahead = np.empty(n_tries * squares.shape[0])
    potential = np.empty(n_tries)
    for c in range(n_clusters):
        whole = 0.0
        for i in range(n_rows):
            whole += chances[i]
        tries = n_tries if c else 1
        for t in range(tries):
            row, level, below = -1, chance[c, t] * whole, 0.0
            for i in range(n_rows):
                below += chances[i]
                if chances[i] > 0.0:
                    row = i
                    if below > level:
                        break
            row = max(row, 0)
            base = row // PANEL * padded_lines(n_features) * PANEL + row % PANEL
            for d in range(n_features):
                candidates[t, d] = lines[base + d * PANEL]
        _blocked_centres(candidates, tries, weights)
        for t in range(tries):
            potential[t] = 0.0
        for panel in range(n_panels):
            at = panel * padded_lines(n_features) * PANEL
            n = n_features + 1
            multiply(weights, ZERO, lines, at, ZERO, n, n, terms, ZERO, tries, YES)
            for t in range(tries):
                part = splat(0.0)
                for v in range(0, PANEL, LANES):
                    j = panel * PANEL + v
                    gap = fma(splat(-2.0), load(terms, t * PANEL + v), load(squares, j))
                    gap, known = maximum(gap, splat(0.0)), load(nearest, j)
                    gap = unless_below(gap, known, gap, known)
                    store(ahead, t * squares.shape[0] + j, gap)
                    part = fma(gap, load(mass, j), part)
                potential[t] += total(part)
        best = 0
        for t in range(1, tries):
            if potential[t] < potential[best]:
                best = t
        for d in range(n_features):
            centres[c, d] = candidates[best, d]
        for j in range(squares.shape[0]):
            nearest[j] = ahead[best * squares.shape[0] + j]
            chances[j] = nearest[j] * mass[j]
    return centres


@inner
def _assign(lines, squares, n_features, centres, labels, distance):
    """The nearest centre of each row, as floating point, and its squared distance."""
    n_clusters = centres.shape[0]
    n = n_features + 1
    weights = np.empty(n_clusters * n)
    _blocked_centres(centres, n_clusters, weights)
    terms = np.empty(n_clusters * PANEL)
    for panel in range(squares.shape[0] // PANEL):
        at = panel * padded_lines(n_features) * PANEL
        multiply(weights, ZERO, lines, at, ZERO, n, n, terms, ZERO, n_clusters, YES)
        for v in range(0, PANEL, LANES):
            row = panel * PANEL + v
            peak, label = load(terms, v), splat(0.0)
            for k in range(1, n_clusters):
                term = load(terms, k * PANEL + v)
                label = unless_below(peak, term, splat(float(k)), label)
                peak = maximum(term, peak)
            store(labels, row, label)
            gap = fma(splat(-2.0), peak, load(squares, row))
            store(distance, row, maximum(gap, splat(0.0)))


@inner
def _move(rows, lines, middle, units, mass, distance, labels, centres):
    """Centres to the means of their rows, an empty one to the row farthest from its own."""
    n_clusters, n_features = centres.shape
    sums = np.zeros((n_clusters, n_features))
    count = np.zeros(n_clusters)
    if n_features < 2 * LANES and n_clusters <= _MOST_SELECTED:
        _add_selected(lines, mass, labels, sums, count)
    else:
        for i in range(rows.shape[0]):
            if mass[i] > 0.0:
                label = int(labels[i])
                count[label] += mass[i]
                for d in range(n_features):
                    sums[label, d] += mass[i] * units[d] * (rows[i, d] - middle[d])
    moved = 0.0
    for k in range(n_clusters):
        if count[k] <= 0.0:
            far = 0
            for i in range(1, rows.shape[0]):
                if distance[i] > distance[far]:
                    far = i
            distance[far] = 0.0
            for d in range(n_features):
                sums[k, d] = units[d] * (rows[far, d] - middle[d])
            count[k] = 1.0
        for d in range(n_features):
            new = sums[k, d] / count[k]
            moved += (new - centres[k, d]) ** 2
            centres[k, d] = new
    return moved


@inner
def _add_selected(lines, mass, labels, sums, count):
    """Each cluster's columns and weights, as the product of its rows' weights with all columns."""
    n_clusters, n_features = sums.shape
    width = _padded(n_features + 1)
    step = padded_lines(n_features) * PANEL
    chosen = np.empty(_PANELS * n_clusters * PANEL)
    blocks = np.zeros(n_blocked(n_clusters, width, NO) + LANES)
    n_panels = labels.shape[0] // PANEL
    for first in range(0, n_panels, _PANELS):
        used = min(_PANELS, n_panels - first)
        for panel in range(used):
            for v in range(0, PANEL, LANES):
                row = (first + panel) * PANEL + v
                label, weight = load(labels, row), load(mass, row)
                for k in range(n_clusters):
                    other = magnitude(label - splat(float(k)))
                    place = (panel * n_clusters + k) * PANEL + v
                    store(chosen, place, unless_below(other, splat(0.5), weight, splat(0.0)))
        accumulate(
            chosen, n_clusters, n_clusters * PANEL, lines[first * step :], width, step,
            blocks, ZERO, used, NO,
        )  # fmt: skip
    flat = np.zeros(n_clusters * width)
    unblock(blocks, ZERO, n_clusters, width, flat, ZERO, width, NO)
    for k in range(n_clusters):
        count[k] = flat[k * width + n_features]
        for d in range(n_features):
            sums[k, d] = flat[k * width + d]
