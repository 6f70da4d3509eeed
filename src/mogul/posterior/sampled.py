"""A posterior known by draws from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.errors import InputError
from mogul.mixture import Mixture
from mogul.posterior import relabel
from mogul.posterior.arviz import data_tree
from mogul.posterior.base import Posterior, generator_of
from mogul.posterior.quantities import Quantity
from mogul.predictive import PooledMixture

__all__ = ["Empirical", "SampledPosterior"]


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
        shape = torch.Size(sample_shape)
        chosen = torch.randint(len(self.values), shape, generator=generator)
        return self.values[chosen.to(self.values.device)]

    def icdf(self, value: Any) -> Tensor:
        """The quantile of each entry."""
        return _sorted_quantiles(self.values, torch.as_tensor(value, dtype=torch.float64))

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError("Draws have no density; estimate one, or use mean and icdf.")


class SampledPosterior(Posterior):
    """A posterior as draws from several chains.

    Parameters
    ----------
    draws : Mixture, batch shape (chains, draws)
    log_joint : Tensor, shape (chains, draws)
        Log p(X, θ) of each, in nats.
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

    def with_rows(self, rows: Any, sample_weight: Any = None) -> SampledPosterior:
        """The same posterior with the rows that were fitted, after loading it."""
        values = torch.as_tensor(np.asarray(rows))
        weight = None if sample_weight is None else torch.as_tensor(np.asarray(sample_weight))
        return self._with(self.draws, self.permutations, Rows(values, weight))

    def _with(self, draws: Mixture, permutations: Tensor, rows: Rows | None) -> SampledPosterior:
        return SampledPosterior(
            draws,
            self.log_joint,
            rows,
            permutations=permutations,
            feature_names=self.feature_names,
        )

    @property
    def kind(self) -> type[Covariance]:
        return type(self.draws.covariance)

    def __repr__(self) -> str:
        chains, kept = self.draws.batch_shape
        return (
            f"SampledPosterior(n_components={self.draws.n_components}, "
            f"n_features={self.draws.n_features}, covariance_type={self.kind.name!r}, "
            f"chains={chains}, draws={kept})"
        )

    def _distribution(self, name: str) -> Empirical:
        return Empirical(self._values(name))

    def _flat(self) -> Mixture:
        """All draws in one batch, chain after chain."""
        whole = self.draws
        return Mixture(
            whole.log_weights.flatten(0, 1),
            whole.means.flatten(0, 1),
            replace(whole.covariance, factor=whole.covariance.factor.flatten(0, 1)),
            self.feature_names,
        )

    def _values(self, name: str) -> Tensor:
        """Every draw of a quantity, (chains · draws, *shape)."""
        return self._quantity(name).of(self._flat())

    # --- moments --------------------------------------------------------------------------------

    def mean(self) -> Mixture:
        kind, draws = self.kind, self.draws
        precisions = self._values("precisions").mean(0)
        covariance = kind.from_precisions(precisions, draws.n_components, draws.n_features)
        means = self._values("means").mean(0)
        return Mixture(self._values("weights").mean(0).log(), means, covariance, self.feature_names)

    def expectation(self, name: str) -> Tensor:
        return self._values(name).mean(0)

    def std(self, name: str, correction: str = "none") -> Tensor:
        self._before([name], correction)
        return self._values(name).std(0)

    def _quantiles(self, name: str, probabilities: Tensor, correction: str) -> Tensor:
        return _sorted_quantiles(self._values(name), probabilities).movedim(0, -1)

    def covariance(self, names: str | Sequence[str], correction: str = "none") -> Tensor:
        self._before(self._names(names), correction)
        columns = [
            self._values(one.name)[(slice(None), *index)]
            for one in self._found(names)
            for index in one.entries(self._values(one.name).shape[1:])
        ]
        return torch.cov(torch.stack(columns)).reshape(len(columns), len(columns))

    def entries(self, names: str | Sequence[str]) -> list[str]:
        return [
            f"{one.name}[{', '.join(map(str, index))}]"
            for one in self._found(names)
            for index in one.entries(self._values(one.name).shape[1:])
        ]

    def _found(self, names: str | Sequence[str]) -> list[Quantity]:
        return [self._quantity(name) for name in self._names(names)]

    def _before(self, names: Sequence[str], correction: str) -> None:
        super()._before(names, correction)
        if correction != "none":
            raise InputError(
                "Linear response corrects a mean-field posterior; these are draws of the posterior "
                'itself, which need no correction, so leave it at "none".'
            )

    # --- draws ----------------------------------------------------------------------------------

    def sample(
        self, n: int = 1000, *, generator: torch.Generator | None = None, seed: int = 0
    ) -> Mixture:
        """Some of the draws, without repetition."""
        wanted, kept = self._check_count(n), self.draws.batch_shape.numel()
        if wanted > kept:
            raise InputError(
                f"{wanted} draws were asked for and the sampler kept {kept}; ask for fewer, or fit "
                "with more draws or chains."
            )
        order = torch.randperm(kept, generator=generator or generator_of(seed, torch.device("cpu")))
        return self._flat()[order[:wanted]]

    def log_prob(self, mixture: Mixture) -> Tensor:
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
        rows = None if self.rows is None else self.rows.values
        known = relabel.Draws(self._flat(), self.log_joint.flatten(), rows)
        found = torch.from_numpy(relabel.permutations(method, known)).to(self.draws.device)
        order = found.reshape(self.permutations.shape)
        moved = self.permutations.take_along_dim(order, -1)
        return self._with(self.draws.reorder(order), moved, self.rows)

    def to_arviz(self, n: int = 1000, *, seed: int = 0) -> Any:
        """As an ArviZ ``DataTree`` of all chains and draws; ``n`` and ``seed`` are not needed.

        Needs the extra ``bayes`` and the rows that were fitted.
        """
        rows = self._training_rows(self.rows, "to_arviz")
        return data_tree(self.draws, {"lp": self.log_joint.flatten()}, rows, self.kind)

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


def _sorted_quantiles(values: Tensor, probabilities: Tensor) -> Tensor:
    """Quantiles over the first axis, interpolated; torch's own takes 16 million numbers at most."""
    found = np.quantile(values.detach().cpu().numpy(), probabilities.cpu().numpy(), axis=0)
    return torch.as_tensor(found).to(values)
