"""The negative log-likelihood of a diagonal or spherical head, with its gradient in closed form.

The same numbers as through :class:`~mogul.Mixture`, in fewer operations: a step of a small network
is mostly the time that torch takes to record them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["diagonal_loss"]


def diagonal_loss(
    raw: Tensor, y: Tensor, n_components: int, min_log_scale: float, most_log_scale: float
) -> Tensor:
    r"""−log p(y) of each row, in nats.

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
    min_log_scale : float
        Softly the least logarithm of a scale; −∞ for none.
    most_log_scale : float
        Logarithms are cut to this much on both sides of zero before.
    """
    found: Any = _DiagonalLoss.apply(raw, y, n_components, min_log_scale, most_log_scale)
    return found


class _DiagonalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, y: Tensor, k: int, least: float, most: float) -> Tensor:
        d = y.shape[-1]
        logits, means, chart = raw.split([k, k * d, raw.shape[-1] - k - k * d], -1)
        chart = chart.unflatten(-1, (k, -1))  # (*batch, K, D) or (*batch, K, 1)
        log_scale = chart.clamp(-most, most)
        if least > -math.inf:
            log_scale = torch.nn.functional.softplus(log_scale.sub_(least).mul_(2))
            log_scale = log_scale.mul_(0.5).add_(least)
        inverse = torch.neg(log_scale).exp_()
        z = (y.unsqueeze(-2) - means.unflatten(-1, (k, d))).mul_(inverse)
        log_weights = torch.log_softmax(logits, -1)
        if d == 1:
            flat = z.squeeze(-1)
            terms = torch.addcmul(log_weights, flat, flat, value=-0.5).sub_(log_scale.squeeze(-1))
        else:
            scales = log_scale.sum(-1) if log_scale.shape[-1] == d else d * log_scale.squeeze(-1)
            terms = torch.sub(log_weights, scales).sub_(z.square().sum(-1), alpha=0.5)
        total = torch.logsumexp(terms, -1)
        ctx.save_for_backward(log_weights, terms, total, z, inverse, chart, log_scale)
        ctx.limits = least, most
        return 0.5 * d * math.log(2 * math.pi) - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore
        log_weights, terms, total, z, inverse, chart, log_scale = ctx.saved_tensors
        (least, most), gradient = ctx.limits, grad_outputs[0].unsqueeze(-1)
        shares = torch.exp(terms - total.unsqueeze(-1)).mul_(gradient)
        by_share = shares.unsqueeze(-1)  # (*batch, K, 1)
        of_logits = torch.mul(log_weights.exp(), gradient).sub_(shares)
        weighted = z * by_share
        of_means = torch.neg(weighted).mul_(inverse)
        if chart.shape[-1] == z.shape[-1]:
            of_chart = torch.addcmul(by_share.expand_as(z), weighted, z, value=-1.0)
        else:
            of_chart = z.shape[-1] * by_share - (weighted * z).sum(-1, keepdim=True)
        if least > -math.inf:
            # The slope of the soft floor, 1 / (1 + exp(−2 (t − least))), from what it made of t.
            of_chart = of_chart.mul(torch.expm1(log_scale.sub(least).mul_(-2)).neg_())
        of_chart = of_chart.mul(chart.abs() <= most)
        parts = [of_logits, of_means.flatten(-2), of_chart.flatten(-2)]
        return torch.cat(parts, -1), None, None, None, None
