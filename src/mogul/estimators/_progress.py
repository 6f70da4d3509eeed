"""Who watches a fit: scikit-learn's verbose messages, callbacks, a progress line."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Any, Self

from mogul._progress import ProgressLine
from mogul.errors import InputError
from mogul.infer.selection import Candidate
from mogul.infer.stopping import ELBORecord, IterationRecord, Trace

__all__ = ["Observers", "SearchProgress", "checked_callbacks"]


def checked_callbacks(estimator: Any) -> list[Any]:
    """The callables that an estimator was given."""
    found = list(estimator.callbacks or ())
    strange = [one for one in found if not callable(one)]
    if strange:
        raise InputError(f"callbacks must be callables of one record; got {strange[0]!r}.")
    return found


class Observers:
    """Everything that is told of an iteration, as one callable for the fit."""

    def __init__(self, estimator: Any, n_iterations: int | None = None):
        self.max_iter = n_iterations or estimator.max_iter
        self.callbacks = checked_callbacks(estimator)
        self.messages = _Messages(estimator.verbose, estimator.verbose_interval)
        # scikit-learn's messages and a progress line would write over each other.
        self.line = ProgressLine(estimator.progress if not estimator.verbose else False)

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
