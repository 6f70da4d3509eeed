"""A posterior known by draws from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from mogul import kernels
from mogul._random import normal
from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.infer.chains import largest_r_hat
from mogul.mixture import Mixture
from mogul.posterior import relabel
from mogul.posterior.arviz import data_tree
from mogul.posterior.base import Posterior, generator_of
from mogul.posterior.quantities import Quantity
from mogul.predictive import PredictiveMixture

__all__ = ["Empirical", "PooledMixture", "SampledPosterior"]

_COMPONENTS_TOGETHER = 512
"""Components of one pass: more leave tiles of rows too short for a fast product."""
_SHARE_ELEMENTS = 1 << 22
"""Responsibilities of all draws that are held at once."""


class Empirical(Distribution):
    """The distribution of posterior draws of a quantity, as ``torch.distributions`` has it.

    Attributes
    ----------
    values : Tensor, shape (S, *event_shape)
    """

    def __init__(self, values: Tensor):
        self.values = values
        super().__init__(torch.Size(), values.shape[1:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.values.mean(0)

    @property
    def variance(self) -> Tensor:
        return self.values.var(0)

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draws, taken at random from those there are."""
        where = self.values.device if generator is None else generator.device
        chosen = torch.randint(
            len(self.values), torch.Size(sample_shape), generator=generator, device=where
        )
        return self.values[chosen.to(self.values.device)]

    def icdf(self, value: Any) -> Tensor:
        """The quantile of each entry."""
        return _sorted_quantiles(self.values, torch.as_tensor(value, dtype=torch.float64))

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError("Draws have no density; estimate one, or use mean and icdf.")


