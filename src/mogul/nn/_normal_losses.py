"""The negative log-likelihood of a head's outputs, with its gradient in closed form.

The same numbers as through :class:`~mogul.Mixture`, in fewer operations: a step of a small network
is mostly the time that torch takes to record them.
"""

from __future__ import annotations

import math
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
    found: Any = _DiagonalLoss.apply(raw, y, n_components, min_scale**2, most_log_scale)
    return found


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
    found: Any = _TriangularLoss.apply(raw, y, n_components, min_scale**2, most_log_scale)
    return found


class _DiagonalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, y: Tensor, k: int, floor: float, most: float) -> Tensor:
        d = y.shape[-1]
        logits, means, chart = raw.split([k, k * d, raw.shape[-1] - k - k * d], -1)
        chart = chart.unflatten(-1, (k, -1))  # (*batch, K, D) or (*batch, K, 1)
        own, variance = _variances(chart, floor, most)
        inverse = variance.rsqrt()
        z = (y.unsqueeze(-2) - means.unflatten(-1, (k, d))).mul_(inverse)
        log_weights = torch.log_softmax(logits, -1)
        halves = torch.addcmul(variance.log(), z, z)  # twice the −log-density, and a constant
        if d == 1:
            halves = halves.squeeze(-1)
        elif chart.shape[-1] == d:
            halves = halves.sum(-1)
        else:
            halves = z.square().sum(-1).add_(variance.log().squeeze(-1), alpha=d)
        terms = torch.sub(log_weights, halves, alpha=0.5)
        total = torch.logsumexp(terms, -1)
        ctx.save_for_backward(log_weights, terms, total, z, inverse, chart, own)
        ctx.most = most
        return 0.5 * d * math.log(2 * math.pi) - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore
        log_weights, terms, total, z, inverse, chart, own = ctx.saved_tensors
        of_logits, shares = _of_weights(log_weights, terms, total, grad_outputs[0])
        by_share = shares.unsqueeze(-1)  # (*batch, K, 1)
        weighted = z * by_share
        of_means = (weighted * inverse).neg_()
        if chart.shape[-1] == z.shape[-1]:
            of_chart = torch.addcmul(by_share, weighted, z, value=-1.0)
        else:
            of_chart = z.shape[-1] * by_share - (weighted * z).sum(-1, keepdim=True)
        slope = inverse.square().mul_(own)
        of_chart = _within(of_chart.mul_(slope), chart, ctx.most)
        parts = [of_logits, of_means.flatten(-2), of_chart.flatten(-2)]
        return torch.cat(parts, -1), None, None, None, None


class _TriangularLoss(torch.autograd.Function):
    """C factors, each of which S components share: C = K, S = 1 or C = 1, S = K."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, y: Tensor, k: int, floor: float, most: float) -> Tensor:
        d = y.shape[-1]
        square, lower, diagonal = _places(d, raw.device)
        logits, means, chart = raw.split([k, k * d, raw.shape[-1] - k - k * d], -1)
        chart = chart.unflatten(-1, (-1, len(lower)))  # (*batch, C, D (D + 1) / 2)
        logs = chart.index_select(-1, diagonal)
        own, variance = _variances(logs, floor, most)
        entries = torch.nn.functional.pad(chart, (0, 1))
        entries.index_copy_(-1, diagonal, variance.sqrt())
        factor = entries.index_select(-1, square).unflatten(-1, (d, d))
        away = y.unsqueeze(-2) - means.unflatten(-1, (k, d))
        z = torch.linalg.solve_triangular(factor, _columns(away, factor), upper=False)
        log_weights = torch.log_softmax(logits, -1)
        halves = z.square().sum(-2).add_(variance.log().sum(-1, keepdim=True))  # (*batch, C, S)
        terms = torch.sub(log_weights, halves.flatten(-2), alpha=0.5)
        total = torch.logsumexp(terms, -1)
        ctx.save_for_backward(log_weights, terms, total, z, factor, logs, own, variance)
        ctx.most = most
        return 0.5 * d * math.log(2 * math.pi) - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore
        log_weights, terms, total, z, factor, logs, own, variance = ctx.saved_tensors
        d = factor.shape[-1]
        _, lower, diagonal = _places(d, factor.device)
        of_logits, shares = _of_weights(log_weights, terms, total, grad_outputs[0])
        shares = shares.reshape(*z.shape[:-2], 1, z.shape[-1])
        pulled = torch.linalg.solve_triangular(factor.transpose(-1, -2), z, upper=True)
        pulled = pulled.mul_(shares).neg_()  # −r u, (*batch, C, D, S)
        of_chart = (pulled @ z.transpose(-1, -2)).flatten(-2).index_select(-1, lower)
        # Of the logarithm of a diagonal entry t: t times the entry's gradient, and r from log det.
        entry = variance.sqrt()
        of_logs = torch.addcmul(shares.sum(-1), of_chart.index_select(-1, diagonal), entry)
        of_logs = _within(of_logs.mul_(own / variance), logs, ctx.most)
        of_chart.index_copy_(-1, diagonal, of_logs)
        of_means = pulled.transpose(-1, -2).flatten(-3)
        return torch.cat([of_logits, of_means, of_chart.flatten(-2)], -1), None, None, None, None


def _variances(logs: Tensor, floor: float, most: float) -> tuple[Tensor, Tensor]:
    """The squares of scales from their logarithms: their own, and with the floor's added."""
    own = logs.clamp(-most, most).mul_(2).exp_()
    return own, own + floor


def _of_weights(
    log_weights: Tensor, terms: Tensor, total: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient in the logits, and the responsibilities, both times the gradient of the loss."""
    each = gradient.unsqueeze(-1)
    shares = torch.sub(terms, total.unsqueeze(-1)).exp_().mul_(each)
    return log_weights.exp().mul_(each).sub_(shares), shares


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
