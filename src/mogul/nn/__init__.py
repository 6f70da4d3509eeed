"""Mixtures as ``torch.nn`` modules, and networks that draw without a density."""

from mogul.nn.energy_autoencoder import AEGMMNetwork, VAEGMMNetwork
from mogul.nn.mixture_density_network import MixtureDensityNetwork
from mogul.nn.mixture_head import MixtureHead
from mogul.nn.mlp import MLP
from mogul.nn.slogan import Critic, Generator, pair_distances, slogan_loss
from mogul.nn.trainable_mixture import TrainableMixture

__all__ = [
    "MLP",
    "AEGMMNetwork",
    "Critic",
    "Generator",
    "MixtureDensityNetwork",
    "MixtureHead",
    "TrainableMixture",
    "VAEGMMNetwork",
    "pair_distances",
    "slogan_loss",
]
