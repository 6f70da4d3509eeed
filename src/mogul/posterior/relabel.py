"""Putting the components of posterior draws into one order.

The posterior of a mixture is the same for every order of its components, and a sampler may change
from one to another. Each method gives a permutation for each draw: component k of the relabelled
draw is component ``permutations[s, k]`` of draw s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mogul.errors import InputError, UnknownNameError
from mogul.mixture import Mixture

__all__ = ["METHODS", "Draws", "permutations"]

_MOST_ROWS = 2000
"""Rows that the methods by allocation look at, evenly spaced: more change nothing."""
_MOST_SHARES = 1 << 25
"""Responsibilities that are held at once, 256 MB: fewer rows are looked at where draws are many."""
_MOST_ROUNDS = 100
_MOST_PAIRS = 1 << 21
"""Numbers in the matrices of all pairs of components that are held at once, 16 MB."""
_LEAST_SHARE = 1e-12


@dataclass(frozen=True)
class Draws:
    """What the methods may look at.

    Attributes
    ----------
    mixture : Mixture, batch shape (S,)
    log_joint : Tensor, shape (S,)
        Of which the highest is the pivot.
    rows : Tensor, shape (N, D), or None
    """

    mixture: Mixture
    log_joint: Tensor
    rows: Tensor | None

    @property
    def pivot(self) -> int:
        return int(self.log_joint.argmax())

    def responsibilities(self, method: str) -> np.ndarray:
        """Of some of the rows under every draw, (S, N, K)."""
        if self.rows is None:
            raise InputError(
                f'relabel(method="{method}") looks at the rows that were fitted, and this '
                'posterior does not have them; use method="pivot" or "ordering".'
            )
        each = len(self.mixture) * self.mixture.n_components
        n_rows = max(1, min(_MOST_ROWS, _MOST_SHARES // each))
        step = -(-len(self.rows) // n_rows)
        rows = self.rows[::step].to(self.mixture.means)
        found = [self.mixture[i].responsibilities(rows) for i in range(len(self.mixture))]
        return torch.stack(found).cpu().numpy()


def permutations(method: str, draws: Draws) -> np.ndarray:
    """A permutation for each draw, (S, K)."""
    if not isinstance(method, str) or method not in METHODS:
        raise UnknownNameError(
            f"The relabelling method {method!r} is unknown; choose one of "
            f"{', '.join(map(repr, METHODS))}."
        )
    return METHODS[method](draws)


def _ordering(draws: Draws) -> np.ndarray:
    """Ascending in the mean of the feature whose means lie farthest apart in the pivot."""
    means = draws.mixture.means
    apart = means[draws.pivot].std(0, correction=0) / draws.mixture.stddev[draws.pivot]
    return means[..., int(apart.argmax())].argsort(-1).cpu().numpy()


def _pivot(draws: Draws) -> np.ndarray:
    r"""Most like the components of the likeliest draw (Marin, Mengersen and Robert 2005).

    Like are components that overlap and have weight, :math:`\sum_k \sqrt{v_k w_{\pi(k)}} / (1 +
    D_k)` with D Bhattacharyya's distance of the densities: so one that holds no rows, and may be
    anywhere, takes no other's place. Units and rotations of the features change nothing.
    """
    mixture = draws.mixture
    pivot = mixture[draws.pivot]
    step = max(1, _MOST_PAIRS // mixture.means[0].numel() ** 2)
    parts = [
        _likeness(pivot, mixture[start : start + step]).cpu().numpy()
        for start in range(0, len(mixture), step)
    ]
    return _assigned(-likeness for part in parts for likeness in part)


def _likeness(pivot: Mixture, some: Mixture) -> Tensor:
    """Of each component of the pivot and each of some draws, (S, K, K)."""
    gap = (pivot.means.unsqueeze(-2) - some.means.unsqueeze(-3)).unsqueeze(-1)  # (S, K, K, D, 1)
    first, others = pivot.covariance.dense().unsqueeze(-3), some.covariance.dense().unsqueeze(-4)
    factor = torch.linalg.cholesky(0.5 * (first + others))
    white = torch.linalg.solve_triangular(factor, gap, upper=False).squeeze(-1)
    own = pivot.covariance.log_diagonal().sum(-1).unsqueeze(-1)  # half a log-determinant
    theirs = some.covariance.log_diagonal().sum(-1).unsqueeze(-2)
    middle = torch.diagonal(factor, dim1=-2, dim2=-1).log().sum(-1)
    distance = 0.125 * white.square().sum(-1) + middle - 0.5 * (own + theirs)
    weight = 0.5 * (pivot.log_weights.unsqueeze(-1) + some.log_weights.unsqueeze(-2))
    return weight.exp() / (1 + distance.clamp_min(0))


def _equivalence_classes(draws: Draws) -> np.ndarray:
    """Most rows in the component they have in the likeliest draw: ECR.

    (Papastamoulis and Iliopoulos 2010.)
    """
    labels = draws.responsibilities("ecr").argmax(-1)  # (S, N)
    eye = np.eye(draws.mixture.n_components)
    goal = eye[labels[draws.pivot]]
    return _assigned(-(goal.T @ eye[label]) for label in labels)


def _stephens(draws: Draws) -> np.ndarray:
    """Least Kullback–Leibler divergence from the mean responsibilities (Stephens 2000).

    Means and permutations in turn until neither changes, from the pivot's permutations.
    """
    shares = draws.responsibilities("stephens").clip(_LEAST_SHARE)
    found = _pivot(draws)  # a start near the end: the mean of draws in mixed orders tells nothing
    for _ in range(_MOST_ROUNDS):
        goal = np.mean([shares[s][:, found[s]] for s in range(len(shares))], 0)
        log_goal = np.log(goal)
        better = _assigned(-(log_goal.T @ share) for share in shares)
        if (better == found).all():
            break
        found = better
    return found


METHODS: dict[str, Callable[[Draws], np.ndarray]] = {
    "ordering": _ordering,
    "stephens": _stephens,
    "ecr": _equivalence_classes,
    "pivot": _pivot,
}


def _assigned(costs) -> np.ndarray:
    """The cheapest assignment for each matrix of costs (goal, component)."""
    return np.stack([linear_sum_assignment(cost)[1] for cost in costs])
