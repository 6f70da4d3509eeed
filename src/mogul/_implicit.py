"""Samples that are differentiable in every parameter, by implicit reparameterisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attach_gradient", "rosenblatt"]


def rosenblatt(log_weights: Tensor, whitened: Tensor, log_diagonal: Tensor) -> Tensor:
    r"""The conditional distribution functions of a mixture at a point, one after another.

    :math:`u_d = F(x_d \mid x_1, …, x_{d-1})` is uniform when x follows the mixture (Rosenblatt
    1952). With lower triangular whitening, :math:`y_k = L_k^{-1}(x - \mu_k)`, component k's own
    conditional distribution function is :math:`\Phi(y_{kd})`, and its share given the features
    before d follows from its marginal density there.

    Parameters
    ----------
    log_weights : Tensor, shape (*batch, K, 1)
    whitened : Tensor, shape (*batch, K, S, D)
    log_diagonal : Tensor, shape (*batch, K, 1, D)

    Returns
    -------
    Tensor, shape (*batch, S, D)
    """
    log_terms = -0.5 * whitened.square() - log_diagonal  # up to a constant that shares lose
    # Not cumsum − own term: where the own term is large, that difference loses the earlier digits.
    before = F.pad(log_terms[..., :-1].cumsum(-1), (1, 0))
    shares = torch.softmax(log_weights.unsqueeze(-1) + before, -3)
    uniform = 0.5 * torch.special.erfc(whitened * -math.sqrt(0.5))  # ndtr has no lower tail
    return (shares * uniform).sum(-3)


def attach_gradient(sample: Tensor, transform) -> Tensor:
    r"""Give ``sample`` the gradient that keeps ``transform(x; θ)`` fixed.

    If u = U(x; θ) is held while θ moves, dx = −(∂U/∂x)⁻¹ ∂U/∂θ dθ (Figurnov, Mohamed and Mnih
    2018; Graves 2016 for mixtures). ``transform`` maps (*, D) to (*, D) with a triangular Jacobian
    in x and reads θ from its closure.
    """
    point = sample.detach().requires_grad_()
    with torch.enable_grad():
        at_point = transform(point)
    n_features = sample.shape[-1]
    rows = [
        torch.autograd.grad(at_point[..., d].sum(), point, retain_graph=True)[0]
        for d in range(n_features)
    ]
    jacobian = torch.stack(rows, -2)  # (*, D, D), lower triangular
    moved = transform(sample.detach())
    surprise = (moved - moved.detach()).unsqueeze(-1)
    shift = torch.linalg.solve_triangular(jacobian, surprise, upper=False).squeeze(-1)
    return sample.detach() - shift
