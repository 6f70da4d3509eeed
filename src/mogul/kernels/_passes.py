"""Passes over rows that several threads share, compiled: one leads, the others lend a hand.

To hand a pass to another thread by way of Python takes a tenth of a millisecond, as long as many a
pass. Here the others look, in a loop, for stretches of rows to take, from the first pass of a climb
to the last. Nobody waits for a thread that has not come yet: the leader takes what is left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mogul.kernels._local import Sharp, add_local, empty_sharp
from mogul.kernels._tiles import KNOWN, collect
from mogul.kernels._vectors import PANEL, compiled, fetch_add, inner, leaf, pause, publish, witness

__all__ = ["OVER", "Desk", "add_up", "dismiss", "empty_desk", "lend_a_hand", "pass_over"]

_NEXT, _FINISHED, OVER = 0, 8, 16
"""The next stretch to take, how many are finished, whether no more will come. Apart, since threads
that write to one line of memory wait for each other."""
_LOCAL, _SQUARES = 24, 25
_N_NOTES = 32


class Desk(NamedTuple):
    """What threads share: notes, and what each of S stretches of rows adds up to."""

    notes: NDArray[np.int64]
    step: int  # rows in a stretch, whole tiles
    sums: NDArray[np.float64]  # (S, 1, K, P + n_lines or more)
    second: NDArray[np.float64]  # (S, 1, D, 0 or D or more)
    totals: NDArray[np.float64]  # (S, 1, 2)
    strays: NDArray[np.bool_]  # (S, tiles in a stretch)
    sharp: Sharp  # of the mixture, for passes about the components' own means


def empty_desk(
    n: int, step: int, n_tiles: int, shape: tuple[int, int], second: tuple[int, int], kind: int
) -> Desk:
    """For ``n`` stretches of ``step`` rows in ``n_tiles`` tiles; the shapes of sums."""
    notes = np.zeros(_N_NOTES, dtype=np.int64)
    notes[_NEXT] = n
    return Desk(
        notes,
        step,
        np.empty((n, 1, *shape)),
        np.empty((n, 1, *second)),
        np.empty((n, 1, 2)),
        np.zeros((n, n_tiles), dtype=np.bool_),
        empty_sharp(kind, shape[0], second[0]),
    )


@compiled
def lend_a_hand(rows, weight, kind, plan, means, desk):
    """Take stretches of the passes that another thread leads, until it says that it is over."""
    n = desk.totals.shape[0]
    while witness(desk.notes, OVER) == 0:
        if witness(desk.notes, _NEXT) < n:
            _take_one(rows, weight, kind, plan, means, desk)
        else:
            pause()


@inner
def pass_over(rows, weight, kind, plan, means, desk, local, squares):
    """One pass over all rows; the desk then has the sums of all stretches."""
    notes = desk.notes
    notes[_LOCAL], notes[_SQUARES] = 1 if local else 0, squares
    publish(notes, _FINISHED, 0)
    publish(notes, _NEXT, 0)
    while _take_one(rows, weight, kind, plan, means, desk):
        pass
    while witness(notes, _FINISHED) < desk.totals.shape[0]:
        pause()


@inner
def dismiss(desk):
    """There will be no more passes."""
    publish(desk.notes, OVER, 1)


@inner
def _take_one(rows, weight, kind, plan, means, desk):
    """Do the next stretch; whether there was one."""
    i = fetch_add(desk.notes, _NEXT, 1)
    if i >= desk.totals.shape[0]:
        return False
    sums, second, totals, strays = desk.sums[i], desk.second[i], desk.totals[i], desk.strays[i]
    local, squares = desk.notes[_LOCAL], desk.notes[_SQUARES]
    first = i * desk.step
    last = min(first + desk.step, rows.shape[0])
    n_tiles = (last - first + plan.tile_panels * PANEL - 1) // (plan.tile_panels * PANEL)
    sums[:], totals[:], strays[:] = 0.0, 0.0, False
    if local or squares != KNOWN:
        second[:] = 0.0
    if local:
        known = np.empty(0, dtype=np.int64)
        add_local(
            rows, first, last, weight, known, kind, plan, means, desk.sharp,
            sums[0], second[0], totals[0],
        )  # fmt: skip
    else:
        chance = np.empty((0, rows.shape[0]))
        left = strays[:n_tiles]
        collect(rows, first, last, weight, chance, plan, squares, sums, second, totals, left)
    fetch_add(desk.notes, _FINISHED, 1)
    return True


@leaf
def add_up(desk, known):
    """Into the first stretch the sums of all, of second moments unless they are ``known``."""
    for i in range(1, desk.totals.shape[0]):
        _add(desk.sums[i, 0], desk.sums[0, 0])
        if not known:
            _add(desk.second[i, 0], desk.second[0, 0])
        _add(desk.totals[i], desk.totals[0])


@leaf
def _add(one, sums):
    for i in range(one.shape[0]):
        for j in range(one.shape[1]):
            sums[i, j] += one[i, j]
