"""What a fit begins with, compiled: k-means, and the mixture that a partition is."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from mogul.covariances import Covariance, DiagCovariance
from mogul.data.rows import Rows
from mogul.infer.compiled_em import PackedMixture
from mogul.kernels import _parameters as code
from mogul.kernels._kmeans import hard_sums, kmeans
from mogul.kernels._tiles import padded
from mogul.kernels.compiled import as_array, as_lines, empty_plan
from mogul.mixture import Mixture

__all__ = ["kmeans_labels", "mixture_of_labels"]

_MOST_ITERATIONS = 100
_TOL = 1e-4
"""How far centres still move when k-means ends, in squared distance, as a part of the mean variance
of the columns: as in scikit-learn."""


def kmeans_labels(rows: Rows, unit: Tensor, n_components: int, random_state: RandomState) -> Tensor:
    """Labels (N,) of one run of k-means on columns divided by ``unit``."""
    values = np.ascontiguousarray(((rows.values.double() - rows.mean()) / unit).numpy())
    weight = as_lines(rows.weight, rows.values)
    plan = empty_plan(DiagCovariance, n_components, rows.n_features)
    n_tries = 2 + int(math.log(n_components))  # as many as in scikit-learn
    chance = random_state.uniform(size=(n_components, n_tries))
    share = weight[0] / weight[0].sum() if len(weight) else np.full(len(values), 1 / len(values))
    variance = float((share @ np.square(values)).mean())
    labels = kmeans(values, weight, plan, n_components, chance, _MOST_ITERATIONS, _TOL * variance)
    return torch.from_numpy(labels)


def mixture_of_labels(
    rows: Rows, labels: Tensor, n_components: int, structure: type[Covariance], floor: float
) -> Mixture | None:
    """The likeliest mixture where each row is of one component.

    None where a component is degenerate, or so far away that its moments about the common mean
    cancel.
    """
    d = rows.n_features
    plan = empty_plan(structure, n_components, d)._replace(centre=rows.mean().numpy())
    sums = np.zeros((n_components, plan.n_sums))
    second = np.zeros((d, padded(d) if plan.whitening.size else 0))
    weight = as_lines(rows.weight, rows.values)
    total = hard_sums(as_array(rows.values), weight, plan, labels.numpy(), sums, second)
    found = PackedMixture.empty(structure, n_components, d)
    ok = np.empty(n_components, dtype=np.bool_)
    means = np.tile(plan.centre, (n_components, 1))
    arrays = found.log_weights, found.means, found.factor
    code.maximise(
        found.kind, len(plan.left), sums, second, total, plan.centre, means, floor, *arrays, ok
    )
    if not ok.all():
        return None
    plans = plan.centre, plan.sharpest, plan.weights, plan.whitening
    farthest = code.prepare(found.kind, *arrays, len(plan.left), *plans)
    return found.unpacked() if farthest < plan.limit else None
