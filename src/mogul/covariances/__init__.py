"""Covariance structures: the registry.

>>> sorted(STRUCTURES)
['diag', 'full', 'spherical', 'tied']
"""

from __future__ import annotations

from mogul.covariances.base import Covariance
from mogul.covariances.diag import DiagCovariance
from mogul.covariances.full import FullCovariance
from mogul.covariances.spherical import SphericalCovariance
from mogul.covariances.tied import TiedCovariance
from mogul.errors import UnknownNameError

__all__ = ["STRUCTURES", "Covariance", "structure"]

STRUCTURES: dict[str, type[Covariance]] = {
    "full": FullCovariance,
    "tied": TiedCovariance,
    "diag": DiagCovariance,
    "spherical": SphericalCovariance,
}


def structure(name: str) -> type[Covariance]:
    """The class registered under ``name``."""
    try:
        return STRUCTURES[name]
    except (KeyError, TypeError):
        raise UnknownNameError(
            f"The covariance structure {name!r} is unknown; choose one of "
            f"{', '.join(map(repr, STRUCTURES))}."
        ) from None
