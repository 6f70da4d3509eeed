"""What an iterative fit records, and when it stops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = ["STEADY", "ELBORecord", "IterationRecord", "Trace"]

STEADY = 0.05
"""How far two successive ratios of changes may differ for convergence to count as linear."""
_NOISE = 1e-13
"""A relative change of the log-likelihood that is rounding."""


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


@dataclass(frozen=True)
class ELBORecord:
    """One iteration of one start of a variational fit.

    Attributes
    ----------
    iteration : int
        Counted from 1.
    elbo : float
        The evidence lower bound in nats, of all rows together, at the belief that the iteration
        began with.
    change : float
        Against the record before; infinite at first.
    accelerated : bool
        Whether the belief it began with came from an extrapolation.
    event : str
        What else happened, in words; empty mostly.
    start : int
        Which start of the fit this is, counted from 0.
    """

    iteration: int
    elbo: float
    change: float
    accelerated: bool = False
    event: str = ""
    start: int = 0


@dataclass
class Trace:
    """The records of one start, and its verdict."""

    start: int = 0
    previous: float = -math.inf
    """A value of the objective to measure the first change against, when a fit continues."""
    kind: type[IterationRecord] | type[ELBORecord] = IterationRecord
    """What an iteration is recorded as; the objective is its second field."""
    records: list[Any] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    """The latest changes, as far back as each was made by one plain EM step."""
    value: float = -math.inf
    """The objective of the latest record."""
    converged: bool = False
    failed: bool = False
    given_up: bool = False
    """Whether its components collapsed over and over; it ends at a mixture that can be used."""

    def record(self, value: float, accelerated: bool, event: str = "") -> Any:
        """Append an accepted iteration that began at ``value`` of the objective."""
        last = self.records[-1] if self.records else None
        change = value - (self.previous if last is None else self.value)
        number = len(self.records) + 1
        record = self.kind(number, value, change, accelerated, event, self.start)
        self.records.append(record)
        self.value = value
        if accelerated or not math.isfinite(change) or (last is not None and last.event):
            self.steps.clear()
        else:
            self.steps.append(change)
        if event:
            self.events.append(event)
        return record

    @property
    def n_iter(self) -> int:
        return len(self.records)

    def within(self, tol: float) -> bool:
        """Whether the last plain step changed less than ``tol``: scikit-learn's criterion."""
        return bool(self.steps) and abs(self.steps[-1]) < tol

    def remaining_gain(self) -> float:
        """Aitken's estimate of what plain EM would still gain (Böhning and others 1994).

        Infinite while there is no telling: before two plain steps, and while steps still grow, as
        they do when EM leaves a plateau.
        """
        if len(self.steps) < 2:
            return math.inf
        before, last = self.steps[-2:]
        if last <= _NOISE * (1 + abs(self.value)):
            return 0.0
        return last * last / (before - last) if last < before else math.inf

    def remaining_iterations(self, tol: float) -> float:
        """How many more plain iterations until less than ``tol`` remains to be gained.

        Zero until two successive ratios of steps agree, which is when EM has come near enough to
        its fixed point to converge linearly; before that an extrapolation may leap to another,
        lower optimum.
        """
        remaining = self.remaining_gain()
        if len(self.steps) < 3 or not tol < remaining < math.inf:
            return 0.0
        first, second, last = self.steps[-3:]
        ratio = last / second
        if not second < first or abs(ratio - second / first) > STEADY:
            return 0.0
        return math.log(max(tol, 1e-300) / remaining) / math.log(ratio)
