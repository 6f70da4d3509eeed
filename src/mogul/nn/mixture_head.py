"""The last layer of a network whose output is a mixture of Gaussians."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor, nn

from mogul._checks import check_count, check_seed
from mogul.covariances import structure
from mogul.data.rows import Rows
from mogul.errors import DegenerateFitError, InputError
from mogul.infer.em import EMSettings
from mogul.infer.maximum_likelihood import fit_mixture
from mogul.mixture import Mixture

__all__ = ["MOST_LOG_SCALE", "MixtureHead", "at_least_single"]

MOST_LOG_SCALE = 15.0
"""Logarithms of scales in units of the data are held within this much of zero."""
_SMALLEST_START = 0.1
"""Standard deviations of y below which no component starts: narrower ones hold on to few rows."""
_FEWEST_A_COMPONENT = 3
"""Rows for each component without which a start is not fitted."""


class MixtureHead(nn.Module):
    r"""From the features of a network to a mixture for each row.

    .. math::
        p(y \mid h) = \sum_k \operatorname{softmax}(W_l h + b_l)_k\,
        \mathcal{N}\bigl(y \mid \mu_k(h), \Sigma_k(h)\bigr)

    Means are linear in h, and so are the logarithms of scales, the diagonals of the Cholesky
    factors for "full" and "tied". All are in units of the data once :meth:`initialize` has seen
    some: its location and scale are part of the module.

    Parameters
    ----------
    in_features : int
        The width of h.
    event_size : int, default 1
        D, the number of outputs y.
    n_components : int, default 5
        K.
    covariance_type : {"diag", "full", "spherical", "tied"}, default "diag"
        "tied" shares one matrix among the components of a row; it differs from row to row.
    min_scale : float, default 0.01
        The least standard deviation of a component, in standard deviations of y: s becomes
        √(s² + min_scale²). For "full" and "tied" that of each feature given those before it.
        Without it the likelihood has no bound where values of y repeat.
    device, dtype : optional

    Attributes
    ----------
    linear : nn.Linear
        From h to K logits, K D means and the logarithms of scales, in this order.
    loc, scale : Tensor, shape (D,)
        Of the data; 0 and 1 at first.

    Raises
    ------
    InputError
        For sizes or a min_scale that are none.

    References
    ----------
    Bishop (1994), *Mixture Density Networks*.

    Examples
    --------
    >>> import torch
    >>> from mogul.nn import MixtureHead
    >>> head = MixtureHead(16, event_size=2, n_components=3, covariance_type="full")
    >>> mixture = head(torch.zeros(10, 16))
    >>> mixture
    Mixture(n_components=3, n_features=2, covariance_type='full', batch_shape=(10,))
    >>> loss = -mixture.log_prob(torch.zeros(10, 2)).mean()
    """

    loc: Tensor
    scale: Tensor
    _logs: Tensor

    def __init__(
        self,
        in_features: int,
        event_size: int = 1,
        n_components: int = 5,
        covariance_type: str = "diag",
        *,
        min_scale: float = 0.01,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.kind = structure(covariance_type)
        self.in_features = check_count(in_features, "in_features")
        self.event_size = check_count(event_size, "event_size")
        self.n_components = check_count(n_components, "n_components")
        if not 0 <= min_scale < math.inf:
            raise InputError(f"min_scale must be finite and not negative; got {min_scale!r}.")
        self.min_scale = float(min_scale)
        n_chart = math.prod(self.kind.chart_shape(n_components, event_size))
        self.sizes = (n_components, n_components * event_size, n_chart)
        self.linear = nn.Linear(in_features, sum(self.sizes), device=device, dtype=dtype)
        one = torch.ones(event_size, device=device, dtype=torch.float64)
        self.register_buffer("loc", torch.zeros_like(one))
        self.register_buffer("scale", one)
        logs = self.kind.chart_logarithms(event_size).repeat(n_chart // self._chart_size)
        self.register_buffer("_logs", logs.to(device=device), persistent=False)

    @property
    def _chart_size(self) -> int:
        return math.prod(self.kind.chart_shape(1, self.event_size))

    def forward(self, h: Tensor) -> Mixture:
        """The mixture of each row, in the units of y; (*batch, in_features) to batch (*batch)."""
        mixture = self.standard(self.linear(h))
        return mixture.affine(self.loc, self.scale)

    def standard(self, raw: Tensor) -> Mixture:
        """The mixture of ``raw`` (*batch, outputs of :attr:`linear`), of (y − loc) / scale.

        In float32 at least, whatever the network computes in.
        """
        with torch.autocast(raw.device.type, enabled=False):
            wide = at_least_single(raw)
            logits, means, chart = wide.split(self.sizes, -1)
            covariance = self.kind.decode(self._bounded(chart), self.n_components, self.event_size)
            return Mixture(
                logits, means.unflatten(-1, (self.n_components, self.event_size)), covariance
            )

    def _bounded(self, chart: Tensor) -> Tensor:
        """Logarithms of scales above that of ``min_scale``, smoothly, and below the largest."""
        held = chart.clamp(-MOST_LOG_SCALE, MOST_LOG_SCALE)
        if self.min_scale:
            least = math.log(self.min_scale)
            held = least + 0.5 * nn.functional.softplus(2 * (held - least))
        if not self.kind.has_matrices():
            return held
        return torch.where(self._logs, held, chart)

    def _unbounded(self, chart: Tensor) -> Tensor:
        """What :meth:`_bounded` makes ``chart`` of, as near as there is."""
        if not self.min_scale:
            return chart
        least = math.log(self.min_scale)
        above = (2 * (chart - least)).clamp_min(1e-3)
        held = least + 0.5 * (above + torch.log(-torch.expm1(-above)))
        return torch.where(self._logs, held, chart)

    @torch.no_grad()
    def initialize(
        self,
        y: Any,
        sample_weight: Any = None,
        *,
        shrink: float = 0.1,
        seed: int = 0,
    ) -> None:
        """Start at the unconditional mixture of ``y``.

        Location and scale are those of y, the bias is that of a mixture fitted to it by EM, and the
        weights are multiplied by ``shrink``: training begins where x tells little.

        Parameters
        ----------
        y : array-like, shape (N, D) or, for D = 1, (N,)
            Missing values are NaN.
        sample_weight : array-like, shape (N,), optional
        shrink : float, default 0.1
        seed : int, default 0
            Of the fit.

        Raises
        ------
        InputError
            When y has another width, or no values.
        """
        given = y if isinstance(y, Tensor) else torch.from_numpy(np.array(y, dtype=float))
        values = given.detach().to("cpu", torch.float64)
        values = values.unsqueeze(-1) if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[-1] != self.event_size or not len(values):
            raise InputError(f"y has shape {tuple(values.shape)}; expected (N, {self.event_size}).")
        weight = torch.ones(len(values), dtype=torch.float64)
        if sample_weight is not None:
            weight = torch.as_tensor(sample_weight).to("cpu", torch.float64)
        loc, scale = self._location(values, weight)
        start = self._start((values - loc) / scale, weight, check_seed(seed))
        self.loc.copy_(loc)
        self.scale.copy_(scale)
        chart = self._unbounded(start.covariance.encode().reshape(-1).to(self.linear.bias))
        parts = [start.log_weights, start.means.flatten()]
        bias = torch.cat([*(part.to(self.linear.bias) for part in parts), chart])
        self.linear.bias.copy_(bias)
        self.linear.weight.mul_(shrink)

    def _location(self, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of what is known, one deviation where one is shared."""
        known = ~values.isnan()
        share = weight.unsqueeze(-1) * known
        total = share.sum(0)
        if not bool((total > 0).all()):
            raise InputError("An output has no known value; leave it out.")
        filled = torch.where(known, values, 0.0)
        loc = (share * filled).sum(0) / total
        variance = (share * torch.where(known, values - loc, 0.0).square()).sum(0) / total
        if self.kind.rows_per_block(self.event_size) > 1:  # spherical: one scale for all features
            variance = variance.mean().expand_as(variance)
        # A deviation that is rounding of the values is that of a constant.
        least = (8 * torch.finfo(torch.float64).eps * loc.abs()).square()
        return loc, torch.where(variance > least, variance, 1.0).sqrt()

    def _start(self, standard: Tensor, weight: Tensor, seed: int) -> Mixture:
        """A mixture of what is known of y: fitted, or of equal components when that is little."""
        complete = ~standard.isnan().any(-1) & (weight > 0)
        rows = Rows(standard[complete], weight[complete])
        k, d = self.n_components, self.event_size
        if rows.n_rows >= _FEWEST_A_COMPONENT * k and len(rows.values.unique(dim=0)) > k:
            try:
                return fit_mixture(
                    rows,
                    k,
                    self.kind.name,
                    EMSettings(floor=max(self.min_scale, _SMALLEST_START) ** 2, max_iter=100),
                    random_state=RandomState(seed),
                ).mixture
            except DegenerateFitError:
                pass  # begin with equal components
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(k, d, generator=generator, dtype=torch.float64)
        chart = torch.zeros(self.sizes[2], dtype=torch.float64)
        return Mixture(torch.zeros(k, dtype=torch.float64), means, self.kind.decode(chart, k, d))

    def extra_repr(self) -> str:
        return (
            f"event_size={self.event_size}, n_components={self.n_components}, "
            f"covariance_type={self.kind.name!r}, min_scale={self.min_scale:g}"
        )


def at_least_single(values: Tensor) -> Tensor:
    """In float32 when they are in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
