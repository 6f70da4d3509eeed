"""How memory of large mixtures is given back: at once, not when the process ends.

The C library takes what is asked for in one piece from its own heap, up to 32 megabytes as soon as
a piece of that size was freed once, and a hole that small things keep open is not given back. A fit
of 128 components in 128 columns, whose mixtures have 17 megabytes and whose sums have 9 or 11, grew
by 193 megabytes, and by 144 where each such array has pages of its own, which are the system's
again when it goes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["LARGE_MIXTURE", "OWN_PAGES", "given_back_if_large"]

LARGE_MIXTURE = 1 << 19
"""Numbers in a mixture from which on few are kept at a time: four megabytes."""
OWN_PAGES = 2 << 20
"""Bytes of an array from which on it has pages of its own. It takes the system some time to find
these, so arrays that every tile of rows makes anew are smaller."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_USUAL_OWN_PAGES = 32 << 20
"""Where the C library's own threshold ends, in bytes, once it was moved by what is freed."""


@contextmanager
def given_back_if_large(numbers: int) -> Iterator[None]:
    """Inside, large arrays go back to the system as they are let go of, if mixtures are large.

    A setting of the whole process, of glibc only, and left alone where the environment holds it.
    It has no other effect than that the first use of an array takes longer. Afterwards it is what
    glibc itself comes to in programs that use large arrays.

    Parameters
    ----------
    numbers : int
        In a mixture.
    """
    if numbers < LARGE_MIXTURE:
        yield
        return
    with _OWN:
        yield


class _OwnPages:
    """A context for any number of callers at a time, in whatever order they come and go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers = 0

    def __enter__(self) -> None:
        with self._lock:
            self._callers += 1
            if self._callers == 1:
                _setter()(_M_MMAP_THRESHOLD, OWN_PAGES)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._callers -= 1
            if self._callers == 0:
                _setter()(_M_MMAP_THRESHOLD, _USUAL_OWN_PAGES)
                _setter()(_M_TRIM_THRESHOLD, 2 * _USUAL_OWN_PAGES)


_OWN = _OwnPages()


@cache
def _setter() -> Callable[[int, int], object]:
    """The C library's ``mallopt``, or what does nothing."""
    held = os.environ.keys() & {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    if held or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return _leave_alone
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return _leave_alone
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return _leave_alone
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return mallopt


def _leave_alone(*_: int) -> None:
    """In the place of ``mallopt``."""
