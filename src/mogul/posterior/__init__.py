"""Posteriors: what a Bayesian fit answers."""

from __future__ import annotations

from mogul.posterior.base import Posterior
from mogul.posterior.diagnostics import ParetoK
from mogul.posterior.sampled import Empirical, PooledMixture, SampledPosterior
from mogul.posterior.variational import VariationalPosterior

__all__ = [
    "Empirical",
    "ParetoK",
    "PooledMixture",
    "Posterior",
    "SampledPosterior",
    "VariationalPosterior",
]
