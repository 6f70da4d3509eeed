"""Whether several chains of a sampler agree."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mogul.mixture import Mixture

__all__ = ["MOST_R_HAT", "largest_r_hat", "split_r_hat"]

MOST_R_HAT = 1.05
"""Chains that differ more have not mixed (Vehtari and others 2021 ask for 1.01 of long ones)."""


def split_r_hat(values: np.ndarray) -> np.ndarray:
    r"""How much chains differ, each cut in two: near one when they mix.

    .. math::
        \hat R = \sqrt{\frac{(n - 1) W / n + B}{W}}

    with W the mean variance within half chains of n draws and B the variance of their means
    (Gelman and Rubin 1992; Gelman and others 2013, §11.4).

    Parameters
    ----------
    values : ndarray, shape (chains, draws, Q)

    Returns
    -------
    ndarray, shape (Q,)
        NaN for fewer than four draws.
    """
    half = values.shape[1] // 2
    if half < 2:
        return np.full(values.shape[2:], np.nan)
    halves = np.concatenate([values[:, :half], values[:, -half:]])  # (2 chains, n, Q)
    within = halves.var(1, ddof=1).mean(0)
    between = halves.mean(1).var(0, ddof=1)
    constant = within == 0
    ratio = (half - 1) / half + between / np.where(constant, 1.0, within)
    return np.where(constant, np.where(between == 0, 1.0, np.inf), np.sqrt(ratio))


def largest_r_hat(draws: Mixture, log_joint: Tensor) -> float:
    """The largest split R̂ of the joint log-density and of the weights in order of size.

    They do not depend on how components are numbered, but that sticks know an order, and the joint
    density of a Dirichlet process with them.

    Parameters
    ----------
    draws : Mixture, batch shape (chains, draws)
    log_joint : Tensor, shape (chains, draws)
    """
    weights = draws.weights.sort(-1, descending=True).values
    values = torch.cat([log_joint.unsqueeze(-1), weights[..., : draws.n_components - 1]], -1)
    return float(np.max(split_r_hat(values.cpu().numpy())))
