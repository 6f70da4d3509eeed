"""Draws that a generator seeds and that carry gradients, where torch offers only one of the two."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_gamma", "normal", "standard_gamma"]


def normal(like: Tensor, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the type and device of ``like``."""
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)


def standard_gamma(concentration: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gamma numbers of rate one, differentiable in their concentration."""
    # What torch.distributions.Gamma.rsample calls; that has no way to pass a generator on.
    gamma = torch._standard_gamma  # pyright: ignore[reportPrivateImportUsage]
    return gamma(concentration, generator=generator)


def log_gamma(concentration: Tensor, generator: torch.Generator | None) -> Tensor:
    """The logarithms of Gamma numbers of rate one.

    A draw of concentration a is one of a + 1 times u^(1/a) (Marsaglia and Tsang 2000): its
    logarithm is finite where the draw itself, of a small concentration, underflows.
    """
    uniform = torch.rand(
        concentration.shape,
        dtype=concentration.dtype,
        device=concentration.device,
        generator=generator,
    )
    least = torch.finfo(concentration.dtype).tiny
    power = uniform.clamp_min(least).log() / concentration
    return standard_gamma(concentration + 1, generator).log() + power
