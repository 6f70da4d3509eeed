"""The objective of a fit, iteration by iteration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mogul.errors import InputError
from mogul.plot._style import COLOURS, INK, Entry, legend, own_axes, plain, tidy, whole_numbers

_SIZE = (6.4, 4.0)
_MOST_EVENTS = 6
"""Events that the legend spells out; a longer list would be taller than the picture."""
_FEW_RECORDS = 30
"""Up to so many iterations each has a dot; more would merge into a thick line."""


class Record(Protocol):
    """One iteration of a fit; it also has ``log_likelihood``, or ``elbo``."""

    @property
    def iteration(self) -> int:
        """Its number."""
        ...

    @property
    def accelerated(self) -> bool:
        """Whether it took an accelerated step."""
        ...

    @property
    def event(self) -> str:
        """What else happened, or nothing."""
        ...


def convergence(history: Sequence[Record], *, ax: Axes | None = None) -> Axes:
    """Draw the objective of a fit against its iterations.

    Parameters
    ----------
    history : sequence of records
        Each with ``iteration``, ``accelerated``, ``event`` (an empty string for none) and either
        ``log_likelihood`` (nats per row) or ``elbo`` (nats of all rows); an estimator's
        ``history_``.
    ax : matplotlib Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        When the history is empty.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from mogul import plot
    >>> history = [
    ...     SimpleNamespace(iteration=i, log_likelihood=-4 - 2.0**-i, accelerated=i > 2, event="")
    ...     for i in range(6)
    ... ]
    >>> plot.convergence(history).get_xlabel()
    'iteration'
    """
    records = list(history) if isinstance(history, Iterable) else [history]
    if any(not hasattr(r, "iteration") for r in records):
        raise InputError(
            f"Expected the records of a fit, an estimator's history_; got {type(history).__name__}."
        )
    finite = [r for r in records if np.isfinite(_value(r))]
    if not finite:
        raise InputError(f"None of {len(records)} iterations has a finite value to draw.")
    ax = own_axes(ax, _SIZE)
    entries = [_draw_curve(ax, finite), *_draw_accelerated(ax, finite), *_draw_events(ax, records)]
    bound = hasattr(finite[0], "elbo")
    what = "evidence lower bound (nats)" if bound else "mean log-likelihood per row (nats)"
    ax.set(xlabel="iteration", ylabel=what)
    ax.xaxis.set_major_locator(whole_numbers())
    ax.ticklabel_format(axis="y", useOffset=False)
    tidy(ax)
    legend(ax, entries)
    return ax


def _draw_curve(ax: Axes, records: Sequence[Record]) -> Entry:
    (line,) = ax.plot(
        [r.iteration for r in records],
        [_value(r) for r in records],
        color=INK,
        linewidth=1.5,
        marker="o" if len(records) <= _FEW_RECORDS else "",
        markersize=3.5,
        gid="log-likelihood",
    )
    last = records[-1]
    digits = 8 if hasattr(last, "elbo") else 6  # of a sum over rows more of them tell something
    return line, f"{_value(last):.{digits}g} nats after iteration {last.iteration}"


def _value(record: Record) -> float:
    """The objective of a record, whichever it is."""
    elbo = getattr(record, "elbo", None)
    return getattr(record, "log_likelihood", math.nan) if elbo is None else elbo


def _draw_accelerated(ax: Axes, records: Sequence[Record]) -> list[Entry]:
    mine = [r for r in records if r.accelerated]
    if not mine:
        return []
    (marks,) = ax.plot(
        [r.iteration for r in mine],
        [_value(r) for r in mine],
        linestyle="",
        marker="^",
        markersize=6,
        color=COLOURS[4],
        gid="accelerated",
    )
    return [(marks, f"accelerated steps: {len(mine)} of {len(records)} iterations")]


def _draw_events(ax: Axes, history: Sequence[Record]) -> list[Entry]:
    """Mark iterations with an event by a line each, lettered, and spell out the first few."""
    eventful = [r for r in history if r.event]
    for i, record in enumerate(eventful):
        ax.axvline(record.iteration, color=COLOURS[1], linewidth=1.0, linestyle="--", gid="event")
        if i < _MOST_EVENTS:
            _letter(ax, record.iteration, _name(i))
    return [
        (Line2D([], [], color=COLOURS[1], linestyle="--"), words) for words in _say_events(eventful)
    ]


def _name(i: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[i]


def _letter(ax: Axes, iteration: int, text: str) -> None:
    ax.annotate(
        text,
        (iteration, 0.0),
        xycoords=ax.get_xaxis_transform(),
        xytext=(3, 3),
        textcoords="offset points",
        color=COLOURS[1],
        fontsize="small",
    )


def _say_events(eventful: Sequence[Record]) -> list[str]:
    words = [
        f"{_name(i)}: iteration {r.iteration}, {plain(r.event)}"
        for i, r in enumerate(eventful[:_MOST_EVENTS])
    ]
    left = len(eventful) - len(words)
    return [*words, f"and {left} more events"] if left else words
