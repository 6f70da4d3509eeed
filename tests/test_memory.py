"""Large arrays of large fits are given back to the system, and the C library's settings too."""

import platform
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from mogul import GaussianMixture, Mixture, _memory
from mogul._memory import LARGE_MIXTURE, OWN_PAGES, given_back_if_large
from mogul.covariances import FullCovariance
from mogul.data import ArraySource
from mogul.data.rows import Rows
from mogul.infer.em import EMSettings, fit_em

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


@pytest.fixture
def asked(monkeypatch):
    """What the C library is asked for, in turn."""
    calls = []
    monkeypatch.setattr(_memory, "_setter", lambda: lambda *call: calls.append(call))
    return calls


def test_it_is_set_for_the_first_who_comes_and_put_back_for_the_last_who_goes(asked):
    with given_back_if_large(LARGE_MIXTURE):
        assert asked == [(-3, OWN_PAGES)]
        with given_back_if_large(2 * LARGE_MIXTURE):
            pass
        assert len(asked) == 1
    assert asked[1:] == [(-3, 32 << 20), (-1, 64 << 20)]


def test_small_mixtures_do_not_touch_it(asked):
    with given_back_if_large(LARGE_MIXTURE - 1):
        pass
    assert not asked


def test_an_error_puts_it_back(asked):
    with pytest.raises(ZeroDivisionError), given_back_if_large(LARGE_MIXTURE):
        raise ZeroDivisionError
    assert len(asked) == 3


def test_threads_come_and_go_in_any_order(asked):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with given_back_if_large(LARGE_MIXTURE):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with given_back_if_large(LARGE_MIXTURE):
        thread.start()
        assert inside.wait(10)
    assert len(asked) == 1  # the other is still inside
    leave.set()
    thread.join()
    assert len(asked) == 3


@pytest.mark.parametrize(
    "variable",
    ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"],
)
def test_what_the_user_has_set_is_left_alone(variable, monkeypatch):
    monkeypatch.setenv(variable, "glibc.malloc.mmap_threshold=4194304")
    assert _memory._setter.__wrapped__() is _memory._leave_alone


@pytest.mark.parametrize(("system", "library"), [("Darwin", ""), ("Windows", ""), ("Linux", "")])
def test_other_systems_are_left_alone(system, library, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    assert _memory._setter.__wrapped__() is _memory._leave_alone


@pytest.mark.parametrize("how", ["table", "source", "em"])
def test_fits_of_large_mixtures_ask_for_it(how, asked, monkeypatch):
    monkeypatch.setattr(_memory, "LARGE_MIXTURE", 2 * 3 * 3)  # of two components, three columns
    x, inside = np.random.default_rng(0).normal(size=(60, 3)), []

    def fit(n_components):
        if how == "em":
            start = Mixture(
                torch.zeros(1, n_components).double(),
                torch.from_numpy(x[None, :n_components]),
                FullCovariance(
                    torch.eye(3).double().expand(1, n_components, 3, 3), n_components, 3
                ),
            )
            fit_em(Rows(torch.from_numpy(x)), start, EMSettings(max_iter=2))
            return
        watch = [lambda *_: inside.append(len(asked))]
        model = GaussianMixture(n_components, random_state=0, tol=0.1, callbacks=watch)
        model.fit(x if how == "table" else ArraySource(x))

    fit(1)
    assert not asked
    inside.clear()
    fit(2)
    assert set(inside) == (set() if how == "em" else {1})  # once, for starts and all iterations
    assert asked[0] == (-3, OWN_PAGES)
    assert asked[-2:] == [(-3, 32 << 20), (-1, 64 << 20)]


_HOLES = """
import contextlib, sys
import numpy as np
from mogul._memory import given_back_if_large

def megabytes():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3

np.ones(3 << 20)  # and gone: what is smaller comes from the heap from now on
kept = []
with given_back_if_large(1 << 20) if sys.argv[1] == "inside" else contextlib.nullcontext():
    before = megabytes()
    large = []
    for _ in range(20):
        large.append(np.ones(1 << 19))
        kept.append(np.ones(10_000))
    grown = megabytes() - before
    del large
    print(grown, megabytes() - before)
"""


@glibc
def test_arrays_that_small_ones_lie_between_are_given_back():
    """Outside, the C library keeps the most of them: else there would be nothing to do."""
    left = {}
    for where in ("inside", "outside"):
        ran = subprocess.run(
            [sys.executable, "-c", _HOLES, where], capture_output=True, text=True, check=True
        )
        grown, left[where] = map(float, ran.stdout.split())
        assert grown > 75
    assert left["inside"] < 5
    assert left["outside"] > 20
