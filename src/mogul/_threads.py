"""One thread for small work: two cost more than they save, many times more on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread_if_small"]

_SMALL = 1 << 20
"""Multiplications of a pass below which one thread is as fast as two: about a millisecond."""


@contextmanager
def one_thread_if_small(work: int) -> Iterator[None]:
    """Run torch on one thread inside, when ``work`` multiplications a pass are few.

    On two cores shared with other programs a fit of 272 rows took 1.2 s on two threads and 0.04 s
    on one. The number of threads is put back at the end.
    """
    threads = torch.get_num_threads()
    if work > _SMALL or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
