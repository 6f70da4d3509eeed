"""How far apart two samples are, without a density of either."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mogul._checks import check_count, check_seed
from mogul.errors import InputError

__all__ = ["energy_distance", "sliced_wasserstein"]

_NUMBERS_TOGETHER = 1 << 22
"""Of the distances, or projections, that are held at once."""


def energy_distance(x: Any, y: Any) -> float:
    r"""The energy distance of two samples.

    .. math::
        \Bigl(2\,\mathrm{E}\lVert X - Y\rVert - \mathrm{E}\lVert X - X'\rVert
        - \mathrm{E}\lVert Y - Y'\rVert\Bigr)^{1/2}

    It is zero only for equal distributions. Of samples it is the distance of their empirical
    distributions, which is above zero for two samples of one distribution: compare it with that of
    a second sample. For one feature it is what SciPy calls by this name.

    Parameters
    ----------
    x : array-like, shape (N, D) or, for D = 1, (N,)
    y : array-like, shape (M, D) or (M,)

    Returns
    -------
    float
        In the square root of the units of the data; it takes N M + N² + M² distances.

    Raises
    ------
    InputError
        For samples of different widths, empty ones and numbers that are not finite.

    References
    ----------
    Székely and Rizzo (2013).

    Examples
    --------
    >>> from mogul.distances import energy_distance
    >>> energy_distance([0.0, 1.0], [0.0, 1.0]), energy_distance([0.0], [2.0])
    (0.0, 2.0)
    """
    a, b = _samples(x, y)
    squared = 2 * _mean_distance(a, b) - _mean_distance(a, a) - _mean_distance(b, b)
    return max(0.0, squared) ** 0.5


def sliced_wasserstein(x: Any, y: Any, n_projections: int = 500, seed: int = 0) -> float:
    r"""The Wasserstein distance of two samples on a line, averaged over directions.

    .. math::
        \frac1P \sum_p \int \bigl|F_p(t) - G_p(t)\bigr| \, dt

    F and G are the empirical distribution functions along direction p, drawn uniformly from the
    sphere: the mean over directions of how far mass must be moved. For one feature this is the
    Wasserstein distance itself.

    Parameters
    ----------
    x : array-like, shape (N, D) or, for D = 1, (N,)
    y : array-like, shape (M, D) or (M,)
    n_projections : int, default 500
        P. The error of the average falls as 1 / √P.
    seed : int, default 0
        Of the directions; distances to be compared want the same ones.

    Returns
    -------
    float
        In the units of the data: give features of one unit, or standardise them.

    Raises
    ------
    InputError
        For samples of different widths, empty ones and numbers that are not finite.

    References
    ----------
    Rabin, Peyré, Delon and Bernot (2012); Bonneel, Rabin, Peyré and Pfister (2015).

    Examples
    --------
    >>> from mogul.distances import sliced_wasserstein
    >>> sliced_wasserstein([0.0, 1.0, 2.0], [2.0, 3.0, 4.0])
    2.0
    """
    a, b = _samples(x, y)
    n_projections = check_count(n_projections, "n_projections")
    if a.shape[1] == 1:
        return float(_between(a.T, b.T).mean())
    generator = torch.Generator().manual_seed(check_seed(seed))
    shape = (n_projections, a.shape[1])
    directions = torch.randn(shape, generator=generator, dtype=torch.float64).to(a.device)
    directions = directions / directions.norm(dim=1, keepdim=True)
    each = max(1, _NUMBERS_TOGETHER // (len(a) + len(b)))
    parts = [_between(part @ a.T, part @ b.T) for part in directions.split(each)]
    return float(torch.cat(parts).mean())


def _mean_distance(a: Tensor, b: Tensor) -> float:
    each = max(1, _NUMBERS_TOGETHER // len(b))
    # Not by squares and a product of matrices: near points would lose all digits.
    exact = "donot_use_mm_for_euclid_dist"
    total = sum(float(torch.cdist(part, b, compute_mode=exact).sum()) for part in a.split(each))
    return total / (len(a) * len(b))


def _between(a: Tensor, b: Tensor) -> Tensor:
    """The Wasserstein distance of each row of values, (P, N) and (P, M) to (P)."""
    values, order = torch.cat([a, b], 1).sort(1)
    step = torch.full_like(values, -1 / b.shape[1])
    step[order < a.shape[1]] = 1 / a.shape[1]
    gap = step.cumsum(1)[:, :-1].abs()
    return (gap * values.diff(dim=1)).sum(1)


def _samples(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    a, b = _rows(x, "x"), _rows(y, "y").to(x.device if isinstance(x, Tensor) else "cpu")
    if a.shape[1] != b.shape[1]:
        raise InputError(f"x has {a.shape[1]} features and y has {b.shape[1]}; expected as many.")
    return a, b


def _rows(given: Any, name: str) -> Tensor:
    try:
        found = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given, float))
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, in rows of equal length.") from None
    found = found.detach().double()
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or not found.numel():
        raise InputError(
            f"{name} must be rows of features, (N, D), at least one; got {tuple(found.shape)}."
        )
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"{name} holds NaN or infinity; leave such rows out.")
    return found
