"""What a Bayesian fit is asked, and what it answers, whatever the method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.infer.em import Streamed
from mogul.infer.stopping import Trace
from mogul.mixture import Mixture

__all__ = ["Method", "Outcome", "Problem"]


@dataclass(frozen=True)
class Problem:
    """Rows, a prior and places to start.

    Attributes
    ----------
    rows : Rows or Streamed
        The latter for methods that take sources.
    prior : Belief
    starts : list of Belief
        Single ones.
    tol : float
        In nats of the whole bound.
    max_iter : int
    acceleration : {"auto", "squarem", "none"}
    generator : torch.Generator
    previous : float
        A bound to measure the first change against, when a fit continues.
    together : bool
        Whether all starts may run as one batch, else one after another.
    on_iteration : callable (record) → True to stop, optional
    on_end : callable (Trace), optional
    """

    rows: Rows | Streamed
    prior: Belief
    starts: list[Belief]
    tol: float
    max_iter: int
    acceleration: str
    generator: torch.Generator
    previous: float = -torch.inf
    together: bool = True
    on_iteration: Callable[[Any], bool | None] | None = None
    on_end: Callable[[Trace], None] | None = None

    @property
    def rows_in_memory(self) -> Rows:
        """The rows, for methods that need them at hand."""
        assert isinstance(self.rows, Rows)  # estimators refuse sources for other methods
        return self.rows


@dataclass(frozen=True)
class Outcome:
    """The best end of a fit.

    Attributes
    ----------
    elbo : float
        In nats; NaN for a sampler, which has none.
    trace : Trace
    interrupted : bool
    belief : Belief, optional
        The approximate posterior.
    draws : Mixture, batch shape (chains, draws), optional
        Draws of the posterior.
    log_joint : Tensor, shape (chains, draws), optional
        Log p(X, θ) of each draw, in nats.
    bound : float, optional
        The bound of coordinate ascent at ``belief``, without noise.
    complaint : str
        Why it has not converged and what to try, one sentence; empty when it has.
    """

    elbo: float
    trace: Trace
    interrupted: bool
    belief: Belief | None = None
    draws: Mixture | None = None
    log_joint: Tensor | None = None
    bound: float | None = None
    complaint: str = ""


class Method(ABC):
    """A way to find a posterior: its settings, and what it does with a problem."""

    name: ClassVar[str]
    """The word that users write for ``inference``."""
    takes_sources: ClassVar[bool] = False
    """Whether it can fit rows that are read in batches."""

    def n_starts(self, n_init: int) -> int:
        """How many starts it wants when the user asks for ``n_init``."""
        return n_init

    @abstractmethod
    def n_iterations(self, max_iter: int) -> int:
        """How many iterations a start takes at most when the user allows ``max_iter``."""

    @abstractmethod
    def run(self, problem: Problem) -> Outcome:
        """Fit."""
