"""Who watches a fit: scikit-learn's verbose messages, callbacks, a progress line."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Any, Self

from mogul.infer.maximum_likelihood import Fit
from mogul.infer.stopping import IterationRecord

__all__ = ["Observers"]

_LONG_FIT_SECONDS = 2.0
"""A fit shorter than this shows no progress line: it would only flicker."""


class Observers:
    """Everything that is told of an iteration, as one callable for the fit."""

    def __init__(self, estimator: Any):
        self.max_iter = estimator.max_iter
        self.callbacks = list(estimator.callbacks or ())
        self.messages = _Messages(estimator.verbose, estimator.verbose_interval)
        auto = estimator.progress == "auto" and not estimator.verbose
        wanted = estimator.progress is True or (auto and sys.stderr.isatty())
        self.wait = 0.0 if estimator.progress is True else _LONG_FIT_SECONDS
        self.line: _ProgressLine | None = None
        self.wanted, self.began = wanted, monotonic()

    def __call__(self, record: IterationRecord) -> bool:
        self.messages.iteration(record)
        if self.wanted and self.line is None and monotonic() - self.began > self.wait:
            self.line = _ProgressLine(self.max_iter)
        if self.line is not None:
            self.line.update(record)
        answers = [callback(record) for callback in self.callbacks]  # every one is told
        return True in answers

    def finish(self, fit: Fit) -> None:
        self.messages.end(fit.trace.converged)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.line is not None:
            self.line.close()


class _Messages:
    """What scikit-learn prints for ``verbose`` 1 and 2."""

    def __init__(self, verbose: int, interval: int):
        self.verbose, self.interval = int(verbose), interval
        self.start: int | None = None
        self.n_starts = 0
        self.began = self.last = monotonic()

    def iteration(self, record: IterationRecord) -> None:
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

    def end(self, converged: bool) -> None:
        if not self.verbose:
            return
        verdict = "converged." if converged else "did not converge."
        more = f"\t time lapse {monotonic() - self.began:.5f}s" if self.verbose > 1 else ""
        print(f"Initialization {verdict}{more}")


class _ProgressLine:
    """One line on standard error, through rich."""

    def __init__(self, max_iter: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("EM iteration {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("log-likelihood {task.fields[value]} nats a row"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.bar.start()
        self.task = self.bar.add_task("EM", total=max_iter, value="")

    def update(self, record: IterationRecord) -> None:
        value = f"{record.log_likelihood:.6g}"
        self.bar.update(self.task, completed=record.iteration, value=value)

    def close(self) -> None:
        self.bar.stop()
