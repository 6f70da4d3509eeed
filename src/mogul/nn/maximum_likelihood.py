"""Fitting a mixture by gradient instead of EM: the same starts, records and choice among ends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from numpy.random import RandomState

from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer.em import EMResult, EMSettings, collect, stack
from mogul.infer.gradient import EpochRecord, fit
from mogul.infer.maximum_likelihood import Fit, FixedParts, best_fit, initial_mixtures
from mogul.infer.stopping import IterationRecord, Trace
from mogul.mixture import Mixture
from mogul.nn.trainable_mixture import TrainableMixture

__all__ = ["fit_by_gradient"]


def fit_by_gradient(
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
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
    on_end: Callable[[Trace], None] | None = None,
) -> Fit:
    """Maximise the likelihood by L-BFGS from each of ``n_init`` starts and keep the likeliest end.

    Takes what ``infer.maximum_likelihood.fit_mixture`` takes. ``settings.floor`` is added to every
    variance of the model, so that none falls below it; ``settings.acceleration`` and ``together``
    are of EM and change nothing here.
    """
    settings = settings or EMSettings()
    if continue_from is not None:
        starts, notes, previous = stack([continue_from[0]]), [], continue_from[1]
    else:
        previous = -torch.inf
        starts, notes = initial_mixtures(
            rows,
            n_components,
            structure(covariance_type),
            settings,
            method=method,
            n_init=n_init,
            random_state=random_state,
            fixed=fixed,
        )
    results: list[EMResult] = []
    for i in range(len(starts)):
        results.append(_climb(rows, starts[i], settings, Trace(i, previous), on_iteration))
        if on_end is not None:
            on_end(results[-1].traces[0])
        if results[-1].interrupted:
            break
    return best_fit(results, notes)


def _climb(
    rows: Rows,
    start: Mixture,
    settings: EMSettings,
    trace: Trace,
    on_iteration: Callable[[IterationRecord], bool | None] | None,
) -> EMResult:
    module = TrainableMixture.from_mixture(start, min_variance=settings.floor)
    stopped = False

    def tell(epoch: EpochRecord) -> bool:
        nonlocal stopped
        record = trace.record(-epoch.loss, False)
        stopped = bool(on_iteration is not None and on_iteration(record))
        return stopped

    try:
        found = fit(
            module,
            rows,
            "lbfgs",
            max_epochs=settings.max_iter,
            tol=settings.tol,
            callbacks=[tell],
            progress=False,
        )
        trace.converged = found.converged
        stopped = stopped or found.reason == "interrupted"
    except InputError:  # not a finite likelihood to begin with
        trace.failed = True
        trace.events.append("its likelihood was not finite")
    with torch.no_grad():
        end = stack([module().detach()])
        value = collect(rows, end).mean_log_likelihood()
    if trace.failed:
        value = torch.full_like(value, -torch.inf)
    return EMResult(end, value, [trace], stopped)
