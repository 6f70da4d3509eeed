r"""Covariances that mean field leaves out, by the response of its optimum to small changes.

Mean-field posteriors are too narrow where factors depend on each other: where clusters overlap, the
doubt about which row is whose is left out. The expectations of a fit respond linearly when the log
posterior is tilted by a function of the parameters, and the response is a covariance (Giordano,
Broderick and Jordan 2015, 2018). With v the coordinates of the belief, H the Hessian of −ELBO in
them with the responsibilities at their optimum, and G the derivative of expectations,

.. math::
    \widehat{\mathrm{Cov}} = G H^{-1} G^\top .

The system is solved; nothing is fitted again. H is the curvature at fixed responsibilities less the
information that is missing because they are not known, in full or, where it is large, applied to
directions only (:mod:`mogul.kernels.tangent`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from mogul.beliefs import Belief
from mogul.data.rows import Rows
from mogul.errors import NotConvergedError
from mogul.infer.em import Streamed
from mogul.infer.variational import Batches, look
from mogul.kernels.tangent import Coefficients, missing_information, tangent_step

__all__ = ["FisherInformation", "LinearResponse", "is_saddle", "projected_covariance"]

_DENSE = 3000
"""Up to so many coordinates the Hessian is formed, in one pass over the rows, and factorised; above
it is only applied, in conjugate gradients: a pass for each step of a block of right-hand sides."""
_BLOCK = 64
"""Directions that one pass over the rows takes together."""
_MOST_STEPS = 500
_ROWS_OF_CURVATURE = 5000
"""So many tell a saddle from a maximum."""
_RESIDUAL = 1e-10
"""Of the right-hand side: where conjugate gradients stop."""
_LARGEST_DECREMENT = 0.02
"""Nats that the bound may still be below its optimum, by Newton's estimate: a fifth of a standard
deviation in the worst direction. Beyond it the expansion is not about the optimum."""

Expectation = Callable[[Belief], Tensor]


def projected_covariance(belief: Belief, expectation: Expectation) -> Tensor:
    r"""The belief's own covariance of some quantities, as far as it responds; (Q, Q).

    :math:`G V^{-1} G^\top`, with V the Fisher information: exact between two quantities one of
    which is a sufficient statistic, in general that of their projections on these.
    """
    fisher = FisherInformation(belief.detach())
    jacobian = fisher.jacobian(expectation)
    return fisher.solve(jacobian) @ jacobian.T


class FisherInformation:
    """The coordinates of a belief, and its Fisher information in them."""

    def __init__(self, belief: Belief):
        self.belief = belief
        self.start = torch.zeros_like(belief.encode(belief))

    def jacobian(self, expectation: Expectation) -> Tensor:
        """The derivative of expectations, (Q, P)."""
        inside = torch.func.jacrev(lambda v: expectation(self.belief.decode(v)), chunk_size=_BLOCK)
        return inside(self.start)

    def _divergence(self, values: Tensor) -> Tensor:
        return self.belief.decode(values).divergence(self.belief)

    def times(self, directions: Tensor) -> Tensor:
        return _hessian_times(self._divergence, self.start, directions)

    @cached_property
    def factor(self) -> Tensor:
        return _factorised(self.times(_eye(self.start)))

    @cached_property
    def _scale(self) -> Tensor:
        return _diagonal(self.times, self.start)

    def solve(self, sides: Tensor) -> Tensor:
        """Rows of ``sides`` times the inverse of the information."""
        if self.start.numel() <= _DENSE:
            return torch.cholesky_solve(sides.T, self.factor).T
        return _conjugate_gradients(self.times, sides, self._scale)


class LinearResponse:
    """The linear response of a converged variational fit.

    Parameters
    ----------
    batches : iterable of (rows, weights), re-iterable
        The rows that the belief was fitted to.
    belief : Belief
        A single one, at a maximum of the evidence lower bound.
    prior : Belief
    check : bool, default True
        Whether to make sure that it is at a maximum.
    sample : iterable of (rows, weights), re-iterable, optional
        Some of the rows, weighted to stand for all, from which the missing information is told
        where passes over all rows take too long. Its own error is that of a mean over them.

    Raises
    ------
    NotConvergedError
        When ``belief`` is not at a maximum.
    """

    def __init__(
        self,
        batches: Batches,
        belief: Belief,
        prior: Belief,
        *,
        check: bool = True,
        sample: Batches | None = None,
    ):
        self.sample, self.prior = batches if sample is None else sample, prior
        self.belief = belief.detach()
        self.mixture = self.belief.surrogate()[0]
        self.stats, _ = look(batches, self.belief)
        self.fisher = FisherInformation(self.belief)
        self.start = self.fisher.start
        if check:
            self._check_maximum()

    @property
    def n_coordinates(self) -> int:
        return self.start.numel()

    def excess(self, expectation: Expectation) -> Tensor:
        """What mean field's covariance of some quantities lacks; (Q, Q), symmetric.

        G (H⁻¹ − V⁻¹) Gᵀ with V the Fisher information of the belief itself: for quantities that
        are sufficient statistics G V⁻¹ Gᵀ is mean field's own covariance; for others it is the part
        of it that responds, and what does not is left as it is. Added to mean field's covariance it
        gives a positive semidefinite matrix.

        Parameters
        ----------
        expectation : callable
            From a belief to the expectations of Q quantities, a vector; differentiable.
        """
        jacobian = self.fisher.jacobian(expectation)
        # What has no expectation, of a component without rows say, has no response.
        jacobian = torch.where(torch.isfinite(jacobian), jacobian, 0.0)
        found = (self._solve(jacobian) - self.fisher.solve(jacobian)) @ jacobian.T
        return 0.5 * (found + found.T)

    # --- the system -----------------------------------------------------------------------------

    def _coefficients(self, values: Tensor) -> Coefficients:
        """Of the expected log-density of a row, about the means of the fit."""
        belief = self.belief.decode(values)
        covariance, constant = belief.components.expected()
        shift = belief.components.loc - self.mixture.means
        linear = covariance.precision_times(shift)
        count = belief.weights.expected_log() + constant - covariance.log_diagonal().sum(-1)
        return Coefficients(
            count - 0.5 * (linear * shift).sum(-1), linear, -0.5 * covariance.precisions()
        )

    def _loss_at_fixed_shares(self, values: Tensor) -> Tensor:
        """−ELBO, up to a constant, when the responsibilities stay what they are."""
        divergence = self.belief.decode(values).divergence(self.prior)
        return divergence - self._coefficients(values).inner(self.stats)

    def _curvature_at_fixed_shares(self, directions: Tensor) -> Tensor:
        return _hessian_times(self._loss_at_fixed_shares, self.start, directions)

    def _times(self, directions: Tensor) -> Tensor:
        """H times each of some directions, (B, P) to the same."""
        return torch.cat([self._times_block(part) for part in directions.split(_BLOCK)])

    def _times_block(self, directions: Tensor) -> Tensor:
        change = Coefficients(*torch.func.vmap(self._changes)(directions))
        total: list[Tensor] | None = None
        for x, weight in self.sample:
            one = tangent_step(x, self.mixture, change, weight)
            parts = [one.count, one.first, one.second]
            total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
        assert total is not None  # there are rows
        (of_shares,) = torch.func.vmap(lambda *parts: self._transpose(parts))(*total)
        return self._curvature_at_fixed_shares(directions) - of_shares

    @cached_property
    def _transpose(self) -> Callable[..., Any]:
        """From coefficients' cotangents to coordinates: the transpose of the derivative."""
        return torch.func.vjp(self._parts, self.start)[1]

    @cached_property
    def _changes(self) -> Callable[..., Any]:
        """From a direction to the change of the coefficients: the derivative.

        As the transpose of its own transpose, which is linear. Forward differentiation would do
        the same, but takes torch more than a second to load.
        """
        zeros = tuple(torch.zeros_like(part) for part in self._parts(self.start))
        return torch.func.vjp(lambda *parts: self._transpose(parts)[0], *zeros)[1]

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self._coefficients(values)
        return found.count, found.first, found.second

    # --- solutions ------------------------------------------------------------------------------

    @cached_property
    def _factor(self) -> Tensor:
        """The Cholesky factor of H."""
        return _factorised(self.hessian())

    def hessian(self) -> Tensor:
        """H itself, (P, P), in one pass over the rows."""
        parts = (missing_information(x, self.mixture, weight) for x, weight in self.sample)
        kind = type(self.mixture.covariance)

        def coordinates(values: Tensor) -> Tensor:
            return Coefficients.flatten(*self._parts(values), kind)

        maps = torch.func.jacrev(coordinates)(self.start)  # (U, P)
        known = self._curvature_at_fixed_shares(_eye(self.start))
        return known - maps.T @ reduce(add, parts) @ maps

    @cached_property
    def _scale(self) -> Tensor:
        return _diagonal(self._curvature_at_fixed_shares, self.start)

    def _solve(self, sides: Tensor) -> Tensor:
        """Rows of ``sides`` times H⁻¹."""
        if self.n_coordinates <= _DENSE:
            return torch.cholesky_solve(sides.T, self._factor).T
        return _conjugate_gradients(self._times, sides, self._scale)

    def _check_maximum(self) -> None:
        gradient = torch.func.grad(self._loss_at_fixed_shares)(self.start).unsqueeze(0)
        decrement = float(0.5 * (self._solve(gradient) * gradient).sum())
        if not 0 <= decrement <= _LARGEST_DECREMENT:
            raise NotConvergedError(
                f"Linear response needs a fit at the maximum of its bound; this one is about "
                f"{decrement:.2g} nats below it. Fit with a smaller tol, a larger max_iter and "
                'inference="cavi".'
            )


