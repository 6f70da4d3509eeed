"""The E-step as two matrix products per tile, in float64, with its cancellation bounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mogul.kernels.reference import ReferenceKernel
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["ExpandedKernel"]

_TILE_BYTES = 1 << 22
"""What the features and log-densities of one tile take: measured best between 2 and 8 MB, where a
matrix product is long enough and the tiles of all threads stay in the last cache."""
_FEWEST_TILE_ROWS = 256
"""Products over fewer rows are slower than whitening (measured at D = 128, full covariances)."""
_MOST_TILE_ROWS = 16384
"""Longer tiles gain nothing."""
_LIMIT_PER_FEATURE = 1e6
"""The largest quadratic form, per feature, that is summed in expanded form: float64 then leaves
log-densities right to about 1e-10. Rows beyond it go to the reference."""


class ExpandedKernel:
    r"""Evaluates :math:`-\tfrac12 x^\top \Lambda_k x + h_k^\top x + c_k`, all components at once.

    With the features of a tile (products of columns) in one buffer, all log-densities are one
    matrix product and all statistics another. The expanded form cancels when a row is far from the
    common origin in units of the narrowest component; :meth:`collect` bounds this per tile, by
    :math:`(\sum_j \sqrt{\Lambda_{jj}} |x_j|)^2 \ge x^\top \Lambda x`, and sends a tile that exceeds
    the bound to the reference kernel. Needs rows shared by the whole batch, and no gradients.
    """

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        covariance = mixture.covariance
        batch_axes = tuple(range(len(mixture.batch_shape)))
        self.centre = mixture.mean.mean(batch_axes) if batch_axes else mixture.mean  # (D,)
        shifted = mixture.means - self.centre
        self.origin = self.centre.expand_as(shifted)
        self.linear = covariance.precision_times(shifted)  # (*batch, K, D)
        self.quadratic = covariance.quadratic_weights()  # (*batch, K or 1, F)
        constant = mixture.log_weights - covariance.log_diagonal().sum(-1)
        constant = constant - 0.5 * (self.linear * shifted).sum(-1)
        self.constant = constant - 0.5 * mixture.n_features * math.log(2 * math.pi)
        sharpest = covariance.precision_diagonal().reshape(-1, mixture.n_features).amax(0)
        self.sharpest = sharpest.sqrt()
        self.limit = math.sqrt(_LIMIT_PER_FEATURE * mixture.n_features)
        farthest = shifted.abs().reshape(-1, mixture.n_features).amax(0)
        self.applies = self._tile_rows() >= _FEWEST_TILE_ROWS and bool(
            farthest @ self.sharpest < self.limit
        )
        self.fallback = ReferenceKernel(mixture)
        self._shared = covariance.shared_features
        if self._shared:
            self._all = torch.cat(
                [self.quadratic, self.linear, self.constant.unsqueeze(-1)], -1
            )  # (*batch, K, F + D + 1)
        self._buffer: Tensor | None = None

    def __copy__(self) -> ExpandedKernel:
        """The same constants and a buffer of its own, for another thread."""
        twin = object.__new__(ExpandedKernel)
        twin.__dict__ = {**self.__dict__, "_buffer": None}
        return twin

    @property
    def tile_rows(self) -> int:
        return max(_FEWEST_TILE_ROWS, min(_MOST_TILE_ROWS, self._tile_rows()))

    def _tile_rows(self) -> int:
        per_row = self.quadratic.shape[-1] + self.mixture.n_features + 1 + self.constant.numel()
        return _TILE_BYTES // (8 * per_row)

    def terms(self, rows: Tensor) -> Tensor:
        """Log w_k + log N(x; μ_k, Σ_k) for rows (S, D); (*batch, K, S)."""
        loaded = self._load(rows)
        return self.fallback.terms(rows) if loaded is None else self._terms(loaded)

    def collect(self, rows: Tensor, sample_weight: Tensor | None) -> Stats:
        """Statistics of one tile of rows, (S, D)."""
        loaded = self._load(rows)
        if loaded is None:
            return self.fallback.collect(rows, sample_weight)
        shares = self._terms(loaded)
        peak = shares.amax(-2, keepdim=True)
        shares.sub_(peak).exp_()
        total = shares.sum(-2, keepdim=True)
        log_prob = (peak + total.log()).squeeze(-2)  # (*batch, S)
        if sample_weight is None:
            weight = None
            row_weight = log_prob.new_full(self.mixture.batch_shape, rows.shape[0])
            log_likelihood = log_prob.sum(-1)
            shares.div_(total)
        else:
            weight = sample_weight.to(log_prob)
            row_weight = weight.sum(-1).expand(self.mixture.batch_shape)
            log_likelihood = (log_prob * weight).sum(-1)
            shares.mul_(weight.unsqueeze(-2) / total)
        features, x = loaded
        n_features = self.mixture.n_features
        products, first = self._sums(shares, features, x)
        return Stats(
            count=first[..., n_features],
            first=first[..., :n_features],
            second=self.mixture.covariance.raw_second(products, shares, x[:n_features]),
            origin=self.origin,
            row_weight=row_weight,
            log_likelihood=log_likelihood,
        )

    def _load(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Features (F, S) and centred columns (D + 1, S), or None where they would cancel."""
        n_features, n_rows = self.mixture.n_features, rows.shape[0]
        if n_rows == 0:
            return None
        n_products = self.quadratic.shape[-1] if self._shared else 0
        buffer = self._space(n_products + n_features + 1, n_rows)
        x = buffer[n_products:]
        torch.sub(rows.T, self.centre.unsqueeze(-1), out=x[:n_features])
        x[n_features] = 1.0
        centred = x[:n_features]  # two reductions: aminmax takes ten times as long as both
        widest = torch.maximum(centred.amax(-1), -centred.amin(-1))
        if not bool(widest @ self.sharpest < self.limit):  # also when a value is NaN
            return None
        out = buffer[:n_products] if self._shared else None
        return self.mixture.covariance.features(x[:n_features], out), x

    def _sums(self, shares: Tensor, features: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Responsibilities times features, and times x and one, each summed over rows."""
        if not self._shared:
            return shares @ features.transpose(-1, -2), shares @ x.T
        n_products, n_rows = features.shape
        both = shares @ self._space(n_products + x.shape[0], n_rows).T
        return both[..., :n_products], both[..., n_products:]

    def _space(self, n_lines: int, n_rows: int) -> Tensor:
        if self._buffer is None or self._buffer.shape[-1] != n_rows:
            self._buffer = self.linear.new_empty((n_lines, n_rows))
        return self._buffer

    def _terms(self, loaded: tuple[Tensor, Tensor]) -> Tensor:
        features, x = loaded
        if self._shared:
            return self._all @ self._space(self._all.shape[-1], x.shape[-1])
        linear = torch.cat([self.linear, self.constant.unsqueeze(-1)], -1) @ x
        return linear.add_(self.quadratic @ features)
