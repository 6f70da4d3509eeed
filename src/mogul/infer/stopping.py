"""What an iterative fit records, and when it stops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["IterationRecord", "Trace"]

_STEADY = 0.05
"""How far two successive ratios of changes may differ for convergence to count as linear."""


@dataclass(frozen=True)
class IterationRecord:
    """One iteration of one start.

    Attributes
    ----------
    iteration : int
        Counted from 1.
    log_likelihood : float
        In nats per unit of row weight, at the parameters that the iteration began with.
    change : float
        Against the record before; infinite at first.
    accelerated : bool
        Whether the parameters it began with came from an extrapolation.
    event : str
        What else happened, in words; empty mostly.
    start : int
        Which start of the fit this is, counted from 0.
    """

    iteration: int
    log_likelihood: float
    change: float
    accelerated: bool = False
    event: str = ""
    start: int = 0


@dataclass
class Trace:
    """The records of one start, and its verdict."""

    start: int = 0
    previous: float = -math.inf
    """A log-likelihood to measure the first change against, when a fit continues."""
    records: list[IterationRecord] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    converged: bool = False
    failed: bool = False

    def record(self, log_likelihood: float, accelerated: bool, event: str = "") -> IterationRecord:
        """Append an accepted iteration."""
        before = self.records[-1].log_likelihood if self.records else self.previous
        record = IterationRecord(
            len(self.records) + 1,
            log_likelihood,
            log_likelihood - before,
            accelerated,
            event,
            self.start,
        )
        self.records.append(record)
        if event:
            self.events.append(event)
        return record

    @property
    def n_iter(self) -> int:
        return len(self.records)

    def remaining_iterations(self, tol: float) -> float:
        """How many more plain iterations the last changes foretell, if they keep their ratio.

        Zero while there is no telling: until two successive ratios of changes agree, which is when
        EM has come near enough to its fixed point to converge linearly. Before that an
        extrapolation may leap to another, lower optimum.
        """
        if len(self.records) < 5:
            return 0.0
        first, second, last = (r.change for r in self.records[-3:])
        if not tol < last < second < first:
            return 0.0
        ratio = last / second
        if abs(ratio - second / first) > _STEADY:
            return 0.0
        return math.log(max(tol, 1e-300) / last) / math.log(ratio)
