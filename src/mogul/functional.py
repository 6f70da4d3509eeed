"""Pure functions of tensors: the mixture of a batch, and its energy.

They are what energy-based outlier detectors (Zong and others 2018) put into their loss: a network
gives latent rows ``z`` and memberships ``gamma``, :func:`gmm_params` the mixture that they imply,
and :func:`gmm_energy` how unlikely rows are under it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mogul.covariances.full import FullCovariance
from mogul.errors import InputError

__all__ = ["gmm_energy", "gmm_params"]

_TILE_ELEMENTS = 1 << 18
"""Rows × components × features held at once, about 8 MB in float64."""
_ESCALATION = 8.0
"""Jitter starts at this many roundings, and grows by this, where a covariance has no factor."""
_ATTEMPTS = 20


def gmm_params(
    z: Tensor, gamma: Tensor, *, jitter: float = 1e-6, shrinkage: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""The mixture that memberships imply, as in DAGMM.

    .. math::
        \phi_k = \tfrac1N \sum_i \gamma_{ik}, \quad
        \mu_k = \frac{\sum_i \gamma_{ik} z_i}{\sum_i \gamma_{ik}}, \quad
        \Sigma_k = \frac{\sum_i \gamma_{ik} (z_i - \mu_k)(z_i - \mu_k)^\top}{\sum_i \gamma_{ik}},
        \quad L_k L_k^\top = \Sigma_k + \varepsilon I .

    Differentiable in both arguments, to any order; memory grows with N × D, not with N × K × D × D.
    Sums are taken in float64. A component without members gets a mean and, without ``shrinkage``, a
    covariance of zero, and no gradient. Where Σ_k + εI is indefinite by rounding alone, L_k is that
    of Σ_k plus as much as the rounding needs.

    Parameters
    ----------
    z : Tensor, shape (N, D)
        Rows.
    gamma : Tensor, shape (N, K)
        Memberships, not negative; the rows of a softmax.
    jitter : float, default 1e-6
        ε, in squared units of ``z``.
    shrinkage : float, default 0.0
        ν: covariances are drawn towards the diagonal of the pooled one W, that of rows within their
        components, (N_k Σ_k + ν diag W) / (N_k + ν), as ν rows of a prior would (Fraley and Raftery
        2007). D + 2 keeps the covariances of batches smaller than their dimension sound.

    Returns
    -------
    phi : Tensor, shape (K,)
        Mixture weights.
    mu : Tensor, shape (K, D)
        Means.
    cov : Tensor, shape (K, D, D)
        Covariances, without the jitter.
    L : Tensor, shape (K, D, D)
        Lower Cholesky factors, with the jitter.
    log_det_cov : Tensor, shape (K,)
        Logarithms of the determinants of L Lᵀ.

    Raises
    ------
    InputError
        When shapes do not fit, or ``jitter`` or ``shrinkage`` is negative.

    References
    ----------
    Zong and others (2018), *Deep autoencoding Gaussian mixture model for unsupervised anomaly
    detection*, equation 5.

    Examples
    --------
    >>> import torch
    >>> from mogul.functional import gmm_energy, gmm_params
    >>> z = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
    >>> gamma = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> phi, mu, cov, L, log_det_cov = gmm_params(z, gamma)
    >>> mu.flatten(), cov.flatten()
    (tensor([ 1., 12.]), tensor([1., 4.]))
    >>> energy, _ = gmm_energy(torch.tensor([[1.0], [6.0]]), phi, mu, cov, L, log_det_cov,
    ...                        return_mean=False)
    >>> energy.round(decimals=2)
    tensor([1.6100, 6.8000])
    """
    _check_params(z, gamma, jitter, shrinkage)
    rows, members = z.double(), gamma.double()
    count = members.sum(0)
    filled = count > 0
    divisor = torch.where(filled, count, 1.0)
    mu = members.T @ rows / divisor.unsqueeze(-1)

    def scatter(rows: Tensor, members: Tensor, mu: Tensor) -> Tensor:
        gap = rows - mu.unsqueeze(1)  # (K, S, D)
        return FullCovariance.moment(members.T, gap, gap)

    moment = reduce(add, _tiled(scatter, (rows, members), mu))
    if shrinkage:
        within = torch.diagonal(moment.sum(0)) / count.sum()
        moment = moment + shrinkage * torch.diag(within)
        divisor = count + shrinkage
    cov = moment / divisor[:, None, None]
    factor = _factor(cov.new_tensor(jitter), moment, divisor)
    log_det_cov = 2 * factor.log_diagonal().sum(-1)
    found = (count / len(z), mu, cov, factor.scale_tril(), log_det_cov)
    phi, mu, cov, scale_tril, log_det_cov = (part.to(z.dtype) for part in found)
    return phi, mu, cov, scale_tril, log_det_cov


def _factor(jitter: Tensor, moment: Tensor, count: Tensor) -> FullCovariance:
    """The covariances with jitter on their diagonals: the one asked for, or what rounding needs.

    A cluster on a line at 1e6 has variances of 1e12, next to which 1e-6 is lost.
    """
    n_features = moment.shape[-1]
    moment, count = moment.unsqueeze(1), count.unsqueeze(1)  # K mixtures of one component each
    with torch.no_grad():
        largest = torch.diagonal(moment, dim1=-2, dim2=-1).amax(-1) / count
        rounding = n_features * torch.finfo(moment.dtype).eps * largest.squeeze(1)
        rounding = rounding + torch.finfo(moment.dtype).tiny  # no jitter and no spread at all
        floor = jitter.expand_as(rounding)
        for _ in range(_ATTEMPTS):
            ok = FullCovariance.from_moment(moment, count, n_features, floor)[1].squeeze(1)
            if bool(ok.all()):
                break
            rounding = rounding * _ESCALATION
            floor = torch.where(ok, floor, torch.maximum(floor, rounding))
    found = FullCovariance.from_moment(moment, count, n_features, floor)[0]
    return FullCovariance(found.factor.squeeze(1), len(moment), n_features)


