"""What regressors take for y, checked once."""

from __future__ import annotations

from typing import Any

import numpy as np

from mogul.errors import InputError

__all__ = ["checked_targets", "target_names"]


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


def target_names(y: Any) -> tuple[str, ...] | None:
    """The column names of a data frame, or the name of a series."""
    names = getattr(y, "columns", None)
    if names is None:
        name = getattr(y, "name", None)
        return None if name is None or np.asarray(y).ndim != 1 else (str(name),)
    return tuple(map(str, names))
