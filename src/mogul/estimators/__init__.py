"""Estimators with scikit-learn's interface: they translate names and arrays, no more."""

from __future__ import annotations

from mogul.estimators.aegmm import AEGMM
from mogul.estimators.bayesian_mixture import BayesianGaussianMixture
from mogul.estimators.gaussian_mixture import GaussianMixture
from mogul.estimators.many import ManyFits, fit_many
from mogul.estimators.mixture_density_regressor import MixtureDensityRegressor
from mogul.estimators.mixture_outlier_detector import MixtureOutlierDetector
from mogul.estimators.selection import SelectionResult, select
from mogul.estimators.slogan import Slogan
from mogul.estimators.vaegmm import VAEGMM

__all__ = [
    "AEGMM",
    "VAEGMM",
    "BayesianGaussianMixture",
    "GaussianMixture",
    "ManyFits",
    "MixtureDensityRegressor",
    "MixtureOutlierDetector",
    "SelectionResult",
    "Slogan",
    "fit_many",
    "select",
]
