"""Arguments that are numbers, checked with one sentence each."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from mogul.errors import InputError

__all__ = ["check_count", "check_level", "check_seed", "check_share"]


def check_count(n: Any, what: str, least: int = 1) -> int:
    """A whole number from ``least`` on."""
    if isinstance(n, bool) or not isinstance(n, Integral) or n < least:
        raise InputError(f"{what} must be a whole number from {least} on; got {n!r}.")
    return int(n)


def check_level(level: Any, what: str = "level") -> float:
    """A probability strictly between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, Real) or not 0 < float(level) < 1:
        raise InputError(f"{what} must lie strictly between 0 and 1; got {level!r}.")
    return float(level)


def check_seed(seed: Any) -> int:
    """What torch's generators take."""
    return check_count(seed, "seed", 0)


def check_share(keep: Any, what: str = "keep") -> float:
    """A part of the whole, which may be all of it."""
    if isinstance(keep, bool) or not isinstance(keep, Real) or not 0 < float(keep) <= 1:
        raise InputError(f"{what} must be above 0 and at most 1; got {keep!r}.")
    return float(keep)
