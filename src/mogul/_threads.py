"""How work is spread over cores: small work not at all, large work by rows.

Torch spreads each operation over all cores and waits for the slowest before the next. That loses
most of its gain on small operations, and on a machine whose cores other programs share it loses
time many times over. Here each thread works through its own rows, one core each.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["at_hand", "beside", "in_threads", "one_thread_if_small", "shares", "spread"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_SMALL = 1 << 20
"""Multiplications of a pass below which one thread is as fast as two: about a millisecond."""


@contextmanager
def one_thread_if_small(work: float) -> Iterator[None]:
    """Run torch and BLAS on one thread inside, when ``work`` multiplications a pass are few.

    On two cores shared with other programs a fit of 272 rows took 1.2 s on two threads and 0.04 s
    on one. Where torch was told to use one thread, BLAS does too, whatever the work. The numbers of
    threads are put back at the end.
    """
    if _ONE_THREAD.holds() or (work > _SMALL and torch.get_num_threads() > 1):
        yield
    else:
        with _ONE_THREAD:
            yield


class _OneThread:
    """A context in which torch and BLAS use one thread, for any number of callers at a time.

    The numbers are of the whole process: the first caller to come in notes them and the last to
    leave puts them back, in whatever order they come and go.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers = 0
        self._mine = threading.local()
        self.before = 1
        self._limits: Any = None

    def holds(self) -> bool:
        """Whether this thread is inside."""
        return getattr(self._mine, "depth", 0) > 0

    def __enter__(self) -> None:
        with self._lock:
            if self._callers == 0:
                self.before = torch.get_num_threads()
                self._limits = _libraries().limit(limits=1, user_api="blas")
            self._callers += 1
        self._mine.depth = getattr(self._mine, "depth", 0) + 1
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        self._mine.depth -= 1
        with self._lock:
            self._callers -= 1
            if self._callers == 0:
                _let_go()
                self._limits.restore_original_limits()
                _let_go()
        torch.set_num_threads(1 if self._mine.depth else self.before)


_ONE_THREAD = _OneThread()


def at_hand() -> int:
    """How many threads there are for work that neither torch nor BLAS does.

    As many as torch uses, or used before this thread asked for one.
    """
    return _ONE_THREAD.before if _ONE_THREAD.holds() else torch.get_num_threads()


def _let_go() -> None:
    """From threadpoolctl 3.7 on only the thread that set a limit may change it, unless it is freed.

    The last caller to leave need not be the first that came.
    """
    for library in _libraries().lib_controllers:
        free = getattr(library, "clear_controlling_thread", None)
        if free is not None:
            free(force=True)


@cache
def _libraries() -> ThreadpoolController:
    """The linear algebra libraries of this process; to find them takes milliseconds."""
    return ThreadpoolController()


def shares(n_rows: int, tile_rows: int) -> list[slice]:
    """Rows cut into one stretch for each thread, or into fewer when they do not fill as many tiles.

    The cut depends on the number of threads only, so that sums are the same in every run.
    """
    n_shares = max(1, min(torch.get_num_threads(), n_rows // tile_rows))
    step = -(-n_rows // n_shares) if n_rows else 0
    return [slice(i * step, min((i + 1) * step, n_rows)) for i in range(n_shares)]


def in_threads(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """``function`` of each item, each in a thread of its own that runs torch on one core.

    A single item is on one core too: its tiles are too small for two, and on cores that other
    programs shared two made a pass over 10,000 rows ten times as long.
    """
    if len(items) == 1 and torch.get_num_threads() == 1:
        return [function(items[0])]

    def on_one_core(item: Item) -> Answer:
        torch.set_num_threads(1)  # a thread of its own has its own number
        return function(item)

    with _ONE_THREAD:
        return spread(on_one_core, items, len(items))


def spread(
    function: Callable[[Item], Answer], items: Sequence[Item], n_threads: int | None = None
) -> list[Answer]:
    """``function`` of each item, on as many threads as torch uses; the next item to the next free.

    The caller's thread is one of them. For functions that use neither torch nor BLAS at length.
    """
    n_threads = min(n_threads or torch.get_num_threads(), len(items))
    if n_threads <= 1:
        return [function(item) for item in items]
    answers: dict[int, Answer] = {}
    numbers = count()

    def work() -> None:
        while (i := next(numbers)) < len(items):
            answers[i] = function(items[i])

    helpers = [_helpers.pool().submit(work) for _ in range(n_threads - 1)]
    try:
        work()
    finally:
        late = [helper for helper in helpers if not helper.cancel()]  # unless it never began
        wait(late)
    for helper in late:
        helper.result()
    return [answers[i] for i in range(len(items))]


@contextmanager
def beside(n: int, function: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """Run ``function`` in ``n`` threads more while the caller goes on; it must end by itself.

    One that has not begun when the caller is done never will.
    """
    helpers = [_helpers.pool().submit(function, *arguments) for _ in range(n)]
    try:
        yield
    finally:
        for helper in helpers:
            helper.cancel()


class _Helpers:
    """Threads that wait for work, started when first needed; those of a parent are not a child's.

    To start a thread anew for each pass takes a tenth of a millisecond, as long as a small pass.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                workers = max(os.cpu_count() or 1, torch.get_num_threads())
                self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mogul")
            return self._pool


_helpers = _Helpers()


def _start_anew() -> None:
    """In a forked child: its parent's threads did not come along."""
    global _helpers
    _helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
