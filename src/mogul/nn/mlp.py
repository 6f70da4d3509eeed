"""A plain network of fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mogul._checks import check_count
from mogul.errors import InputError, UnknownNameError

__all__ = ["ACTIVATIONS", "MLP"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


class MLP(nn.Module):
    """Linear layers with an activation after each, for use as a backbone.

    Parameters
    ----------
    in_features : int
    hidden : sequence of int, default (64, 64)
        The widths of the layers; none at all passes the input on.
    activation : {"silu", "tanh", "relu", "gelu"}, default "silu"
    dropout : float, default 0.0
        The share of each layer's outputs that is dropped in training.
    input_gain : float, default 1.0
        The first layer's weights and biases begin this many times as large as torch draws them.
        It is to a network what the inverse width is to a kernel: how quickly its functions vary
        with x before they have learnt to.
    device, dtype : optional

    Attributes
    ----------
    out_features : int
        The width of the last layer.

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import MLP
    >>> MLP(3, (16, 8))(torch.zeros(5, 3)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
        dropout: float = 0.0,
        input_gain: float = 1.0,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UnknownNameError(
                f"The activation {activation!r} is unknown; choose one of "
                f"{', '.join(map(repr, ACTIVATIONS))}."
            )
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1; got {dropout!r}.")
        if not 0 < input_gain < math.inf:
            raise InputError(f"input_gain must be positive and finite; got {input_gain!r}.")
        widths = [check_count(in_features, "in_features")]
        widths += [check_count(width, "A width of hidden") for width in hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Linear(before, after, device=device, dtype=dtype),
                ACTIVATIONS[activation](),
            ]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        with torch.no_grad():
            for p in layers[0].parameters() if layers else ():
                p.mul_(input_gain)
        self.in_features, self.out_features = widths[0], widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(*batch, in_features) to (*batch, out_features)."""
        return self.layers(x)
