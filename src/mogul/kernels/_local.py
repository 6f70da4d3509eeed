"""The E-step about each component's own mean, compiled: nothing cancels, however far all are.

For mixtures whose expanded form would cancel, and for rows whose components are known. One mixture
at a time; with few features or diagonal covariances not much slower than :mod:`._tiles`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mogul.kernels._blocks import BLOCK, accumulate, multiply, n_blocked, unblock
from mogul.kernels._parameters import DIAG, FULL, SPHERICAL, TIED, _invert
from mogul.kernels._tiles import (
    _empty_lines,
    _load_lines,
    _load_weight,
    _padded,
    _share_out,
    apart,
    padded_lines,
)
from mogul.kernels._vectors import (
    LANES,
    PANEL,
    YES,
    ZERO,
    compiled,
    fma,
    inner,
    leaf,
    load,
    splat,
    store,
    total,
)

__all__ = [
    "Sharp",
    "add_local",
    "collect_local",
    "empty_sharp",
    "n_products",
    "prefers_local",
    "sharpen_local",
    "unpack",
]

_FEW = 2


class Sharp(NamedTuple):
    """What distances from each component's own mean take, of one mixture."""

    inverses: NDArray[np.float64]  # (K or 1 or 0, ...): of factors; see `_triangle_start`
    scales: NDArray[np.float64]  # (K, D or 0): of diagonal factors
    constants: NDArray[np.float64]  # (K,): log-densities at the means


