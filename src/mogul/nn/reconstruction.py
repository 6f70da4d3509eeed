"""How badly a row was reconstructed: the features that join its latent ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mogul.errors import InputError, UnknownNameError

__all__ = [
    "RECON_FEATURES",
    "ReconFeature",
    "as_list",
    "cosine",
    "error",
    "recon_feature",
    "relative",
]

ReconFeature = Callable[[Tensor, Tensor], Tensor]

_SHORT = 0.1
"""Rows shorter than this, in root mean squares of standardised features, count as so long."""
_EXACT = 1e-3
"""Errors well below this, in root mean squares, count as so large."""


def relative(x: Tensor, recon: Tensor) -> Tensor:
    r"""The distance from a row to its reconstruction, relative to the length of the row.

    .. math::
        \sqrt{\lVert x - \hat x \rVert^2 + 10^{-6} D} \Big/ \sqrt{\lVert x \rVert^2 + D s^2},
        \quad s = 0.1

    A standardised row at its mean has length zero: s keeps what is divided by above zero. The small
    number under the other root gives an exact reconstruction a gradient.

    Parameters
    ----------
    x, recon : Tensor, shape (N, D)

    Returns
    -------
    Tensor, shape (N, 1)
    """
    return _length(x - recon, _EXACT) / _length(x, _SHORT)


def cosine(x: Tensor, recon: Tensor) -> Tensor:
    r"""The cosine of the angle between a row and its reconstruction; higher is better.

    .. math::
        x^\top \hat x \Big/ \sqrt{(\lVert x \rVert^2 + D s^2)(\lVert \hat x \rVert^2 + D s^2)}

    Zero, not NaN, where either is zero; s as of :func:`relative`.

    Parameters
    ----------
    x, recon : Tensor, shape (N, D)

    Returns
    -------
    Tensor, shape (N, 1)
    """
    return (x * recon).sum(-1, keepdim=True) / (_length(x, _SHORT) * _length(recon, _SHORT))


def error(x: Tensor, recon: Tensor) -> Tensor:
    r"""The root mean squared error of a row.

    .. math:: \sqrt{\lVert x - \hat x \rVert^2 / D + 10^{-6}}

    The one of the three that tells a large error from a larger one: the others tend to a limit.

    Parameters
    ----------
    x, recon : Tensor, shape (N, D)

    Returns
    -------
    Tensor, shape (N, 1)
    """
    return _length(x - recon, _EXACT) / x.shape[-1] ** 0.5


RECON_FEATURES: dict[str, ReconFeature] = {
    "relative": relative,
    "cosine": cosine,
    "error": error,
}


def recon_feature(chosen: str | ReconFeature | Sequence[str | ReconFeature]) -> list[ReconFeature]:
    """Functions of a row and its reconstruction from their names, or as they are given.

    Raises
    ------
    UnknownNameError, InputError
        For what is neither.
    """
    found = []
    for one in as_list(chosen):
        if isinstance(one, str) and one not in RECON_FEATURES:
            raise UnknownNameError(
                f"The reconstruction feature {one!r} is unknown; choose from "
                f"{', '.join(map(repr, RECON_FEATURES))} or give a function of (x, recon)."
            )
        function = RECON_FEATURES[one] if isinstance(one, str) else one
        if not callable(function):
            raise InputError(
                f"A reconstruction feature is a name or a function of (x, recon); got {one!r}."
            )
        found.append(function)
    return found


def as_list(chosen: Any) -> list[Any]:
    """One name or function as a list of it."""
    return [chosen] if isinstance(chosen, str) or callable(chosen) else list(chosen)


def _length(rows: Tensor, least: float) -> Tensor:
    """Euclidean lengths (N, 1), smoothly at least ``least`` √D, with gradients everywhere."""
    largest = rows.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)  # no square overflows
    scaled = rows / largest
    floor = rows.shape[-1] * (least / largest).square()
    return largest * (scaled.square().sum(-1, keepdim=True) + floor).sqrt()
