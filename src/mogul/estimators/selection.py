"""Choosing the number of components and the covariance structure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from mogul._warn import warn
from mogul.covariances import STRUCTURES, structure
from mogul.errors import DegenerateFitError, InputError, SpikeWarning, UnknownNameError
from mogul.estimators._inputs import as_rows, check_sample_weight, validated
from mogul.estimators._progress import SearchProgress
from mogul.estimators.gaussian_mixture import GaussianMixture
from mogul.infer.criteria import CRITERIA
from mogul.infer.selection import Candidate, relative_floor, search
from mogul.infer.spikes import constant_columns

__all__ = ["SelectionResult", "select"]


@dataclass(frozen=True)
class SelectionResult:
    """What :func:`select` found.

    Attributes
    ----------
    best : GaussianMixture
        The fitted estimator with the lowest criterion among the candidates not excluded.
    table : list of Candidate
        Every combination that was tried, best first, excluded ones last.
    criterion : str
    """

    best: GaussianMixture
    table: list[Candidate]
    criterion: str

    def plot(self, ax: Any = None) -> Any:
        """The criterion against the number of components; see ``mogul.plot.selection``."""
        from importlib import import_module  # plots lie above estimators

        return import_module("mogul.plot").selection(self.table, criterion=self.criterion, ax=ax)

    def __str__(self) -> str:
        """The table as text: one row for each size, one column for each structure."""
        kinds = list(dict.fromkeys(c.covariance_type for c in self._in_order()))
        sizes = sorted({c.n_components for c in self.table})
        cells = {(c.n_components, c.covariance_type): c for c in self.table}
        lines = [f"{self.criterion.upper():>4}" + "".join(f"{kind:>13}" for kind in kinds)]
        for k in sizes:
            shown = (self._cell(cells.get((k, kind))) for kind in kinds)
            lines.append(f"{k:>4}" + "".join(f"{cell:>13}" for cell in shown))
        lines.append(f"Lower is better; * best ({self._name(self.table[0])}).")
        excluded = [c for c in self.table if c.excluded]
        lines += [f"x excluded: {self._name(c)}: {c.excluded}." for c in excluded]
        passed = [f"{self._name(c)} ({c.passed_over})" for c in self._in_order() if c.passed_over]
        if passed:
            lines.append(f"Likelier ends passed over for a spike: {'; '.join(passed)}.")
        return "\n".join(line.rstrip() for line in lines)

    def _in_order(self) -> list[Candidate]:
        order = list(STRUCTURES)
        return sorted(self.table, key=lambda c: order.index(c.covariance_type))

    def _cell(self, candidate: Candidate | None) -> str:
        if candidate is None:
            return ""
        mark = "x" if candidate.excluded else "*" if candidate is self.table[0] else " "
        return f"{candidate.criterion_value:.1f} {mark}"

    @staticmethod
    def _name(candidate: Candidate) -> str:
        return f"{candidate.covariance_type}, K={candidate.n_components}"


def select(
    X: Any,
    n_components: Iterable[int] | int = range(1, 11),
    covariance_type: Sequence[str] | str = ("full", "tied", "diag", "spherical"),
    criterion: str = "bic",
    *,
    n_init: int = 10,
    sample_weight: Any = None,
    random_state: Any = None,
    progress: str | bool = "auto",
) -> SelectionResult:
    """Fit every combination of size and structure and choose by an information criterion.

    A likelihood can be driven up without bound by a component that shrinks onto a duplicated or
    rounded value. Such a spike, a component whose spread is at the rounding of the data, is
    recognised; other starts are preferred to it, and a candidate that has nothing else is excluded
    from the ranking and says so.

    Parameters
    ----------
    X : array-like or data frame, shape (N, D)
    n_components : iterable of int or int, default 1 to 10
    covariance_type : sequence of str or str, default all four
    criterion : {"bic", "icl", "aic"}, default "bic"
    n_init : int, default 10
        Starts for each combination, run together as one batch. With more than 20,000 rows they
        compete on a sample and the best goes on to all rows.
    sample_weight : array-like, shape (N,), optional
    random_state : int, RandomState or None, default None
    progress : {"auto", True, False}, default "auto"
        A progress line on standard error; "auto" shows one on a terminal when a search is long.

    Returns
    -------
    SelectionResult
        ``best`` (a fitted :class:`GaussianMixture`), ``table`` and ``plot()``; printing it shows
        the table. Fits are regularised by a millionth of the smallest column variance.

    Raises
    ------
    InputError
        For data that cannot be compared: a constant column, or rows that are all the same.
    DegenerateFitError
        When no candidate is left.

    References
    ----------
    Schwarz (1978); Akaike (1974); Biernacki, Celeux and Govaert (2000).

    Examples
    --------
    >>> import mogul
    >>> data = mogul.datasets.old_faithful()
    >>> found = mogul.select(data.values, range(1, 4), random_state=0)
    >>> found.best.covariance_type, found.best.n_components
    ('tied', 3)
    >>> round(found.table[0].criterion_value, 1)
    2314.3
    """
    sizes = _sizes(n_components)
    kinds = [covariance_type] if isinstance(covariance_type, str) else list(covariance_type)
    for kind in kinds:
        structure(kind)
    if not kinds:
        raise InputError("covariance_type is empty; name at least one structure.")
    if not (isinstance(n_init, Integral) and n_init > 0):
        raise InputError(f"n_init must be a whole number from 1 on; got {n_init!r}.")
    if criterion not in CRITERIA:
        known = ", ".join(map(repr, CRITERIA))
        raise UnknownNameError(f"The criterion {criterion!r} is unknown; choose one of {known}.")
    holder = Selection()
    array = validated(holder, X, reset=True, min_samples=2)
    names = getattr(holder, "feature_names_in_", None)
    rows = as_rows(array, check_sample_weight(sample_weight, len(array)), torch.device("cpu"))
    _refuse_incomparable(rows, names, max(sizes))
    shown = SearchProgress(progress, len(sizes) * len(kinds))
    try:
        candidates = search(
            rows,
            sizes,
            kinds,
            criterion,
            n_init=n_init,
            names=None if names is None else list(names),
            random_state=check_random_state(random_state),
            on_candidate=shown,
        )
    finally:
        shown.close()
    table = sorted(candidates, key=_rank)
    if table[0].fit is None:
        raise DegenerateFitError("Every candidate collapsed; try fewer components.")
    if table[0].excluded:
        warn(
            f"Every candidate has a component at the rounding of the data ({table[0].excluded}); "
            "the ranking means little. Try fewer components, or drop columns with few values.",
            SpikeWarning,
        )
    return SelectionResult(_estimator(table[0], rows, array.dtype, names), table, criterion)


class Selection(BaseEstimator):
    """Carries the feature names from validation; scikit-learn's messages name it."""


