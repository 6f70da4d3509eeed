"""k-means, compiled, on the panels of the E-step: where a fit begins."""

from __future__ import annotations

import math

import numpy as np

from mogul.kernels._blocks import BLOCK, multiply
from mogul.kernels._tiles import (
    _empty_lines,
    _label,
    _load_tile,
    _load_weight,
    padded_lines,
)
from mogul.kernels._vectors import LANES, PANEL, YES, ZERO, compiled, inner, load, splat, store

__all__ = ["MOST_ITERATIONS", "TOL", "kmeans", "n_tries"]

MOST_ITERATIONS = 100
TOL = 1e-4
"""How far centres still move when k-means ends, in squared distance, as a part of the mean variance
of the columns: as in scikit-learn."""


def n_tries(n_clusters: int) -> int:
    """How many rows are drawn for each centre: as many as in scikit-learn."""
    return 2 + int(math.log(n_clusters))


@compiled
def kmeans(rows, weight, plan, n_clusters, chance, max_iter, tol):
    """Labels (N,) of Lloyd's algorithm from greedy k-means++ (Arthur and Vassilvitskii 2007).

    Parameters
    ----------
    rows : (N, D)
    weight : (0 or 1, N)
    plan : Plan
        Of which the centre counts, near the mean of the rows.
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
    _load_tile(rows, ZERO, n_rows, plan, lines)
    mass = np.empty(n_panels * PANEL)
    _load_weight(weight, ZERO, ZERO, n_rows, mass)
    squares = _squares(lines, n_panels, n_features)
    centres = _seeds(lines, squares, mass, n_rows, n_features, n_clusters, chance)
    labels = np.zeros(n_rows, dtype=np.int64)
    for iteration in range(max_iter):
        distance = _assign(lines, squares, n_rows, n_features, centres, labels)
        moved = _move(rows, lines, plan.centre, mass, distance, labels, centres)
        if moved <= tol and iteration > 0:
            break
    _assign(lines, squares, n_rows, n_features, centres, labels)
    return labels


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


@inner
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
    ahead = np.empty((n_tries, squares.shape[0]))
    potential = np.empty(n_tries)
    for c in range(n_clusters):
        total = 0.0
        for i in range(n_rows):
            total += chances[i]
        tries = n_tries if c else 1
        for t in range(tries):
            row, level, below = -1, chance[c, t] * total, 0.0
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
                for i in range(PANEL):
                    j = panel * PANEL + i
                    gap = max(squares[j] - 2.0 * terms[t * PANEL + i], 0.0)
                    gap = min(gap, nearest[j])
                    ahead[t, j] = gap
                    potential[t] += gap * mass[j]
        best = 0
        for t in range(1, tries):
            if potential[t] < potential[best]:
                best = t
        for d in range(n_features):
            centres[c, d] = candidates[best, d]
        for j in range(squares.shape[0]):
            nearest[j] = ahead[best, j]
            chances[j] = nearest[j] * mass[j]
    return centres


@inner
def _assign(lines, squares, n_rows, n_features, centres, labels):
    """The nearest centre of each row; squared distances from it."""
    n_clusters = centres.shape[0]
    n = n_features + 1
    weights = np.empty(n_clusters * n)
    _blocked_centres(centres, n_clusters, weights)
    terms = np.empty(n_clusters * PANEL)
    found = np.empty(PANEL)
    distance = np.empty(n_rows)
    for panel in range(squares.shape[0] // PANEL):
        at = panel * padded_lines(n_features) * PANEL
        multiply(weights, ZERO, lines, at, ZERO, n, n, terms, ZERO, n_clusters, YES)
        for v in range(0, PANEL, LANES):
            store(found, v, _label(terms, v, n_clusters))
        first = panel * PANEL
        for i in range(min(PANEL, n_rows - first)):
            label = int(found[i])
            labels[first + i] = label
            distance[first + i] = max(squares[first + i] - 2.0 * terms[label * PANEL + i], 0.0)
    return distance


@inner
def _move(rows, lines, middle, mass, distance, labels, centres):
    """Centres to the means of their rows, an empty one to the row farthest from its own."""
    n_clusters, n_features = centres.shape
    sums = np.zeros((n_clusters, n_features))
    count = np.zeros(n_clusters)
    for i in range(labels.shape[0]):
        if mass[i] > 0.0:
            label = labels[i]
            count[label] += mass[i]
            if n_features < 2 * LANES:
                base = i // PANEL * padded_lines(n_features) * PANEL + i % PANEL
                for d in range(n_features):
                    sums[label, d] += mass[i] * lines[base + d * PANEL]
            else:  # with vectors
                for d in range(n_features):
                    sums[label, d] += mass[i] * (rows[i, d] - middle[d])
    moved = 0.0
    for k in range(n_clusters):
        if count[k] <= 0.0:
            far = 0
            for i in range(1, labels.shape[0]):
                if distance[i] > distance[far]:
                    far = i
            distance[far] = 0.0
            for d in range(n_features):
                sums[k, d] = rows[far, d] - middle[d]
            count[k] = 1.0
        for d in range(n_features):
            new = sums[k, d] / count[k]
            moved += (new - centres[k, d]) ** 2
            centres[k, d] = new
    return moved
