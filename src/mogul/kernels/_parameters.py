"""From parameters to a plan and from sums to parameters, compiled: all of EM but its E-step.

A mixture is three arrays here: log-weights (K,), means (K, D) and factors of three axes: (K, D, D)
for full covariances, (1, D, D) for tied ones, (K, 1, D) for diagonal and (K, 1, 1) for spherical
ones. Each is the square root of a covariance that :mod:`mogul.covariances` stores.
"""

from __future__ import annotations

import math

import numpy as np

from mogul.kernels._blocks import BLOCK
from mogul.kernels._vectors import compiled, dense, inner

__all__ = ["DIAG", "FULL", "SPHERICAL", "TIED", "extrapolate", "maximise", "prepare"]

FULL, TIED, DIAG, SPHERICAL = range(4)

_EPS = 2.0**-52
_EMPTY = 10.0 * _EPS
_ROUNDING = 8.0 * _EPS
_LOG_TWO_PI = math.log(2 * math.pi)


# --- triangles ------------------------------------------------------------------------------------


@dense
def _cholesky(matrix):
    """Overwrite the lower triangle with its Cholesky factor, zero above; whether that worked.

    A pivot below the rounding of its own diagonal element carries no information.
    """
    n = matrix.shape[0]
    for i in range(n):
        for j in range(i + 1):
            value = matrix[i, j]
            for m in range(j):
                value -= matrix[i, m] * matrix[j, m]
            if i > j:
                matrix[i, j] = value / matrix[j, j]
            else:
                if not (value > n * _EPS * matrix[i, i] and value < math.inf):
                    return False
                matrix[i, i] = math.sqrt(value)
        for j in range(i + 1, n):
            matrix[i, j] = 0.0
    return True


@dense
def _invert(lower, inverse):
    """The inverse of a lower triangular matrix."""
    n = lower.shape[0]
    for i in range(n):
        for j in range(n):
            inverse[i, j] = 0.0
        for m in range(i):
            factor = lower[i, m]
            for j in range(m + 1):
                inverse[i, j] -= factor * inverse[m, j]
        scale = 1.0 / lower[i, i]
        for j in range(i):
            inverse[i, j] *= scale
        inverse[i, i] = scale


@dense
def _gram(inverse, precision):
    """The lower triangle of L⁻ᵀ L⁻¹."""
    n = inverse.shape[0]
    for i in range(n):
        for j in range(n):
            precision[i, j] = 0.0
    for m in range(n):
        for i in range(m + 1):
            factor = inverse[m, i]
            for j in range(i + 1):
                precision[i, j] += factor * inverse[m, j]


@dense
def _lower_times(lower, vector, out):
    for i in range(lower.shape[0]):
        value = 0.0
        for j in range(i + 1):
            value += lower[i, j] * vector[j]
        out[i] = value


@dense
def _transposed_times(lower, vector, out):
    for j in range(lower.shape[0]):
        out[j] = 0.0
    for i in range(lower.shape[0]):
        for j in range(i + 1):
            out[j] += lower[i, j] * vector[i]


@dense
def _triangles_product(left, right, out):
    """Of two lower triangular matrices; zero above."""
    for i in range(left.shape[0]):
        for j in range(left.shape[0]):
            out[i, j] = 0.0
        for m in range(i + 1):
            factor = left[i, m]
            for j in range(m + 1):
                out[i, j] += factor * right[m, j]


# --- parameters to a plan -------------------------------------------------------------------------


@inner
def _choose_centre(kind, log_weights, means, factor, centre):
    """The mixture's mean, to an eighth of a standard deviation; see `expansion`."""
    n_components, n_features = means.shape
    for d in range(n_features):
        mean = 0.0
        for k in range(n_components):
            mean += math.exp(log_weights[k]) * means[k, d]
        variance = 0.0
        for k in range(n_components):
            own = 0.0
            if kind in (FULL, TIED):
                row = factor[k if kind == FULL else 0, d]
                for j in range(d + 1):
                    own += row[j] * row[j]
            else:
                own = factor[k, 0, d if kind == DIAG else 0] ** 2
            gap = means[k, d] - mean
            variance += math.exp(log_weights[k]) * (own + gap * gap)
        unit = np.exp2(np.floor(np.log2(math.sqrt(variance))) - 3)
        centre[d] = np.round(mean / unit) * unit


