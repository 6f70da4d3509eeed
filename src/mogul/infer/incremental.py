"""Incremental EM: an M-step after every part of the rows, without a step size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import torch

from mogul.infer.em import EMResult, EMSettings, Streamed, fit_em, m_step, stack
from mogul.infer.repair import split_into
from mogul.infer.stopping import IterationRecord, Trace
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["incremental_em", "n_parts"]

_PARTS = 32
_MOST_NUMBERS = 1 << 24
"""In the statistics of all parts, which are kept: 128 MB."""


def n_parts(mixture: Mixture) -> int:
    """Into how many parts rows are cut: 32, or fewer where statistics are large, but two."""
    size = mixture.means.numel() + mixture.covariance.factor.numel()
    return max(2, min(_PARTS, _MOST_NUMBERS // size))


def incremental_em(
    rows: Streamed,
    start: Mixture,
    settings: EMSettings,
    *,
    previous: float = -torch.inf,
    first: int = 0,
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
) -> EMResult:
    r"""As :func:`~mogul.infer.em.fit_em`, but move after each part of the rows.

    The statistics of every part are kept, each under the mixture at which it was read last. A step
    reads one part anew, replaces its statistics and makes the M-step of them all. What it raises is
    the free energy

    .. math::
        F = \sum_p \Bigl( E_{q_p}[\log p(x, z)] + H(q_p) \Bigr) \le \log p(x),

    which has the maxima of the likelihood (Neal and Hinton 1998). A pass counts as an iteration,
    whose record holds the sum of the parts' log-likelihoods as they were read. Once a pass gains
    less than ``tol``, plain passes of EM follow until they say that it has converged.
    """
    results = []
    for i in range(len(start)):
        trace = Trace(first + i, previous)
        mixture, stopped = _climb(rows, start[i], settings, trace, on_iteration)
        left = 0 if stopped else settings.max_iter - trace.n_iter
        ended = fit_em(
            rows,
            stack([mixture]),
            replace(settings, max_iter=left),
            previous=trace.value,
            first=first + i,
            on_iteration=_later(trace, on_iteration),
        )
        results.append(_joined(trace, ended, stopped))
        if results[-1].interrupted:
            break
    return EMResult(
        stack([one.mixture[0] for one in results]),
        torch.cat([one.log_likelihood for one in results]),
        [one.traces[0] for one in results],
        any(one.interrupted for one in results),
    )


def _climb(
    rows: Streamed,
    mixture: Mixture,
    settings: EMSettings,
    trace: Trace,
    on_iteration: Callable[[IterationRecord], bool | None] | None,
) -> tuple[Mixture, bool]:
    """Passes until one gains little; whether the user asked to stop."""
    n = n_parts(mixture)
    kept: list[Stats] = []
    try:
        while trace.n_iter < settings.max_iter:
            origin, event = mixture, ""
            kept = [_about(origin, one) for one in kept]
            total = reduce(add, kept) if kept else None
            value = weight = 0.0
            for p in range(n):
                new = rows.collect(mixture, n_batches=n, part=p)
                value, weight = value + float(new.log_likelihood), weight + float(new.row_weight)
                new = _about(origin, new)
                if total is None:  # the first pass is EM's: a part may tell of few components
                    kept.append(new)
                    continue
                total, kept[p] = total - kept[p] + new, new
                mixture, event = _maximised(_about(mixture, total), mixture, settings, event)
            if total is None:
                mixture, event = _maximised(reduce(add, kept), mixture, settings, event)
            record = trace.record(value / weight, False, event)
            if on_iteration is not None and on_iteration(record):
                return mixture, True
            if abs(record.change) < settings.tol:
                break
    except KeyboardInterrupt:
        return mixture, True
    return mixture, False


def _about(mixture: Mixture, stats: Stats) -> Stats:
    """Statistics about the means of a mixture."""
    return mixture.covariance.recentre(stats, mixture.means)


def _maximised(
    stats: Stats, before: Mixture, settings: EMSettings, event: str
) -> tuple[Mixture, str]:
    """The M-step's mixture, repaired where components collapsed, and what to tell of it."""
    found, ok = m_step(stats, type(before.covariance), settings.floor)
    if bool(ok.all()):
        return found, event
    who = ", ".join(map(str, (~ok).nonzero().flatten().tolist()))
    repaired = split_into(found, ok)
    return before if repaired is None else repaired, event or f"component {who} collapsed"


def _later(trace: Trace, on_iteration: Callable[[IterationRecord], bool | None] | None) -> Any:
    """What is told of iterations that follow those of a trace."""
    if on_iteration is None:
        return None
    return lambda record: on_iteration(_after(trace, record))


def _after(trace: Trace, record: IterationRecord) -> IterationRecord:
    """A record, counted on from those of a trace."""
    return replace(record, iteration=trace.n_iter + record.iteration)


def _joined(trace: Trace, ended: EMResult, stopped: bool) -> EMResult:
    """The result of the later iterations with the earlier ones before it."""
    last = ended.traces[0]
    last.records = [*trace.records, *(_after(trace, record) for record in last.records)]
    last.events[:0] = trace.events
    return replace(ended, interrupted=ended.interrupted or stopped)
