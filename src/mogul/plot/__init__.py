"""Pictures of mixtures: functions that take a thing and return matplotlib Axes.

They never fit and never show; with ``ax=None`` they make a pyplot figure of their own.
"""

from mogul.plot._band import credible_density
from mogul.plot._calibration import calibration, coverage, pit
from mogul.plot._conditional import conditional, conditional_density
from mogul.plot._convergence import convergence
from mogul.plot._density import density
from mogul.plot._joint import joint
from mogul.plot._joint_posterior import joint_posterior
from mogul.plot._latent import latent
from mogul.plot._outliers import contributions, outlier_scores, precision_recall, roc
from mogul.plot._pairs import pairs
from mogul.plot._posterior import posterior
from mogul.plot._selection import selection
from mogul.plot._training import training
from mogul.plot._weights import components

__all__ = [
    "calibration",
    "components",
    "conditional",
    "conditional_density",
    "contributions",
    "convergence",
    "coverage",
    "credible_density",
    "density",
    "joint",
    "joint_posterior",
    "latent",
    "outlier_scores",
    "pairs",
    "pit",
    "posterior",
    "precision_recall",
    "roc",
    "selection",
    "training",
]
