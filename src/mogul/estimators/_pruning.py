"""Fitting again with the components that are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state

from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer import METHODS
from mogul.infer.variational import begin
from mogul.posterior import VariationalPosterior
from mogul.posterior.base import needed_components

__all__ = ["PruningReport", "pruned"]

_MOST_LISTED = 8
"""Removed components that a report lists; nobody reads more."""


@dataclass(frozen=True)
class PruningReport:
    """What :meth:`BayesianGaussianMixture.prune` took away.

    Attributes
    ----------
    removed : list of (component, weight)
        Numbered as before, with their expected weights.
    n_before : int
    elbo_before, elbo_after : float
        In nats, under the same prior.
    """

    removed: list[tuple[int, float]]
    n_before: int
    elbo_before: float
    elbo_after: float

    def __str__(self) -> str:
        if not self.removed:
            return f"Nothing was removed: all {self.n_before} components are needed."
        listed = ", ".join(f"{k} ({weight:.2g})" for k, weight in self.removed[:_MOST_LISTED])
        more = len(self.removed) - _MOST_LISTED
        listed += f" and {more} more" if more > 0 else ""
        total = sum(weight for _, weight in self.removed)
        gain = self.elbo_after - self.elbo_before
        return (
            f"{len(self.removed)} of {self.n_before} components were removed, which held "
            f"{100 * total:.2g} % of the weight: {listed}. The evidence lower bound "
            f"{'rose' if gain >= 0 else 'fell'} by {abs(gain):.4g} nats."
        )


def pruned(model: Any, keep: float) -> Any:
    """A new estimator, fitted with the fewest components that hold ``keep`` of the weight."""
    posterior = _checked(model)
    kept = np.sort(needed_components(posterior.expectation("weights"), keep))
    index = torch.from_numpy(kept).to(posterior.belief.components.loc.device)
    fewer = clone(model).set_params(n_components=len(kept), inference="cavi")
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(model, name):
            setattr(fewer, name, getattr(model, name))
    rows = posterior.rows
    assert isinstance(rows, Rows)  # _checked has asked
    prior = Belief(
        posterior.prior.weights.selected(index), posterior.prior.components.selected(index)
    )
    start = posterior.belief.surrogate()[0].select(index)
    rng = check_random_state(model.random_state)
    fewer._infer(rows, prior, [begin(rows, prior, start)], METHODS["cavi"](), rng)
    gone = [k for k in range(posterior.n_components) if k not in set(kept.tolist())]
    removed = [(k, float(model.weights_[k])) for k in gone]
    fewer.pruned_ = PruningReport(removed, posterior.n_components, model.elbo_, fewer.elbo_)
    return fewer


def _checked(model: Any) -> VariationalPosterior:
    """The posterior, when it can be pruned."""
    posterior = model.posterior_
    if not isinstance(posterior, VariationalPosterior):
        raise InputError(
            "prune goes on from a variational fit, and this posterior is sampled; fit with "
            'inference="cavi" first.'
        )
    if not isinstance(posterior.rows, Rows):
        raise InputError(
            "prune fits again, and this posterior does not have its rows in memory; give them by "
            "model.posterior_ = model.posterior_.with_rows(X)."
        )
    if not posterior.prior.components.exchangeable:
        raise InputError(
            "prune needs a prior that is the same for all components, and this one is not, so "
            "fit fewer components with a prior of their own."
        )
    return posterior
