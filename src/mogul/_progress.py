"""One line on a terminal that tells how far a long computation is."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

__all__ = ["ProgressLine"]

_LONG_FIT_SECONDS = 2.0
"""A fit shorter than this shows no progress line: it would only flicker."""


class ProgressLine:
    """One line on standard error, through rich; "auto" waits and needs a terminal."""

    def __init__(self, progress: str | bool):
        self.wanted = progress is True or (progress == "auto" and sys.stderr.isatty())
        self.wait = 0.0 if progress is True else _LONG_FIT_SECONDS
        self.began = monotonic()
        self.bar: Any = None  # a rich.progress.Progress once it shows

    def update(self, what: str, done: int, total: int | None, value: str) -> None:
        if not self.wanted or monotonic() - self.began < self.wait:
            return
        if self.bar is None:
            self.bar = self._opened()
            self.task = self.bar.add_task("", total=None, value="")
        self.bar.update(self.task, description=what, completed=done, total=total, value=value)

    @staticmethod
    def _opened() -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[value]}"),
            console=Console(stderr=True),
            transient=True,
        )
        bar.start()
        return bar

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
