"""mogul: Mixtures Of Gaussians, one Unified Library.

Public names are loaded when they are first touched, so that ``import mogul`` and ``mogul --help``
are quick: neither torch nor scikit-learn, matplotlib, typer or pyarrow is imported before one of
their users is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mogul import (
        calibration,
        conformal,
        data,
        datasets,
        distances,
        errors,
        explanation,
        functional,
        infer,
        mapreduce,
        nn,
        plot,
        priors,
    )
    from mogul.estimators import (
        AEGMM,
        VAEGMM,
        BayesianGaussianMixture,
        GaussianMixture,
        ManyFits,
        MixtureDensityRegressor,
        MixtureOutlierDetector,
        SelectionResult,
        Slogan,
        fit_many,
        select,
    )
    from mogul.io import load, save
    from mogul.mixture import Mixture
    from mogul.posterior import Posterior

__version__ = "0.1.0"

_LAZY = {
    "AEGMM": "mogul.estimators",
    "VAEGMM": "mogul.estimators",
    "BayesianGaussianMixture": "mogul.estimators",
    "GaussianMixture": "mogul.estimators",
    "ManyFits": "mogul.estimators",
    "Mixture": "mogul.mixture",
    "MixtureDensityRegressor": "mogul.estimators",
    "MixtureOutlierDetector": "mogul.estimators",
    "Posterior": "mogul.posterior",
    "SelectionResult": "mogul.estimators",
    "Slogan": "mogul.estimators",
    "fit_many": "mogul.estimators",
    "select": "mogul.estimators",
    "load": "mogul.io",
    "save": "mogul.io",
}
_MODULES = (
    "calibration",
    "conformal",
    "data",
    "datasets",
    "distances",
    "errors",
    "explanation",
    "functional",
    "infer",
    "mapreduce",
    "nn",
    "plot",
    "priors",
)

__all__ = [
    "AEGMM",
    "VAEGMM",
    "BayesianGaussianMixture",
    "GaussianMixture",
    "ManyFits",
    "Mixture",
    "MixtureDensityRegressor",
    "MixtureOutlierDetector",
    "Posterior",
    "SelectionResult",
    "Slogan",
    "__version__",
    "calibration",
    "conformal",
    "data",
    "datasets",
    "distances",
    "errors",
    "explanation",
    "fit_many",
    "functional",
    "infer",
    "load",
    "mapreduce",
    "nn",
    "plot",
    "priors",
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
