"""Guarded extrapolation of EM, compiled: :class:`mogul.infer.squarem.Squarem` and its verdicts."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mogul.kernels._parameters import extrapolate
from mogul.kernels._vectors import compiled, inner

__all__ = [
    "CONVERGED",
    "FIRST_MAX_STEP",
    "LEFT",
    "NOISE",
    "N_NUMBERS",
    "PENDING",
    "RUNNING",
    "STEP_GROWTH",
    "Memory",
    "Rule",
    "advance",
    "copy_mixture",
    "fall_back",
    "forget",
    "is_pending",
    "judge",
    "recall",
    "rejects",
]

NOISE = 1e-13
"""A relative gain of the log-likelihood that is rounding."""
FIRST_MAX_STEP = 4.0
STEP_GROWTH = 4.0

_ON, PENDING, _REQUIRED, _STEP, _MAX_STEP, _N_TRAIL, _BEFORE, _VALUE, _N_GAINS, _GAINS = range(10)
N_NUMBERS = _GAINS + 3
RUNNING, CONVERGED, LEFT = range(3)
"""How a climb ended: out of iterations, converged, or at a mixture that others must go on from."""


class Rule(NamedTuple):
    """When a climb is extrapolated and when it ends; see :class:`mogul.infer.stopping.Trace`.

    It has converged when an iteration gains less than ``tol`` and, if ``patient``, less remains to
    be gained by Aitken's estimate (Böhning and others 1994). SQUAREM is switched on when it
    converges linearly, two ratios of gains differing by less than ``steady``, and needs more than
    ``most`` iterations.
    """

    tol: float
    patient: bool
    steady: float
    most: float
    max_iter: int


class Memory(NamedTuple):
    """What a climb remembers: some numbers, and a mixture.

    That is the first of two iterations, then where to fall back to from a proposal.
    """

    numbers: NDArray[np.float64]
    kept: tuple[NDArray[np.float64], ...]


@compiled
def forget(numbers, accelerated, previous):
    """Begin anew, ``previous`` being a value to measure the first gain against."""
    for i in range(numbers.shape[0]):
        numbers[i] = 0.0
    numbers[_ON] = 1.0 if accelerated else 0.0
    numbers[_STEP], numbers[_MAX_STEP] = 1.0, FIRST_MAX_STEP
    numbers[_VALUE] = previous


def recall(numbers: NDArray[np.float64], gains: NDArray[np.float64]) -> None:
    """Go on after the ``gains`` of up to three iterations that were made elsewhere."""
    numbers[_N_GAINS] = len(gains)
    numbers[_GAINS + 3 - len(gains) : _GAINS + 3] = gains


@inner
def copy_mixture(source, target):
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
def is_pending(memory):
    """Whether the climb is at a proposal that is still to be evaluated."""
    return memory.numbers[PENDING] > 0.0


@inner
def rejects(memory, value):
    """Whether it is, and must be given up."""
    return is_pending(memory) and not value >= memory.numbers[_REQUIRED]


@inner
def fall_back(memory, own):
    """Give the proposal up; the plain map's point, and shorter steps from now on."""
    numbers = memory.numbers
    copy_mixture(memory.kept, own)
    numbers[PENDING] = 0.0
    numbers[_MAX_STEP] = max(FIRST_MAX_STEP, numbers[_STEP] / STEP_GROWTH)


@inner
def judge(memory, value, rule):
    """Record an accepted iteration that began at ``value``; whether it is the last."""
    numbers = memory.numbers
    gain = value - numbers[_VALUE]
    numbers[_VALUE] = value
    if is_pending(memory) or not abs(gain) < math.inf:
        numbers[_N_GAINS] = 0.0
        return RUNNING
    for i in range(2):
        numbers[_GAINS + i] = numbers[_GAINS + i + 1]
    numbers[_GAINS + 2] = gain
    numbers[_N_GAINS] += 1.0
    first, before = numbers[_GAINS], numbers[_GAINS + 1]
    close = abs(gain) < rule.tol
    if not rule.patient:
        return CONVERGED if close else RUNNING
    if numbers[_N_GAINS] < 2.0:
        return RUNNING
    if gain <= NOISE * (1.0 + abs(value)):
        return CONVERGED if close else RUNNING
    if not gain < before:
        return RUNNING
    left = gain * gain / (before - gain)
    if close and left < rule.tol:
        return CONVERGED
    if numbers[_N_GAINS] >= 3.0 and rule.tol < left and before < first:
        ratio = gain / before
        steady = abs(ratio - before / first) <= rule.steady
        if steady and math.log(max(rule.tol, 1e-300) / left) / math.log(ratio) > rule.most:
            numbers[_ON] = 1.0
    return RUNNING


@inner
def advance(kind, memory, own, value, mapped):
    """Move ``own``, which was evaluated and mapped, to the next point to evaluate."""
    numbers = memory.numbers
    if not numbers[_ON] > 0.0:
        copy_mixture(mapped, own)
    elif is_pending(memory):
        numbers[PENDING] = 0.0
        if numbers[_STEP] >= numbers[_MAX_STEP]:
            numbers[_MAX_STEP] *= STEP_GROWTH
        copy_mixture(mapped, own)
    elif not numbers[_N_TRAIL] > 0.0:
        copy_mixture(own, memory.kept)
        numbers[_N_TRAIL], numbers[_BEFORE] = 1.0, value
        copy_mixture(mapped, own)
    else:
        numbers[_N_TRAIL] = 0.0
        step = extrapolate(kind, memory.kept, own, mapped, numbers[_MAX_STEP])
        if step > 0.0:
            copy_mixture(mapped, memory.kept)
            numbers[PENDING], numbers[_STEP] = 1.0, step
            numbers[_REQUIRED] = value + max(0.0, value - numbers[_BEFORE])
        else:
            copy_mixture(mapped, own)
