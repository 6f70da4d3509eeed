"""What is believed of the parameters of a mixture: the questions that inference asks of it.

A belief is a distribution over weights, means and precisions. A prior is one, and so is the
approximation of a posterior. Nothing here knows which algorithm runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from mogul.beliefs.record import Record
from mogul.beliefs.wishart import WishartPrecisions
from mogul.covariances import Covariance
from mogul.mixture import Mixture
from mogul.predictive import PredictiveMixture
from mogul.stats import Stats

__all__ = ["Belief", "ComponentBelief", "WeightBelief"]


class WeightBelief(Record, ABC):
    """A distribution of the weights (*batch, K)."""

    @property
    @abstractmethod
    def n_components(self) -> int:
        """K."""

    @abstractmethod
    def mean(self) -> Tensor:
        """E[w], (*batch, K)."""

    @abstractmethod
    def expected_log(self) -> Tensor:
        """E[log w], (*batch, K)."""

    @abstractmethod
    def log_covariance(self) -> Tensor:
        """Cov(log w), (*batch, K, K)."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """Cov(w), (*batch, K, K)."""

    @abstractmethod
    def updated(self, count: Tensor) -> Self:
        """The posterior of this prior once ``count`` (*batch, K) rows were seen."""

    @abstractmethod
    def blended(self, other: Any, step: float) -> Self:
        """(1 − step) self + step other, in natural parameters."""

    @abstractmethod
    def divergence(self, other: Any) -> Tensor:
        """KL(self ‖ other) in nats, (*batch)."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Draws of log w, (*shape, *batch, K); differentiable."""

    @abstractmethod
    def log_prob(self, log_weights: Tensor) -> Tensor:
        """Log-density of w in the first K − 1 weights, (*)."""

    @abstractmethod
    def selected(self, components: Tensor) -> Self:
        """As a prior, the same for some components only."""

    @abstractmethod
    def distribution(self) -> Distribution:
        """As a ``torch.distributions`` object with event shape (K,)."""

    @abstractmethod
    def encode(self, reference: Any) -> Tensor:
        """An unconstrained vector, zero at ``reference``."""

    @abstractmethod
    def decode(self, values: Tensor) -> Self:
        """The inverse of :meth:`encode`, of which this is the reference."""

    @abstractmethod
    def concentrations(self) -> tuple[Tensor, ...]:
        """What scikit-learn calls the weight concentration: (K,) once, or twice for breaks."""

    @abstractmethod
    def quantiles(self, probabilities: Tensor, variance: Tensor) -> Tensor:
        """Quantiles of each weight of a single belief, (K, P), when variances are those given."""

    @abstractmethod
    def counts_beyond(self, prior: Any) -> Tensor:
        """The rows that must have been seen by ``prior`` to become this, (*batch, K)."""

    def swapped(self, count: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """As a prior, a random order (*batch, K) of components of so many rows; None if all are.

        A draw by Metropolis' rule: orders come up as often as they are likely.
        """
        return None

    def by_size(self, count: Tensor) -> Tensor | None:
        """As a prior, an order of components likelier than that of ``count`` (K); None if it is."""
        return None


class ComponentBelief(Record, ABC):
    """A distribution of the means (*batch, K, D) and precisions of K components."""

    precisions: WishartPrecisions

    @property
    def kind(self) -> type[Covariance]:
        """The covariance structure."""
        return self.precisions.kind

    def widened(self, variance: float) -> Self:
        """As a prior, with a guess of the covariances that has more variance in every feature."""
        wider = self.precisions.widened(variance)
        return replace(self, precisions=wider)  # type: ignore[type-var]  # its subclasses are

    @property
    @abstractmethod
    def loc(self) -> Tensor:
        """E[μ], (*batch, K, D)."""

    @abstractmethod
    def expected(self) -> tuple[Covariance, Tensor]:
        r"""Of which normal density :math:`E[\log N(x; \mu, \Lambda^{-1})]` is the logarithm.

        Returns
        -------
        covariance : Covariance
            The inverse of E[Λ]; the mean is :attr:`loc`.
        log_constant : Tensor, shape (*batch, K)
            What is to be added to the logarithm: it is at most zero.
        """

    @abstractmethod
    def updated(self, stats: Stats, covariance: Covariance) -> Self:
        """The best belief of this family given responsibilities; this is the prior.

        ``covariance`` is the inverse of the expected precisions so far, which the means are updated
        by where the family has them independent of the precisions.
        """

    @abstractmethod
    def stepped(self, prior: Any, stats: Stats, step: float) -> Self:
        """A natural-gradient step from this belief; a step of one is :meth:`updated`.

        In natural parameters the step is towards ``prior.updated(...)`` (Hoffman, Blei, Wang and
        Paisley 2013), factor by factor where the family has independent factors.
        """

    @abstractmethod
    def resampled(
        self, stats: Stats, covariance: Covariance, generator: torch.Generator | None
    ) -> tuple[Tensor, Covariance]:
        """A Gibbs draw of means and covariances given whose rows are whose; this is the prior.

        ``covariance`` is the current draw, of which the means are drawn where the family cannot
        draw both together.
        """

    @abstractmethod
    def divergence(self, other: Any) -> Tensor:
        """KL(self ‖ other) in nats, (*batch)."""

    @abstractmethod
    def sample(
        self, shape: tuple[int, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, Covariance]:
        """Draws of means and covariances, batch shape (*shape, *batch); differentiable."""

    @abstractmethod
    def log_prob(self, means: Tensor, covariance: Covariance) -> Tensor:
        """Log-density of means and precisions, in the coordinates of the precisions' blocks."""

    @abstractmethod
    def selected(self, components: Tensor) -> Self:
        """The belief of some components, in the given order."""

    @abstractmethod
    def hyperparameters(self) -> dict[str, Tensor]:
        """What scikit-learn has names for, by name: degrees of freedom are in rows."""

    @abstractmethod
    def mean_distribution(self) -> Distribution:
        """The marginal distribution of the means, in torch's words."""

    @abstractmethod
    def mean_marginals(self) -> tuple[Tensor, Tensor]:
        """Degrees of freedom and scale of each mean's Student t distribution, (*batch, K, D) each.

        Degrees are infinite where it is normal.
        """

    @abstractmethod
    def mean_covariance(self) -> Tensor:
        """Cov(μ_k), (*batch, K, D, D); means of different components are uncorrelated.

        Where there is none, variances are infinite and covariances NaN.
        """

    @abstractmethod
    def predictive(self, weights: Tensor) -> PredictiveMixture:
        """The density of a new row, for expected ``weights`` (K); of a single belief."""

    @abstractmethod
    def encode(self, reference: Any) -> Tensor:
        """An unconstrained vector, zero at ``reference`` and free of units."""

    @abstractmethod
    def decode(self, values: Tensor) -> Self:
        """The inverse of :meth:`encode`, of which this is the reference."""

    @property
    @abstractmethod
    def exchangeable(self) -> bool:
        """Whether all components are believed the same, as most priors have it."""


@dataclass(frozen=True)
class Belief(Record):
    """A distribution of all parameters of a mixture, weights independent of the rest.

    Attributes
    ----------
    weights : WeightBelief
    components : ComponentBelief
    """

    weights: WeightBelief
    components: ComponentBelief

    def surrogate(self) -> tuple[Mixture, Tensor]:
        r"""The mixture whose responsibilities are the optimal ones of this belief.

        :math:`E[\log w_k + \log N(x; \mu_k, \Sigma_k)]` is, up to a constant for each component,
        the logarithm of a normal density. So the E-step of this mixture is the variational one.

        Returns
        -------
        mixture : Mixture
        log_constant : Tensor, shape (*batch)
            To be added to each row's log-density: Σ_k exp of the expectations is not normalised.
        """
        covariance, constant = self.components.expected()
        logits = self.weights.expected_log() + constant
        return Mixture(logits, self.components.loc, covariance), logits.logsumexp(-1)

    def updated(self, stats: Stats, covariance: Covariance) -> Belief:
        """The coordinate update of this prior; see :meth:`ComponentBelief.updated`."""
        weights = self.weights.updated(stats.count)
        return Belief(weights, self.components.updated(stats, covariance))

    def stepped(self, prior: Belief, stats: Stats, step: float) -> Belief:
        """A natural-gradient step from this belief."""
        weights = self.weights.blended(prior.weights.updated(stats.count), step)
        return Belief(weights, self.components.stepped(prior.components, stats, step))

    def swapped(self, count: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """As a prior, an order of components in the place of the one they have; None to keep it."""
        if not self.components.exchangeable:
            return None
        return self.weights.swapped(count, generator)

    def in_order(self, prior: Belief) -> Belief:
        """A single belief with its components in the order that the prior of the weights prefers.

        As it is where the prior prefers none, or knows components apart.
        """
        count = self.weights.counts_beyond(prior.weights)
        order = prior.weights.by_size(count) if prior.components.exchangeable else None
        if order is None:
            return self
        return Belief(prior.weights.updated(count[order]), self.components.selected(order))

    def divergence(self, prior: Belief) -> Tensor:
        """KL(self ‖ prior) in nats, (*batch)."""
        return self.weights.divergence(prior.weights) + self.components.divergence(prior.components)

    def sample(
        self, shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Mixture:
        """Mixtures drawn from this belief, batch shape (*shape, *batch); differentiable."""
        log_weights = self.weights.sample(shape, generator)
        return Mixture(log_weights, *self.components.sample(shape, generator))

    def log_prob(self, mixture: Mixture) -> Tensor:
        """The log-density of a mixture's parameters, in nats: of weights, means and precisions."""
        return self.weights.log_prob(mixture.log_weights) + self.components.log_prob(
            mixture.means, mixture.covariance
        )

    def mean(self) -> Mixture:
        """The mixture of the expected weights, means and precisions."""
        covariance, _ = self.components.expected()
        return Mixture(self.weights.mean().log(), self.components.loc, covariance)

    def predictive(self) -> PredictiveMixture:
        """The density of a new row when the parameters are as uncertain as believed."""
        return self.components.predictive(self.weights.mean())

    def encode(self, reference: Belief) -> Tensor:
        """An unconstrained vector of a single belief, zero at ``reference`` and free of units."""
        parts = (
            self.weights.encode(reference.weights),
            self.components.encode(reference.components),
        )
        return torch.cat(parts)

    def decode(self, values: Tensor) -> Belief:
        """The inverse of :meth:`encode`, of which this is the reference."""
        n = self.weights.encode(self.weights).numel()
        return Belief(self.weights.decode(values[:n]), self.components.decode(values[n:]))