class PooledMixture(PredictiveMixture):
    r"""The average of the densities of S mixtures: the predictive density of posterior draws.

    .. math::
        p(x) = \frac1S \sum_s \sum_k w_{sk}\, \mathcal{N}(x \mid \mu_{sk}, \Sigma_{sk})

    Parameters
    ----------
    draws : Mixture, batch shape (S,)
        Component k of one draw must mean what it means in the others.
    """

    def __init__(self, draws: Mixture):
        self.draws = draws
        means = (_shares(draws).unsqueeze(-1) * draws.means).sum(0)
        super().__init__(draws.weights.mean(0).log(), means)

    @property
    def component_variance(self) -> Tensor:
        between = (self.draws.means - self.means).square()
        each = self.draws.covariance.variances() + between
        return (_shares(self.draws).unsqueeze(-1) * each).sum(0)

    @property
    def _row_elements(self) -> int:
        return max(1, self.draws.log_weights.numel() * (1 << 20) // _SHARE_ELEMENTS)

    def _groups(self) -> Iterator[tuple[Mixture, int]]:
        """Some draws at a time as one mixture of all their components, and how many they are."""
        step = max(1, _COMPONENTS_TOGETHER // self.n_components)
        for start in range(0, len(self.draws), step):
            some = self.draws[start : start + step]
            yield some.merged(), len(some)

    def component_terms(self, rows: Tensor) -> Tensor:
        total: list[Tensor] = []
        for mixture, n in self._groups():
            density = kernels.log_prob(rows, mixture).unsqueeze(-1)
            shares = kernels.responsibilities(rows, mixture)
            each = shares.unflatten(-1, (n, self.n_components)).sum(-2)  # (S, K)
            total.append(density + each.log() + math.log(n))
        pooled = torch.stack(total).logsumexp(0) - math.log(len(self.draws))
        return pooled.transpose(-1, -2)

    def _log_density(self, rows: Tensor) -> Tensor:
        """The density alone needs no responsibilities."""
        parts = [kernels.log_prob(rows, mixture) + math.log(n) for mixture, n in self._groups()]
        return torch.stack(parts).logsumexp(0) - math.log(len(self.draws))

    def marginal(self, features: Tensor) -> PooledMixture:
        """The density of some features, by their positions, in the given order."""
        return PooledMixture(self.draws.marginal(features.tolist()))

    def log_prob(self, value: Any) -> Tensor:
        rows, shape = self._as_rows(value)
        return self._log_density(rows).reshape(shape)

    def _placed(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = normal(self.means, torch.Size((len(labels), self.n_features)), generator)
        each = self.draws.weights[:, labels].T  # (rows, draws): where a component came from
        chosen = torch.multinomial(each, 1, generator=generator).squeeze(-1)
        factor = self.draws.covariance.scale_tril()[chosen, labels]
        centre = self.draws.means[chosen, labels]
        return centre + (factor @ noise.unsqueeze(-1)).squeeze(-1)


class SampledPosterior(Posterior):
    """A posterior as draws from several chains.

    Parameters
    ----------
    draws : Mixture, batch shape (chains, draws)
    log_joint : Tensor, shape (chains, draws)
        Log p(X, θ) of each as it was drawn, in nats.
    rows : Rows, optional
        What was fitted.
    permutations : Tensor, shape (chains, draws, K), optional
        Which component of the sampler each of these is: what relabelling did.
    feature_names : sequence of D strings, optional
    """

    def __init__(
        self,
        draws: Mixture,
        log_joint: Tensor,
        rows: Rows | None = None,
        *,
        permutations: Tensor | None = None,
        feature_names: Sequence[str] | None = None,
    ):
        self.draws, self.log_joint, self.rows = draws, log_joint, rows
        k = draws.n_components
        same = torch.arange(k, device=draws.device).expand(*draws.batch_shape, k)
        self.permutations = same if permutations is None else permutations
        self.feature_names = None if feature_names is None else tuple(feature_names)

    def _with(self, draws: Mixture, permutations: Tensor, rows: Rows | None) -> Self:
        return type(self)(
            draws,
            self.log_joint,
            rows,
            permutations=permutations,
            feature_names=self.feature_names,
        )

    def _with_rows(self, rows: Rows) -> Self:
        return self._with(self.draws, self.permutations, rows)

    @property
    def kind(self) -> type[Covariance]:
        return type(self.draws.covariance)

    @property
    def n_components(self) -> int:
        return self.draws.n_components

    @property
    def n_features(self) -> int:
        return self.draws.n_features

    @property
    def n_kept(self) -> int:
        return self.draws.batch_shape.numel()

    def __repr__(self) -> str:
        chains, kept = self.draws.batch_shape
        return (
            f"SampledPosterior(n_components={self.n_components}, n_features={self.n_features}, "
            f"covariance_type={self.kind.name!r}, chains={chains}, draws={kept})"
        )

    def _distribution(self, name: str) -> Empirical:
        return Empirical(self._values(self._quantity(name)))

    def _flat(self) -> Mixture:
        """All draws in one batch, chain after chain."""
        whole = self.draws
        return Mixture(
            whole.log_weights.flatten(0, 1),
            whole.means.flatten(0, 1),
            replace(whole.covariance, factor=whole.covariance.factor.flatten(0, 1)),
            self.feature_names,
        )

    def _values(self, wanted: Quantity) -> Tensor:
        """Every draw of a quantity, (chains · draws, *shape)."""
        return wanted.of(self._flat())

    # --- moments --------------------------------------------------------------------------------

    def mean(self) -> Mixture:
        kind, draws = self.kind, self.draws
        covariance = kind.from_precisions(
            self.expectation("precisions"), draws.n_components, draws.n_features
        )
        weights, means = self.expectation("weights"), self.expectation("means")
        return Mixture(weights.log(), means, covariance, self.feature_names)

    def _expectation(self, wanted: Quantity) -> Tensor:
        return self._values(wanted).mean(0)

    def _variance(self, wanted: Quantity, correction: str) -> Tensor:
        return self._spread_out(self._values(wanted)).var(0)

    @staticmethod
    def _spread_out(values: Tensor) -> Tensor:
        if len(values) < 2:
            raise InputError("A single draw tells nothing of a spread; fit with more draws.")
        return values

    def _quantiles(self, name: str, probabilities: Tensor, correction: str) -> Tensor:
        values = self._values(self._quantity(name))
        return _sorted_quantiles(values, probabilities).movedim(0, -1)

    def _covariance(self, found: list[Quantity], correction: str) -> Tensor:
        columns = [
            values[(slice(None), *index)]
            for one in found
            for values in [self._spread_out(self._values(one))]
            for index in one.entries(values.shape[1:], self.kind)
        ]
        return torch.cov(torch.stack(columns)).reshape(len(columns), len(columns))

    def _before(self, names: Sequence[str], correction: str) -> None:
        super()._before(names, correction)
        if correction != "none":
            raise InputError(
                "Linear response corrects a mean-field posterior; these are draws of the posterior "
                'itself, which need no correction, so leave it at "none".'
            )

    def r_hat(self) -> float:
        """Whether the chains agree: a split R̂ that labels do not change.

        The largest of the joint log-density and of the weights in order of size. Near 1 when chains
        mix; above 1.05 more warmup is needed (Gelman and Rubin 1992; Vehtari and others 2021). NaN
        for fewer than four draws of each chain.
        """
        return largest_r_hat(self.draws, self.log_joint)

    # --- draws ----------------------------------------------------------------------------------

    def _sample(self, n: int | None, generator: torch.Generator | None, seed: int) -> Mixture:
        """Some of the draws, without repetition, or all of them."""
        if n is None:
            return self._flat()
        if n > self.n_kept:
            raise InputError(
                f"{n} draws were asked for and the sampler kept {self.n_kept}; ask for fewer, or "
                "fit with more draws or chains."
            )
        chosen = generator or generator_of(seed, torch.device("cpu"))
        order = torch.randperm(self.n_kept, generator=chosen, device=chosen.device)
        return self._flat()[order[:n].cpu()]

    def _log_prob(self, mixture: Mixture) -> Tensor:
        raise InputError(
            "A sampled posterior has no density of its own; log_joint holds log p(X, θ) of each "
            'draw, and inference="cavi" gives a posterior with a density.'
        )

    def predictive(self) -> PooledMixture:
        return PooledMixture(self._flat())

    def relabel(self, method: str = "pivot") -> SampledPosterior:
        """The same draws with their components in one order.

        Parameters
        ----------
        method : {"pivot", "ordering", "ecr", "stephens"}, default "pivot"
            "pivot" matches each draw's parameters to those of the likeliest draw (Marin, Mengersen
            and Robert 2005); "ordering" sorts by the means of one feature; "ecr" matches which rows
            belong together (Papastamoulis and Iliopoulos 2010), and "stephens" responsibilities
            (Stephens 2000).

        Returns
        -------
        SampledPosterior
            Its ``permutations`` say which component of the sampler each now is.
        """
        rows = self.rows if isinstance(self.rows, Rows) else None
        values = None if rows is None else rows.values
        known = relabel.Draws(self._flat(), self.log_joint.flatten(), values)
        found = torch.from_numpy(relabel.permutations(method, known)).to(self.draws.device)
        order = found.reshape(self.permutations.shape)
        moved = self.permutations.take_along_dim(order, -1)
        return self._with(self.draws.reorder(order), moved, rows)

    def to_arviz(self, n: int | None = None, *, seed: int = 0) -> Any:
        """As an ArviZ ``DataTree`` of all chains, with the joint log-density ``lp``.

        ``n`` draws of each chain, evenly spaced; see :meth:`Posterior.to_arviz`.
        """
        rows = self._training_rows("to_arviz")
        per_chain = self.draws.batch_shape[1]
        if n is not None and n > per_chain:
            raise InputError(f"{n} draws of each chain were asked for and there are {per_chain}.")
        at = np.linspace(0, per_chain - 1, n or per_chain).round().astype(int)
        chosen = (slice(None), torch.from_numpy(at))
        stats = {"lp": self.log_joint[chosen].flatten()}
        return data_tree(self.draws[chosen], stats, rows, self.kind)

    # --- files ----------------------------------------------------------------------------------

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, without the rows."""
        draws, tensors = self.draws.to_state()
        draws["feature_names"] = None if self.feature_names is None else list(self.feature_names)
        more = {"log_joint": self.log_joint, "permutations": self.permutations}
        return {"draws": draws}, {**tensors, **more}

    @classmethod
    def from_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> SampledPosterior:
        """Rebuild what :meth:`to_state` took apart, bit for bit."""
        draws = Mixture.from_state(header["draws"], tensors)
        return cls(
            draws,
            tensors["log_joint"],
            permutations=tensors["permutations"],
            feature_names=draws.feature_names,
        )


def _shares(draws: Mixture) -> Tensor:
    """Each draw's part of the weight of a component, (S, K); the same where none has any."""
    return torch.softmax(draws.log_weights.clamp_min(torch.finfo(draws.dtype).min), 0)


def _sorted_quantiles(values: Tensor, probabilities: Tensor) -> Tensor:
    """Quantiles over the first axis, interpolated; torch's own takes 16 million numbers at most."""
    found = np.quantile(values.detach().cpu().numpy(), probabilities.cpu().numpy(), axis=0)
    return torch.as_tensor(found).to(values)
