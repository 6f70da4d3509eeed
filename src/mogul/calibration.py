"""Whether predicted distributions hold what they promise.

Of N predicted mixtures, one for each row, and what was then seen. A forecast is to be as sharp as
it can be while it is calibrated (Gneiting, Balabdaoui and Raftery 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mogul._checks import check_level
from mogul.errors import InputError
from mogul.mixture import Mixture

__all__ = ["calibration_curve", "check_predicted", "coverage", "pit", "sharpness"]


def pit(mixture: Mixture, y: Any) -> Tensor:
    """The probability integral transform: where in its distribution each value came to lie.

    Uniform between 0 and 1 when the predictions are right.

    Parameters
    ----------
    mixture : Mixture, batch shape (N,)
    y : array-like, shape (N, D) or, for D = 1, (N,)
        NaN where it is not known.

    Returns
    -------
    Tensor, shape (N, D)
        P(Y ≤ y) of each output's marginal; NaN where y is.

    Examples
    --------
    >>> from mogul import Mixture
    >>> from mogul.calibration import pit
    >>> two = Mixture.from_parameters([[1.0]] * 2, [[[0.0]], [[5.0]]], [[[1.0]]] * 2, "diag")
    >>> pit(two, [0.0, 5.0])
    tensor([[0.5000],
            [0.5000]], dtype=torch.float64)
    """
    values = _known(mixture, y)
    found = mixture.cdf(values.nan_to_num(0.0))
    return torch.where(values.isnan(), torch.nan, found)


def calibration_curve(
    mixture: Mixture, y: Any, probabilities: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """How often values lie below their predicted quantiles.

    Parameters
    ----------
    mixture : Mixture, batch shape (N,)
    y : array-like, shape (N, D) or (N,)
    probabilities : sequence of P floats, optional
        0.01, 0.02 and so on by default.

    Returns
    -------
    probabilities, shares : Tensor, shapes (P,) and (P, D)
        Equal when the predictions are right.
    """
    p = _probabilities(probabilities)
    where = pit(mixture, y)
    return p.to(where), _share(where <= p.to(where).reshape(-1, 1, 1), where)


def coverage(
    mixture: Mixture, y: Any, levels: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """How often equal-tailed intervals hold the values.

    Parameters
    ----------
    mixture : Mixture, batch shape (N,)
    y : array-like, shape (N, D) or (N,)
    levels : sequence of P floats, optional
        0.01, 0.02 and so on by default.

    Returns
    -------
    levels, shares : Tensor, shapes (P,) and (P, D)

    Examples
    --------
    >>> import torch
    >>> from mogul import Mixture
    >>> from mogul.calibration import coverage
    >>> many = Mixture.from_parameters([[1.0]] * 99, [[[0.0]]] * 99, [[[1.0]]] * 99, "diag")
    >>> quantiles = torch.special.ndtri(torch.arange(1, 100, dtype=torch.float64) / 100)
    >>> coverage(many, quantiles, [0.5])[1]
    tensor([[0.5152]], dtype=torch.float64)
    """
    level = _probabilities(levels)
    where = pit(mixture, y)
    inside = (where - 0.5).abs() <= level.to(where).reshape(-1, 1, 1) / 2 + 1e-12
    return level.to(where), _share(inside, where)


def sharpness(mixture: Mixture, level: float = 0.9) -> Tensor:
    """The mean width of equal-tailed intervals, in the units of y; (D,). Less is sharper."""
    ends = mixture.interval(check_level(level))
    return (ends[..., 1] - ends[..., 0]).reshape(-1, mixture.n_features).mean(0)


def check_predicted(mixture: Any) -> None:
    """Refuse what is no mixture for each of some rows."""
    one_a_row = isinstance(mixture, Mixture) and len(mixture.batch_shape) == 1
    if not one_a_row or not len(mixture):
        raise InputError(
            "Expected a mixture for each row, batch shape (N,), as predict_mixture gives; got "
            f"{mixture!r}."
        )


def _known(mixture: Mixture, y: Any) -> Tensor:
    check_predicted(mixture)
    try:
        values = y if isinstance(y, Tensor) else torch.from_numpy(np.array(y, dtype=float))
    except (TypeError, ValueError):
        raise InputError("y must be numbers, in rows of equal length.") from None
    values = values.to(mixture.means)
    values = values.unsqueeze(-1) if values.ndim == 1 else values
    expected = (len(mixture), mixture.n_features)
    if tuple(values.shape) != expected:
        raise InputError(f"y has shape {tuple(values.shape)}; expected {expected}.")
    return values


def _probabilities(given: Sequence[float] | None) -> Tensor:
    if given is None:
        return torch.arange(1, 100, dtype=torch.float64) / 100
    many = np.atleast_1d(np.asarray(given, dtype=object)).ravel()
    return torch.tensor([check_level(one, "A probability") for one in many], dtype=torch.float64)


def _share(inside: Tensor, where: Tensor) -> Tensor:
    """Of the known values, (P, N, D) to (P, D)."""
    known = ~where.isnan()
    return (inside & known).sum(1) / known.sum(0).to(where)
