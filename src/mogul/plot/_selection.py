"""A criterion against the number of components."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes

from mogul.errors import InputError
from mogul.plot._style import (
    INK,
    MARKERS,
    Entry,
    colour,
    legend,
    own_axes,
    plain,
    tidy,
    whole_numbers,
)

_SIZE = (6.4, 4.2)
_MARGIN = 0.08
"""The part of the range of admitted values that the view adds below and above."""
_LINE = 44
"""Letters of a line of the legend, which has two columns."""
_MOST_REASONS = 3
"""Reasons of exclusion that the legend spells out; a longer list would be taller than the lines."""


class Candidate(Protocol):
    """A model that was compared with others."""

    @property
    def covariance_type(self) -> str:
        """The structure of its covariances."""
        ...

    @property
    def n_components(self) -> int:
        """Its number of components."""
        ...

    @property
    def criterion_value(self) -> float:
        """Its criterion; lower is better."""
        ...

    @property
    def excluded(self) -> str | None:
        """Why it may not be chosen, or None."""
        ...


def selection(
    table: Sequence[Candidate], *, criterion: str = "bic", ax: Axes | None = None
) -> Axes:
    """Draw a criterion against the number of components, one line for each covariance structure.

    The best candidate is ringed. Excluded ones are crosses; those far outside the values of the
    others sit at the edge of the picture.

    Parameters
    ----------
    table : sequence of records
        Each with ``covariance_type``, ``n_components``, ``criterion_value`` (lower is better) and
        ``excluded``: the reason why it may not be chosen, or None.
    criterion : str, default "bic"
        The name of the criterion.
    ax : matplotlib Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        When no candidate has a finite value.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from mogul import plot
    >>> table = [
    ...     SimpleNamespace(
    ...         covariance_type="full", n_components=k, criterion_value=value, excluded=None
    ...     )
    ...     for k, value in [(1, 250.0), (2, 180.0), (3, 190.0)]
    ... ]
    >>> plot.selection(table).get_ylabel()
    'BIC (lower is better)'
    """
    finite = [c for c in table if np.isfinite(c.criterion_value)]
    if not finite:
        raise InputError(f"None of {len(table)} candidates has a finite criterion to draw.")
    ax = own_axes(ax, _SIZE)
    admitted = [c for c in finite if not c.excluded]
    entries = _draw_lines(ax, admitted)
    entries += _draw_best(ax, admitted)
    excluded = [c for c in table if c.excluded]
    entries += _draw_excluded(ax, excluded, _limits(admitted or finite))
    _finish(ax, criterion, entries)
    return ax


def _draw_lines(ax: Axes, admitted: Sequence[Candidate]) -> list[Entry]:
    kinds = list(dict.fromkeys(c.covariance_type for c in admitted))
    return [_draw_line(ax, i, kind, admitted) for i, kind in enumerate(kinds)]


def _draw_line(ax: Axes, i: int, kind: str, admitted: Sequence[Candidate]) -> Entry:
    mine = [c for c in admitted if c.covariance_type == kind]
    mine.sort(key=lambda c: c.n_components)
    (line,) = ax.plot(
        [c.n_components for c in mine],
        [c.criterion_value for c in mine],
        color=colour(i),
        marker=MARKERS[i % len(MARKERS)],
        markersize=5,
        linewidth=1.4,
        gid=f"structure {kind}",
    )
    return line, plain(kind)


def _draw_best(ax: Axes, admitted: Sequence[Candidate]) -> list[Entry]:
    if not admitted:
        return []
    best = min(admitted, key=lambda c: c.criterion_value)
    (ring,) = ax.plot(
        [best.n_components],
        [best.criterion_value],
        linestyle="",
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=INK,
        markeredgewidth=1.6,
        gid="best",
    )
    value = f"{best.criterion_value:,.1f}"
    return [(ring, f"best: {plain(best.covariance_type)}, K = {best.n_components} ({value})")]


def _limits(candidates: Sequence[Candidate]) -> tuple[float, float]:
    """The range of the criterion to show."""
    values = [c.criterion_value for c in candidates]
    low, high = min(values), max(values)
    margin = _MARGIN * (high - low) or 1.0
    return low - margin, high + margin


def _draw_excluded(
    ax: Axes, excluded: Sequence[Candidate], limits: tuple[float, float]
) -> list[Entry]:
    """Cross excluded candidates; a collapsed one can be thousands below and would flatten all."""
    ax.set_ylim(limits)
    drawn = [c for c in excluded if np.isfinite(c.criterion_value)]
    values = np.array([c.criterion_value for c in drawn])
    seen = np.clip(values, *limits)
    (crosses,) = ax.plot(
        [c.n_components for c in drawn],
        seen,
        linestyle="",
        marker="X",
        markersize=7,
        markerfacecolor="none",
        markeredgecolor=INK,
        clip_on=False,
        gid="excluded",
    )
    beyond = int((seen != values).sum())
    return [(crosses, words) for words in _say_excluded(excluded, beyond)]


def _say_excluded(excluded: Sequence[Candidate], beyond: int) -> list[str]:
    """Why candidates were excluded, and which of them are not where their values are."""
    reasons = Counter(plain(str(c.excluded)) for c in excluded)
    words = [f"excluded ({n}): {reason}" for reason, n in reasons.most_common(_MOST_REASONS)]
    left = len(excluded) - sum(n for _, n in reasons.most_common(_MOST_REASONS))
    words += [f"excluded for other reasons: {left}"] if left else []
    hidden = sum(not np.isfinite(c.criterion_value) for c in excluded)
    words += [f"at the edge, off the scale: {beyond}"] if beyond else []
    return words + ([f"without a value, not drawn: {hidden}"] if hidden else [])


def _finish(ax: Axes, criterion: str, entries: Sequence[Entry]) -> None:
    ax.set_xlabel("number of components K")
    ax.set_ylabel(f"{plain(criterion.upper())} (lower is better)")
    ax.xaxis.set_major_locator(whole_numbers())
    tidy(ax)
    legend(ax, entries, letters=_LINE, ncols=2, columnspacing=1.5)
