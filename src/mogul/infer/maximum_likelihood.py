"""Fitting a mixture by maximum likelihood: starts, EM, and the choice among ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from numpy.random import RandomState
from torch import Tensor

from mogul._threads import at_hand, one_thread_if_small
from mogul.covariances import Covariance, structure
from mogul.data.rows import Rows
from mogul.errors import DegenerateFitError, InputError
from mogul.infer.ascent import has_converged, would_pay
from mogul.infer.em import EMResult, EMSettings, fit_em, likeliest, mend, stack
from mogul.infer.starts import kmeans_start, start_mixtures
from mogul.infer.stopping import IterationRecord, Trace
from mogul.mixture import Mixture

__all__ = ["Fit", "FixedParts", "fit_mixture", "initial_mixtures"]

COLLAPSED = (
    "Fitting the mixture model failed because some components have ill-defined empirical "
    "covariance (for instance caused by singleton or collapsed samples). Try to decrease the "
    "number of components, increase reg_covar, or scale the input data."
)
"""scikit-learn's sentence, kept so that programs which look for it find it."""


@dataclass(frozen=True)
class FixedParts:
    """Parameters that the user gives to start from; None where the start is to be found."""

    weights: Tensor | None = None
    means: Tensor | None = None
    precisions: Tensor | None = None

    @property
    def complete(self) -> bool:
        return self._n_given() == 3

    @property
    def empty(self) -> bool:
        return self._n_given() == 0

    def _n_given(self) -> int:
        return sum(part is not None for part in (self.weights, self.means, self.precisions))


@dataclass(frozen=True)
class _End:
    """Where one start ended."""

    log_likelihood: float
    mixture: Mixture | None  # None once another is likelier
    trace: Trace
    interrupted: bool


@dataclass(frozen=True)
class Fit:
    """The best end of a fit, and what happened on the way.

    Attributes
    ----------
    mixture : Mixture
    log_likelihood : float
        Of ``mixture``, in nats per unit of row weight.
    trace : Trace
        Of the start that won.
    notes : list of str
        Repairs and starts given up, in words.
    interrupted : bool
    """

    mixture: Mixture
    log_likelihood: float
    trace: Trace
    notes: list[str]
    interrupted: bool


def initial_mixtures(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    *,
    method: str,
    n_init: int,
    random_state: RandomState,
    fixed: FixedParts | None = None,
) -> tuple[Mixture, list[str]]:
    """The batch of mixtures that a fit starts from, repaired, and notes on what was dropped."""
    fixed = fixed or FixedParts()
    if fixed.complete:
        return stack([_assemble(None, fixed, kind)]), []
    starts, ok = start_mixtures(
        rows,
        n_components,
        kind,
        settings,
        method=method,
        n_init=n_init,
        random_state=random_state,
    )
    return _usable(starts, ok, fixed, kind)


def _usable(
    starts: Mixture, ok: Tensor, fixed: FixedParts, kind: type[Covariance]
) -> tuple[Mixture, list[str]]:
    """Starts repaired, the user's parts in place, and notes on those that were dropped."""
    mended, usable = mend(starts, ok)
    if not bool(usable.any()):
        raise DegenerateFitError(COLLAPSED)
    if fixed.empty and bool(usable.all()):
        return mended, []
    kept = usable.nonzero().flatten().tolist()
    notes = [f"start {i} was dropped: it collapsed" for i in range(len(ok)) if i not in kept]
    return stack([_assemble(mended[i], fixed, kind) for i in kept]), notes


def _assemble(found: Mixture | None, fixed: FixedParts, kind: type[Covariance]) -> Mixture:
    """The user's parts where given, else those found."""
    means = fixed.means if fixed.means is not None else _found(found).means
    logits = fixed.weights.log() if fixed.weights is not None else _found(found).log_weights
    if fixed.precisions is not None:
        covariance = kind.from_precisions(fixed.precisions, *means.shape)
    else:
        covariance = _found(found).covariance
    return Mixture(logits, means, covariance)


def _found(mixture: Mixture | None) -> Mixture:
    if mixture is None:
        raise InputError("No start was found and not every part was given.")
    return mixture


