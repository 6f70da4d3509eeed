"""Mixture density networks: the distribution of y given x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mogul.errors import InputError, UnknownNameError
from mogul.mixture import Mixture
from mogul.nn.density_losses import LOSSES, has_missing
from mogul.nn.mixture_head import MixtureHead, at_least_single
from mogul.nn.mlp import MLP

__all__ = ["MixtureDensityNetwork"]


class MixtureDensityNetwork(nn.Module):
    r"""A network from x to a mixture for y.

    .. math::
        p(y \mid x) = \sum_k w_k(x)\, \mathcal{N}\bigl(y \mid \mu_k(x), \Sigma_k(x)\bigr)

    Parameters
    ----------
    in_features : int
        The number of features of x.
    event_size : int, default 1
        D, the number of outputs y.
    n_components : int, default 5
        K.
    covariance_type : {"diag", "full", "spherical", "tied"}, default "diag"
    backbone : nn.Module, optional
        From x (B, in_features) to features (B, F); :class:`MLP` by default.
    hidden : sequence of int, default (64, 64)
        The widths of the default backbone.
    activation : {"silu", "tanh", "relu", "gelu"}, default "silu"
    dropout : float, default 0.0
    input_gain : float, default 4.0
        Of the default backbone; see :class:`MLP`.
    min_scale : float, default 0.01
        The least scale of a component, in standard deviations of y; see :class:`MixtureHead`.
    loss : {"nll", "ngem", "crps"}, default "nll"
        The negative log-likelihood; the same with gradients of the components preconditioned by
        their Fisher information (Chen, Bayrooti and Morad 2026); or the continuous ranked
        probability score, the mean over the outputs.

    Attributes
    ----------
    backbone : nn.Module
    head : MixtureHead
    x_loc, x_scale : Tensor, shape (in_features,)
        By which x is standardised; 0 and 1 until :meth:`initialize`.

    Raises
    ------
    InputError
        For sizes that are none, an unknown name, and a backbone whose output does not fit.

    References
    ----------
    Bishop (1994).

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import MixtureDensityNetwork
    >>> x = torch.linspace(-1, 1, 200).unsqueeze(-1)
    >>> y = x.sin() + 0.1 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    >>> network = MixtureDensityNetwork(1, n_components=2)
    >>> network.initialize(x, y)
    >>> optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     network.loss(x, y).backward()
    ...     optimizer.step()
    >>> network(x).interval(0.9).shape
    torch.Size([200, 1, 2])
    """

    x_loc: Tensor
    x_scale: Tensor

    def __init__(
        self,
        in_features: int,
        event_size: int = 1,
        n_components: int = 5,
        covariance_type: str = "diag",
        *,
        backbone: nn.Module | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
        dropout: float = 0.0,
        input_gain: float = 4.0,
        min_scale: float = 0.01,
        loss: str = "nll",
    ):
        super().__init__()
        self.form: dict[str, Any] | None = None if backbone is not None else {
            "in_features": in_features, "event_size": event_size, "n_components": n_components,
            "covariance_type": covariance_type, "hidden": [int(width) for width in hidden],
            "activation": activation, "dropout": dropout, "input_gain": input_gain,
            "min_scale": min_scale, "loss": loss,
        }  # fmt: skip
        """The arguments that build it anew; None with a backbone of one's own."""
        if loss not in LOSSES:
            raise UnknownNameError(
                f"The loss {loss!r} is unknown; choose one of {', '.join(map(repr, LOSSES))}."
            )
        self.loss_name = loss
        if backbone is None:
            backbone = MLP(in_features, hidden, activation, dropout, input_gain)
        self.backbone = backbone
        width = _width(self.backbone, in_features)
        self.head = MixtureHead(
            width, event_size, n_components, covariance_type, min_scale=min_scale
        )
        self.in_features = in_features
        one = torch.ones(in_features, dtype=torch.float64)
        self.register_buffer("x_loc", torch.zeros_like(one))
        self.register_buffer("x_scale", one)

    def forward(self, x: Tensor) -> Mixture:
        """The mixture for each row of x (B, in_features), in the units of y; batch shape (B,)."""
        return self.head.standard(self.outputs(self.standardised(x))).affine(
            self.head.loc, self.head.scale
        )

    def standardised(self, x: Tensor) -> Tensor:
        """(x − x_loc) / x_scale, in the type of the parameters."""
        wide = (x - self.x_loc) / self.x_scale  # float64, as these are
        return wide.to(self.head.linear.weight.dtype)

    def outputs(self, x: Tensor) -> Tensor:
        """What the head makes a mixture of, from standardised x; (B, P)."""
        return self.head.linear(self.backbone(x))

    def row_losses(self, outputs: Tensor, y: Tensor, missing: bool | None = None) -> Tensor:
        """The loss of each row from outputs (*batch, P) and standardised y (*batch, D).

        ``missing`` tells whether some y is NaN, where that is known.
        """
        some = has_missing(y) if missing is None else missing
        return LOSSES[self.loss_name](self.head, outputs, y, some)

    def loss(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """The mean loss of rows, weighted when weights (B,) are given, in the units of y.

        Missing outputs are NaN, and left out.
        """
        target = y.unsqueeze(-1) if y.ndim == 1 else y
        outputs, loc, scale = self.outputs(self.standardised(x)), self.head.loc, self.head.scale
        standard = ((target - loc) / scale).to(at_least_single(outputs))
        missing = has_missing(standard)
        each = self.row_losses(outputs, standard, missing)
        found = each.mean() if weight is None else (weight * each).sum() / weight.sum()
        if self.loss_name == "crps":
            return found * scale.mean()
        if not missing:
            return found + scale.log().sum()
        more = ((~target.isnan()) * scale.log()).sum(-1)
        return found + (more.mean() if weight is None else (weight * more).sum() / weight.sum())

    @torch.no_grad()
    def initialize(self, x: Tensor, y: Tensor, sample_weight: Any = None, *, seed: int = 0) -> None:
        """Standardise by x and y, and start at the unconditional mixture of y."""
        values = torch.as_tensor(x).double()
        if values.ndim != 2 or values.shape[1] != self.in_features:
            raise InputError(
                f"x has shape {tuple(values.shape)}; expected (N, {self.in_features})."
            )
        self.head.initialize(y, sample_weight, seed=seed)
        weight = (
            torch.ones(len(values)) if sample_weight is None else torch.as_tensor(sample_weight)
        )
        share = (weight / weight.sum()).to(values)
        loc = share @ values
        scale = (share @ (values - loc).square()).sqrt()
        # A deviation that is rounding of the values is that of a constant.
        least = 8 * torch.finfo(torch.float64).eps * loc.abs()
        self.x_loc.copy_(loc)
        self.x_scale.copy_(torch.where(scale > least, scale, 1.0))

    @torch.no_grad()
    def begin_as(self, other: MixtureDensityNetwork, *, shrink: float = 0.1) -> None:
        """Start as :meth:`initialize` left another network of this form, but with own weights."""
        for name in ("x_loc", "x_scale"):
            getattr(self, name).copy_(getattr(other, name))
        for name in ("loc", "scale"):
            getattr(self.head, name).copy_(getattr(other.head, name))
        self.head.linear.bias.copy_(other.head.linear.bias)
        self.head.linear.weight.mul_(shrink)

    def extra_repr(self) -> str:
        return f"loss={self.loss_name!r}"


def _width(backbone: nn.Module, in_features: int) -> int:
    """The width of what a backbone gives, found by asking it for two rows."""
    if not isinstance(backbone, nn.Module):
        raise InputError(f"The backbone must be an nn.Module; got {type(backbone).__name__}.")
    first = next(backbone.parameters(), torch.zeros(()))
    was_training = backbone.training
    try:
        with torch.no_grad():
            found = backbone.eval()(first.new_zeros(2, in_features))
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        raise InputError(
            f"The backbone does not take x of shape (B, {in_features}): "
            f"{str(error).splitlines()[0]}"
        ) from None
    finally:
        backbone.train(was_training)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"The backbone must give features of shape (B, F); for two rows it gave {shape}."
        )
    return found.shape[1]
