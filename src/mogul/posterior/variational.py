"""A posterior in closed form, found by a variational method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from mogul._checks import check_count, check_seed
from mogul._warn import warn
from mogul.beliefs import Belief, belief_from_state, belief_to_state
from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.data.sources import Source, check_weights_of
from mogul.errors import InputError, MeanFieldWarning, NotConvergedError
from mogul.infer.linear_response import LinearResponse, projected_covariance
from mogul.infer.variational import evidence, look
from mogul.kernels import e_steps, responsibilities
from mogul.mixture import Mixture
from mogul.posterior.arviz import data_tree
from mogul.posterior.base import Posterior, generator_of
from mogul.posterior.diagnostics import ParetoK, pareto_k
from mogul.posterior.quantities import Quantity
from mogul.predictive import PredictiveMixture

__all__ = ["VariationalPosterior"]

_DOUBT = 0.01
"""The share of a component's rows that may be in doubt before mean field is unsafe. At one in a
hundred its standard deviations of two equal clusters, five standard deviations apart, are a tenth
too small; at four, where a thirtieth is in doubt, a quarter."""
_COUNTED = 0.01
"""Components of less weight are not looked at: nearly empty ones are always in doubt."""
_CHUNK_ROWS = 1 << 16
_DRAWS = 1000
_DRAWS_TOGETHER = 64
_FEWEST_DRAWS = 100
"""With fewer the tail of importance ratios tells nothing."""
_SAME_BOUND = 1e-6
"""By which part the bound may differ, of the same rows on another machine say."""


class VariationalPosterior(Posterior):
    """A posterior approximated by independent distributions of known form.

    Parameters
    ----------
    belief : Belief
        The approximation, a single one.
    prior : Belief
    rows : Rows or Source, optional
        What it was fitted to, for linear response and diagnostics.
    elbo : float, optional
        The bound at ``belief``, by which rows that are given later are recognised.
    converged : bool, default True
    doubt : Tensor, shape (K,), optional
        As the property :attr:`doubt`, where the rows are not at hand.
    feature_names : sequence of D strings, optional
    some_rows : Rows, optional
        Of rows in a source some that stand for all, with their weights: linear response tells the
        missing information from them.
    """

    def __init__(
        self,
        belief: Belief,
        prior: Belief,
        rows: Rows | Source | None = None,
        *,
        elbo: float | None = None,
        converged: bool = True,
        doubt: Tensor | None = None,
        feature_names: Sequence[str] | None = None,
        some_rows: Rows | None = None,
    ):
        self.belief, self.prior, self.rows = belief, prior, rows
        self.some_rows = some_rows
        self.elbo, self.converged = elbo, converged
        self._doubt = doubt
        self.feature_names = None if feature_names is None else tuple(feature_names)
        self._excesses: dict[str, Tensor] = {}
        """What linear response adds to the covariances of quantities, once it was asked for."""

    def _with_source(self, source: Source, sample_weight: Any) -> Self:
        check_weights_of(source, sample_weight)
        if source.once or source.n_features != self.n_features:
            raise InputError(
                f"The source must have {self.n_features} columns and be readable more than once."
            )
        return self._with_rows(source.uncached())

    def _with_rows(self, rows: Rows | Source) -> Self:
        found = type(self)(
            self.belief,
            self.prior,
            rows,
            elbo=self.elbo,
            converged=self.converged,
            doubt=self._doubt,
            feature_names=self.feature_names,
        )
        found._check_rows(rows)
        return found

    @property
    def kind(self) -> type[Covariance]:
        return self.belief.components.kind

    @property
    def n_components(self) -> int:
        return self.belief.components.loc.shape[-2]

    @property
    def n_features(self) -> int:
        return self.belief.components.loc.shape[-1]

    def __repr__(self) -> str:
        weights = type(self.belief.weights).__name__.removesuffix("Weights")
        components = type(self.belief.components).__name__.removesuffix("Components")
        return (
            f"VariationalPosterior(n_components={self.n_components}, "
            f"n_features={self.n_features}, covariance_type={self.kind.name!r}, "
            f"weights={weights}, components={components})"
        )

    def _distribution(self, name: str) -> Distribution:
        if name == "weights":
            return self.belief.weights.distribution()
        if name == "means":
            return self.belief.components.mean_distribution()
        return self.belief.components.precisions.distribution()

    # --- moments --------------------------------------------------------------------------------

    def mean(self) -> Mixture:
        return self._named(self.belief.mean())

    def _named(self, mixture: Mixture) -> Mixture:
        return Mixture(mixture.log_weights, mixture.means, mixture.covariance, self.feature_names)

    def _expectation(self, wanted: Quantity) -> Tensor:
        return wanted.mean(self.belief)

    def _quantiles(self, name: str, probabilities: Tensor, correction: str) -> Tensor:
        found = self._quantity(name).quantiles_of(self.kind)
        variance = self._variance(found.base, correction)
        asked = 1 - probabilities if found.falls else probabilities
        return found.function(found.base.quantiles(self.belief, asked, variance))

    def _variance(self, wanted: Quantity, correction: str) -> Tensor:
        shape = wanted.mean(self.belief).shape
        own = wanted.covariance(self.belief).diagonal().reshape(shape)
        own = own.clamp_min(0)  # what is all but certain may have less, by rounding
        if correction == "none":
            return own
        more = torch.zeros_like(own)
        entries = wanted.entries(shape, self.kind)
        for value, index in zip(self._excess(wanted).diagonal(), entries, strict=True):
            more[index] = value
        if len(entries) < shape.numel():  # one half of symmetric matrices
            more = torch.maximum(more, more.transpose(-1, -2))
        return own + more

    def _covariance(self, found: list[Quantity], correction: str) -> Tensor:
        own = torch.block_diag(*(self._distinct_covariance(one) for one in found))
        if len(found) > 1:
            own = own + self._between(found)
        if correction == "none":
            return own
        return own + self.linear_response.excess(lambda belief: self._flat(found, belief))

    def _distinct_covariance(self, wanted: Quantity) -> Tensor:
        """The belief's own covariance of the distinct entries."""
        whole = wanted.covariance(self.belief)
        kept = self._kept(wanted)
        return whole[kept][:, kept]

    def _kept(self, wanted: Quantity) -> Tensor:
        """The distinct entries, as positions in row-major order."""
        shape = wanted.mean(self.belief).shape
        places = [
            np.ravel_multi_index(i, shape) if i else 0 for i in wanted.entries(shape, self.kind)
        ]
        return torch.tensor(np.array(places, dtype=int), device=self.belief.components.loc.device)

    def _flat(self, found: list[Quantity], belief: Belief) -> Tensor:
        """Expectations of the distinct entries of several quantities, one after another."""
        return torch.cat([one.mean(belief).flatten()[self._kept(one)] for one in found])

    def _between(self, found: list[Quantity]) -> Tensor:
        """Mean field's own covariance between different quantities of the same precisions."""
        whole = projected_covariance(self.belief, lambda belief: self._flat(found, belief))
        sizes = [len(self._kept(one)) for one in found]
        blocks = torch.block_diag(*(whole.new_ones(n, n) for n in sizes))
        return torch.where(blocks > 0, 0.0, whole)

    # --- what mean field leaves out -------------------------------------------------------------

    @cached_property
    def linear_response(self) -> LinearResponse:
        """The linear response of the fit; see :class:`mogul.infer.linear_response.LinearResponse`.

        Raises
        ------
        NotConvergedError
            When the fit is not at the maximum of its bound.
        InputError
            When the rows are not at hand, or are not those that were fitted.
        """
        if not self.converged:
            raise NotConvergedError(
                "Linear response needs a fit at the optimum of its bound, and this one stopped "
                'before; fit with inference="cavi" and a larger max_iter.'
            )
        rows = self._training_batches("Linear response")
        self._check_rows(rows)
        return LinearResponse(rows, self.belief, self.prior, sample=self.some_rows)

    def _check_rows(self, rows: Rows | Source) -> None:
        """Refuse other rows than those that were fitted: arrays can be changed after a fit."""
        if self.elbo is None:
            return
        bound = float(evidence(look(rows, self.belief)[1], self.belief, self.prior))
        if not abs(bound - self.elbo) <= _SAME_BOUND * (1 + abs(self.elbo)):
            raise InputError(
                f"These are not the rows that were fitted: their bound is {bound:.6g} nats, and "
                f"that of the fit {self.elbo:.6g}. Give them as they were, with the same weights."
            )

    def _excess(self, wanted: Quantity) -> Tensor:
        """What linear response adds to the covariance of the distinct entries."""
        if wanted.name not in self._excesses:
            self._excesses[wanted.name] = self.linear_response.excess(
                lambda belief: self._flat([wanted], belief)
            )
        return self._excesses[wanted.name]

    @cached_property
    def doubt(self) -> Tensor:
        """The share of each component's rows whose component is in doubt, Σ r (1 − r) / Σ r; (K,).

        Zero where clusters are apart. Components of little weight have NaN.
        """
        if self._doubt is not None:
            return self._doubt
        batches = self._training_batches("The doubt about components")
        mixture, _ = self.belief.surrogate()
        held = torch.zeros_like(mixture.log_weights)
        unsure = torch.zeros_like(held)
        for values, row_weight in batches:
            for start in range(0, len(values), _CHUNK_ROWS):
                part = slice(start, start + _CHUNK_ROWS)
                share = responsibilities(values[part], mixture).double()
                weight = share.new_ones(len(share)) if row_weight is None else row_weight[part]
                held += weight.double() @ share
                unsure += weight.double() @ (share * (1 - share))
        counted = held > _COUNTED * held.sum()
        return torch.where(counted, unsure / held, torch.nan)

    @property
    def _worst(self) -> tuple[int, float]:
        """The component of which most is in doubt, and how much; nothing where none can tell."""
        if self.n_components == 1 or (self.rows is None and self._doubt is None):
            return 0, 0.0
        doubt = self.doubt.nan_to_num(0.0)
        worst = int(doubt.argmax())
        return worst, float(doubt[worst])

    @property
    def is_narrow(self) -> bool:
        """Whether components overlap so much that it is too narrow without correction."""
        return self._worst[1] > _DOUBT

    def warn_if_narrow(self) -> None:
        """Warn, with the remedy, when components overlap so much that mean field is too narrow."""
        worst, doubt = self._worst
        if doubt > _DOUBT:
            warn(
                f"Components overlap ({100 * doubt:.2g} % of the rows of component "
                f"{worst} may be of another), so a mean-field posterior is too narrow; ask for "
                'intervals with correction="linear_response", or fit with inference="gibbs".',
                MeanFieldWarning,
            )

    def _before(self, names: Sequence[str], correction: str) -> None:
        super()._before(names, correction)
        if correction == "none":
            self.warn_if_narrow()

    # --- draws ----------------------------------------------------------------------------------

    def _sample(self, n: int | None, generator: torch.Generator | None, seed: int) -> Mixture:
        chosen = generator or generator_of(seed, self.belief.components.loc.device)
        with torch.no_grad():
            return self._named(self.belief.sample((n or _DRAWS,), generator=chosen))

    def _log_prob(self, mixture: Mixture) -> Tensor:
        return self.belief.log_prob(mixture)

    def log_joint(self, mixture: Mixture) -> Tensor:
        """Log p(X, θ) of a batch of mixtures, in nats: likelihood and prior; (S,)."""
        batches = self._training_batches("The joint density")
        parts = []
        for start in range(0, len(mixture), _DRAWS_TOGETHER):
            some = mixture[start : start + _DRAWS_TOGETHER]
            parts.append(e_steps(batches, some).log_likelihood + self.prior.log_prob(some))
        return torch.cat(parts)

    def predictive(self) -> PredictiveMixture:
        return self.belief.predictive()

    def pareto_k(self, n: int = 1000, *, seed: int = 0) -> ParetoK:
        """How near the approximation is to the posterior, by the tail of importance ratios.

        k̂ below 0.5 is good, above 0.7 poor (Yao, Vehtari, Simpson and Gelman 2018). It speaks of
        the labelling that was fitted, and gets harsher with the number of parameters. Components
        that hold no rows, as a Dirichlet process leaves them, count too: their posterior is not of
        mean-field form, so prune them first.

        Parameters
        ----------
        n : int, default 1000
            Draws, a hundred or more.
        seed : int, default 0

        Examples
        --------
        >>> from mogul import BayesianGaussianMixture, datasets
        >>> rows = datasets.old_faithful().values
        >>> model = BayesianGaussianMixture(2, random_state=0).fit(rows)
        >>> model.posterior_.pareto_k().verdict
        'good: the approximation is close to the posterior'
        """
        drawn = self.sample(check_count(n, "n", _FEWEST_DRAWS), seed=seed)
        ratios = self.log_joint(drawn) - self.log_prob(drawn)
        return ParetoK(pareto_k(ratios.cpu().numpy()), len(drawn))

    def relabel(self, method: str = "pivot") -> VariationalPosterior:
        raise InputError(
            "A variational posterior has one labelling, so there is nothing to relabel; that is "
            'for the draws of inference="gibbs".'
        )

    def to_arviz(self, n: int | None = None, *, seed: int = 0) -> Any:
        """As an ArviZ ``DataTree`` of one chain, with log_p and log_q in ``sample_stats``.

        ``arviz_stats.loo_approximate_posterior(tree, log_p, log_q)`` then gives leave-one-out
        predictive accuracy; see :meth:`Posterior.to_arviz`.
        """
        rows = self._training_rows("to_arviz")
        drawn = self.sample(n, seed=check_seed(seed))
        stats = {"log_p": self.log_joint(drawn), "log_q": self.log_prob(drawn)}
        return data_tree(drawn.expand((1, len(drawn))), stats, rows, self.kind)

    # --- files ----------------------------------------------------------------------------------

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, without the rows.

        Corrections by linear response that were asked for before are kept, and the doubt.
        """
        belief, tensors = belief_to_state(self.belief, "posterior")
        prior, more = belief_to_state(self.prior, "prior")
        tensors |= more | {f"excess.{name}": value for name, value in self._excesses.items()}
        known = self._doubt is not None or self.rows is not None
        if known:
            tensors["doubt"] = self.doubt
        header = {
            "excesses": sorted(self._excesses),
            "doubt": known,
            "belief": belief,
            "prior": prior,
            "elbo": self.elbo,
            "converged": self.converged,
            "feature_names": None if self.feature_names is None else list(self.feature_names),
        }
        return header, tensors

    @classmethod
    def from_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> VariationalPosterior:
        """Rebuild what :meth:`to_state` took apart, bit for bit."""
        found = cls(
            belief_from_state(header["belief"], tensors, "posterior"),
            belief_from_state(header["prior"], tensors, "prior"),
            elbo=header["elbo"],
            converged=header["converged"],
            doubt=tensors["doubt"] if header["doubt"] else None,
            feature_names=header["feature_names"],
        )
        found._excesses = {name: tensors[f"excess.{name}"] for name in header["excesses"]}
        return found
