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
_MOST_ROUNDS = 100
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
        step = -(-len(self.rows) // _MOST_ROWS)
        rows = self.rows[::step].to(self.mixture.means)
        found = [self.mixture[i].responsibilities(rows) for i in range(len(self.mixture))]
        return torch.stack(found).cpu().numpy()


def permutations(method: str, draws: Draws) -> np.ndarray:
    """A permutation for each draw, (S, K)."""
    if method not in METHODS:
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
    """Nearest to the components of the likeliest draw (Marin, Mengersen and Robert 2005).

    In means and log standard deviations, in units of the pivot's components, and log-weights.
    """
    mixture = draws.mixture
    unit = mixture.covariance.variances()[draws.pivot].mean(0).sqrt()
    parts = [
        mixture.means / unit,
        0.5 * mixture.covariance.variances().log(),
        mixture.log_weights.unsqueeze(-1),
    ]
    places = torch.cat(parts, -1).cpu().numpy()  # (S, K, M)
    goal = places[draws.pivot]
    return _assigned(((goal[:, None] - place[None]) ** 2).sum(-1) for place in places)


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

    Means and permutations in turn, from the identity, until neither changes.
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
