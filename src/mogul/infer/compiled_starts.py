"""What a fit begins with, compiled: k-means, and the mixture that a partition is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor

from mogul._threads import spread
from mogul.covariances import Covariance, DiagCovariance
from mogul.data.rows import Rows
from mogul.infer.compiled_em import PackedMixture
from mogul.infer.em import stack
from mogul.kernels import _parameters as code
from mogul.kernels._kmeans import MOST_ITERATIONS, TOL, hard_sums, kmeans, n_tries
from mogul.kernels._many import climb
from mogul.kernels._tiles import padded
from mogul.kernels.compiled import as_array, as_lines, empty_plan
from mogul.mixture import Mixture

__all__ = ["climb_each", "kmeans_labels", "mixture_of_labels"]


def kmeans_labels(
    rows: Rows, units: list[Tensor], n_components: int, random_state: RandomState
) -> list[Tensor]:
    """Labels (N,) of a run of k-means on columns divided by each of ``units``, in threads."""
    weight = as_lines(rows.weight, rows.values)
    centred = rows.values.double() - rows.mean()
    plan = empty_plan(DiagCovariance, n_components, rows.n_features)
    total = rows.total_weight

    def run(task: tuple[Tensor, NDArray[np.float64]]) -> Tensor:
        unit, chance = task
        values = np.ascontiguousarray((centred / unit).numpy())
        squares = np.einsum("nd,nd->n", values, values)
        variance = float(squares @ weight[0] if len(weight) else squares.sum())
        tol = TOL * variance / (total * values.shape[1])
        labels = kmeans(values, weight, plan, n_components, chance, MOST_ITERATIONS, tol)
        return torch.from_numpy(labels)

    chances = [random_state.uniform(size=(n_components, n_tries(n_components))) for _ in units]
    return spread(run, list(zip(units, chances, strict=True)))


def climb_each(
    rows: Rows, starts: Mixture, floor: float, tol: float, max_iter: int
) -> tuple[Mixture, Tensor]:
    """A few iterations of EM from each mixture of a batch, in threads.

    Returns where they led and the log-likelihoods per row; −inf where a repair would be needed.
    """
    structure = type(starts.covariance)
    k, d = starts.means.shape[-2:]
    values, weight = as_array(rows.values), as_lines(rows.weight, rows.values)
    width = 0 if structure.shared_features else padded(d)

    def run(i: int) -> tuple[PackedMixture, float]:
        own, plan = PackedMixture.of(starts[i]), empty_plan(structure, k, d)
        arrays = own.log_weights, own.means, own.factor
        how = width, floor, tol, max_iter
        return own, climb(values, weight, own.kind, plan, *how, *arrays)

    ends = spread(run, range(len(starts)))
    found = torch.tensor([value for _, value in ends], dtype=torch.float64)
    return stack([end.unpacked() for end, _ in ends]), found


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
