"""The E-step of rows that few components share, compiled: the others are ruled out beforehand.

In many dimensions almost every responsibility is below rounding. What a component can amount to at
a row is bounded in single precision, by some of the columns: in whatever way the others fall, its
density is at most that of these columns times the highest of the others given them. Only pairs of
rows and components that may matter are computed, about the component's own mean and in double
precision, and added up one by one. So what is left out is known to be negligible before it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mogul.kernels._blocks import BLOCK, NARROW_BLOCK, multiply_narrow, multiply_strip
from mogul.kernels._parameters import DIAG, FULL, SPHERICAL, TIED, _cholesky, _gram, _invert
from mogul.kernels._tiles import _load_weight, load_near, units_of
from mogul.kernels._vectors import (
    LANES,
    NO,
    PANEL,
    YES,
    ZERO,
    above,
    blank,
    compiled,
    dense,
    exp,
    fma,
    inner,
    leaf,
    load,
    load_square,
    log,
    lowest_bit,
    magnitude,
    maximum,
    narrowed,
    splat,
    splat_narrow,
    store,
    total,
    unless_below,
)

__all__ = [
    "MOST_DROPPED",
    "FewSums",
    "Screen",
    "collect_few",
    "hand_over",
    "n_triangular",
    "no_sums",
    "sharpen",
]

_DROP = 40.0
"""Nats below a row's largest term: what is farther below is left out."""
MOST_DROPPED = math.exp(-_DROP)
"""Of a row, and of what a component has on average: the most that is left out of its weight."""
_CHUNK = 128
"""Products made at a time, of a panel in single precision: 16 kB."""
_NARROW_EPS = 2.0**-24
"""The rounding of single precision."""


class Screen(NamedTuple):
    """One mixture as :func:`collect_few` needs it.

    Distances are measured between *points*: rows about the plan's centre, which a tied covariance
    whitens. Vectors of D numbers take W, the next whole number of registers, and begin Q apart, the
    next whole number of panels. Triangular matrices are strips of PANEL columns, one below another,
    without the rows that are zero in all of a strip's columns: T numbers, see :func:`n_triangular`.
    """

    kind: int
    most_pairs: float  # a row, beyond which it is quicker to compute all
    groups: NDArray[np.int64]  # the first of each LANES columns that rows are screened by
    n_columns: int  # S
    left: NDArray[np.int64]  # (P,): which of these columns a product is of
    right: NDArray[np.int64]
    roots: NDArray[np.float64]  # (W,): what columns are multiplied by beforehand
    weights: NDArray[np.float32]  # (P + S + 1) for each component, in blocks of NARROW_BLOCK
    shifts: NDArray[np.float32]  # (K,): logarithms of weights in units of their mean, at most 0
    reach: NDArray[np.float64]  # (2,): the farthest mean, the largest constant
    means: NDArray[np.float64]  # (K · Q,)
    scales: NDArray[np.float64]  # (K · Q,), or (K · T,): inverse factors, transposed
    constants: NDArray[np.float64]  # (K,): terms at the mean
    whitening: NDArray[np.float64]  # (T,) likewise, or (0,) where points are rows


class FewSums(NamedTuple):
    """What :func:`collect_few` adds up of one mixture; see :func:`hand_over`."""

    own: NDArray[np.float64]  # (K · (Q + T or Q or 0),): columns, and their products or squares
    counts: NDArray[np.float64]  # (K,)
    norms: NDArray[np.float64]  # (K,): of the squares of all columns together
    shared: NDArray[np.float64]  # (T,) or (0,): products of columns of all components together
    totals: NDArray[np.float64]  # (2,): row weight and log-likelihood

    def add(self, more: FewSums) -> None:
        """In place: these are large."""
        for part, other in zip(self, more, strict=True):
            part += other


