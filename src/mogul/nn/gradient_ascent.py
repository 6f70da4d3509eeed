"""Climbing the likelihood by gradient, in the place of EM."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer.em import EMResult, EMSettings, Streamed, collect, stack
from mogul.infer.gradient import EpochRecord, fit
from mogul.infer.stopping import IterationRecord, Trace
from mogul.mixture import Mixture
from mogul.nn.trainable_mixture import TrainableMixture

__all__ = ["ascend"]


def ascend(
    rows: Rows | Streamed,
    start: Mixture,
    settings: EMSettings,
    *,
    previous: float = -torch.inf,
    first: int = 0,
    on_iteration: Callable[[IterationRecord], bool | None] | None = None,
) -> EMResult:
    """Run L-BFGS from every mixture of a batch of starts, one after another.

    Called as :func:`mogul.infer.em.fit_em` is, and answers as it does, but that a record holds the
    log-likelihood after its iteration. ``settings.floor`` is added to every variance of the model,
    so that none falls below it; ``settings.acceleration`` is of EM and changes nothing. After an
    interruption the answer holds the starts that were tried.
    """
    device = rows.device if isinstance(rows, Streamed) else rows.values.device
    traces, ends, interrupted = [], [], False
    for i in range(len(start)):
        trace = Trace(first + i, previous)
        module = TrainableMixture.from_mixture(
            start[i].to(device=device), min_variance=settings.floor
        )
        interrupted = _climb(module, rows, settings, trace, on_iteration)
        traces.append(trace)
        ends.append(module().detach().to(device="cpu"))
        if interrupted:
            break
    mixture = stack(ends)
    final = collect(rows, mixture).mean_log_likelihood()
    failed = torch.tensor([trace.failed for trace in traces], device=final.device)
    return EMResult(mixture, torch.where(failed, -torch.inf, final), traces, interrupted)


def _climb(
    module: TrainableMixture,
    rows: Rows | Streamed,
    settings: EMSettings,
    trace: Trace,
    on_iteration: Callable[[IterationRecord], bool | None] | None,
) -> bool:
    """Train the module and fill the trace; whether the user asked to stop."""
    asked = False

    def tell(epoch: EpochRecord) -> bool:
        nonlocal asked
        record = trace.record(-epoch.loss, False)
        asked = bool(on_iteration is not None and on_iteration(record))
        return asked

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
    except InputError:  # the rows were checked before: the likelihood is not finite at the start
        trace.failed = True
        trace.events.append("its likelihood was not finite")
        return False
    trace.converged = found.converged
    return asked or found.reason == "interrupted"
