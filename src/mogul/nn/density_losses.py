"""Losses of a mixture for each row: how far its density is from what was seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mogul.mixture import Mixture
from mogul.nn._normal_losses import diagonal_loss, triangular_loss
from mogul.nn.mixture_head import MOST_LOG_SCALE, MixtureHead, at_least_single

__all__ = ["LOSSES", "has_missing", "known_log_prob"]


def has_missing(y: Tensor) -> bool:
    """Whether some value is NaN, in one pass: a sum of numbers is one."""
    return math.isnan(float(y.detach().sum()))


def known_log_prob(mixture: Mixture, y: Tensor) -> Tensor:
    """Log-density of what is known of each row, in nats: NaN is marginalised.

    Parameters
    ----------
    mixture : Mixture, batch shape (*batch)
    y : Tensor, shape (*batch, D)

    Returns
    -------
    Tensor, shape (*batch)
        Zero for a row of which nothing is known.
    """
    missing = y.isnan()
    if not bool(missing.any()):
        return mixture.log_prob(y)
    found = torch.zeros_like(y[..., 0])
    patterns = missing.reshape(-1, y.shape[-1]).unique(dim=0)
    for pattern in patterns:
        rows = (missing == pattern).all(-1)
        features = (~pattern).nonzero().flatten()
        if len(features):
            some = mixture[rows].marginal(features)
            found = found.masked_scatter(rows, some.log_prob(y[rows][:, features]))
    return found


def _negative_log_prob(head: MixtureHead, raw: Tensor, y: Tensor, missing: bool) -> Tensor:
    if y.requires_grad or missing:
        return -known_log_prob(head.standard(raw), y)
    wide = at_least_single(raw)
    rest = (y.to(wide), head.n_components, head.min_scale, MOST_LOG_SCALE)
    if not head.kind.has_matrices():  # nothing in it is narrowed by autocast
        return diagonal_loss(wide, *rest)
    with torch.autocast(raw.device.type, enabled=False):
        return triangular_loss(wide, *rest)


def _natural(head: MixtureHead, raw: Tensor, y: Tensor, missing: bool) -> Tensor:
    """The same value, with gradients of the components preconditioned; see `natural_gradient`."""
    if raw.requires_grad:
        at = raw.detach()
        raw = raw.view_as(raw)
        raw.register_hook(lambda gradient: natural_gradient(head, at, gradient))
    return _negative_log_prob(head, raw, y, missing)


@torch.no_grad()
def natural_gradient(head: MixtureHead, raw: Tensor, gradient: Tensor) -> Tensor:
    r"""Gradients of a head's outputs times the inverse Fisher information of each component.

    For a normal density the information is :math:`\Sigma^{-1}` in the mean and 2 in the logarithm
    of a scale; in :math:`L^{-1} dL` of a Cholesky factor it is 2 on the diagonal and 1 below. The
    gradient of the log-likelihood holds the responsibilities already (Fisher's identity), so this
    is the natural gradient of expectation maximisation (Chen, Bayrooti and Morad 2026). Logits are
    left as they are.
    """
    wide = at_least_single(gradient)
    logits, means, chart = wide.split(head.sizes, -1)
    covariance = head.standard(raw).covariance
    by_component = means.unflatten(-1, (head.n_components, head.event_size))
    if head.kind.has_matrices():
        root = covariance.scale_tril()
        whole = root @ (root.transpose(-1, -2) @ by_component.unsqueeze(-1))
        moved = whole.squeeze(-1)
        chart = _of_triangle(covariance.factor, chart)
    else:
        moved = covariance.variances() * by_component
        chart = chart / (2 * head.kind.rows_per_block(head.event_size))
    return torch.cat([logits, moved.flatten(-2), chart], -1).to(gradient)


def _of_triangle(factor: Tensor, chart: Tensor) -> Tensor:
    """Covectors of a log-Cholesky chart (*, K n) or (*, n) to vectors, by the inverse information.

    With T the factor and A = T⁻¹ dT, where dT_ii = T_ii dt_ii.
    """
    d = factor.shape[-1]
    rows, columns = torch.tril_indices(d, d, device=factor.device)
    steps = torch.diagonal(factor, dim1=-2, dim2=-1)
    units = torch.where(rows == columns, steps[..., rows], torch.ones_like(steps[..., rows]))
    entries = chart.reshape(units.shape) / units
    whole = torch.zeros_like(factor)
    whole[..., rows, columns] = entries
    inside = (factor.transpose(-1, -2) @ whole).tril()
    inside = inside - 0.5 * torch.diag_embed(torch.diagonal(inside, dim1=-2, dim2=-1))
    moved = (factor @ inside)[..., rows, columns] / units
    return moved.reshape(chart.shape)


def _crps(head: MixtureHead, raw: Tensor, y: Tensor, missing: bool) -> Tensor:
    """The mean over the known outputs, in standard deviations of y."""
    if not missing:
        return head.standard(raw).crps(y).mean(-1)
    unknown = y.isnan()
    each = head.standard(raw).crps(torch.where(unknown, 0.0, y))
    known = (~unknown).sum(-1).clamp_min(1)
    return torch.where(unknown, 0.0, each).sum(-1) / known


LOSSES: dict[str, Callable[[MixtureHead, Tensor, Tensor, bool], Tensor]] = {
    "nll": _negative_log_prob,
    "ngem": _natural,
    "crps": _crps,
}
"""Of a head, its outputs (*batch, P), standardised y (*batch, D), and whether any is NaN."""
