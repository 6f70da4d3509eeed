"""EM on growing samples of the rows, then on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from numpy.random import RandomState

from mogul.data.rows import Rows
from mogul.infer.em import EMResult, EMSettings, fit_em
from mogul.infer.starts import SAMPLE_NUMBERS, n_sample_rows, some_rows
from mogul.infer.stopping import IterationRecord
from mogul.mixture import Mixture

__all__ = ["GROWTH", "fit_nested", "nested_climb", "sample_sizes", "warmed"]

GROWTH = 16
"""How many times as many rows a sample has as the one before."""
_MANY = 200
"""How many times as many rows as a start's sample there are at least: of fewer, passes over all of
them cost too little for samples to save any."""
_SHARE = 8
"""How many times as many rows there are at least as in a sample."""


def sample_sizes(n_rows: int, n_components: int, n_features: int) -> list[int]:
    """The sizes of the samples, smallest first; none where the rows are few.

    The smallest is that of starts; the largest is at most an eighth of the rows, so that iterations
    on samples cost a tenth of those on all rows, and 32 megabytes, lest copies of rows be large.
    """
    size, sizes = n_sample_rows(n_components, n_features), []
    if n_rows < _MANY * size:
        return sizes
    most = max(size, SAMPLE_NUMBERS // n_features)
    while _SHARE * size < n_rows and size < GROWTH * most:
        sizes.append(min(size, most))
        size *= GROWTH
    return sizes


def nested_climb(random_state: RandomState) -> Callable[..., EMResult]:
    """:func:`fit_nested` with a seed that is drawn when it is first called, after all starts.

    Starts that run one after another then see the same samples as starts that run together.
    """
    seed = cache(lambda: random_state.randint(2**31 - 1))

    def climb(rows: Rows, start: Mixture, settings: EMSettings, **more: Any) -> EMResult:
        return fit_nested(rows, start, settings, seed=seed(), **more)

    return climb


def warmed(sample: Rows, start: Mixture, settings: EMSettings) -> Mixture:
    """Where EM on a sample of n rows, which knows a mixture to some 1/n nats a row, brings it."""
    tol = max(settings.tol, 1 / sample.n_rows)
    ran = fit_em(sample, start, replace(settings, tol=tol))
    if ran.interrupted:  # there is nothing to keep yet
        raise KeyboardInterrupt
    return start if any(trace.failed for trace in ran.traces) else ran.mixture


def fit_nested(
    rows: Rows,
    start: Mixture,
    settings: EMSettings,
    *,
    seed: int,
    previous: float = -torch.inf,
    first: int = 0,
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
) -> EMResult:
    """As :func:`~mogul.infer.em.fit_em`, but begin with EM on samples, each larger than the last.

    A sample of n rows knows a mixture to some 1/n nats a row, so EM on it ends there; all rows then
    have to move it by no more, in fewer passes. What is recorded is what happened on all rows. The
    samples depend on ``seed`` only.
    """
    random_state = RandomState(seed)  # the same samples for every start
    for size in sample_sizes(rows.n_rows, start.n_components, start.n_features):
        sample = some_rows(rows, size, random_state)
        start = warmed(sample, start, settings)
    return fit_em(rows, start, settings, previous=previous, first=first, on_iteration=on_iteration)
