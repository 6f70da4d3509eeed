"""What regressors take for y, checked once."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from mogul.data.sources import Source
from mogul.errors import InputError, UnknownNameError

__all__ = ["checked_targets", "columns_of", "target_names"]


def checked_targets(y: Any, n_rows: int) -> np.ndarray:
    """Outputs as float64, (N, D), NaN where they are missing."""
    if y is None:
        raise InputError(
            "This regressor requires y to be passed, but the target y is None: the values that are "
            "to be learnt."
        )
    try:
        found = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("y must be numbers, in rows of equal length.") from None
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or found.shape[1] == 0:
        raise InputError(f"y has shape {found.shape}; expected ({n_rows},) or ({n_rows}, D).")
    if len(found) != n_rows:
        raise InputError(f"y has {len(found)} rows and X has {n_rows}; give one y for each row.")
    if np.isinf(found).any():
        row = int(np.argmax(np.isinf(found).any(1)))
        raise InputError(f"y contains infinity: the first is in row {row} (counted from 0).")
    unknown = np.isnan(found).all(1)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise InputError(
            f"y contains NaN in every output of row {row} (counted from 0) and of {unknown.sum()} "
            "such rows; leave them out. A row that is known in part may stay."
        )
    return found


def columns_of(source: Source, y: Any) -> tuple[list[int], list[int]]:
    """The places of inputs and of outputs among the columns of a source."""
    asked = [y] if isinstance(y, (str, Integral)) else list(y if y is not None else ())
    if not asked or not all(isinstance(one, (str, Integral)) for one in asked):
        raise InputError(
            "Of a source y names the columns that are outputs, such as 'price'; the others are "
            "inputs."
        )
    names = source.names or ()
    found = []
    for one in asked:
        known = one in names if isinstance(one, str) else 0 <= int(one) < source.n_features
        if not known:
            has = ", ".join(names) if names else f"columns 0 to {source.n_features - 1}"
            raise UnknownNameError(f"The source has no column {one!r} for y; it has {has}.")
        found.append(names.index(one) if isinstance(one, str) else int(one))
    inputs = [j for j in range(source.n_features) if j not in found]
    if not inputs or len(set(found)) < len(found):
        raise InputError("y must name each output once and leave at least one column as input.")
    return inputs, found


def target_names(y: Any) -> tuple[str, ...] | None:
    """The column names of a data frame, or the name of a series."""
    names = getattr(y, "columns", None)
    if names is None:
        name = getattr(y, "name", None)
        return None if name is None or np.asarray(y).ndim != 1 else (str(name),)
    return tuple(map(str, names))
