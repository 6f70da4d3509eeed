"""Who watches a fit: scikit-learn's verbose messages, callbacks, a progress line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self

from mogul._progress import ProgressLine
from mogul.data.sources import Source
from mogul.errors import InputError
from mogul.infer.selection import Candidate
from mogul.infer.stopping import ELBORecord, IterationRecord, Trace
from mogul.infer.team import Team

__all__ = ["Observers", "PassReport", "Passes", "SearchProgress", "checked_callbacks"]


def checked_callbacks(estimator: Any) -> list[Any]:
    """The callables that an estimator was given."""
    found = list(estimator.callbacks or ())
    strange = [one for one in found if not callable(one)]
    if strange:
        raise InputError(f"callbacks must be callables of one record; got {strange[0]!r}.")
    return found


class Observers:
    """Everything that is told of an iteration, as one callable for the fit."""

    def __init__(self, estimator: Any, n_iterations: int | None = None, *, silent: bool = False):
        self.max_iter = n_iterations or estimator.max_iter
        self.callbacks = checked_callbacks(estimator)
        verbose = 0 if silent else estimator.verbose
        self.messages = _Messages(verbose, estimator.verbose_interval)
        # scikit-learn's messages and a progress line would write over each other.
        self.line = ProgressLine(False if silent or verbose else estimator.progress)

    @property
    def watching(self) -> Self | None:
        """These, or None where no one would hear of an iteration: a fit is then quicker."""
        return self if self.callbacks or self.messages.verbose or self.line.wanted else None

    def __call__(self, record: IterationRecord | ELBORecord) -> bool:
        self.messages.iteration(record)
        self.line.update("iteration", record.iteration, self.max_iter, _said(record))
        answers = [callback(record) for callback in self.callbacks]  # every one is told
        return True in answers

    def finish(self, trace: Trace) -> None:
        self.messages.end(trace)

    def of_passes(self, source: Source) -> Passes:
        """What tells how far each pass over this process's rows is."""
        n_rows = getattr(source, "n_rows", None)
        if n_rows is not None and source.shared:
            n_rows //= Team().size
        return Passes(self.line, n_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.line.close()


def _said(record: IterationRecord | ELBORecord) -> str:
    """The objective in words."""
    if isinstance(record, ELBORecord):
        return f"ELBO {record.elbo:.8g} nats"
    return f"log-likelihood {record.log_likelihood:.6g} nats a row"


@dataclass
class PassReport:
    """How a fit went through the rows of a source, in this process.

    Attributes
    ----------
    n_passes : int
        Passes of iterations; the one that draws a sample comes before.
    n_rows : int
        Rows read in all of them.
    seconds : float
        What they took.
    """

    n_passes: int = 0
    n_rows: int = 0
    seconds: float = 0.0

    @property
    def n_rows_per_second(self) -> float:
        return self.n_rows / self.seconds if self.seconds else math.nan


class Passes:
    """Tells how far a pass over rows in files is, how fast, and how long it will take."""

    def __init__(self, line: ProgressLine, n_rows: int | None):
        self.line, self.n_rows, self.report = line, n_rows, PassReport()
        self._here, self._began, self._before = 0, monotonic(), 0.0

    def begin_pass(self) -> None:
        self.report.n_passes += 1
        self._here, self._began, self._before = 0, monotonic(), self.report.seconds

    def read(self, n_rows: int) -> None:
        self._here += n_rows
        spent = monotonic() - self._began
        self.report.n_rows += n_rows
        self.report.seconds = self._before + spent
        rate = self._here / max(spent, 1e-9)
        said = f"{rate / 1e6:.3g} M rows/s"
        if self.n_rows is not None:
            said += f", {max(0, self.n_rows - self._here) / rate:.0f} s left"
        self.line.update(f"pass {self.report.n_passes}, rows", self._here, self.n_rows, said)


class SearchProgress:
    """Tells of each candidate of a search, as a callable for it."""

    def __init__(self, progress: str | bool, n_candidates: int):
        self.line, self.n_candidates, self.n_done = ProgressLine(progress), n_candidates, 0

    def __call__(self, candidate: Candidate) -> None:
        self.n_done += 1
        what = f"{candidate.covariance_type}, {candidate.n_components} components"
        self.line.update("model", self.n_done, self.n_candidates, what)

    def close(self) -> None:
        self.line.close()


class _Messages:
    """What scikit-learn prints for ``verbose`` 1 and 2."""

    def __init__(self, verbose: int, interval: int):
        self.verbose, self.interval = int(verbose), interval
        self.start: int | None = None
        self.n_starts = 0
        self.began = self.last = monotonic()

    def iteration(self, record: IterationRecord | ELBORecord) -> None:
        if not self.verbose:
            return
        if record.iteration == 1:
            print(f"Initialization {self.n_starts}")
            self.n_starts += 1
            self.began = self.last = monotonic()
        if record.iteration % self.interval:
            return
        now = monotonic()
        more = f"\t time lapse {now - self.last:.5f}s\t ll change {record.change:.5f}"
        print(f"  Iteration {record.iteration}" + (more if self.verbose > 1 else ""))
        self.last = now

    def end(self, trace: Trace) -> None:
        if not self.verbose or not trace.records:
            return
        verdict = "converged." if trace.converged else "did not converge."
        lapse, value = monotonic() - self.began, trace.value
        more = f" time lapse {lapse:.5f}s\t lower bound {value:.5f}."
        print(f"Initialization {verdict}{more if self.verbose > 1 else ''}")