def fit_mixture(
    rows: Rows,
    n_components: int,
    covariance_type: str = "full",
    settings: EMSettings | None = None,
    *,
    method: str = "kmeans",
    n_init: int = 1,
    random_state: RandomState,
    fixed: FixedParts | None = None,
    continue_from: tuple[Mixture, float] | None = None,
    together: bool = True,
    climb: Callable[..., EMResult] = fit_em,
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
    on_end: Callable[[Trace], None] | None = None,
) -> Fit:
    """Fit from ``n_init`` starts and keep the likeliest end.

    ``continue_from`` is a mixture and the log-likelihood before it, to go on from instead of
    starting anew; ``together`` runs all starts as one batch, else one after another, as compiled
    fits from k-means always do. ``climb`` is the algorithm, called as
    :func:`~mogul.infer.em.fit_em` is. ``on_end`` is told how each start went.
    """
    settings = settings or EMSettings()
    kind, fixed = structure(covariance_type), fixed or FixedParts()
    ends: list[_End] = []
    previous = -torch.inf
    if continue_from is not None:
        mixture, previous = continue_from
        starts, notes = stack([mixture]), []
    elif method == "kmeans" and fixed.empty and climb is fit_em:
        drawn = []
        for i in range(n_init):
            one = _at_once(rows, n_components, kind, settings, random_state, i, on_iteration)
            if not isinstance(one, _End):
                drawn.append(one)
                continue
            ends = _with(ends, one)
            if on_end is not None:
                on_end(one.trace)
            if one.interrupted:
                break
        if not drawn or any(end.interrupted for end in ends):
            return _best(ends, [])
        found = stack([mixture.to(device="cpu") for mixture, _ in drawn])
        try:
            starts, notes = _usable(found, torch.stack([ok.cpu() for _, ok in drawn]), fixed, kind)
        except DegenerateFitError:
            if not ends:
                raise
            return _best(ends, ["a start was dropped: it collapsed"])
    else:
        starts, notes = initial_mixtures(
            rows,
            n_components,
            kind,
            settings,
            method=method,
            n_init=n_init,
            random_state=random_state,
            fixed=fixed,
        )

    first = len(ends)
    parts = [starts] if together else [starts[i : i + 1] for i in range(len(starts))]
    del starts  # once left, nobody holds one: a mixture may be large
    while parts:
        ran = climb(
            rows,
            parts.pop(0),
            settings,
            previous=previous,
            first=first,
            on_iteration=on_iteration,
        )
        first += len(ran.traces)
        values = ran.log_likelihood.tolist()
        for j, value in enumerate(values):
            ends = _with(ends, _End(value, ran.mixture[j], ran.traces[j], ran.interrupted))
        if on_end is not None:
            for trace in ran.traces:
                on_end(trace)
        if ran.interrupted:
            break
    return _best(ends, notes)


def _at_once(
    rows: Rows,
    n_components: int,
    kind: type[Covariance],
    settings: EMSettings,
    random_state: RandomState,
    number: int,
    on_iteration: Callable[[IterationRecord], bool | None] | None,
) -> _End | tuple[Mixture, Tensor]:
    """A fit from one start of "kmeans" that stays packed, which of few rows takes half as long.

    It goes on from the iterations that the start was chosen by, if they are its own. Or that
    start, as of :func:`~mogul.infer.starts.kmeans_start`, where compiled code did not find it.
    """
    n_threads = at_hand()
    with one_thread_if_small(rows.n_rows * n_components * rows.n_features**2):
        begun = kmeans_start(rows, n_components, kind, settings, random_state)
        if isinstance(begun, tuple):
            return begun
        if rows.values.device.type != "cpu":
            return begun.start().unpacked(), torch.ones(n_components, dtype=torch.bool)
        from mogul.infer.compiled_em import fit_packed

        goes_on = _are_its_own(begun.values, settings)
        points, trace, stopped = [begun.end if goes_on else begun.start()], Trace(number), False
        for value in begun.values if goes_on else ():
            record = trace.record(value, accelerated=False)
            if on_iteration is not None and on_iteration(record):
                stopped = True
                break
        if stopped:  # at the mixture that this iteration led to
            settings = replace(settings, max_iter=trace.n_iter, acceleration="none")
            points, trace, on_iteration = [begun.start()], Trace(number), None
        elif has_converged(trace, settings.tol, settings.acceleration):
            trace.converged = True
            return _End(begun.value, points[0].unpacked(), trace, False)
        del begun  # a mixture may be large
        how = settings, n_threads, on_iteration
        (end,), (value,), interrupted = fit_packed(rows, points, [trace], *how)
        return _End(value, end.unpacked(), trace, stopped or interrupted)


def _are_its_own(values: list[float], settings: EMSettings) -> bool:
    """Whether plain iterations with these values are those that the fit itself would have made."""
    if not 0 < len(values) <= settings.max_iter or settings.acceleration == "squarem":
        return False
    trace = Trace()
    for value in values:
        trace.record(value, accelerated=False)
        if settings.acceleration == "auto" and would_pay(trace, settings.tol):
            return False
    return True


def _with(ends: list[_End], more: _End) -> list[_End]:
    """And another; mixtures that cannot win any more are let go of, since they may be large."""
    ends = [*ends, more]
    values = [-torch.inf if end.trace.failed else end.log_likelihood for end in ends]
    best = values[likeliest(values)]
    return [
        replace(end, mixture=None) if value < best else end
        for end, value in zip(ends, values, strict=True)
    ]


def _best(ends: list[_End], notes: list[str]) -> Fit:
    usable = [end for end in ends if not end.trace.failed]
    if not usable:
        raise DegenerateFitError(COLLAPSED)
    notes = notes + [
        f"a start was dropped: {end.trace.events[-1]}" for end in ends if end.trace.failed
    ]
    best = usable[likeliest([end.log_likelihood for end in usable])]
    notes += [f"{event} and was repaired" for event in best.trace.events]
    interrupted = any(end.interrupted for end in ends)
    assert best.mixture is not None  # the likeliest was kept
    return Fit(best.mixture, best.log_likelihood, best.trace, notes, interrupted)
