"""Distributions over the parameters of a mixture: what priors and approximate posteriors are."""

from __future__ import annotations

from mogul.beliefs.base import Belief, ComponentBelief, WeightBelief
from mogul.beliefs.independent import IndependentComponents
from mogul.beliefs.normal_wishart import NormalWishartComponents
from mogul.beliefs.state import belief_from_state, belief_to_state
from mogul.beliefs.weights import DirichletWeights, StickBreaking, StickBreakingWeights
from mogul.beliefs.wishart import WishartPrecisions

__all__ = [
    "Belief",
    "ComponentBelief",
    "DirichletWeights",
    "IndependentComponents",
    "NormalWishartComponents",
    "StickBreaking",
    "StickBreakingWeights",
    "WeightBelief",
    "WishartPrecisions",
    "belief_from_state",
    "belief_to_state",
]
