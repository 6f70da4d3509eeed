"""Inference: one method a file. Checkpoint and the settings of the Bayesian methods are public."""

from __future__ import annotations

from mogul.infer.adam_vi import AdamVI
from mogul.infer.cavi import CAVI
from mogul.infer.checkpoint import Checkpoint
from mogul.infer.gibbs import Gibbs
from mogul.infer.problem import Method
from mogul.infer.svi import SVI

__all__ = ["CAVI", "METHODS", "SVI", "AdamVI", "Checkpoint", "Gibbs"]

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (CAVI, SVI, AdamVI, Gibbs)}
"""The methods by the word that users write for ``inference``."""
