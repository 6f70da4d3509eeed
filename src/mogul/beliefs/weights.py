"""Beliefs of mixture weights: Dirichlet, and stick-breaking."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, constraints
from torch.distributions.distribution import Distribution

from mogul._random import log_gamma
from mogul.beliefs.base import WeightBelief

__all__ = ["DirichletWeights", "StickBreaking", "StickBreakingWeights"]

_QUANTILE_DRAWS = 20_000
"""A 2.5 % quantile of so many draws is right to a fortieth of a standard deviation."""
_SCORE = 0.02
"""The distance of the normal scores at which quantiles are kept."""
_MOST_SCORES = 150
"""On each side of the median; beyond three standard deviations there are but a few draws."""
_SLOPE_OVER = 75
"""Scores at each end that the line beyond it takes its slope from."""
_SMOOTHED = 30
"""Scores on each side, three deviations of the kernel, that a quantile is averaged over."""
_MOST_SWAPS = 8
"""Pairs of components that a sweep of a sampler offers to exchange."""
_ROUNDING = 1e-12
"""Of a log evidence: orders that differ by less are equally likely."""
_LEAST_TOTAL = 1.0
"""Of the two counts of a Beta distribution, at which it is about as wide as there is."""


@dataclass(frozen=True)
class DirichletWeights(WeightBelief):
    r"""w ~ Dirichlet(c): :math:`p(w) \propto \prod_k w_k^{c_k - 1}`.

    Attributes
    ----------
    concentration : Tensor, shape (*batch, K)
    """

    concentration: Tensor

    @property
    def n_components(self) -> int:
        return self.concentration.shape[-1]

    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, keepdim=True)

    def expected_log(self) -> Tensor:
        total = self.concentration.sum(-1, keepdim=True)
        return self.concentration.digamma() - total.digamma()

    def log_covariance(self) -> Tensor:
        own = torch.diag_embed(torch.polygamma(1, self.concentration))
        return own - torch.polygamma(1, self.concentration.sum(-1))[..., None, None]

    def covariance(self) -> Tensor:
        mean, total = self.mean(), self.concentration.sum(-1)[..., None, None]
        return (torch.diag_embed(mean) - mean.unsqueeze(-1) * mean.unsqueeze(-2)) / (total + 1)

    def updated(self, count: Tensor) -> Self:
        return type(self)(self.concentration + count)

    def blended(self, other: Self, step: float) -> Self:
        return type(self)(torch.lerp(self.concentration, other.concentration, step))

    def divergence(self, other: Self) -> Tensor:
        gap = self.concentration - other.concentration
        gain = (gap * self.expected_log()).sum(-1)
        return gain + _log_dirichlet(other.concentration) - _log_dirichlet(self.concentration)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        many = self.concentration.expand(*shape, *self.concentration.shape)
        return torch.log_softmax(log_gamma(many, generator), -1)

    def log_prob(self, log_weights: Tensor) -> Tensor:
        inside = ((self.concentration - 1) * log_weights).sum(-1)
        return inside - _log_dirichlet(self.concentration)

    def concentrations(self) -> tuple[Tensor, ...]:
        return (self.concentration,)

    def quantiles(self, probabilities: Tensor, variance: Tensor) -> Tensor:
        """Of Beta distributions with these variances."""
        mean = self.mean()
        # No Beta variable has as much variance as a coin; a response may ask for more.
        total = (mean * (1 - mean) / variance - 1).clamp_min(_LEAST_TOTAL)
        counts = [(part * total).cpu().numpy()[..., None] for part in (mean, 1 - mean)]
        with np.errstate(all="ignore"):
            found = scipy.stats.beta.ppf(probabilities.cpu().numpy(), *counts)
        known = torch.from_numpy(found).to(mean)
        return known if self.n_components > 1 else torch.ones_like(known)

    def counts_beyond(self, prior: Self) -> Tensor:
        return self.concentration - prior.concentration

    def selected(self, components: Tensor) -> Self:
        return type(self)(self.concentration[..., components])

    def distribution(self) -> Dirichlet:
        return Dirichlet(self.concentration)

    def encode(self, reference: Self) -> Tensor:
        """Log of the total, and log-ratios to the last concentration, less those of the reference.

        Strength and place are then nearly apart, as they are not in the logarithms themselves. A
        single weight is one, however strongly believed: it has no coordinates.
        """
        if self.n_components == 1:
            return self.concentration[..., :0]
        total = (self.concentration.sum(-1) / reference.concentration.sum(-1)).log()
        log = (self.concentration / reference.concentration).log()
        return torch.cat([total.unsqueeze(-1), log[..., :-1] - log[..., -1:]], -1)

    def decode(self, values: Tensor) -> Self:
        if self.n_components == 1:
            return self
        log = self.concentration.log() + _ended(values[..., 1:], 0.0)
        total = self.concentration.sum(-1, keepdim=True) * values[..., :1].exp()
        return type(self)(total * torch.softmax(log, -1))


@dataclass(frozen=True)
class StickBreakingWeights(WeightBelief):
    r"""A stick broken K − 1 times: :math:`w_k = v_k \prod_{j<k} (1 - v_j)`, the last what is left.

    :math:`v_k \sim \mathrm{Beta}(a_k, b_k)`. With a = 1 and b = α this is the Dirichlet process of
    concentration α, cut off at K components (Sethuraman 1994; Ishwaran and James 2001).

    Attributes
    ----------
    taken, left : Tensor, shape (*batch, K − 1)
        a and b.
    """

    taken: Tensor
    left: Tensor

    @property
    def n_components(self) -> int:
        return self.taken.shape[-1] + 1

    def _betas(self) -> DirichletWeights:
        """Each break as a Dirichlet distribution of two weights."""
        return DirichletWeights(torch.stack([self.taken, self.left], -1))

    def mean(self) -> Tensor:
        taken, left = self._betas().mean().unbind(-1)
        return _broken(taken.log(), left.log()).exp()

    def expected_log(self) -> Tensor:
        return _broken(*self._betas().expected_log().unbind(-1))

    def log_covariance(self) -> Tensor:
        breaks = self._betas().log_covariance()  # (*batch, K − 1, 2, 2)
        map_taken, map_left = self._log_maps()
        maps = torch.stack([map_taken, map_left], -1)  # (K, K − 1, 2)
        return torch.einsum("kja,...jab,ljb->...kl", maps, breaks, maps)

    def _log_maps(self) -> tuple[Tensor, Tensor]:
        """Log w as linear maps of log v and of log (1 − v), each (K, K − 1)."""
        k = self.n_components
        taken = torch.eye(k, k - 1, dtype=self.taken.dtype, device=self.taken.device)
        left = torch.ones_like(taken).tril(-1)
        return taken, left

    def covariance(self) -> Tensor:
        first, second = self._betas().mean(), self._betas().covariance()
        squares = second + first.unsqueeze(-1) * first.unsqueeze(-2)  # E of products of a break
        # E[w_k w_l], k < l: breaks before k leave twice, k itself takes once and leaves once, and
        # breaks between k and l leave once.
        both_left = _before(squares[..., 1, 1].log()).exp()  # (*batch, K)
        left = _before(first[..., 1].log())
        pair = _ended(squares[..., 0, 1], 0.0) * both_left
        between = left.unsqueeze(-2) - (left + _ended(first[..., 1].log(), 0.0)).unsqueeze(-1)
        later = pair.unsqueeze(-1) * between.exp() * _ended(first[..., 0], 1.0).unsqueeze(-2)
        upper = torch.triu(later, 1)
        own = torch.diag_embed(_ended(squares[..., 0, 0], 1.0) * both_left)
        mean = self.mean()
        products = own + upper + upper.transpose(-1, -2)
        return products - mean.unsqueeze(-1) * mean.unsqueeze(-2)

    def updated(self, count: Tensor) -> Self:
        after = count.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return type(self)(self.taken + count[..., :-1], self.left + after)

    def blended(self, other: Self, step: float) -> Self:
        return type(self)(
            torch.lerp(self.taken, other.taken, step), torch.lerp(self.left, other.left, step)
        )

    def divergence(self, other: Self) -> Tensor:
        return self._betas().divergence(other._betas()).sum(-1)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return _broken(*self._betas().sample(shape, generator).unbind(-1))

    def log_prob(self, log_weights: Tensor) -> Tensor:
        rest = log_weights.flip(-1).logcumsumexp(-1).flip(-1)  # of the stick before each break
        taken, left = log_weights[..., :-1] - rest[..., :-1], rest[..., 1:] - rest[..., :-1]
        breaks = self._betas().log_prob(torch.stack([taken, left], -1)).sum(-1)
        return breaks - rest[..., :-1].sum(-1)

    def concentrations(self) -> tuple[Tensor, ...]:
        """Of the Beta distributions of the breaks; the last component takes what is left."""
        return _ended(self.taken, 1.0), _ended(self.left, 0.0)

    def counts_beyond(self, prior: Self) -> Tensor:
        if self.n_components == 1:
            return torch.zeros_like(self.mean())
        last = (self.left - prior.left)[..., -1:]
        return torch.cat([self.taken - prior.taken, last], -1)

    def selected(self, components: Tensor) -> Self:
        n_breaks = len(components) - 1  # each as before, whichever component it now takes from
        return type(self)(self.taken[..., :n_breaks], self.left[..., :n_breaks])

    def distribution(self) -> StickBreaking:
        return StickBreaking(self)

    def encode(self, reference: Self) -> Tensor:
        return self._betas().encode(reference._betas()).flatten()

    def decode(self, values: Tensor) -> Self:
        breaks = self._betas().decode(values.reshape(*self.taken.shape, 2)).concentration
        return type(self)(*breaks.unbind(-1))

    def by_size(self, count: Tensor) -> Tensor | None:
        """Some component last and the others largest first: whichever of these is likeliest.

        No other order is likelier. For an endless stick largest first is (Kurihara, Welling and Teh
        2007); here the last component takes what is left, which for α > 1 suits a larger one.
        """
        # Stable, so that equal counts, of empty components say, do not change places.
        falling = torch.argsort(count, descending=True, stable=True)
        choices = torch.stack(
            [
                torch.cat([falling[:k], falling[k + 1 :], falling[k : k + 1]])
                for k in range(len(count))
            ]
        )
        values = self._log_evidence(count[choices])
        here = self._log_evidence(count)
        best = int(values.argmax())
        gain = float(values[best] - here)
        return choices[best] if gain > _ROUNDING * (1 + abs(float(here))) else None

    def swapped(self, count: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Pairs change places by Metropolis' rule, the weights integrated out.

        Components of a stick cannot change places by themselves once they are apart, and a sampler
        would stay in the order that it began with (Papaspiliopoulos and Roberts 2008).
        """
        k = self.n_components
        if k == 1:
            return None
        order = torch.arange(k, device=count.device).expand(count.shape).clone()
        here = self._log_evidence(count)
        shape, device = (*count.shape[:-1], 1), count.device
        for _ in range(min(k, _MOST_SWAPS)):
            first = torch.randint(k, shape, generator=generator, device=device)
            apart = torch.randint(1, k, shape, generator=generator, device=device)
            pair = torch.cat([first, (first + apart) % k], -1)
            moved = count.scatter(-1, pair, count.gather(-1, pair.flip(-1)))
            there = self._log_evidence(moved)
            chance = torch.rand(here.shape, generator=generator, device=device, dtype=here.dtype)
            taken = chance.log() < there - here
            order_moved = order.scatter(-1, pair, order.gather(-1, pair.flip(-1)))
            count = torch.where(taken.unsqueeze(-1), moved, count)
            order = torch.where(taken.unsqueeze(-1), order_moved, order)
            here = torch.where(taken, there, here)
        return order

    def _log_evidence(self, count: Tensor) -> Tensor:
        """Log p of labels with these counts, when this is the prior."""
        after = self.updated(count)._betas().concentration
        return (_log_dirichlet(after) - _log_dirichlet(self._betas().concentration)).sum(-1)

    def quantiles(self, probabilities: Tensor, variance: Tensor) -> Tensor:
        """Of draws, since a product of Beta variables has no quantiles in closed form.

        Another variance stretches them about the median, in log-odds.
        """
        if self.n_components == 1:
            return variance.new_ones(1, len(probabilities))
        table = self._log_odds
        at = torch.special.ndtri(probabilities).to(table) / _SCORE + _MOST_SCORES
        # Beyond the table a line goes on: right near normal, and an estimate elsewhere.
        low = at.floor().long().clamp(0, len(table) - 2)
        inside = (at >= 0) & (at <= len(table) - 1)
        last = torch.where(at > _MOST_SCORES, len(table) - 1, 0)
        before = torch.where(at > _MOST_SCORES, last - _SLOPE_OVER, last + _SLOPE_OVER)
        slope = (table[last] - table[before]) / (last - before).unsqueeze(-1)
        beyond = table[last] + slope * (at - last).unsqueeze(-1)
        known = torch.lerp(table[low], table[low + 1], (at - low).clamp(0, 1).unsqueeze(-1))
        found = torch.where(inside.unsqueeze(-1), known, beyond)
        own = torch.diagonal(self.covariance(), dim1=-2, dim2=-1)
        middle = table[_MOST_SCORES]
        wider = torch.where(own > 0, (variance / own).sqrt(), 1.0)
        return torch.sigmoid(middle + wider * (found - middle)).T

    @cached_property
    def _log_odds(self) -> Tensor:
        """Log-odds of each weight at normal scores that are ``_SCORE`` apart, (scores, K).

        As a function of the score it is nearly straight, so that it can be smoothed.
        """
        seeded = torch.Generator(device=self.taken.device).manual_seed(0)
        log = self.detach().sample((_QUANTILE_DRAWS,), seeded)  # (draws, K)
        before = log.logcumsumexp(-1)[:, :-1]
        after = log.flip(-1).logcumsumexp(-1).flip(-1)[:, 1:]
        # Of all other weights together: 1 − w would lose what is near one.
        inner = torch.logaddexp(before[:, :-1], after[:, 1:])
        others = torch.cat([after[:, :1], inner, before[:, -1:]], -1)
        odds = (log - others).sort(0).values
        reach = _MOST_SCORES + _SMOOTHED
        scores = _SCORE * torch.arange(-reach, reach + 1).to(odds)
        ranks = torch.special.ndtr(scores) * len(odds) - 0.5
        rough = odds[ranks.round().long().clamp(0, len(odds) - 1)]
        kernel = torch.exp(-0.5 * (3.0 / _SMOOTHED * torch.arange(-_SMOOTHED, _SMOOTHED + 1)) ** 2)
        windows = rough.unfold(0, 2 * _SMOOTHED + 1, 1)  # (scores, K, window)
        return windows @ (kernel / kernel.sum()).to(odds)


