"""Which features make a row unlikely: its energy as a sum over features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from mogul._checks import check_count
from mogul.covariances import Covariance
from mogul.errors import InputError
from mogul.mixture import Mixture

__all__ = ["Explanation", "energy_contributions", "feature_orders", "path_contributions"]

_ALL_ORDERS = 5
"""Up to so many features every order is taken: 120 of five."""
_TILE_ELEMENTS = 1 << 22
"""Components × rows × features held at once."""


@dataclass(frozen=True)
class Explanation:
    """What each feature adds to the energy of some rows, beyond what it adds on average.

    Attributes
    ----------
    contributions : ndarray, shape (N, D)
        In nats; positive where a feature makes the row stranger than ordinary rows are.
    feature_names : tuple of str
    """

    contributions: np.ndarray
    feature_names: tuple[str, ...]

    @cached_property
    def excess(self) -> np.ndarray:
        """The energy of each row less the mean energy of ordinary rows, (N,): the sum."""
        return self.contributions.sum(1)

    def top(self, n: int = 3) -> list[list[tuple[str, float]]]:
        """For each row the n features that add most, largest first, with what they add."""
        count = min(check_count(n, "n"), len(self.feature_names))
        order = np.argsort(-self.contributions, axis=1, kind="stable")[:, :count]
        return [
            [(self.feature_names[j], float(row[j])) for j in places]
            for row, places in zip(self.contributions, order, strict=True)
        ]


def feature_orders(n_features: int, n_orders: int = 32, seed: int = 0) -> Tensor:
    """Orders of features, (P, D): all of them up to five features, else drawn in pairs.

    A pair is an order and its reverse, between which most of the difference that order makes
    cancels.
    """
    d = check_count(n_features, "n_features")
    if d <= _ALL_ORDERS:
        return torch.tensor(list(permutations(range(d))))
    generator = torch.Generator().manual_seed(seed)
    half = [torch.randperm(d, generator=generator) for _ in range(-(-n_orders // 2))]
    return torch.stack([order for one in half for order in (one, one.flip(0))])


@torch.no_grad()
def energy_contributions(
    mixture: Mixture, x: Tensor, orders: Tensor | Sequence[Sequence[int]] | None = None
) -> Tensor:
    r"""The energy of rows, −log p(x), divided among their features.

    By the chain rule, for an order π of the features,

    .. math::
        -\log p(x) = \sum_j -\log p\bigl(x_{\pi_j} \mid x_{\pi_1}, \dots, x_{\pi_{j-1}}\bigr)

    with the mixture's own conditional densities. A feature's contribution is the mean of its term
    over the orders; over all orders it is the Shapley value of the game in which features pay for
    their marginal energy.

    Parameters
    ----------
    mixture : Mixture, without batch
    x : Tensor, shape (N, D)
    orders : array-like, shape (P, D), optional
        :func:`feature_orders` by default.

    Returns
    -------
    Tensor, shape (N, D), float64
        In nats; each row sums to its energy, to rounding.

    Raises
    ------
    InputError
        When shapes do not fit.

    References
    ----------
    Shapley (1953); Štrumbelj and Kononenko (2014), for orders that are drawn.

    Examples
    --------
    >>> import torch
    >>> from mogul import Mixture
    >>> from mogul.explanation import energy_contributions
    >>> one = Mixture.from_parameters([1.0], [[0.0, 0.0]], [[1.0, 1.0]], "diag")
    >>> energy_contributions(one, torch.tensor([[0.0, 3.0]]).double()).round(decimals=3)
    tensor([[0.9190, 5.4190]], dtype=torch.float64)
    """
    d = mixture.n_features
    if mixture.batch_shape or x.ndim != 2 or x.shape[1] != d:
        raise InputError(
            f"x has shape {tuple(x.shape)} and the mixture batch shape "
            f"{tuple(mixture.batch_shape)}; expected (N, {d}) and one mixture."
        )
    wide, rows = mixture.to(dtype=torch.float64), x.double()
    found = torch.zeros_like(rows)
    chosen = feature_orders(d) if orders is None else torch.as_tensor(orders)
    at = max(1, _TILE_ELEMENTS // (wide.n_components * d))
    for order in chosen.to(rows.device):
        factor = _factor(wide.covariance, order)
        for tile, part in zip(rows.split(at), found.split(at), strict=True):
            part[:, order] += _chain(wide, factor, tile[:, order], order)
    return found / len(chosen)


@torch.no_grad()
def path_contributions(
    energy: Callable[[Tensor], Tensor], x: Tensor, reference: Tensor, orders: Tensor
) -> Tensor:
    r"""The energy of rows beyond that of ordinary ones, divided among their features.

    For any energy, where :func:`energy_contributions` needs a mixture of the features themselves:
    beginning with an ordinary row, its features are replaced by those of the row in some order, and
    each contributes what the energy changes by. The mean over orders, each with an ordinary row of
    its own, estimates Shapley values; whatever the orders, contributions add up.

    Parameters
    ----------
    energy : callable, (M, D) to (M,)
    x : Tensor, shape (N, D)
    reference : Tensor, shape (P, D)
        Ordinary rows, one for each order.
    orders : Tensor, shape (P, D)
        Such as :func:`feature_orders` gives.

    Returns
    -------
    Tensor, shape (N, D), float64
        In nats; each row sums to its energy less the mean energy of the reference.

    References
    ----------
    Štrumbelj and Kononenko (2014), *Explaining prediction models and individual predictions with
    feature contributions*.

    Examples
    --------
    >>> import torch
    >>> from mogul.explanation import path_contributions
    >>> squares = lambda rows: rows.square().sum(-1)
    >>> orders = torch.tensor([[0, 1], [1, 0]])
    >>> path_contributions(squares, torch.tensor([[1.0, 3.0]]), torch.zeros(2, 2), orders)
    tensor([[1., 9.]], dtype=torch.float64)
    """
    d = x.shape[-1]
    found = x.new_zeros(x.shape, dtype=torch.float64)
    at = max(1, _TILE_ELEMENTS // (d * (d + 1)))
    for start, order in zip(reference, orders.to(x.device), strict=True):
        place = torch.empty_like(order)
        place[order] = torch.arange(d, device=order.device)
        for tile, part in zip(x.split(at), found.split(at), strict=True):
            # Row i of a path has the first i features of the order from the row itself.
            replaced = torch.arange(d + 1, device=x.device).unsqueeze(1) > place  # (D + 1, D)
            rows = torch.where(replaced.unsqueeze(1), tile, start)
            values = energy(rows.flatten(0, 1)).double().reshape(d + 1, len(tile))
            part[:, order] += values.diff(dim=0).T
    return found / len(orders)


def _factor(covariance: Covariance, order: Tensor) -> Tensor:
    """Cholesky factors of the covariances with features in some order, or their diagonals."""
    if not covariance.has_matrices():
        return covariance.variances()[:, order].sqrt()
    return torch.linalg.cholesky(covariance.dense()[:, order][:, :, order])


def _chain(mixture: Mixture, factor: Tensor, rows: Tensor, order: Tensor) -> Tensor:
    """−log p of each feature given those before it, (N, D), for rows in some order."""
    gap = rows - mixture.means[:, order].unsqueeze(1)  # (K, N, D)
    columns = gap.transpose(-1, -2)
    if factor.ndim == gap.ndim:
        white = torch.linalg.solve_triangular(factor, columns, upper=False)
        factor = torch.diagonal(factor, dim1=-2, dim2=-1)
    else:
        white = columns / factor.unsqueeze(-1)
    scales = factor.log().unsqueeze(-1)
    terms = -0.5 * (white.square() + math.log(2 * math.pi)) - scales  # (K, D, N)
    start = mixture.log_weights.reshape(-1, 1, 1)
    logs = torch.logsumexp(start + terms.cumsum(1), 0)  # of the first features together, (D, N)
    first = logs.new_zeros(1, logs.shape[1])
    return -torch.diff(logs, dim=0, prepend=first).T
