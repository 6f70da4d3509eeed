"""The negative log-likelihood of a head's outputs, with its gradient in closed form.

The same numbers as through :class:`~mogul.Mixture`, in fewer operations: a step of a small network
is mostly the time that torch takes to record them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["diagonal_loss", "triangular_loss"]


def diagonal_loss(
    raw: Tensor, y: Tensor, n_components: int, min_scale: float, most_log_scale: float
) -> Tensor:
    r"""−log p(y) of each row for "diag" and "spherical", in nats.

    With responsibilities r and z = (y − μ) / s the gradient is w − r in the logits, −r z / s in the
    means and r (1 − z²) in the logarithms of the scales (Bishop 1994).

    Parameters
    ----------
    raw : Tensor, shape (*batch, P)
        K logits, K D means and K D or K logarithms of scales.
    y : Tensor, shape (*batch, D)
        Without missing values.
    n_components : int
        K.
    min_scale : float
        A scale s becomes √(s² + min_scale²).
    most_log_scale : float
        Logarithms are cut to this much on both sides of zero before.
    """
    return _with_gradient(_diagonal, raw, y, n_components, min_scale**2, most_log_scale)


def triangular_loss(
    raw: Tensor, y: Tensor, n_components: int, min_scale: float, most_log_scale: float
) -> Tensor:
    r"""−log p(y) of each row for "full" and "tied", in nats.

    With the Cholesky factor T, z = T⁻¹ (y − μ) and u = T⁻ᵀ z the gradient is −r u in the means and
    r (T⁻ᵀ − u zᵀ) in the factor.

    Parameters
    ----------
    raw : Tensor, shape (*batch, P)
        K logits, K D means and the lower triangles, row by row, of K factors or of one, with
        logarithms on the diagonal.
    y : Tensor, shape (*batch, D)
    n_components, min_scale, most_log_scale
        As in :func:`diagonal_loss`; the scales are the diagonals.
    """
    return _with_gradient(_triangular, raw, y, n_components, min_scale**2, most_log_scale)


def _with_gradient(loss: Callable[..., tuple[Tensor, Tensor]], raw: Tensor, *more: Any) -> Tensor:
    """The loss of each row, with its gradient in ``raw`` where one is asked for."""
    recorded = raw.requires_grad and torch.is_grad_enabled()
    with torch.no_grad():
        value, gradient = loss(recorded, raw, *more)
    if not recorded:
        return value
    found: Any = _KnownGradient.apply(raw, value, gradient)
    return found


def _diagonal(
    wanted: bool, raw: Tensor, y: Tensor, k: int, floor: float, most: float
) -> tuple[Tensor, Tensor]:
    d = y.shape[-1]
    one = d == 1  # then nothing has an axis for outputs: views take time too
    if one:
        logits, means, chart = raw.reshape(*raw.shape[:-1], 3, k).unbind(-2)
    else:
        logits, means, chart = raw.split([k, k * d, raw.shape[-1] - k - k * d], -1)
        y, means, chart = y.unsqueeze(-2), means.unflatten(-1, (k, d)), chart.unflatten(-1, (k, -1))
    shared = chart.shape[-1] < means.shape[-1]  # (*batch, K, 1) beside (*batch, K, D)
    own, variance = _variances(chart, floor, most)
    inverse = variance.rsqrt()
    away = torch.sub(means, y).mul_(inverse)  # −z
    rate = own.div_(variance)  # the derivative of log √variance in the chart
    if shared:  # twice the negative log-density, but for a constant
        halves = away.square().sum(-1).add_(variance.log_().squeeze(-1), alpha=d)
    else:
        halves = variance.log_().addcmul_(away, away)
        halves = halves if one else halves.sum(-1)
    loss, of_logits, shares = _mixed(logits, halves, d)
    if not wanted:
        return loss, loss
    by_share = shares if one else shares.unsqueeze(-1)
    weighted = away * by_share
    if shared:
        of_chart = d * by_share - (weighted * away).sum(-1, keepdim=True)
    else:
        of_chart = torch.addcmul(by_share, weighted, away, value=-1.0)
    of_chart = _within(of_chart.mul_(rate), chart, most)
    of_means = weighted.mul_(inverse)
    if not one:
        of_means, of_chart = of_means.flatten(-2), of_chart.flatten(-2)
    return loss, torch.cat([of_logits, of_means, of_chart], -1)


def _triangular(
    wanted: bool, raw: Tensor, y: Tensor, k: int, floor: float, most: float
) -> tuple[Tensor, Tensor]:
    """With C factors, each of which S components share: C = K, S = 1 or C = 1, S = K."""
    d = y.shape[-1]
    square, lower, diagonal = _places(d, raw.device)
    logits, means, chart = raw.split([k, k * d, raw.shape[-1] - k - k * d], -1)
    chart = chart.unflatten(-1, (-1, len(lower)))  # (*batch, C, D (D + 1) / 2)
    logs = chart.index_select(-1, diagonal)
    own, variance = _variances(logs, floor, most)
    entry = variance.sqrt()
    entries = torch.nn.functional.pad(chart, (0, 1))
    entries.index_copy_(-1, diagonal, entry)
    factor = entries.index_select(-1, square).unflatten(-1, (d, d))
    away = y.unsqueeze(-2) - means.unflatten(-1, (k, d))
    z = torch.linalg.solve_triangular(factor, _columns(away, factor), upper=False)
    halves = z.square().sum(-2).add_(variance.log().sum(-1, keepdim=True))  # (*batch, C, S)
    loss, of_logits, shares = _mixed(logits, halves.flatten(-2), d)
    if not wanted:
        return loss, loss
    shares = shares.reshape(*z.shape[:-2], 1, z.shape[-1])
    pulled = torch.linalg.solve_triangular(factor.transpose(-1, -2), z, upper=True)
    pulled = pulled.mul_(shares).neg_()  # −r u, (*batch, C, D, S)
    of_chart = (pulled @ z.transpose(-1, -2)).flatten(-2).index_select(-1, lower)
    # Of the logarithm of a diagonal entry t: t times the entry's gradient, and r from log det.
    of_logs = torch.addcmul(shares.sum(-1), of_chart.index_select(-1, diagonal), entry)
    of_logs = _within(of_logs.mul_(own.div_(variance)), logs, most)
    of_chart.index_copy_(-1, diagonal, of_logs)
    of_means = pulled.transpose(-1, -2).flatten(-3)
    return loss, torch.cat([of_logits, of_means, of_chart.flatten(-2)], -1)


def _mixed(logits: Tensor, halves: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, its gradient in the logits and the responsibilities."""
    log_weights = torch.log_softmax(logits, -1)
    terms = torch.sub(log_weights, halves, alpha=0.5)
    top = terms.amax(-1, keepdim=True).clamp_min_(torch.finfo(terms.dtype).min)
    shares = terms.sub_(top).exp_()
    total = shares.sum(-1, keepdim=True)
    shares.div_(total)
    loss = torch.rsub(top.add_(total.log_()), 0.5 * d * math.log(2 * math.pi))
    return loss.squeeze(-1), log_weights.exp_().sub_(shares), shares


