"""Choosing a mixture by the likelihood of rows that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from numpy.random import RandomState
from torch import Tensor

from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.errors import DegenerateFitError
from mogul.infer.em import EMSettings, fit_em, stack
from mogul.infer.maximum_likelihood import fit_mixture
from mogul.kernels import log_prob
from mogul.mixture import Mixture

__all__ = ["CONCENTRATION_STEPS", "CrossFit", "Form", "cross_fit", "search_forms"]

_SETTINGS = EMSettings(tol=1e-2, max_iter=50, acceleration="none")
"""Held-out likelihoods differ by more than what later iterations bring."""
_FEWEST_A_COMPONENT = 3
"""Rows for each component of the largest mixture that is tried."""
_MOST_NUMBERS = 1 << 18
"""In the covariances of the largest mixture that is tried, so that a search stays short."""
_PATIENCE = 2
"""Sizes of one family in a row that may be worse than its best before larger ones are left out."""
CONCENTRATION_STEPS = 2


@dataclass(frozen=True)
class Form:
    """What a mixture is to look like.

    Attributes
    ----------
    covariance_type : str
    n_components : int
    floor : float
        Added to every variance.
    uncorrelated : bool
        Whether covariances are shrunk towards a matrix without correlations.
    """

    covariance_type: str
    n_components: int
    floor: float
    uncorrelated: bool = False

    def settings(self, n_features: int) -> EMSettings:
        """How to fit it: the prior counts as D + 2 rows in each component."""
        return replace(
            _SETTINGS,
            floor=self.floor,
            shrinkage=n_features + 2.0,
            uncorrelated=self.uncorrelated,
        )


@dataclass(frozen=True)
class CrossFit:
    """A mixture for each fold of the rows, fitted to the others.

    Attributes
    ----------
    form : Form
    mixture : Mixture, batch shape (V,)
    scores : Tensor, shape (N,)
        The log-density of each row under the mixture that did not see it.
    fold : Tensor of int, shape (N,)
    log_likelihood : float
        The weighted mean of the scores.
    """

    form: Form
    mixture: Mixture
    scores: Tensor
    fold: Tensor
    log_likelihood: float

    def folds(self) -> list[Tensor]:
        """Which rows are in each fold, as masks."""
        return [self.fold == v for v in range(len(self.mixture))]


def cross_fit(
    rows: Rows, fold: Tensor, form: Form, random_state: RandomState, *, trim: float = 0.0
) -> CrossFit:
    """Fit a mixture for each fold, by EM with covariances shrunk as Fraley and Raftery (2007) do.

    Parameters
    ----------
    rows : Rows
    fold : Tensor of int, shape (N,)
        From 0 to V − 1.
    form : Form
    random_state : RandomState
    trim : float, default 0.0
        The share of the rows, those of least density, that a mixture is fitted without (Neykov,
        Filzmoser, Dimova and Neytchev 2007).

    Raises
    ------
    DegenerateFitError
        When a mixture cannot be fitted.
    """
    settings = form.settings(rows.n_features)
    scores = torch.empty(rows.n_rows, dtype=torch.float64)
    found = []
    for v in range(int(fold.max()) + 1):
        own = fold == v
        others = _some(rows, ~own)
        fit = fit_mixture(
            others, form.n_components, form.covariance_type, settings, random_state=random_state
        )
        mixture = fit.mixture
        if trim:
            mixture = _concentrated(others, mixture, trim, settings)
        scores[own] = log_prob(rows.values[own], mixture)
        found.append(mixture)
    weight = torch.ones_like(scores) if rows.weight is None else rows.weight.double()
    return CrossFit(form, stack(found), scores, fold, float(weight @ scores / weight.sum()))


def _concentrated(rows: Rows, mixture: Mixture, trim: float, settings: EMSettings) -> Mixture:
    """The mixture fitted on without the rows of least density, which are looked for anew twice."""
    for _ in range(CONCENTRATION_STEPS):
        density = log_prob(rows.values, mixture)
        kept = density >= torch.quantile(density, trim)
        if int(kept.sum()) <= mixture.n_components:
            break
        result = fit_em(_some(rows, kept), stack([mixture]), settings)
        if result.traces[0].failed:
            break
        mixture = result.mixture[0]
    return mixture


def search_forms(
    rows: Rows,
    fold: Tensor,
    families: Iterable[Form],
    sizes: Sequence[int],
    random_state: RandomState,
    *,
    on_candidate: Callable[[CrossFit], None] | None = None,
) -> list[CrossFit]:
    """Cross-fit every family from small to large, each until it no longer gains.

    Parameters
    ----------
    families : iterable of Form
        Of any size.
    sizes : sequence of int
        Numbers of components, ascending. Those with less than three rows for each, or 262,144
        numbers in their covariances, are left out; the least is always tried.
    """
    n_fewest = rows.n_rows - int(fold.bincount().max())
    found: list[CrossFit] = []
    for family in families:
        kind, best, worse = structure(family.covariance_type), -torch.inf, 0
        for k in sizes:
            large = prod(kind.factor_shape(k, rows.n_features)) > _MOST_NUMBERS
            if k > sizes[0] and (large or k * _FEWEST_A_COMPONENT > n_fewest):
                break
            try:
                one = cross_fit(rows, fold, replace(family, n_components=k), random_state)
            except DegenerateFitError:
                break
            found.append(one)
            if on_candidate is not None:
                on_candidate(one)
            worse = 0 if one.log_likelihood > best else worse + 1
            best = max(best, one.log_likelihood)
            if worse >= _PATIENCE:
                break
    return found


def _some(rows: Rows, kept: Tensor) -> Rows:
    return Rows(rows.values[kept], None if rows.weight is None else rows.weight[kept])
