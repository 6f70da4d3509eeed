"""Mixtures as ``torch.nn`` modules."""

from mogul.nn.mixture_density_network import MixtureDensityNetwork
from mogul.nn.mixture_head import MixtureHead
from mogul.nn.mlp import MLP
from mogul.nn.trainable_mixture import TrainableMixture

__all__ = ["MLP", "MixtureDensityNetwork", "MixtureHead", "TrainableMixture"]
