"""Guarded extrapolation of a fixed-point map: first-order SQUAREM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mogul.mixture import Mixture

__all__ = ["Chart", "MixtureChart", "Squarem", "SquaremState", "VectorChart"]

_FIRST_MAX_STEP = 4.0
_STEP_GROWTH = 4.0


Point = TypeVar("Point")


class Chart(Protocol[Point]):
    """Coordinates without constraints, that do not depend on the units of the features."""

    def extrapolate(
        self, first: Point, second: Point, third: Point, max_step: float
    ) -> tuple[Point, float] | None:
        r"""Where three successive points lead, and the step α, at most ``max_step``.

        None where there is nothing to gain. The second point is not needed any more: its memory may
        be taken for the answer.
        """
        ...


class VectorChart(ABC, Generic[Point]):
    """A chart whose coordinates are vectors."""

    @abstractmethod
    def encode(self, point: Point, reference: Point) -> Tensor:
        """A vector for ``point``, relative to ``reference``; whoever asks may write into it."""

    @abstractmethod
    def decode(self, values: Tensor, reference: Point) -> Point:
        """The inverse of :meth:`encode`."""

    def extrapolate(
        self, first: Point, second: Point, third: Point, max_step: float
    ) -> tuple[Point, float] | None:
        """See :class:`Chart`."""
        start, middle, end = (self.encode(point, first) for point in (first, second, third))
        v = end.sub_(middle)  # in place: a point may be large
        r = middle.sub_(start)
        v -= r
        ratio = float(r.norm() / v.norm())
        if not ratio > 1.0:  # also when v vanishes or a weight is zero
            return None
        step = min(ratio, max_step)
        values = start.add_(r, alpha=2 * step).add_(v, alpha=step**2)
        del middle, end, r, v
        return (self.decode(values, first), step) if bool(torch.isfinite(values).all()) else None


@dataclass(frozen=True)
class SquaremState(Generic[Point]):
    """All that a :class:`Squarem` remembers: points, and numbers as JSON types."""

    points: list[Point]
    numbers: dict[str, Any]


class Squarem(Generic[Point]):
    r"""Proposes points beyond two EM maps, for one start.

    With r = F(θ) − θ and v = F(F(θ)) − F(θ) − r, the proposal is
    :math:`\theta + 2\alpha r + \alpha^2 v` with :math:`\alpha = \|r\| / \|v\| \ge 1` (Varadhan and
    Roland 2008, scheme S3), in the coordinates of ``chart``.

    The evaluation of a proposal is also the E-step of the next map, so a rejected proposal costs
    one pass. It is accepted only when it gains, over the last evaluated point, at least what that
    point gained over the one before: the map itself would be expected to gain no more.
    """

    def __init__(self, chart: Chart[Point]) -> None:
        self._chart = chart
        self._trail: list[tuple[Point, float]] = []
        self._fallback: Point | None = None
        self._required = -float("inf")
        self._step = 1.0
        self._max_step = _FIRST_MAX_STEP

    def state(self) -> SquaremState[Point]:
        """What :meth:`restore` needs to go on from here."""
        points = [point for point, _ in self._trail]
        if self._fallback is not None:
            points.append(self._fallback)
        numbers = {
            "values": [value for _, value in self._trail],
            "pending": self.pending,
            "required": self._required,
            "step": self._step,
            "max_step": self._max_step,
        }
        return SquaremState(points, numbers)

    def restore(self, points: Sequence[Point], numbers: dict[str, Any]) -> None:
        """Remember what :meth:`state` told."""
        self._fallback = points[-1] if numbers["pending"] else None
        self._trail = list(zip(points, numbers["values"], strict=False))
        self._required, self._step = numbers["required"], numbers["step"]
        self._max_step = numbers["max_step"]

    @property
    def pending(self) -> bool:
        """Whether the point last returned by :meth:`advance` is a proposal."""
        return self._fallback is not None

    def rejects(self, value: float, collapsed: Sequence[int] = ()) -> bool:
        """Whether the pending proposal, evaluated to ``value``, must be given up.

        Also where the map from it makes components collapse.
        """
        return self.pending and (bool(collapsed) or not value >= self._required)

    def fall_back(self) -> Point:
        """Give the pending proposal up; the plain map's point, and shorter steps from now on."""
        assert self._fallback is not None
        point, self._fallback = self._fallback, None
        self._max_step = max(_FIRST_MAX_STEP, self._step / _STEP_GROWTH)
        return point

    def restart(self) -> None:
        """Forget the trail: the map itself has changed (a component was repaired)."""
        self._trail, self._fallback = [], None

    def advance(self, point: Point, value: float, mapped: Point) -> Point:
        """The next point to evaluate, after ``point`` was evaluated and mapped."""
        if self.pending:  # accepted
            self._fallback = None
            if self._step >= self._max_step:
                self._max_step *= _STEP_GROWTH
            return mapped
        self._trail.append((point, value))
        if len(self._trail) < 2:
            return mapped
        (first, first_value), (second, second_value) = self._trail
        self._trail = []
        found = self._chart.extrapolate(first, second, mapped, self._max_step)
        if found is None:
            return mapped
        proposal, self._step = found
        self._fallback = mapped
        self._required = second_value + max(0.0, second_value - first_value)
        return proposal


class MixtureChart(VectorChart[Mixture]):
    """Log-weights, means in units of the reference's Cholesky factors, and factors relative to it.

    The covariance structure's own chart is that of a factor's logarithm.
    """

    def encode(self, point: Mixture, reference: Mixture) -> Tensor:
        gap = (point.means - reference.means).unsqueeze(-2)  # (K, 1, D)
        means = reference.covariance.whiten(gap).flatten()
        covariance = point.covariance.encode(reference.covariance).flatten()
        return torch.cat([point.log_weights, means, covariance])

    def decode(self, values: Tensor, reference: Mixture) -> Mixture:
        k, d = reference.n_components, reference.n_features
        log_weights, means, rest = values.split([k, k * d, values.numel() - k - k * d])
        shift = reference.covariance.colour(means.reshape(k, 1, d)).squeeze(-2)
        covariance = type(reference.covariance).decode(rest, k, d, reference.covariance)
        return Mixture(log_weights, reference.means + shift, covariance)
