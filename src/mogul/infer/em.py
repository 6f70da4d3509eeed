"""Expectation maximisation, for any covariance structure and a batch of starts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from mogul._threads import one_thread_if_small
from mogul.covariances import Covariance
from mogul.infer.repair import split_into
from mogul.infer.squarem import Squarem
from mogul.infer.stopping import IterationRecord, Trace
from mogul.kernels import e_step
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = [
    "ACCELERATIONS",
    "EMResult",
    "EMSettings",
    "collect",
    "fit_em",
    "likeliest",
    "m_step",
    "mend",
    "stack",
]

ACCELERATIONS = ("auto", "squarem", "none")
_PAYS_AFTER = 6
"""Iterations still to come for which "auto" switches SQUAREM on: its first cycle costs three."""
_REPAIRS_PER_COMPONENT = 2
"""A start whose components collapse more often than this on average is given up."""
_EMPTY = 10.0
"""A component is empty when its weight is below this many roundings of the whole."""
_ROUNDING = 8.0
"""A variance below this many roundings of the squares it was computed from is noise."""
_TIE = 1e-11
"""A relative difference of log-likelihoods that is rounding: the same end, found twice."""

Batches = Iterable[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class EMSettings:
    """How EM runs.

    Attributes
    ----------
    tol : float
        A start has converged when a plain EM step changes its log-likelihood per row by less and,
        unless ``acceleration`` is "none", less remains to be gained by Aitken's estimate.
    max_iter : int
    floor : float
        Added to every variance, in squared units of the data.
    acceleration : {"auto", "squarem", "none"}
    """

    tol: float = 1e-3
    max_iter: int = 100
    floor: float = 1e-6
    acceleration: str = "auto"


@dataclass(frozen=True)
class EMResult:
    """Where every start ended.

    Attributes
    ----------
    mixture : Mixture, batch shape (R,)
    log_likelihood : Tensor, shape (R,)
        In nats per unit of row weight, of ``mixture`` itself; −inf for a start that failed.
    traces : list of R Trace
    interrupted : bool
        Whether Ctrl-C or a callback ended the fit early.
    """

    mixture: Mixture
    log_likelihood: Tensor
    traces: list[Trace]
    interrupted: bool


def collect(batches: Batches, mixture: Mixture) -> Stats:
    """The statistics of all rows: one pass over the data."""
    return reduce(add, (e_step(x, mixture, weight) for x, weight in batches))


def m_step(stats: Stats, kind: type[Covariance], floor: float) -> tuple[Mixture, Tensor]:
    r"""The maximum-likelihood mixture of some statistics.

    With d = S₁ / S₀ the mean is o + d and the central moment S₂ − S₀ d dᵀ: one pass suffices, and
    nothing is subtracted that is larger than the cluster (McLachlan and Krishnan 2008, §2.7).

    Returns
    -------
    mixture : Mixture
        ``floor`` is added to every variance.
    ok : Tensor, shape (*batch, K), boolean
        False where a component is empty or its covariance is not positive definite.
    """
    eps = torch.finfo(stats.count.dtype).eps
    filled = stats.count > _EMPTY * eps * stats.row_weight.unsqueeze(-1)
    count = torch.where(filled, stats.count, 1.0)
    shift = torch.where(filled.unsqueeze(-1), stats.first / count.unsqueeze(-1), 0.0)
    gap = shift.unsqueeze(-2)
    used = torch.where(filled, count, 0.0).unsqueeze(-1)
    central = stats.second - kind.moment(used, gap, gap)
    covariance, ok = kind.from_moment(
        central, count, stats.origin.shape[-1], stats.count.new_tensor(floor)
    )
    means = stats.origin + shift
    noise = _ROUNDING * eps * torch.maximum(shift.square(), eps * means.square())
    ok = ok & filled & (covariance.variances() > noise).all(-1)
    return Mixture(torch.where(filled, stats.count, 0.0).log(), means, covariance), ok


def fit_em(
    batches: Batches,
    start: Mixture,
    settings: EMSettings,
    *,
    previous: float = -torch.inf,
    first: int = 0,
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
) -> EMResult:
    """Run EM from every mixture of a batch of starts.

    All starts share each pass over the data; a start that has converged, failed or used up its
    iterations leaves the batch.

    Parameters
    ----------
    batches : iterable of (rows, weights), re-iterable
    start : Mixture, batch shape (R,)
    settings : EMSettings
    previous : float
        A log-likelihood to measure the first change against, when a fit continues.
    first : int
        The number of the first of these starts, where others have run before.
    on_iteration : callable (IterationRecord) → True to stop, optional
    """
    run = _Run(batches, start, settings, previous, first, on_iteration)
    interrupted = False
    with one_thread_if_small(_work(batches, start)):
        try:
            while run.active and not interrupted:
                interrupted = run.advance()
        except KeyboardInterrupt:
            interrupted = True
        run.settle()
        mixture = stack(run.points)
        final = collect(batches, mixture).mean_log_likelihood()
    failed = torch.tensor([trace.failed for trace in run.traces], device=final.device)
    return EMResult(mixture, torch.where(failed, -torch.inf, final), run.traces, interrupted)


def _work(batches: Batches, start: Mixture) -> int:
    """About how many multiplications one pass takes."""
    n_rows = sum(x.shape[-2] for x, _ in batches)
    return n_rows * start.means.numel() * start.n_features


class _Run:
    """The changing state of :func:`fit_em`: one point, trace and extrapolation for each start."""

    def __init__(self, batches, start, settings, previous, first, on_iteration):
        self.batches, self.settings = batches, settings
        self.on_iteration = on_iteration
        n_starts = len(start)
        self.points = [start[i] for i in range(n_starts)]
        self.traces = [Trace(first + i, previous) for i in range(n_starts)]
        on = settings.acceleration == "squarem"
        self.squarem: list[Squarem | None] = [Squarem() if on else None for _ in range(n_starts)]
        self.repairs = [0] * n_starts
        self.active = list(range(n_starts)) if settings.max_iter > 0 else []

    def advance(self) -> bool:
        """One pass over the data for every active start; True when a callback asks to stop."""
        batch = stack([self.points[i] for i in self.active])
        stats = collect(self.batches, batch)
        values = stats.mean_log_likelihood().tolist()
        mapped, ok = m_step(stats, type(batch.covariance), self.settings.floor)
        stop = False
        for place, i in enumerate(list(self.active)):
            squarem = self.squarem[i]
            if squarem is not None and squarem.rejects(values[place]):
                self.points[i] = squarem.fall_back()
            else:
                stop |= self._accept(i, values[place], mapped[place], ok[place])
        return stop

    def _accept(self, i: int, value: float, mapped: Mixture, ok: Tensor) -> bool:
        trace, squarem = self.traces[i], self.squarem[i]
        was_proposal = squarem is not None and squarem.pending
        event = self._mend_event(ok)
        record = trace.record(value, was_proposal, event)
        if event:
            self._mend(i, mapped, ok)
        elif self._has_converged(trace):
            self.points[i], trace.converged = mapped, True
        else:
            self._move(i, value, mapped)
        if not trace.failed and trace.n_iter >= self.settings.max_iter:
            trace.converged = trace.within(self.settings.tol)
        if trace.converged or trace.failed or trace.n_iter >= self.settings.max_iter:
            self.active.remove(i)
            self._settle(i)
        return bool(self.on_iteration is not None and self.on_iteration(record))

    def _move(self, i: int, value: float, mapped: Mixture) -> None:
        squarem = self.squarem[i]
        if squarem is None and self._would_pay(i):
            squarem = self.squarem[i] = Squarem()
        if squarem is None:
            self.points[i] = mapped
        else:
            self.points[i] = squarem.advance(self.points[i], value, mapped)

    def settle(self) -> None:
        """End every start where it is."""
        for i in self.active:
            self._settle(i)

    def _settle(self, i: int) -> None:
        """A proposal that was never evaluated is not an answer."""
        squarem = self.squarem[i]
        if squarem is not None and squarem.pending and not self.traces[i].failed:
            self.points[i] = squarem.fall_back()

    def _has_converged(self, trace: Trace) -> bool:
        """Plain EM stops as scikit-learn does; accelerated EM also asks what is left to gain."""
        tol = self.settings.tol
        plain = self.settings.acceleration == "none"
        return trace.within(tol) and (plain or trace.remaining_gain() < tol)

    def _would_pay(self, i: int) -> bool:
        automatic = self.settings.acceleration == "auto"
        return automatic and self.traces[i].remaining_iterations(self.settings.tol) > _PAYS_AFTER

    @staticmethod
    def _mend_event(ok: Tensor) -> str:
        bad = (~ok).nonzero().flatten().tolist()
        if not bad:
            return ""
        who = "component " if len(bad) == 1 else "components "
        return f"{who}{', '.join(map(str, bad))} collapsed"

    def _mend(self, i: int, mapped: Mixture, ok: Tensor) -> None:
        self.repairs[i] += int((~ok).sum())
        mended = split_into(mapped, ok)
        if mended is None or self.repairs[i] > _REPAIRS_PER_COMPONENT * mapped.n_components:
            self.traces[i].failed = True
            return
        squarem = self.squarem[i]
        if squarem is not None:
            squarem.restart()
        self.points[i] = mended


def likeliest(log_likelihood: Tensor) -> int:
    """The first of the highest values: rounding does not choose among ends that are the same."""
    highest = log_likelihood.max()
    return int((log_likelihood >= highest - _TIE * (1 + highest.abs())).nonzero()[0])


def mend(mixture: Mixture, ok: Tensor) -> tuple[Mixture, Tensor]:
    """Repair the starts of a batch; the second answer is False for a start beyond repair."""
    pairs = [(mixture[i], split_into(mixture[i], ok[i])) for i in range(len(mixture))]
    mended = [whole if repaired is None else repaired for whole, repaired in pairs]
    return stack(mended), torch.tensor([repaired is not None for _, repaired in pairs])


def stack(mixtures: list[Mixture]) -> Mixture:
    """Single mixtures of one structure as a batch."""
    first = mixtures[0]
    factor = torch.stack([m.covariance.factor for m in mixtures])
    return Mixture(
        torch.stack([m.log_weights for m in mixtures]),
        torch.stack([m.means for m in mixtures]),
        type(first.covariance)(factor, first.n_components, first.n_features),
        first.feature_names,
    )