class _KnownGradient(torch.autograd.Function):
    """A loss of each row whose gradient was found along with it."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].unsqueeze(-1), None, None


def _variances(logs: Tensor, floor: float, most: float) -> tuple[Tensor, Tensor]:
    """The squares of scales from their logarithms: their own, and with the floor's added."""
    own = logs.clamp(-most, most).mul_(2).exp_()
    return own, own + floor


def _within(gradient: Tensor, logs: Tensor, most: float) -> Tensor:
    """Nothing for logarithms that were cut."""
    return torch.ops.aten.hardtanh_backward(gradient, logs, -most, most)


def _columns(away: Tensor, factor: Tensor) -> Tensor:
    """(*batch, K, D) as columns for each factor: (*batch, C, D, S)."""
    if factor.shape[-3] == away.shape[-2]:
        return away.unsqueeze(-1)
    return away.transpose(-1, -2).unsqueeze(-3)


@cache
def _places(d: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where a triangle's entries are: each place of a square in the triangle (the place past its
    end above the diagonal), each of the triangle in the square, and the diagonal in the triangle.
    """
    rows, columns = torch.tril_indices(d, d, device=device)
    square = torch.full((d, d), len(rows), device=device)
    square[rows, columns] = torch.arange(len(rows), device=device)
    return square.flatten(), rows * d + columns, (rows == columns).nonzero().flatten()