class StickBreaking(Distribution):
    """The distribution of weights (K,) made by breaking a stick, in torch's words.

    Attributes
    ----------
    breaks : torch.distributions.Beta
        Of the share that each component takes of what is left, batch shape (K − 1,).
    """

    has_rsample = True

    def __init__(self, belief: StickBreakingWeights):
        self._belief = belief
        self.breaks = Beta(belief.taken, belief.left, validate_args=False)
        shape = belief.taken.shape
        super().__init__(shape[:-1], torch.Size([shape[-1] + 1]), validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        return constraints.simplex

    @property
    def mean(self) -> Tensor:
        return self._belief.mean()

    @property
    def variance(self) -> Tensor:
        return torch.diagonal(self._belief.covariance(), dim1=-2, dim2=-1)

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def rsample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw so that gradients reach the breaks."""
        return self._belief.sample(tuple(sample_shape), generator).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density in the first K − 1 weights."""
        return self._belief.log_prob(value.log())


def _log_dirichlet(concentration: Tensor) -> Tensor:
    """The logarithm of the normalising constant."""
    return concentration.lgamma().sum(-1) - concentration.sum(-1).lgamma()


def _before(values: Tensor) -> Tensor:
    """Sums over what comes before, (*, K − 1) to (*, K)."""
    return torch.cat([values.new_zeros((*values.shape[:-1], 1)), values.cumsum(-1)], -1)


def _ended(values: Tensor, last: float) -> Tensor:
    """One more value at the end, (*, K − 1) to (*, K)."""
    return torch.nn.functional.pad(values, (0, 1), value=last)


def _broken(log_taken: Tensor, log_left: Tensor) -> Tensor:
    """Log-weights of breaks, (*, K − 1) to (*, K)."""
    return _ended(log_taken, 0.0) + _before(log_left)