def _rank(candidate: Candidate) -> tuple[bool, float]:
    """Excluded ones last, then by criterion; among equal ones the first in the search.

    Without its last digits: one tied component is one full component, but for rounding.
    """
    value = candidate.criterion_value
    return candidate.excluded is not None, np.inf if np.isnan(value) else float(f"{value:.10g}")


def _sizes(n_components: Iterable[int] | int) -> list[int]:
    sizes = list(n_components) if isinstance(n_components, Iterable) else [n_components]
    if not sizes or any(not isinstance(k, Integral) or k < 1 for k in sizes):
        raise InputError(f"n_components must hold whole numbers from 1 on; got {sizes}.")
    return sorted({int(k) for k in sizes})


def _refuse_incomparable(rows: Any, names: Any, most: int) -> None:
    if rows.n_rows < most:
        raise InputError(
            f"Expected at least as many rows as components; got {rows.n_rows} rows and up to "
            f"{most} components."
        )
    constant = constant_columns(rows)
    if len(constant) == rows.n_features:
        raise InputError("All rows are the same, so there is nothing to fit; check the data.")
    if constant:
        which = ", ".join(str(j if names is None else names[j]) for j in constant)
        raise InputError(
            f"Every value of column {which} is the same, so densities cannot be compared; drop it."
        )


def _estimator(candidate: Candidate, rows: Any, dtype: Any, names: Any) -> GaussianMixture:
    assert candidate.fit is not None  # select() has raised otherwise
    model = GaussianMixture(
        candidate.n_components,
        covariance_type=candidate.covariance_type,
        reg_covar=relative_floor(rows),
    )
    return model.adopt(candidate.fit, dtype, names)