def is_saddle(rows: Rows | Streamed, belief: Belief, prior: Belief) -> bool:
    """Whether the bound curves upward somewhere: there is more to gain, however flat it looks.

    Seen on some of the rows, evenly spaced, that stand for all. Of beliefs of very many parameters
    it is not known, and the answer is no.
    """
    if belief.encode(belief).numel() > _DENSE:
        return False
    known = rows.sample if isinstance(rows, Streamed) else rows
    step = -(-known.n_rows // _ROWS_OF_CURVATURE)
    some = known.take(torch.arange(0, known.n_rows, step, device=known.values.device)).to("cpu")
    whole = some.scaled_to(rows.total_weight)
    hessian = LinearResponse(whole, belief, prior, check=False).hessian()
    return bool(torch.linalg.cholesky_ex(0.5 * (hessian + hessian.T)).info != 0)


def _eye(start: Tensor) -> Tensor:
    return torch.eye(start.numel(), dtype=start.dtype, device=start.device)


def _diagonal(times: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The diagonal of a symmetric map, (P), to precondition conjugate gradients by."""
    parts = _eye(start).split(_BLOCK)
    return torch.cat([times(part).diagonal(offset=i * _BLOCK) for i, part in enumerate(parts)])


def _hessian_times(function: Callable[[Tensor], Tensor], at: Tensor, directions: Tensor) -> Tensor:
    # The Hessian is its own transpose, so the gradient's transposed derivative is it.
    transpose = torch.func.vjp(torch.func.grad(function), at)[1]
    return torch.func.vmap(lambda one: transpose(one)[0], chunk_size=_BLOCK)(directions)


def _factorised(matrix: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(0.5 * (matrix + matrix.T))
    if int(info) != 0:
        raise NotConvergedError(
            "Linear response needs a fit at a maximum of its bound; this one is at a saddle, where "
            "two components compete for the same rows. Fit fewer components, or start again with "
            "another random_state."
        )
    return factor


def _conjugate_gradients(times: Callable[[Tensor], Tensor], sides: Tensor, scale: Tensor) -> Tensor:
    """Rows x with x A = sides, all systems together; A symmetric, preconditioned by a diagonal."""
    found = torch.zeros_like(sides)
    residual = sides.clone()
    z = residual / scale
    direction = z.clone()
    size = (residual * z).sum(-1, keepdim=True)
    goal = _RESIDUAL**2 * size
    for _ in range(_MOST_STEPS):
        open_ = (size > goal).flatten()
        if not bool(open_.any()):
            return found
        along = times(direction[open_])
        curvature = (direction[open_] * along).sum(-1, keepdim=True)
        if not bool((curvature > 0).all()):
            break
        step = size[open_] / curvature
        found[open_] += step * direction[open_]
        residual[open_] -= step * along
        z = residual[open_] / scale
        new = (residual[open_] * z).sum(-1, keepdim=True)
        direction[open_] = z + new / size[open_] * direction[open_]
        size[open_] = new
    raise NotConvergedError(
        "Linear response found no maximum of the bound near this fit; fit fewer components, or "
        "with a smaller tol."
    )