def no_sums(screen: Screen, n_features: int) -> FewSums:
    """To begin with."""
    kind, n_components = screen.kind, len(screen.constants)
    n_triangle, side = n_triangular(n_features), len(screen.means) // n_components
    n_squares = {FULL: n_triangle, DIAG: side}.get(kind, 0)
    return FewSums(
        own=blank.py_func(n_components * (side + n_squares)),
        counts=np.zeros(n_components),
        norms=np.zeros(n_components),
        shared=blank.py_func(n_triangle if kind == TIED else 0),
        totals=np.zeros(2),
    )


def n_triangular(n_features: int) -> int:
    """How many numbers the strips of a triangular matrix have."""
    last = (n_features - 1) // PANEL * PANEL
    return last * (last + PANEL) // 2 + n_features * PANEL


# --- from parameters ------------------------------------------------------------------------------


@compiled
def sharpen(log_weights, means, factor, centre, screen):
    """Fill in ``screen``; False where a number is not finite.

    The mixture is as for :func:`~mogul.kernels._parameters.prepare`.
    """
    kind, n_components, n_features = screen.kind, means.shape[0], means.shape[1]
    width, side = screen.roots.shape[0], screen.means.shape[0] // n_components
    inside = np.zeros(width)  # the components' own variances, on average
    lower = np.zeros((n_features, n_features) if kind in (FULL, TIED) else (0, 0))
    for d in range(width):
        screen.roots[d] = 0.0
    log_det = 0.0
    for k in range(n_components):
        share = math.exp(log_weights[k])
        own, at = factor[min(k, factor.shape[0] - 1)], k * side
        if kind == FULL or (kind == TIED and k == 0):
            _invert(own, lower)
            log_det = 0.0
            for d in range(n_features):
                log_det += math.log(own[d, d])
            matrix = screen.whitening if kind == TIED else screen.scales
            place = k * (matrix.shape[0] // (1 if kind == TIED else n_components))
            for i in range(n_features):
                strip = place + _upper_strip(i // PANEL * PANEL) + i % PANEL
                for j in range(i + 1):
                    matrix[strip + j * PANEL] = lower[i, j]
        for i in range(n_features):
            gap = means[k, i] - centre[i]
            screen.means[at + i] = gap
            if kind == FULL:
                variance, precision = 0.0, 0.0
                for j in range(i + 1):
                    variance += own[i, j] ** 2
                for j in range(i, n_features):
                    precision += lower[j, i] ** 2
                inside[i] += share * variance
                screen.roots[i] = max(screen.roots[i], math.sqrt(precision))
            elif kind == TIED:
                gap = 0.0
                for j in range(i + 1):
                    gap += lower[i, j] * (means[k, j] - centre[j])
                screen.means[at + i] = gap
                screen.scales[at + i] = screen.roots[i] = inside[i] = 1.0
        if kind in (DIAG, SPHERICAL):
            log_det = 0.0
            for d in range(n_features):
                scale = own[0, d if kind == DIAG else 0]
                log_det += math.log(scale)
                inside[d] += share * scale**2
                screen.scales[at + d] = 1.0 / scale
                screen.roots[d] = max(screen.roots[d], 1.0 / scale)
        screen.constants[k] = log_weights[k] - log_det - 0.5 * n_features * math.log(2 * math.pi)
        screen.shifts[k] = min(0.0, log_weights[k] + math.log(n_components)) if share else 0.0
    columns = _choose_columns(log_weights, n_features, screen, inside)
    return _weigh_columns(columns, factor, screen)


@inner
def _choose_columns(log_weights, n_features, screen, inside):
    """The columns that rows are screened by: groups where means differ most, in their units.

    Columns beyond the last one come last.
    """
    n_components, n_groups = log_weights.shape[0], screen.groups.shape[0]
    side = screen.means.shape[0] // n_components
    merit = np.zeros(screen.roots.shape[0] // LANES)
    for d in range(n_features):
        mean, square, mass = 0.0, 0.0, 0.0
        for k in range(n_components):
            share, value = math.exp(log_weights[k]), screen.means[k * side + d]
            mean += share * value
            square += share * value * value
            mass += share
        merit[d // LANES] += (square - mean * mean / mass) / inside[d]
    at = 0
    for g in range(merit.shape[0]):
        better = 0  # of the others, the first of equal ones
        for other in range(merit.shape[0]):
            better += merit[other] > merit[g] or (merit[other] == merit[g] and other < g)
        if better < n_groups and at < n_groups:
            screen.groups[at] = g * LANES
            at += 1
    while at < n_groups:  # where a merit is NaN
        screen.groups[at] = at * LANES
        at += 1
    columns = np.empty(screen.n_columns, dtype=np.int64)
    for i in range(columns.shape[0]):
        columns[i] = screen.groups[i // LANES] + i % LANES
    return columns


@inner
def _weigh_columns(columns, factor, screen):
    """The bound's coefficients, of columns times their roots."""
    kind, n_components = screen.kind, screen.constants.shape[0]
    side = screen.means.shape[0] // n_components
    n_used, n_made, n_features = columns.shape[0], screen.left.shape[0], factor.shape[2]
    n_all = n_made + n_used + 1
    n_known = n_used
    while kind == FULL and columns[n_known - 1] >= n_features:
        n_known -= 1
    size = n_known if kind == FULL else 0
    precision, scratch = np.zeros((size, size)), np.zeros((size, size))
    linear = np.zeros(n_used)
    screen.reach[0] = screen.reach[1] = 0.0
    for k in range(n_components):
        block = k // NARROW_BLOCK * NARROW_BLOCK
        start, at = block * n_all + k - block, k * side
        if kind == FULL:
            if not _precision_of_part(factor[k], columns, scratch, precision):
                return False
            for i in range(n_known):
                linear[i] = 0.0
                for j in range(n_known):
                    value = precision[max(i, j), min(i, j)]
                    linear[i] += value * screen.means[at + columns[j]]
        else:
            for i in range(n_used):
                c = at + columns[i]
                linear[i] = screen.means[c] * screen.scales[c] ** 2
        distance, far = 0.0, 0.0
        for i in range(n_used):
            mean, root = screen.means[at + columns[i]], screen.roots[columns[i]]
            distance += linear[i] * mean
            far += abs(mean) * root
            value = linear[i] / root if root > 0 else 0.0  # a column beyond the last
            screen.weights[start + (n_made + i) * NARROW_BLOCK] = value
        for p in range(n_made):
            i, j = screen.left[p], screen.right[p]
            root = screen.roots[columns[i]] * screen.roots[columns[j]]
            if kind == FULL:
                value = precision[i, j] if i < n_known else 0.0
                value *= -0.5 if i == j else -1.0
            else:
                value = -0.5 * screen.scales[at + columns[i]] ** 2
            value = value / root if root > 0 else 0.0
            screen.weights[start + p * NARROW_BLOCK] = value
        constant = screen.constants[k]
        screen.weights[start + (n_all - 1) * NARROW_BLOCK] = constant - 0.5 * distance
        screen.reach[0] = max(screen.reach[0], far)
        if constant > -math.inf:
            screen.reach[1] = max(screen.reach[1], abs(constant))
    return screen.reach[0] < math.inf and screen.reach[1] < math.inf


@dense
def _precision_of_part(lower, columns, scratch, precision):
    """The lower triangle of the inverse of some rows and columns of L Lᵀ; whether there is one."""
    n = precision.shape[0]
    for i in range(n):
        for j in range(i + 1):
            value = 0.0
            for m in range(columns[j] + 1):
                value += lower[columns[i], m] * lower[columns[j], m]
            precision[i, j] = value
    if not _cholesky(precision):
        return False
    _invert(precision, scratch)
    _gram(scratch, precision)
    return True


# --- tile by tile ---------------------------------------------------------------------------------


@compiled
def collect_few(rows, first_row, last_row, weight, plan, screen, sums):
    """Add the statistics of some rows, as far as few components matter, to ``sums``.

    Returns the row that it came to: the last, or the first of a tile that it leaves to
    :func:`~mogul.kernels._tiles.collect`, because too many components matter or something is too
    far away.
    """
    own, counts, norms, shared, totals = sums
    kind, n_components, n_features = screen.kind, screen.constants.shape[0], rows.shape[1]
    side, tile_rows = screen.means.shape[0] // n_components, plan.long_panels * PANEL
    near = np.zeros((tile_rows, side))
    points = near if kind != TIED else np.zeros((tile_rows, side))
    flat, flat_points = near.reshape(-1), points.reshape(-1)
    lines = np.empty(screen.groups.shape[0] * LANES * PANEL)
    narrow_lines = np.ones((screen.n_columns + 1) * PANEL, dtype=np.float32)
    products = np.empty(_CHUNK * PANEL, dtype=np.float32)
    step = -(-n_components // NARROW_BLOCK) * NARROW_BLOCK * PANEL
    bounds = np.empty(plan.long_panels * step, dtype=np.float32)
    labels = np.empty(tile_rows, dtype=np.float32)
    limits = np.empty(tile_rows, dtype=np.float32)
    slack, known, peak = np.empty(tile_rows), np.empty(tile_rows), np.empty(tile_rows)
    mass, row_weight, squares = np.empty(tile_rows), np.empty(tile_rows), np.empty(tile_rows)
    starts = np.empty(n_components + 1, dtype=np.int64)
    most = max(tile_rows, int(screen.most_pairs * tile_rows))
    which, shares = np.empty(most, dtype=np.int64), np.empty(most + LANES)
    apart = own.shape[0] // n_components
    plain, heavy = np.zeros(tile_rows * side), np.zeros(tile_rows * side)
    units = units_of(plan, side)
    start = first_row
    while start < last_row:
        n_rows = min(tile_rows, last_row - start)
        used = (n_rows + PANEL - 1) // PANEL
        if not load_near(rows, start, n_rows, units, plan.limit, near):
            break
        if kind == TIED:
            _whiten(screen, flat, n_rows, n_features, flat_points)
        for panel in range(used):
            _bound(points, panel, screen, lines, narrow_lines, products, bounds, step, slack)
            _best(bounds, panel * step, n_components, labels, panel * PANEL)
        _sort(labels, n_rows, starts, which)
        _find_terms(screen, flat_points, starts, which, labels, known, YES, n_features, shares)
        for p in range(n_rows):
            known[which[p]] = shares[p]
        for i in range(used * PANEL):
            inside = i < n_rows
            peak[i], mass[i] = (known[i], 0.0) if inside else (0.0, 1.0)
            level = peak[i] - slack[i] - 4 * _NARROW_EPS * abs(peak[i]) - _DROP
            limits[i] = level if inside else math.inf
        if not _select(bounds, step, used, limits, screen.shifts, starts, which):
            break
        _find_terms(screen, flat_points, starts, which, labels, known, NO, n_features, shares)
        _load_weight(weight, 0, start, n_rows, row_weight)
        heaviness, likelihood = _share_out(starts, which, row_weight, used, peak, mass, shares)
        totals[0] += heaviness
        totals[1] += likelihood
        for k in range(n_components):
            for p in range(starts[k], starts[k + 1]):
                counts[k] += shares[p]
        if kind == SPHERICAL:
            _square(flat, n_rows, side, squares)
            for k in range(n_components):
                for p in range(starts[k], starts[k + 1]):
                    norms[k] += shares[p] * squares[which[p]]
        _add_up(kind, flat, starts, which, shares, n_features, side, own)
        if kind == FULL:
            for k in range(n_components):
                n = starts[k + 1] - starts[k]
                if n:
                    _pack(flat, which, shares, starts[k], n, side, plain, heavy)
                    _add_products(plain, heavy, n, n_features, own, k * apart + side, side)
        elif kind == TIED:
            for i in range(n_rows):
                which[i] = i
            _pack(flat, which, row_weight, 0, n_rows, side, plain, heavy)
            _add_products(plain, heavy, n_rows, n_features, shared, 0, side)
        start += n_rows
    return start


@leaf
def _whiten(screen, near, n_rows, n_features, points):
    """Rows times the one inverse factor that all components have."""
    side = screen.means.shape[0] // screen.constants.shape[0]
    for first in range(0, n_features, PANEL):
        multiply_strip(
            near, ZERO, 1, side, screen.whitening, _upper_strip(first), PANEL,
            points, first, side, n_rows, min(n_features, first + PANEL), YES,
        )  # fmt: skip


@leaf
def _bound(points, panel, screen, lines, narrow_lines, products, bounds, step, slack):
    """What the components' terms are at most at the rows of a panel, but for ``slack``.

    A sum of n products in single precision is right to n · 2⁻²⁴ times what the products add up to
    without their signs, which is at most half the square of the row's and the farthest mean's
    distances from the centre together. A product may itself be of a sum, that of squares.
    """
    n_used, n_made = screen.n_columns, screen.left.shape[0]
    n_all = n_made + n_used + 1
    for g in range(screen.groups.shape[0]):
        for v in range(0, PANEL, LANES):
            place = g * LANES * PANEL + v
            load_square(points, panel * PANEL + v, screen.groups[g], lines, place)
    for v in range(0, PANEL, 2 * LANES):
        near, far = splat(0.0), splat(0.0)
        for i in range(n_used):
            root = splat(screen.roots[screen.groups[i // LANES] + i % LANES])
            x = load(lines, i * PANEL + v) * root
            y = load(lines, i * PANEL + v + LANES) * root
            store(narrow_lines, i * PANEL + v, narrowed(x, y))
            near, far = near + magnitude(x), far + magnitude(y)
        rounding = splat((n_all + n_used + 8) * _NARROW_EPS)
        most, half = splat(screen.reach[1]), splat(0.5)
        near, far = near + splat(screen.reach[0]), far + splat(screen.reach[0])
        at = panel * PANEL + v
        store(slack, at, rounding * fma(near * near, half, most))
        store(slack, at + LANES, rounding * fma(far * far, half, most))
    n_terms, at = step // PANEL, panel * step
    if screen.kind in (TIED, SPHERICAL):
        for v in range(0, PANEL, 2 * LANES):
            square = splat_narrow(np.float32(0.0))
            for i in range(n_used):
                x = load(narrow_lines, i * PANEL + v)
                square = square + x * x
            store(products, v, square)
        multiply_narrow(screen.weights, products, 0, 1, n_all, bounds, at, n_terms, YES)
    else:
        for first in range(0, n_made, _CHUNK):
            count = min(_CHUNK, n_made - first)
            for p in range(count):
                left, right = screen.left[first + p] * PANEL, screen.right[first + p] * PANEL
                for v in range(0, PANEL, 2 * LANES):
                    product = load(narrow_lines, left + v) * load(narrow_lines, right + v)
                    store(products, p * PANEL + v, product)
            multiply_narrow(
                screen.weights, products, first, count, n_all, bounds, at, n_terms, first == 0
            )
    multiply_narrow(
        screen.weights, narrow_lines, n_made, n_used + 1, n_all, bounds, at, n_terms, NO
    )


@leaf
def _best(bounds, at, n_components, labels, at_label):
    """The first of the components whose bounds are largest, of the rows of a panel."""
    for v in range(0, PANEL, 2 * LANES):
        peak, label = load(bounds, at + v), splat_narrow(np.float32(0.0))
        for k in range(1, n_components):
            bound = load(bounds, at + k * PANEL + v)
            label = unless_below(peak, bound, splat_narrow(np.float32(k)), label)
            peak = maximum(bound, peak)
        store(labels, at_label + v, label)


@leaf
def _sort(labels, n_rows, starts, order):
    """Rows in the order of their labels, and where those of each begin."""
    for k in range(starts.shape[0]):
        starts[k] = 0
    for i in range(n_rows):
        starts[int(labels[i]) + 1] += 1
    for k in range(1, starts.shape[0]):
        starts[k] += starts[k - 1]
    for i in range(n_rows):
        k = int(labels[i])
        order[starts[k]] = i
        starts[k] += 1
    for k in range(starts.shape[0] - 1, 0, -1):
        starts[k] = starts[k - 1]
    starts[0] = 0


@leaf
def _select(bounds, step, n_panels, limits, shifts, starts, which):
    """The rows where each component's bound is above what matters; False where that is too many."""
    n = 0
    for k in range(shifts.shape[0]):
        starts[k] = n
        shift = splat_narrow(shifts[k])
        for panel in range(n_panels):
            for v in range(0, PANEL, 2 * LANES):
                row = panel * PANEL + v
                bound = load(bounds, panel * step + k * PANEL + v)
                bits = above(bound, load(limits, row) + shift)
                while bits:
                    if n == which.shape[0]:
                        return False
                    which[n] = row + lowest_bit(bits)
                    bits &= bits - 1
                    n += 1
    starts[shifts.shape[0]] = n
    return True


@inner
def _find_terms(screen, points, starts, which, labels, known, fresh, n_features, found):
    """Log w_k + log N(x; μ_k, Σ_k) of all pairs, about the component's mean.

    Those of rows with their own label are known, unless ``fresh``.
    """
    n_components, width = screen.constants.shape[0], screen.roots.shape[0]
    side = screen.means.shape[0] // n_components
    gaps, white = np.zeros(BLOCK * side), np.empty(BLOCK * side)
    picked = np.empty(BLOCK, dtype=np.int64)
    for k in range(n_components):
        mean, constant = k * side, screen.constants[k]
        inverse = k * (screen.scales.shape[0] // n_components)  # where these are matrices
        p, n = starts[k], 0
        while p < starts[k + 1]:
            at = which[p] * side
            if not fresh and labels[which[p]] == k:
                found[p] = known[which[p]]
            elif screen.kind == FULL:
                for v in range(0, width, LANES):
                    gap = load(points, at + v) - load(screen.means, mean + v)
                    store(gaps, n * side + v, gap)
                picked[n] = p
                n += 1
            else:
                square = splat(0.0)
                for v in range(0, width, LANES):
                    z = load(points, at + v) - load(screen.means, mean + v)
                    z = z * load(screen.scales, mean + v)
                    square = fma(z, z, square)
                found[p] = constant - 0.5 * total(square)
            p += 1
            if n < BLOCK and (n == 0 or p < starts[k + 1]):
                continue
            for first in range(0, width, PANEL):
                multiply_strip(
                    gaps, ZERO, 1, side, screen.scales, inverse + _upper_strip(first), PANEL,
                    white, first, side, n, min(n_features, first + PANEL), YES,
                )  # fmt: skip
            for i in range(n):
                square = splat(0.0)
                for v in range(0, width, LANES):
                    y = load(white, i * side + v)
                    square = fma(y, y, square)
                found[picked[i]] = constant - 0.5 * total(square)
            n = 0


@leaf
def _share_out(starts, which, row_weight, n_panels, peak, mass, shares):
    """From the terms of all pairs to responsibilities times weights, in place.

    Total weight and log-likelihood. ``peak`` is a term of each row, and becomes the largest;
    ``mass`` is zero, and one beyond the last row.
    """
    n_pairs = starts[starts.shape[0] - 1]
    for p in range(n_pairs):
        peak[which[p]] = max(peak[which[p]], shares[p])
    for p in range(n_pairs):
        shares[p] -= peak[which[p]]
    for p in range(0, n_pairs, LANES):
        store(shares, p, exp(load(shares, p)))
    for p in range(n_pairs):
        mass[which[p]] += shares[p]
    likelihood, heaviness = splat(0.0), splat(0.0)
    for i in range(0, n_panels * PANEL, LANES):
        w, m = load(row_weight, i), load(mass, i)
        likelihood = fma(w, load(peak, i) + log(m), likelihood)
        heaviness = heaviness + w
        store(mass, i, w / m)
    for p in range(n_pairs):
        shares[p] *= mass[which[p]]
    return total(heaviness), total(likelihood)


@leaf
def _square(near, n_rows, side, squares):
    """The squared lengths of rows."""
    for i in range(n_rows):
        square = splat(0.0)
        for v in range(0, side, LANES):
            x = load(near, i * side + v)
            square = fma(x, x, square)
        squares[i] = total(square)


@leaf
def _add_up(kind, near, starts, which, shares, n_features, side, own):
    """Add shares of rows to their components, and of the squares of columns that axes need."""
    apart = own.shape[0] // (starts.shape[0] - 1)
    for k in range(starts.shape[0] - 1):
        at = k * apart
        for p in range(starts[k], starts[k + 1]):
            row, share = which[p] * side, splat(shares[p])
            for v in range(0, n_features, LANES):
                x = load(near, row + v)
                heavy = x * share
                store(own, at + v, load(own, at + v) + heavy)
                if kind == DIAG:
                    place = at + side + v
                    store(own, place, fma(heavy, x, load(own, place)))


@leaf
def _pack(near, which, shares, first, n, side, plain, heavy):
    """Some rows one after another, as they are and times their shares."""
    for p in range(n):
        row, share = which[first + p] * side, splat(shares[first + p])
        for v in range(0, side, LANES):
            x = load(near, row + v)
            store(plain, p * side + v, x)
            store(heavy, p * side + v, x * share)


@leaf
def _add_products(plain, heavy, n, n_features, own, at, side):
    """Add the lower triangle of the sum of the rows' outer products, as strips of columns."""
    for first in range(0, n_features, PANEL):
        strip = at + _lower_strip(first, n_features)
        multiply_strip(
            heavy, first, side, 1, plain, first, side, own, strip, PANEL, n_features - first, n, NO
        )


@leaf
def _upper_strip(first):
    """Where a strip of an upper triangular matrix begins, of the columns from ``first`` on."""
    return first * (first + PANEL) // 2


@leaf
def _lower_strip(first, n_features):
    """As :func:`_upper_strip`, of a lower triangular one."""
    return first * n_features - first * (first - PANEL) // 2


@compiled
def hand_over(kind, found, plan, sums, second, totals):
    """Add to the sums of :func:`~mogul.kernels._tiles.collect`, in their layout."""
    own, counts, norms, shared, more = found
    n_components, n_features = counts.shape[0], plan.centre.shape[0]
    n_made, apart = plan.left.shape[0], own.shape[0] // n_components
    side = -(-n_features // PANEL) * PANEL
    totals[0] += more[0]
    totals[1] += more[1]
    for k in range(n_components):
        at = k * apart
        sums[k, n_made + n_features] += counts[k]
        for d in range(n_features):
            sums[k, n_made + d] += own[at + d]
            if kind == DIAG:
                sums[k, d] += own[at + side + d]
        if kind == SPHERICAL:
            sums[k, n_made + n_features + 1] += norms[k]
        place = 0
        for i in range(n_features if kind == FULL else 0):
            for j in range(i + 1):
                first = j // PANEL * PANEL
                strip = at + side + _lower_strip(first, n_features)
                sums[k, place] += own[strip + (i - first) * PANEL + j - first]
                place += 1
    for i in range(n_features if kind == TIED else 0):
        for j in range(i + 1):
            first = j // PANEL * PANEL
            value = shared[_lower_strip(first, n_features) + (i - first) * PANEL + j - first]
            second[i, j] += value
            if j < i:
                second[j, i] += value
