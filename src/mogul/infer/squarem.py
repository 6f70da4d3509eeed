"""Guarded extrapolation of a fixed-point map of mixtures: first-order SQUAREM."""

from __future__ import annotations

import torch
from torch import Tensor

from mogul.mixture import Mixture

__all__ = ["Squarem"]

_FIRST_MAX_STEP = 4.0
_STEP_GROWTH = 4.0


class Squarem:
    r"""Proposes points beyond two EM maps, for one start.

    With r = F(θ) − θ and v = F(F(θ)) − F(θ) − r, the proposal is
    :math:`\theta + 2\alpha r + \alpha^2 v` with :math:`\alpha = \|r\| / \|v\| \ge 1` (Varadhan and
    Roland 2008, scheme S3), in a chart without constraints that does not depend on the units of the
    features: log-weights, means in units of the component's own Cholesky factor, and the logarithm
    of the factor relative to it.

    The evaluation of a proposal is also the E-step of the next map, so a rejected proposal costs
    one pass. It is accepted only when it gains, over the last evaluated point, at least what that
    point gained over the one before: EM itself would be expected to gain no more.
    """

    def __init__(self) -> None:
        self._trail: list[tuple[Mixture, float]] = []
        self._fallback: Mixture | None = None
        self._required = -float("inf")
        self._step = 1.0
        self._max_step = _FIRST_MAX_STEP

    @property
    def pending(self) -> bool:
        """Whether the point last returned by :meth:`advance` is a proposal."""
        return self._fallback is not None

    def rejects(self, log_likelihood: float) -> bool:
        """Whether the pending proposal, evaluated to ``log_likelihood``, must be given up."""
        return self.pending and not log_likelihood >= self._required

    def fall_back(self) -> Mixture:
        """Give the pending proposal up; the plain map's point, and shorter steps from now on."""
        assert self._fallback is not None
        point, self._fallback = self._fallback, None
        self._max_step = max(_FIRST_MAX_STEP, self._step / _STEP_GROWTH)
        return point

    def restart(self) -> None:
        """Forget the trail: the map itself has changed (a component was repaired)."""
        self._trail, self._fallback = [], None

    def advance(self, point: Mixture, log_likelihood: float, mapped: Mixture) -> Mixture:
        """The next point to evaluate, after ``point`` was evaluated and mapped by EM."""
        if self.pending:  # accepted
            self._fallback = None
            if self._step >= self._max_step:
                self._max_step *= _STEP_GROWTH
            return mapped
        self._trail.append((point, log_likelihood))
        if len(self._trail) < 2:
            return mapped
        (first, first_value), (second, second_value) = self._trail
        self._trail = []
        proposal = self._extrapolate(first, second, mapped)
        if proposal is None:
            return mapped
        self._fallback = mapped
        self._required = second_value + max(0.0, second_value - first_value)
        return proposal

    def _extrapolate(self, first: Mixture, second: Mixture, third: Mixture) -> Mixture | None:
        start, middle, end = (_encode(m, first) for m in (first, second, third))
        r = middle - start
        v = (end - middle) - r
        ratio = float(r.norm() / v.norm())
        if not ratio > 1.0:  # also when v vanishes or a weight is zero
            return None
        self._step = min(ratio, self._max_step)
        values = start + 2 * self._step * r + self._step**2 * v
        return _decode(values, first) if bool(torch.isfinite(values).all()) else None


def _encode(mixture: Mixture, reference: Mixture) -> Tensor:
    gap = (mixture.means - reference.means).unsqueeze(-2)  # (K, 1, D)
    means = reference.covariance.whiten(gap).flatten()
    covariance = mixture.covariance.encode(reference.covariance).flatten()
    return torch.cat([mixture.log_weights, means, covariance])


def _decode(values: Tensor, reference: Mixture) -> Mixture:
    k, d = reference.n_components, reference.n_features
    log_weights, means, rest = values.split([k, k * d, values.numel() - k - k * d])
    shift = reference.covariance.colour(means.reshape(k, 1, d)).squeeze(-2)
    covariance = type(reference.covariance).decode(rest, k, d, reference.covariance)
    return Mixture(log_weights, reference.means + shift, covariance)
