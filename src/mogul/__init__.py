"""mogul: Mixtures Of Gaussians, one Unified Library.

Public names are loaded when they are first touched, so that ``import mogul`` is quick and brings
in neither matplotlib nor typer nor pyarrow nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mogul.mixture import Mixture

if TYPE_CHECKING:
    from mogul import datasets, errors, plot
    from mogul.estimators import GaussianMixture, SelectionResult, select
    from mogul.io import load, save

__version__ = "0.1.0"

_LAZY = {
    "GaussianMixture": "mogul.estimators",
    "SelectionResult": "mogul.estimators",
    "select": "mogul.estimators",
    "load": "mogul.io",
    "save": "mogul.io",
}
_MODULES = ("datasets", "errors", "plot")

__all__ = [
    "GaussianMixture",
    "Mixture",
    "SelectionResult",
    "__version__",
    "datasets",
    "errors",
    "load",
    "plot",
    "save",
    "select",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"mogul.{name}")
    raise AttributeError(f"module 'mogul' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
