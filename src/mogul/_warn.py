"""Warnings that point at the user's line, however deep in the library they come from."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]

_OURS = ("mogul", "sklearn", "joblib", "contextlib")


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning at the first frame outside the library and what it is called through."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS
