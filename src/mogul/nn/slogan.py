"""A Wasserstein GAN whose critic is held to slope one by a penalty on pairs of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mogul._checks import check_count
from mogul.errors import InputError
from mogul.nn.mlp import MLP

__all__ = ["Critic", "Generator", "SloganLoss", "pair_distances", "slogan_loss"]

_GAIN = 2.0
"""Of the orthogonal first weights."""
_LEAST_DISTANCE = 1e-6
"""Added to the distance of each pair, so that equal rows have a slope."""


class Critic(nn.Module):
    """Layers from a row to one number, with orthogonal first weights.

    Parameters
    ----------
    event_size : int
        D, the width of a row.
    hidden : sequence of int, default (50, 50)
    activation : {"gelu", "silu", "tanh", "relu"}, default "gelu"
    device, dtype : optional

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import Critic
    >>> Critic(2)(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        event_size: int,
        hidden: Sequence[int] = (50, 50),
        activation: str = "gelu",
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.form: dict[str, Any] = {
            "event_size": check_count(event_size, "event_size"),
            "hidden": [int(width) for width in hidden],
            "activation": activation,
        }
        """The arguments that build it anew."""
        self.backbone = MLP(event_size, hidden, activation, device=device, dtype=dtype)
        self.linear = nn.Linear(self.backbone.out_features, 1, device=device, dtype=dtype)
        _begin(self)

    def forward(self, x: Tensor) -> Tensor:
        """(*batch, D) to (*batch)."""
        return self.linear(self.backbone(x)).squeeze(-1)


class Generator(nn.Module):
    """Layers from normal noise to a row, with orthogonal first weights.

    Parameters
    ----------
    event_size : int
        D, the width of a row.
    noise_size : int, default 16
        How many numbers of noise a row is made from.
    hidden : sequence of int, default (128, 128)
    activation : {"gelu", "silu", "tanh", "relu"}, default "gelu"
    device, dtype : optional

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import Generator
    >>> Generator(2).sample(5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        event_size: int,
        noise_size: int = 16,
        hidden: Sequence[int] = (128, 128),
        activation: str = "gelu",
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.noise_size = check_count(noise_size, "noise_size")
        self.form: dict[str, Any] = {
            "event_size": check_count(event_size, "event_size"),
            "noise_size": self.noise_size,
            "hidden": [int(width) for width in hidden],
            "activation": activation,
        }
        """The arguments that build it anew."""
        self.backbone = MLP(noise_size, hidden, activation, device=device, dtype=dtype)
        self.linear = nn.Linear(self.backbone.out_features, event_size, device=device, dtype=dtype)
        _begin(self)

    def forward(self, noise: Tensor) -> Tensor:
        """(*batch, noise_size) to (*batch, D)."""
        return self.linear(self.backbone(noise))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Rows from fresh noise, (n, D)."""
        weight = self.linear.weight
        shape = (check_count(n, "n"), self.noise_size)
        noise = torch.randn(shape, generator=generator, device=weight.device, dtype=weight.dtype)
        return self(noise)


class SloganLoss(NamedTuple):
    """The parts of a critic's loss, all of them sums over a batch.

    Attributes
    ----------
    total : Tensor, scalar
        What the critic is to make least.
    real, generated : Tensor, scalar
        The critic's values of real and of generated rows.
    penalty : Tensor, scalar
    """

    total: Tensor
    real: Tensor
    generated: Tensor
    penalty: Tensor


def slogan_loss(
    f_real: Tensor, f_generated: Tensor, distances: Tensor, weight: float = 10.0
) -> SloganLoss:
    r"""The loss of a critic f with the one-sided Lipschitz penalty on pairs.

    .. math::
        \sum_i f(x_i) - \sum_j f(z_j) + \Bigl|\sum_i f(x_i) + \sum_j f(z_j)\Bigr|
        + \lambda \sum_{ij} \Bigl(\max\Bigl(1,
        \frac{|f(x_i) - f(z_j)|}{\lVert x_i - z_j\rVert + 10^{-6}}\Bigr) - 1\Bigr)^2

    for real rows x and generated rows z. The critic becomes low where rows are missing and high
    where too many were generated, with a slope of at most about one between any two: by the duality
    of Kantorovich and Rubinstein the first two sums then tell the Wasserstein distance. The third
    term keeps the values around zero. Only slopes above one are punished ("one-sided").

    Parameters
    ----------
    f_real : Tensor, shape (N,)
    f_generated : Tensor, shape (M,)
    distances : Tensor, shape (N, M)
        Of real from generated rows, as :func:`pair_distances` gives.
    weight : float, default 10.0
        λ.

    Returns
    -------
    SloganLoss

    References
    ----------
    Viehmann (2017), "More improved Wasserstein GANs", a web log; Petzka, Fischer and Lukovnikov
    (2018) on the one-sided penalty.

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import slogan_loss
    >>> loss = slogan_loss(torch.tensor([-1.0]), torch.tensor([2.0]), torch.tensor([[1.0]]))
    >>> float(loss.generated), round(float(loss.penalty), 2)
    (2.0, 40.0)
    """
    if distances.shape != (len(f_real), len(f_generated)):
        raise InputError(
            f"distances has shape {tuple(distances.shape)}; expected "
            f"{(len(f_real), len(f_generated))}, real rows by generated rows."
        )
    real, generated = f_real.sum(), f_generated.sum()
    slope = (f_real.unsqueeze(1) - f_generated).abs() / (distances + _LEAST_DISTANCE)
    penalty = weight * (slope.clamp(min=1) - 1).square().sum()
    total = real - generated + (real + generated).abs() + penalty
    return SloganLoss(total, real, generated, penalty)


def pair_distances(real: Tensor, generated: Tensor) -> Tensor:
    """Euclidean distances, (N, D) and (M, D) to (N, M), without gradients."""
    # Not by squares and a product of matrices, torch's default for 26 rows and more: near pairs
    # lose their digits, come out as equal, and have endless slopes.
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(real.detach(), generated.detach(), compute_mode=exact)


def _begin(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, nn.Linear):
            nn.init.orthogonal_(part.weight, _GAIN)
