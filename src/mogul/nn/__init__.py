"""Mixtures as ``torch.nn`` modules."""

from mogul.nn.trainable_mixture import TrainableMixture

__all__ = ["TrainableMixture"]