@compiled
def prepare(kind, log_weights, means, factor, n_made, centre, sharpest, weights, whitening):
    """Fill in what a :class:`~mogul.kernels._tiles.Plan` holds of one mixture.

    Returns how far the farthest mean is from the centre, in the units of the plan's limit; NaN
    where a parameter is not finite.
    """
    n_components, n_features = means.shape
    _choose_centre(kind, log_weights, means, factor, centre)
    matrices = kind in (FULL, TIED)
    size = n_features if matrices else 0
    inverse, precision = np.zeros((size, size)), np.zeros((size, size))
    gap, white, linear = np.empty(n_features), np.empty(n_features), np.empty(n_features)
    for d in range(n_features):
        sharpest[d] = 0.0
    for i in range(weights.shape[0]):
        weights[i] = 0.0
    log_det = 0.0
    for k in range(n_components):
        block = k // BLOCK * BLOCK
        step = min(BLOCK, n_components - block)
        start = block * (weights.shape[0] // n_components) + k - block
        at = start
        for d in range(n_features):
            gap[d] = means[k, d] - centre[d]
        if kind == FULL or (kind == TIED and k == 0):
            lower = factor[k]
            _invert(lower, inverse)
            _gram(inverse, precision)
            log_det = 0.0
            for d in range(n_features):
                log_det += math.log(lower[d, d])
                sharpest[d] = max(sharpest[d], precision[d, d])
        distance = 0.0
        if matrices:
            _lower_times(inverse, gap, white)
            for d in range(n_features):
                distance += white[d] * white[d]
            _transposed_times(inverse, white, linear)
            if kind == FULL:
                for i in range(n_features):
                    for j in range(i):
                        weights[at] = -precision[i, j]
                        at += step
                    weights[at] = -0.5 * precision[i, i]
                    at += step
            elif k == 0:
                for j in range(n_features):  # in the order of `multiply`
                    for i in range(j, n_features):
                        first = i // BLOCK * BLOCK
                        rows = min(BLOCK, n_features - first)
                        whitening[first * n_features + j * rows + i - first] = inverse[i, j]
        else:
            log_det = 0.0
            for d in range(n_features):
                scale = factor[k, 0, d if kind == DIAG else 0]
                value = 1.0 / (scale * scale)
                sharpest[d] = max(sharpest[d], value)
                linear[d] = value * gap[d]
                distance += linear[d] * gap[d]
                log_det += math.log(scale)
                if kind == DIAG:
                    weights[at] = -0.5 * value
                    at += step
        at = start + n_made * step
        for d in range(n_features):
            weights[at] = linear[d]
            at += step
        constant = log_weights[k] - log_det - 0.5 * (distance + n_features * _LOG_TWO_PI)
        weights[at] = constant
        if kind == SPHERICAL:
            weights[at + step] = -0.5 / factor[k, 0, 0] ** 2
        elif kind == TIED:
            weights[at + step] = 1.0
    farthest = 0.0
    for d in range(n_features):
        sharpest[d] = math.sqrt(sharpest[d])
        reach = 0.0
        for k in range(n_components):
            reach = max(reach, abs(means[k, d] - centre[d]))
        farthest += reach * sharpest[d]
    return farthest


# --- sums to parameters ---------------------------------------------------------------------------


@compiled
def maximise(
    kind, n_made, sums, second, row_weight, centre, old_means, floor, log_weights, means, factor, ok
):
    """The M-step from sums about ``centre``, (1 or K, D); see :func:`mogul.infer.em.m_step`.

    ``sums`` (K, P + n_lines or more) are as `collect` leaves them, with P = ``n_made``; ``second``
    (D, D or more) is that of tied covariances.
    """
    n_components, n_features = means.shape
    every = 0.0
    for k in range(n_components):
        count = sums[k, n_made + n_features]
        ok[k] = count > _EMPTY * row_weight
        if ok[k]:
            every += count
    gap = np.empty(n_features)
    if kind == TIED:
        shared = factor[0]
        for i in range(n_features):
            for j in range(n_features):
                shared[i, j] = second[i, j] if j <= i else 0.0
    for k in range(n_components):
        count = sums[k, n_made + n_features] if ok[k] else 1.0
        log_weights[k] = math.log(count / every) if ok[k] else -math.inf
        for d in range(n_features):
            if ok[k]:
                gap[d] = sums[k, n_made + d] / count
                means[k, d] = centre[min(k, centre.shape[0] - 1), d] + gap[d]
            else:
                gap[d] = 0.0
                means[k, d] = old_means[k, d]
        if kind == FULL:
            own, at = factor[k], 0
            for i in range(n_features):
                for j in range(i + 1):
                    own[i, j] = sums[k, at] / count - gap[i] * gap[j]
                    at += 1
                own[i, i] += floor
                ok[k] &= own[i, i] > _noise(means[k, i], old_means[k, i])
            if not (ok[k] and _cholesky(own)):
                ok[k] = False
                _unit(own)
        elif kind == TIED:
            if ok[k]:
                for i in range(n_features):
                    for j in range(i + 1):
                        factor[0, i, j] -= count * gap[i] * gap[j]
        else:
            trace = 0.0
            for d in range(n_features):
                if kind == SPHERICAL:
                    trace += gap[d] * gap[d]
                    continue
                value = sums[k, d] / count - gap[d] * gap[d] + floor
                ok[k] &= value < math.inf and value > _noise(means[k, d], old_means[k, d])
                factor[k, 0, d] = math.sqrt(value) if ok[k] else 1.0
            if kind == SPHERICAL:
                squares = sums[k, n_made + n_features + 1]
                value = (squares / count - trace) / n_features + floor
                for d in range(n_features):
                    ok[k] &= value < math.inf and value > _noise(means[k, d], old_means[k, d])
                factor[k, 0, 0] = math.sqrt(value) if ok[k] else 1.0
            if not ok[k]:
                for d in range(factor.shape[2]):
                    factor[k, 0, d] = 1.0
    if kind == TIED:
        shared = factor[0]
        for i in range(n_features):
            for j in range(i + 1):
                shared[i, j] /= every
            shared[i, i] += floor
            for k in range(n_components):
                ok[k] &= shared[i, i] > _noise(means[k, i], old_means[k, i])
        if not _cholesky(shared):
            _unit(shared)
            for k in range(n_components):
                ok[k] = False


@inner
def _noise(new, old):
    """The rounding of squares that a variance was computed from."""
    return _ROUNDING * max((new - old) ** 2, _EPS * new * new)


@inner
def _unit(matrix):
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[0]):
            matrix[i, j] = 1.0 if i == j else 0.0


