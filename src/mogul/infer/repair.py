"""Bringing back components that collapsed."""

from __future__ import annotations

import torch
from torch import Tensor

from mogul.mixture import Mixture

__all__ = ["split_into"]


def split_into(mixture: Mixture, ok: Tensor) -> Mixture | None:
    """Replace each component that is not ``ok`` by half of the heaviest one that is.

    The heaviest component is cut along its longest axis: two halves, half a standard deviation
    either side of its mean, sharing its weight and keeping its covariance (the split move of Ueda
    and others 2000). Returns None when no component is left to split.

    Parameters
    ----------
    mixture : Mixture
        A single one.
    ok : Tensor, shape (K,), boolean
    """
    if not bool(ok.any()):
        return None
    weights = torch.where(ok, mixture.weights, 0.0)
    means = mixture.means.clone()
    source = torch.arange(mixture.n_components)
    for k in (~ok).nonzero().flatten().tolist():
        donor = int(weights.argmax())
        half_axis = _longest_axis(mixture, int(source[donor])) / 2
        weights[donor] = weights[k] = weights[donor] / 2
        means[k] = means[donor] + half_axis
        means[donor] = means[donor] - half_axis
        source[k] = source[donor]
    return Mixture(weights.log(), means, mixture.covariance.select(source), mixture.feature_names)


def _longest_axis(mixture: Mixture, component: int) -> Tensor:
    """The principal axis of a component, one standard deviation long; (D,)."""
    one = mixture.covariance.select(torch.tensor([component]))
    values, vectors = torch.linalg.eigh(one.dense()[0])
    return values[-1].clamp_min(0).sqrt() * vectors[:, -1]