def gmm_energy(
    z: Tensor,
    phi: Tensor,
    mu: Tensor,
    cov: Tensor,
    L: Tensor,
    log_det_cov: Tensor,
    return_mean: bool = True,
    *,
    jitter: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    r"""The energy of rows, their negative log-density, and DAGMM's penalty of small variances.

    .. math::
        E(z) = -\log \sum_k \exp\left[\log \phi_k - \tfrac12 \left( \lVert L_k^{-1}(z - \mu_k)
        \rVert^2 + D \log 2\pi + \log\det\Sigma_k \right)\right], \quad
        \sum_{k,d} 1 / \max(\Sigma_{kdd}, \varepsilon) .

    Differentiable in every argument. By triangular solves and log-sum-exp: a row a million away has
    its energy and a gradient. A component of weight zero counts for nothing.

    Parameters
    ----------
    z : Tensor, shape (N, D)
    phi, mu, cov, L, log_det_cov : Tensor
        Of :func:`gmm_params`, of these rows or of others.
    return_mean : bool, default True
        The mean over rows instead of each row's energy.
    jitter : float, default 1e-6
        ε: the variance below which the penalty grows no further, so that it stays finite.

    Returns
    -------
    sample_energy : Tensor, shape () or (N,)
        In nats; higher is less likely.
    cov_diag : Tensor, shape ()
        The sum of inverse variances.

    Raises
    ------
    InputError
        When shapes do not fit or ``jitter`` is not positive.

    References
    ----------
    Zong and others (2018), equations 6 and 7.

    Examples
    --------
    >>> import torch
    >>> from mogul.functional import gmm_energy
    >>> one = torch.ones(1)
    >>> energy, cov_diag = gmm_energy(
    ...     torch.tensor([[3.0]]), one, one[:, None], one[:, None, None], one[:, None, None],
    ...     torch.zeros(1),
    ... )
    >>> energy, cov_diag
    (tensor(2.9189), tensor(1.))
    """
    _check_energy(z, phi, mu, cov, L, log_det_cov, jitter)
    n_components, n_features = mu.shape
    present = phi > 0
    log_phi = torch.where(present, torch.where(present, phi, 1.0).log(), -torch.inf)
    constant = log_phi - 0.5 * (n_features * math.log(2 * math.pi) + log_det_cov)

    def energy(rows: Tensor, mu: Tensor, factor: Tensor, constant: Tensor) -> Tensor:
        gap = rows - mu.unsqueeze(1)  # (K, S, D)
        white = FullCovariance(factor, n_components, n_features).whiten(gap)
        return -torch.logsumexp(constant.unsqueeze(-1) - 0.5 * white.square().sum(-1), 0)

    energies = torch.cat(list(_tiled(energy, (z,), mu, L, constant)))
    variances = torch.diagonal(cov, dim1=-2, dim2=-1)
    penalty = variances.clamp_min(jitter).reciprocal().sum()
    return energies.mean() if return_mean else energies, penalty


def _tiled(
    function: Callable[..., Tensor], rows: tuple[Tensor, ...], mu: Tensor, *more: Tensor
) -> Iterator[Tensor]:
    """``function`` of tiles of rows; what a tile holds is computed again for its gradient."""
    n_rows = max(1, _TILE_ELEMENTS // max(1, mu.numel()))
    if len(rows[0]) <= n_rows:
        yield function(*rows, mu, *more)
        return
    for tile in zip(*(part.split(n_rows) for part in rows), strict=True):
        yield checkpoint(function, *tile, mu, *more, use_reentrant=False)


def _check_params(z: Tensor, gamma: Tensor, jitter: float, shrinkage: float) -> None:
    if z.ndim != 2 or gamma.ndim != 2 or len(z) != len(gamma) or not len(z):
        raise InputError(
            f"z has shape {tuple(z.shape)} and gamma {tuple(gamma.shape)}; expected (N, D) and "
            "(N, K) with the same N, at least one row."
        )
    if not jitter >= 0:
        raise InputError(f"jitter must not be negative; got {jitter}.")
    if not shrinkage >= 0:
        raise InputError(f"shrinkage must not be negative; got {shrinkage}.")


def _check_energy(
    z: Tensor, phi: Tensor, mu: Tensor, cov: Tensor, L: Tensor, log_det_cov: Tensor, jitter: float
) -> None:
    if mu.ndim != 2 or z.ndim != 2 or z.shape[-1] != mu.shape[-1]:
        raise InputError(
            f"z has shape {tuple(z.shape)} and mu {tuple(mu.shape)}; expected (N, D) and (K, D)."
        )
    k, d = mu.shape
    wanted = {"phi": (k,), "cov": (k, d, d), "L": (k, d, d), "log_det_cov": (k,)}
    given = {"phi": phi, "cov": cov, "L": L, "log_det_cov": log_det_cov}
    for name, shape in wanted.items():
        if tuple(given[name].shape) != shape:
            raise InputError(
                f"{name} has shape {tuple(given[name].shape)}; expected {shape} for {k} "
                f"components in {d} dimensions."
            )
    if not jitter > 0:
        raise InputError(f"jitter must be positive; got {jitter}.")