# --- extrapolation --------------------------------------------------------------------------------


@compiled
def extrapolate(kind, first, second, third, max_step):
    """Where first-order SQUAREM leads from three successive mixtures, written over the ``second``.

    See :class:`mogul.infer.squarem.Squarem`. Coordinates are log-weights, and means and logarithms
    of factors in units of the first mixture's factors. They are found twice, component after
    component, since those of a large mixture are large.

    Returns the step, at most ``max_step``, or 0 where there is nothing to gain; then the second
    mixture may be lost.
    """
    n_components, n_features = first[1].shape
    matrices = kind in (FULL, TIED)
    size = n_features if matrices else 0
    inverse, factor = np.zeros((size, size)), np.zeros((size, size))
    n_most = n_features + (size * (size + 1) // 2 if matrices else n_features)
    r, v = np.empty(n_most), np.empty(n_most)
    along, bend = 0.0, 0.0
    for k in range(n_components):
        gain = second[0][k] - first[0][k]
        more = third[0][k] - second[0][k] - gain
        along += gain * gain
        bend += more * more
        for i in range(_differences(kind, k, first, second, third, inverse, factor, r, v)):
            along += r[i] * r[i]
            bend += v[i] * v[i]
    ratio = math.sqrt(along) / max(math.sqrt(bend), 1e-300)
    if not (ratio > 1.0 and bend < math.inf):
        return 0.0
    step = min(ratio, max_step)
    finite, peak, mass = True, -math.inf, 0.0
    for k in range(n_components):
        gain = second[0][k] - first[0][k]
        more = third[0][k] - second[0][k] - gain
        n = _differences(kind, k, first, second, third, inverse, factor, r, v)
        for i in range(n):
            r[i] = 2.0 * step * r[i] + step * step * v[i]
            finite &= abs(r[i]) < math.inf
        second[0][k] = first[0][k] + 2.0 * step * gain + step * step * more
        finite &= abs(second[0][k]) < math.inf
        peak = max(peak, second[0][k])
        _move(kind, k, first, r, n > n_features, factor, second[1], second[2])
    for k in range(n_components):
        mass += math.exp(second[0][k] - peak)
    for k in range(n_components):
        second[0][k] -= peak + math.log(mass)
    return step if finite else 0.0


@inner
def _differences(kind, k, first, second, third, inverse, relative, r, v):
    """Of a component's coordinates: r from the first to the second, and how r changes to the next.

    Returns how many there are.
    """
    if kind == FULL or (kind == TIED and k == 0):
        _invert(first[2][k], inverse)
    n = _coordinates(kind, k, first, second, inverse, relative, r)
    _coordinates(kind, k, first, third, inverse, relative, v)
    for i in range(n):
        v[i] -= 2.0 * r[i]  # those of the first are zero
    return n


@inner
def _coordinates(kind, k, reference, mixture, inverse, relative, values):
    """A component's mean and the logarithm of its factor, in units of the reference's factor.

    A factor that all share is the first component's. Returns how many ``values`` are filled.
    """
    at = mixture[1].shape[1]
    if kind in (FULL, TIED):
        for i in range(at):
            value = 0.0
            for j in range(i + 1):
                value += inverse[i, j] * (mixture[1][k, j] - reference[1][k, j])
            values[i] = value
        if kind == FULL or k == 0:
            _triangles_product(inverse, mixture[2][k], relative)
            for i in range(mixture[1].shape[1]):
                for j in range(i):
                    values[at + j] = relative[i, j]
                values[at + i] = math.log(relative[i, i])
                at += i + 1
        return at
    for d in range(at):
        scale = reference[2][k, 0, d if kind == DIAG else 0]
        values[d] = (mixture[1][k, d] - reference[1][k, d]) / scale
    for d in range(mixture[2].shape[2]):
        values[at] = math.log(mixture[2][k, 0, d] / reference[2][k, 0, d])
        at += 1
    return at


@inner
def _move(kind, k, reference, values, has_factor, relative, means, factor):
    """The component with these coordinates."""
    n_features = means.shape[1]
    if kind in (FULL, TIED):
        lower = reference[2][k if kind == FULL else 0]
        _lower_times(lower, values, means[k])
        for d in range(n_features):
            means[k, d] += reference[1][k, d]
        if has_factor:
            at = n_features
            for i in range(n_features):
                for j in range(i):
                    relative[i, j] = values[at + j]
                relative[i, i] = math.exp(values[at + i])
                at += i + 1
            _triangles_product(lower, relative, factor[k])
        return
    for d in range(n_features):
        scale = reference[2][k, 0, d if kind == DIAG else 0]
        means[k, d] = reference[1][k, d] + scale * values[d]
    for d in range(factor.shape[2]):
        factor[k, 0, d] = reference[2][k, 0, d] * math.exp(values[n_features + d])
