"""Many small mixtures at once, one to each of many data sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray

from mogul._threads import spread
from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.errors import DegenerateFitError
from mogul.infer.em import EMSettings, compiles
from mogul.infer.maximum_likelihood import fit_mixture
from mogul.infer.starts import CANDIDATES, SHORT_ITERATIONS
from mogul.mixture import Mixture

__all__ = ["Ends", "as_mixture", "fit_each"]

_SPANS = 8
"""Stretches of data sets for each thread: some take longer than others."""


@dataclass
class Ends:
    """Where each of M fits ended; NaN parameters where ``failed``.

    Attributes
    ----------
    log_weights, means, factor : ndarrays, (M, K), (M, K, D) and (M, *factor shape)
    log_likelihood : ndarray, (M,)
        In nats per unit of row weight.
    n_iter : ndarray, (M,)
    converged, failed : ndarrays of bool, (M,)
    """

    log_weights: NDArray[np.float64]
    means: NDArray[np.float64]
    factor: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    n_iter: NDArray[np.int64]
    converged: NDArray[np.bool_]
    failed: NDArray[np.bool_]


def fit_each(
    rows: NDArray[np.float64],
    ends: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    n_components: int,
    covariance_type: str,
    settings: EMSettings,
    random_state: RandomState,
) -> Ends:
    """Fit a mixture to each data set, the rows from one of ``ends`` to the next.

    Compiled where Numba is installed: k-means partitions, a few iterations from each, and plain EM
    from the best. Where a component needs a repair, and everywhere without Numba, ``fit_mixture``
    takes its place.
    """
    n_sets, n_features = len(ends) - 1, rows.shape[1]
    kind = structure(covariance_type)
    shape = kind.factor_shape(n_components, n_features)
    seeds = random_state.randint(2**31 - 1, size=n_sets)
    found = Ends(
        np.full((n_sets, n_components), math.nan),
        np.full((n_sets, n_components, n_features), math.nan),
        np.full((n_sets, *shape), math.nan),
        np.full(n_sets, -math.inf),
        np.zeros(n_sets, dtype=np.int64),
        np.zeros(n_sets, dtype=np.bool_),
        np.ones(n_sets, dtype=np.bool_),
    )
    if compiles(torch.device("cpu"), kind, settings):
        _compiled(found, rows, ends, weight, covariance_type, settings, random_state)
    for m in np.flatnonzero(found.failed).tolist():
        span = slice(ends[m], ends[m + 1])
        own = None if weight is None else torch.from_numpy(weight[span])
        data = Rows(torch.from_numpy(rows[span]), own)
        try:
            fit = fit_mixture(
                data,
                n_components,
                covariance_type,
                settings,
                random_state=RandomState(seeds[m]),
            )
        except DegenerateFitError:
            continue
        found.log_weights[m] = fit.mixture.log_weights
        found.means[m] = fit.mixture.means
        found.factor[m] = fit.mixture.covariance.factor
        found.log_likelihood[m] = fit.log_likelihood
        found.n_iter[m], found.converged[m] = fit.trace.n_iter, fit.trace.converged
        found.failed[m] = False
    return found


def _compiled(
    found: Ends,
    rows: NDArray[np.float64],
    ends: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    covariance_type: str,
    settings: EMSettings,
    random_state: RandomState,
) -> None:
    """Fill in what compiled code can fit."""
    from mogul.infer.compiled_em import blank_memory, climbing_rule
    from mogul.kernels import _many, _squarem
    from mogul.kernels._kmeans import n_tries
    from mogul.kernels.compiled import desk_for, empty_plan
    from mogul.kernels.packed import KINDS, PackedMixture

    kind = structure(covariance_type)
    n_sets, k, d = found.means.shape
    factor = found.factor.reshape(n_sets, *PackedMixture.empty(kind, k, d).factor.shape)
    chance = random_state.uniform(size=(n_sets, CANDIDATES, k, n_tries(k)))
    lines = np.empty((0, len(rows))) if weight is None else weight.reshape(1, -1)
    longest = int(np.diff(ends).max(initial=1))
    rule = climbing_rule(settings.tol, settings.max_iter, settings.acceleration)
    state = np.full(n_sets, _squarem.LEFT, dtype=np.int64)

    def fit(span: slice) -> None:
        plan = empty_plan(kind, k, d, n_rows=longest)
        _many.fit_each(
            rows,
            ends,
            span.start,
            span.stop,
            lines,
            chance,
            KINDS[kind],
            plan,
            float(settings.floor),
            rule,
            SHORT_ITERATIONS,
            found.log_weights,
            found.means,
            factor,
            blank_memory(PackedMixture.empty(kind, k, d), settings.acceleration),
            desk_for(longest, longest, plan, 1, kind),
            found.log_likelihood,
            found.n_iter,
            state,
        )

    step = max(1, -(-n_sets // (_SPANS * torch.get_num_threads())))
    spread(fit, [slice(i, min(i + step, n_sets)) for i in range(0, n_sets, step)])
    found.converged[:] = state == _squarem.CONVERGED
    found.failed[:] = state == _squarem.LEFT
    for part in (found.log_weights, found.means, found.factor):
        part[found.failed] = math.nan  # what an attempt left
    found.log_likelihood[found.failed] = -math.inf


def as_mixture(found: Ends, covariance_type: str) -> Mixture:
    """All ends as a batch of mixtures."""
    _, k, d = found.means.shape
    factor = torch.from_numpy(found.factor)
    covariance = structure(covariance_type)(factor, k, d)
    return Mixture(torch.from_numpy(found.log_weights), torch.from_numpy(found.means), covariance)
