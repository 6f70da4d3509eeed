"""A posterior in closed form, found by a variational method."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from mogul.beliefs import Belief, belief_from_state, belief_to_state
from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.errors import InputError, MeanFieldWarning, NotConvergedError
from mogul.infer.linear_response import LinearResponse, projected_covariance
from mogul.kernels import e_step, responsibilities
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
_DRAWS_TOGETHER = 64


class VariationalPosterior(Posterior):
    """A posterior approximated by independent distributions of known form.

    Parameters
    ----------
    belief : Belief
        The approximation, a single one.
    prior : Belief
    rows : Rows, optional
        What it was fitted to, for linear response and diagnostics.
    converged : bool, default True
    feature_names : sequence of D strings, optional
    """

    def __init__(
        self,
        belief: Belief,
        prior: Belief,
        rows: Rows | None = None,
        *,
        converged: bool = True,
        feature_names: Sequence[str] | None = None,
    ):
        self.belief, self.prior, self.rows = belief, prior, rows
        self.converged = converged
        self.feature_names = None if feature_names is None else tuple(feature_names)
        self._excesses: dict[str, Tensor] = {}
        """What linear response adds to the covariances of quantities, once it was asked for."""

    def with_rows(self, rows: Any, sample_weight: Any = None) -> VariationalPosterior:
        """The same posterior with the rows that it was fitted to, after loading it."""
        values = torch.as_tensor(np.asarray(rows))
        weight = None if sample_weight is None else torch.as_tensor(np.asarray(sample_weight))
        return VariationalPosterior(
            self.belief,
            self.prior,
            Rows(values, weight),
            converged=self.converged,
            feature_names=self.feature_names,
        )

    @property
    def kind(self) -> type[Covariance]:
        return self.belief.components.kind

    def __repr__(self) -> str:
        k, d = self.belief.components.loc.shape
        weights = type(self.belief.weights).__name__.removesuffix("Weights")
        components = type(self.belief.components).__name__.removesuffix("Components")
        return (
            f"VariationalPosterior(n_components={k}, n_features={d}, "
            f"covariance_type={self.kind.name!r}, weights={weights}, components={components})"
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

    def expectation(self, name: str) -> Tensor:
        return self._quantity(name).mean(self.belief)

    def std(self, name: str, correction: str = "none") -> Tensor:
        self._before([name], correction)
        return self._variance(self._quantity(name), correction).sqrt()

    def _quantiles(self, name: str, probabilities: Tensor, correction: str) -> Tensor:
        found = self._quantity(name).quantiles_of(self.kind)
        variance = self._variance(found.base, correction)
        asked = 1 - probabilities if found.falls else probabilities
        return found.function(found.base.quantiles(self.belief, asked, variance))

    def _variance(self, wanted: Quantity, correction: str) -> Tensor:
        own = wanted.covariance(self.belief).diagonal()
        if correction != "none":
            own = own + self._excess(wanted).diagonal()
        return own.reshape(wanted.mean(self.belief).shape)

    def covariance(self, names: str | Sequence[str], correction: str = "none") -> Tensor:
        self._before(self._names(names), correction)
        found = [self._quantity(name) for name in self._names(names)]
        own = torch.block_diag(*(one.covariance(self.belief) for one in found))
        own = own + self._between(found)
        if correction != "none":
            own = own + self.linear_response.excess(lambda belief: _flat(found, belief))
        kept = torch.tensor(self._kept(found), device=own.device)
        return own[kept][:, kept]

    def _between(self, found: list[Quantity]) -> Tensor:
        """Mean field's own covariance between different quantities of the same precisions."""
        sizes = [one.mean(self.belief).numel() for one in found]
        total = sum(sizes)
        if len(found) == 1:
            return torch.zeros(total, total, dtype=self.belief.components.loc.dtype)
        whole = projected_covariance(self.belief, lambda belief: _flat(found, belief))
        blocks = torch.block_diag(*(whole.new_ones(n, n) for n in sizes))
        return torch.where(blocks > 0, 0.0, whole)

    def _kept(self, found: list[Quantity]) -> list[int]:
        """The distinct entries, as positions in the row-major order of all."""
        kept: list[int] = []
        start = 0
        for one in found:
            shape = one.mean(self.belief).shape
            kept += [start + _position(index, shape) for index in one.entries(shape)]
            start += shape.numel()
        return kept

    def entries(self, names: str | Sequence[str]) -> list[str]:
        found = [self._quantity(name) for name in self._names(names)]
        return [
            f"{one.name}[{', '.join(map(str, index))}]"
            for one in found
            for index in one.entries(one.mean(self.belief).shape)
        ]

    # --- what mean field leaves out -------------------------------------------------------------

    @cached_property
    def linear_response(self) -> LinearResponse:
        """The linear response of the fit; see :class:`mogul.infer.linear_response.LinearResponse`.

        Raises
        ------
        NotConvergedError
            When the fit is not at the maximum of its bound.
        """
        if not self.converged:
            raise NotConvergedError(
                "Linear response needs a converged fit, and this one was stopped before; fit with "
                "a larger max_iter."
            )
        rows = self._training_rows(self.rows, "Linear response")
        return LinearResponse(rows, self.belief, self.prior)

    def _excess(self, wanted: Quantity) -> Tensor:
        if wanted.name not in self._excesses:
            self._excesses[wanted.name] = self.linear_response.excess(
                lambda belief: wanted.mean(belief).flatten()
            )
        return self._excesses[wanted.name]

    @cached_property
    def doubt(self) -> Tensor:
        """The share of each component's rows whose component is in doubt, Σ r (1 − r) / Σ r; (K,).

        Zero where clusters are apart. Components of little weight have NaN.
        """
        rows = self._training_rows(self.rows, "The doubt about components")
        mixture, _ = self.belief.surrogate()
        held = torch.zeros_like(mixture.log_weights)
        unsure = torch.zeros_like(held)
        for start in range(0, rows.n_rows, _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            share = responsibilities(rows.values[part], mixture).double()
            weight = share.new_ones(len(share)) if rows.weight is None else rows.weight[part]
            held += weight.double() @ share
            unsure += weight.double() @ (share * (1 - share))
        counted = held > _COUNTED * rows.total_weight
        return torch.where(counted, unsure / held, torch.nan)

    def _before(self, names: Sequence[str], correction: str) -> None:
        """Warn of intervals that are too narrow, too."""
        super()._before(names, correction)
        if correction != "none" or self.rows is None or self.belief.weights.n_components == 1:
            return
        doubt = self.doubt.nan_to_num(0.0)
        worst = int(doubt.argmax())
        if float(doubt[worst]) > _DOUBT:
            warnings.warn(
                f"Components overlap ({100 * float(doubt[worst]):.2g} % of the rows of component "
                f"{worst} may be of another), so mean-field intervals are too narrow; ask for "
                'correction="linear_response", or fit with inference="gibbs".',
                MeanFieldWarning,
                stacklevel=3,
            )

    # --- draws ----------------------------------------------------------------------------------

    def sample(
        self, n: int = 1000, *, generator: torch.Generator | None = None, seed: int = 0
    ) -> Mixture:
        chosen = generator or generator_of(seed, self.belief.components.loc.device)
        with torch.no_grad():
            return self._named(self.belief.sample((self._check_count(n),), generator=chosen))

    def log_prob(self, mixture: Mixture) -> Tensor:
        return self.belief.log_prob(mixture)

    def log_joint(self, mixture: Mixture) -> Tensor:
        """Log p(X, θ) of a batch of mixtures, in nats: likelihood and prior; (S,)."""
        rows = self._training_rows(self.rows, "The joint density")
        parts = []
        for start in range(0, len(mixture), _DRAWS_TOGETHER):
            some = mixture[start : start + _DRAWS_TOGETHER]
            inside = e_step(rows.values, some, rows.weight).log_likelihood
            parts.append(inside + self.prior.log_prob(some))
        return torch.cat(parts)

    def predictive(self) -> PredictiveMixture:
        return self.belief.predictive()

    def pareto_k(self, n: int = 1000, *, seed: int = 0) -> ParetoK:
        """How near the approximation is to the posterior, by the tail of importance ratios.

        k̂ below 0.5 is good, above 0.7 poor (Yao, Vehtari, Simpson and Gelman 2018). It speaks of
        the labelling that was fitted, and gets harsher with the number of parameters.

        Examples
        --------
        >>> from mogul import BayesianGaussianMixture, datasets
        >>> rows = datasets.old_faithful().values
        >>> model = BayesianGaussianMixture(2, random_state=0).fit(rows)
        >>> model.posterior_.pareto_k().verdict
        'good: the approximation is close to the posterior'
        """
        drawn = self.sample(n, seed=seed)
        ratios = self.log_joint(drawn) - self.log_prob(drawn)
        return ParetoK(pareto_k(ratios.cpu().numpy()), len(drawn))

    def relabel(self, method: str = "pivot") -> VariationalPosterior:
        raise InputError(
            "A variational posterior has one labelling, so there is nothing to relabel; that is "
            'for the draws of inference="gibbs".'
        )

    def to_arviz(self, n: int = 1000, *, seed: int = 0) -> Any:
        """As an ArviZ ``DataTree`` of ``n`` draws, with log_p and log_q in ``sample_stats``.

        ``arviz_stats.loo_approximate_posterior(tree, log_p, log_q)`` then gives leave-one-out
        predictive accuracy. Needs the extra ``bayes`` and the rows that were fitted.
        """
        rows = self._training_rows(self.rows, "to_arviz")
        drawn = self.sample(n, seed=seed)
        stats = {"log_p": self.log_joint(drawn), "log_q": self.log_prob(drawn)}
        return data_tree(drawn.expand((1, len(drawn))), stats, rows, self.kind)

    # --- files ----------------------------------------------------------------------------------

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, without the rows.

        Corrections by linear response that were asked for before are kept.
        """
        belief, tensors = belief_to_state(self.belief, "posterior")
        prior, more = belief_to_state(self.prior, "prior")
        names = None if self.feature_names is None else list(self.feature_names)
        tensors |= {f"excess.{name}": value for name, value in self._excesses.items()}
        header = {
            "excesses": sorted(self._excesses),
            "belief": belief,
            "prior": prior,
            "converged": self.converged,
            "feature_names": names,
        }
        return header, {**tensors, **more}

    @classmethod
    def from_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> VariationalPosterior:
        """Rebuild what :meth:`to_state` took apart, bit for bit."""
        found = cls(
            belief_from_state(header["belief"], tensors, "posterior"),
            belief_from_state(header["prior"], tensors, "prior"),
            converged=header["converged"],
            feature_names=header["feature_names"],
        )
        found._excesses = {name: tensors[f"excess.{name}"] for name in header["excesses"]}
        return found


def _flat(found: list[Quantity], belief: Belief) -> Tensor:
    return torch.cat([one.mean(belief).flatten() for one in found])


def _position(index: tuple[int, ...], shape: torch.Size) -> int:
    return int(np.ravel_multi_index(index, shape)) if index else 0