def empty_sharp(kind: int, n_components: int, n_features: int) -> Sharp:
    """To be filled in by :func:`sharpen_local`."""
    n_matrices = {FULL: n_components, TIED: 1}.get(kind, 0)
    n_whole = -(-n_features // BLOCK) * BLOCK
    return Sharp(
        np.empty((n_matrices, n_whole * (n_whole + BLOCK) // 2)),
        np.empty((n_components, 0 if n_matrices else n_features)),
        np.empty(n_components),
    )


@compiled
def prefers_local(kind, plan):
    """Whether this is the quicker way also where the expanded form would do.

    Columns that few components read are read as they are, with no products of them stored first;
    but many columns are not even transposed where the expanded form serves.
    """
    return plan.n_components <= _FEW and kind in (DIAG, SPHERICAL) and not plan.across


@compiled
def n_products(kind, n_components, n_features):
    """How many numbers the products of columns take in :func:`collect_local`."""
    if kind not in (FULL, TIED):
        return 0
    n_square = n_blocked(n_features + 1, _padded(n_features + 1), YES)
    return n_components * n_square + LANES


@inner
def add_local(
    rows, first_row, last_row, weight, labels, kind, plan, means, sharp, sums, second, totals
):  # fmt: skip
    """As :func:`collect_local`, and the products in the layout of `collect` at once."""
    products = np.zeros(n_products(kind, means.shape[0], means.shape[1]))
    collect_local(
        rows, first_row, last_row, weight, labels, kind, plan, means, sharp, products, sums, totals
    )
    unpack(kind, plan, products, sums, second)


@compiled
def collect_local(
    rows, first_row, last_row, weight, labels, kind, plan, means, sharp, products, sums, totals
):  # fmt: skip
    """Add statistics of some rows about the ``means``.

    Those of diagonal covariances to ``sums``, laid out as by `collect`; of others only to
    ``products``, see :func:`unpack`.

    Parameters
    ----------
    rows : (N, D)
    weight : (0 or 1, N)
    labels : (0 or N,)
        Components of the rows where they are known; then ``sharp`` does not matter, nor is the
        log-likelihood found.
    kind : int
    plan : Plan
        Of which only sizes count.
    means : (K, D)
    sharp : Sharp
    products : (n_products,)
    sums : (K, P + n_lines or more)
    totals : (2,)
    """
    n_components, n_features = means.shape
    matrices = kind in (FULL, TIED)
    tile_rows = plan.long_panels * PANEL
    lines = _empty_lines(plan.long_panels, n_features)
    step, terms_step = padded_lines(n_features) * PANEL, apart(n_components) * PANEL
    terms = np.empty(plan.long_panels * terms_step)
    row_weight = np.empty(tile_rows)
    side = _padded(n_features + 1)
    near_step = apart(side) * PANEL
    near = np.zeros(plan.long_panels * near_step if matrices else 0)
    heavy = np.empty(plan.long_panels * near_step if matrices else 0)
    n_square = n_blocked(n_features + 1, side, YES)
    white = np.empty(n_features * PANEL)
    for start in range(first_row, last_row, tile_rows):
        n_rows = min(tile_rows, last_row - start)
        _load_lines(rows, start, n_rows, means[0], lines)
        _load_weight(weight, ZERO, start, n_rows, row_weight)
        used = (n_rows + PANEL - 1) // PANEL
        if labels.shape[0]:
            for i in range(used * terms_step):
                terms[i] = 0.0
            for i in range(n_rows):
                totals[0] += row_weight[i]
                place = i // PANEL * terms_step + labels[start + i] * PANEL
                terms[place + i % PANEL] = row_weight[i]
        else:
            for k in range(n_components):
                b = min(k, sharp.inverses.shape[0] - 1)
                constant = sharp.constants[k]
                for panel in range(used):
                    out = panel * terms_step + k * PANEL
                    if matrices:
                        _centre_panel(lines, panel * step, means[k], near, ZERO)
                        _whiten(sharp.inverses[b], near, n_features, white)
                        _far_away(white, n_features, constant, terms, out)
                    else:
                        _far_along_axes(
                            lines, panel * step, means[k], sharp.scales[k], constant, terms, out
                        )
            even = weight.shape[0] == 0 and n_rows == tile_rows
            mass, likelihood = _share_out(
                terms, terms_step, n_components, used, row_weight, YES, even
            )
            totals[0] += mass
            totals[1] += likelihood
        for k in range(n_components):
            if matrices:
                for panel in range(used):
                    at = panel * near_step
                    _centre_panel(lines, panel * step, means[k], near, at)
                    for v in range(0, PANEL, LANES):
                        share = load(terms, panel * terms_step + k * PANEL + v)
                        for d in range(n_features):
                            x = load(near, at + d * PANEL + v)
                            store(heavy, at + d * PANEL + v, x * share)
                        store(heavy, at + n_features * PANEL + v, share)
                        store(near, at + n_features * PANEL + v, splat(1.0))
                accumulate(
                    heavy, n_features + 1, near_step, near, side, near_step,
                    products, k * n_square, used, YES,
                )  # fmt: skip
            else:
                _add_along_axes(
                    lines, step, terms, terms_step, k, used, means[k], kind, plan, sums[k]
                )


@compiled
def sharpen_local(kind, log_weights, factor, sharp):
    """Inverse factors, and what log-densities are at their own means."""
    inverses, scales, constants = sharp
    n_components = constants.shape[0]
    n_features = factor.shape[1] if kind in (FULL, TIED) else scales.shape[1]
    inverse = np.empty((n_features, n_features))
    log_det = 0.0
    for k in range(n_components):
        if kind in (FULL, TIED):
            if k < factor.shape[0]:
                log_det = 0.0
                _invert(factor[k], inverse)
                for i in range(n_features):
                    log_det += math.log(factor[k, i, i])
                    block = i // BLOCK * BLOCK
                    size = min(BLOCK, n_features - block)
                    at = _triangle_start(block) + i - block
                    for j in range(block + size):
                        inverses[k, at + j * size] = inverse[i, j]
        else:
            log_det = 0.0
            for d in range(n_features):
                scale = factor[k, 0, d if kind == DIAG else 0]
                scales[k, d] = 1.0 / scale
                log_det += math.log(scale)
        constants[k] = log_weights[k] - log_det - 0.5 * n_features * math.log(2 * math.pi)


@leaf
def _centre_panel(lines, at, mean, near, at_near):
    """A panel's columns less a mean."""
    for d in range(mean.shape[0]):
        for v in range(0, PANEL, LANES):
            x = load(lines, at + d * PANEL + v) - splat(mean[d])
            store(near, at_near + d * PANEL + v, x)


@leaf
def _triangle_start(block):
    """Where the rows of a lower triangular matrix from ``block`` on begin, in whole blocks of rows.

    Each block is in the order of `multiply`, without the columns that are zero in all of its rows.
    """
    return block * (block + BLOCK) // 2


@leaf
def _whiten(inverse, near, n_features, white):
    """A panel times the transpose of a lower triangular matrix."""
    for block in range(0, n_features, BLOCK):
        size = min(BLOCK, n_features - block)
        multiply(
            inverse, _triangle_start(block), near, ZERO, ZERO, block + size, n_features,
            white, block * PANEL, size, YES,
        )  # fmt: skip


@leaf
def _far_along_axes(lines, at, mean, scale, constant, terms, out):
    """A panel's terms of one component whose covariance is diagonal.

    Columns are dealt to two sums for each vector, so that none waits for another.
    """
    n_features = mean.shape[0]
    for v in range(0, PANEL, 2 * LANES):
        left, right = splat(0.0), splat(0.0)
        more_left, more_right = splat(0.0), splat(0.0)
        for d in range(0, n_features - 1, 2):
            left, right = _add_squares(lines, at + d * PANEL + v, mean[d], scale[d], left, right)
            more_left, more_right = _add_squares(
                lines, at + (d + 1) * PANEL + v, mean[d + 1], scale[d + 1], more_left, more_right
            )
        if n_features % 2:
            d = n_features - 1
            left, right = _add_squares(lines, at + d * PANEL + v, mean[d], scale[d], left, right)
        store(terms, out + v, fma(splat(-0.5), left + more_left, splat(constant)))
        store(terms, out + v + LANES, fma(splat(-0.5), right + more_right, splat(constant)))


@leaf
def _add_squares(lines, place, mean, scale, left, right):
    """Two vectors of a column, in units of ``scale`` about ``mean``, squared and added."""
    middle, unit = splat(mean), splat(scale)
    x = (load(lines, place) - middle) * unit
    y = (load(lines, place + LANES) - middle) * unit
    return fma(x, x, left), fma(y, y, right)


@leaf
def _far_away(white, n_features, constant, terms, out):
    """A panel's terms of one component."""
    for v in range(0, PANEL, LANES):
        squares = splat(0.0)
        for d in range(n_features):
            y = load(white, d * PANEL + v)
            squares = fma(y, y, squares)
        store(terms, out + v, fma(splat(-0.5), squares, splat(constant)))


@leaf
def _add_along_axes(lines, step, terms, terms_step, k, n_panels, mean, kind, plan, sums):
    """Add the statistics of one component whose covariance is diagonal."""
    n_features, n_made = mean.shape[0], plan.left.shape[0]
    mass = splat(0.0)
    for panel in range(n_panels):
        for v in range(0, PANEL, LANES):
            mass = mass + load(terms, panel * terms_step + k * PANEL + v)
    sums[n_made + n_features] += total(mass)
    for d in range(n_features):
        first, more_first = splat(0.0), splat(0.0)
        second, more_second = splat(0.0), splat(0.0)
        middle = splat(mean[d])
        for panel in range(n_panels):
            for v in range(0, PANEL, 2 * LANES):
                place = panel * step + d * PANEL + v
                share = panel * terms_step + k * PANEL + v
                x, y = load(lines, place) - middle, load(lines, place + LANES) - middle
                heavy, more = x * load(terms, share), y * load(terms, share + LANES)
                first, more_first = first + heavy, more_first + more
                second, more_second = fma(heavy, x, second), fma(more, y, more_second)
        sums[n_made + d] += total(first + more_first)
        square = n_features + 1 if kind == SPHERICAL else d  # of all columns, or its own
        sums[square] += total(second + more_second)


@compiled
def unpack(kind, plan, products, sums, second):
    """Add the lower triangles of products, of columns and one, to the sums of `collect`.

    These are ``sums`` (K, P + n_lines or more) and ``second`` (D, 0 or D or more).
    """
    n_components, n_features, n_made = sums.shape[0], plan.centre.shape[0], plan.left.shape[0]
    side = _padded(n_features + 1)
    n_square = n_blocked(n_features + 1, side, YES)
    square = np.empty(((n_features + 1), side))
    for k in range(n_components if products.shape[0] else 0):
        for i in range(n_features + 1):
            for j in range(side):
                square[i, j] = 0.0
        flat = square.reshape(-1)
        unblock(products, k * n_square, n_features + 1, side, flat, ZERO, side, YES)
        at = 0
        for i in range(n_features):
            for j in range(i + 1):
                if kind == FULL:
                    sums[k, at] += square[i, j]
                    at += 1
                else:
                    second[i, j] += square[i, j]
        for d in range(n_features + 1):
            sums[k, n_made + d] += square[n_features, d]
