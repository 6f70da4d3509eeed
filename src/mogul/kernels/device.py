"""The E-step as two matrix products per tile on an accelerator."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mogul.kernels.expanded import ExpandedKernel, Sums
from mogul.kernels.expansion import is_near_in_float32
from mogul.kernels.reference import ReferenceKernel, drawn, scored
from mogul.mixture import Mixture
from mogul.stats import Stats

if TYPE_CHECKING:
    from mogul.kernels.triton_diagonal import TritonKernel

__all__ = ["DeviceKernel", "OneByOne", "has_triton", "type_of_products"]

_TILE_BYTES = 1 << 28
"""What the features and log-densities of one tile take: to start a kernel takes as long as to move
tens of megabytes, so tiles are as large as a small accelerator has room for."""
_UNIT = 4096
"""Tiles are multiples of it, so that they divide into equal stretches."""
_FAST_DOUBLE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
"""Compute capabilities at which matrix products in float64 take at most twice as long as in
float32; at others they take dozens of times as long."""


class DeviceKernel(ExpandedKernel):
    """As :class:`ExpandedKernel`, by torch's matrix products, with one wait at the end.

    In float64 where the accelerator is fast at that, else in IEEE float32, never TF32. Sums over
    stretches of rows are added up in float64. In float32 means must be near the common origin; see
    :func:`~mogul.kernels.expansion.is_near_in_float32`.

    Parameters
    ----------
    mixture : Mixture
        Float64, on any device: the constants are computed where it lies.
    device : torch.device
        Of the rows.
    dtype : torch.dtype
        Of the products.
    """

    own_threads = True

    def __init__(self, mixture: Mixture, device: torch.device, dtype: torch.dtype):
        super().__init__(mixture)
        self.double = dtype == torch.float64
        self.mixture = mixture.to(device, dtype)
        self.fallback = ReferenceKernel(self.mixture)
        self.origin = self.origin.to(device)
        for name in ("centre", "quadratic", "constant", "weights", "sharpest"):
            setattr(self, name, getattr(self, name).to(device=device, dtype=dtype))
        self._lines = self._shares = self.constant.new_empty(0)
        self._in_doubt = False

    @property
    def applies(self) -> bool:
        return self.is_near if self.double else is_near_in_float32(self.farthest)

    @property
    def tile_rows(self) -> int:
        return max(1, self._tile_rows(_TILE_BYTES) // _UNIT) * _UNIT

    def score(self, rows: Tensor, what: str) -> Tensor:
        """What is asked of each row, by :func:`~mogul.kernels.reference.scored`."""
        self._in_doubt = not bool(self._is_near(rows))
        return scored(self.terms, rows, self.tile_rows, what)

    def collect(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None = None
    ) -> Stats:
        """Statistics of rows (N, D); see :meth:`ReferenceKernel.collect`."""
        near = self._is_near(rows)
        self._in_doubt = False
        stats = super().collect(rows, sample_weight, uniform)
        if bool(near):  # the one wait
            return stats
        self._in_doubt = True
        return super().collect(rows, sample_weight, uniform)

    def _is_near(self, rows: Tensor) -> Tensor:
        """Whether every row is within the bound of :class:`Expansion`; boolean, ()."""
        if not self.double or not rows.shape[0]:
            return torch.ones((), dtype=torch.bool, device=rows.device)
        lowest, highest = torch.aminmax(rows, dim=0)
        widest = torch.maximum(highest - self.centre, self.centre - lowest)
        return widest @ self.sharpest < self.limit

    def _load(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        n_features, n_rows = self.mixture.n_features, rows.shape[0]
        if n_rows == 0 or (self._in_doubt and not bool(self._is_near(rows))):
            return None
        n_products = self.quadratic.shape[-1] if self.shared else 0
        if self._lines.shape[-1] < n_rows:
            self._lines = self.constant.new_ones((n_products + n_features + 1, n_rows))
            self._shares = self.constant.new_empty((self.constant.numel(), n_rows))
        lines = self._lines[:, :n_rows]
        x = lines[n_products:]
        torch.sub(rows.T, self.centre.unsqueeze(-1), out=x[:-1])
        out = lines[:n_products] if self.shared else None
        return self.mixture.covariance.features(x[:-1], out), x

    def _terms(self, features: Tensor, x: Tensor) -> Tensor:
        n_rows = x.shape[-1]
        lines = self._lines[:, :n_rows] if self.shared else x
        flat = self._shares[:, :n_rows]
        torch.mm(self.weights.flatten(0, -2), lines, out=flat)
        terms = flat.unflatten(0, self.constant.shape)
        return terms if self.shared else terms.add_(self.quadratic @ features)

    def _add(
        self,
        sums: Sums,
        features: Tensor,
        x: Tensor,
        weight: Tensor | None,
        uniform: Tensor | None,
    ) -> None:
        shares = self._terms(features, x)
        log_prob = _normalise(shares)
        if uniform is not None:
            shares = drawn(shares, uniform)
        sums.add_rows(log_prob, weight)
        if weight is not None:
            shares.mul_(weight.unsqueeze(-2))
        lines = self._lines[:, : x.shape[-1]] if self.shared else x
        products = _over_rows(shares.flatten(0, -2), lines).unflatten(0, self.constant.shape)
        if self.shared:
            sums.products += products
        else:
            sums.products[..., features.shape[-2] :] += products  # those of squares are not needed
            sums.second += self.mixture.covariance.raw_second(products, shares, x[:-1])


class OneByOne:
    """A batch of mixtures by a kernel that knows single ones.

    Parameters
    ----------
    mixture : Mixture, batch shape (R,)
    members : list of R kernels
    """

    own_threads = True
    tile_rows = _UNIT

    def __init__(self, mixture: Mixture, members: Sequence[TritonKernel]):
        self.mixture, self.members = mixture, members

    @property
    def applies(self) -> bool:
        return all(member.applies for member in self.members)

    def collect(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None = None
    ) -> Stats:
        """Statistics of rows (N, D); see :meth:`ReferenceKernel.collect`."""
        own = sample_weight is not None and sample_weight.ndim > 1
        found = [
            member.collect(
                rows,
                sample_weight[i] if own and sample_weight is not None else sample_weight,
                None if uniform is None else uniform[i],
            )
            for i, member in enumerate(self.members)
        ]
        return Stats.stack(found)

    def score(self, rows: Tensor, what: str) -> Tensor:
        """What is asked of each row; see :func:`~mogul.kernels.reference.scored`."""
        return torch.stack([member.score(rows, what) for member in self.members])


def _over_rows(shares: Tensor, lines: Tensor) -> Tensor:
    """Shares (K, S) @ lines (F, S)ᵀ in float64, as a batch of products over stretches of rows.

    One product over all of them would occupy few multiprocessors, and round more in float32.
    """
    n_rows = shares.shape[-1]
    stretch = 1024 if shares.shape[0] * lines.shape[0] < 1 << 16 else _UNIT
    whole = n_rows - n_rows % stretch
    left = shares[:, :whole].unflatten(-1, (-1, stretch)).transpose(0, 1)
    right = lines[:, :whole].unflatten(-1, (-1, stretch)).permute(1, 2, 0)
    total = torch.bmm(left, right).sum(0, dtype=torch.float64)
    if whole < n_rows:
        total += shares[:, whole:] @ lines[:, whole:].T
    return total


def _normalise(terms: Tensor) -> Tensor:
    """Replace terms (*batch, K, S) by responsibilities; the log-densities, (*batch, S)."""
    if terms.is_cuda and has_triton():
        from mogul.kernels.triton_softmax import softmax_over_components

        each = terms.flatten(0, -3) if terms.ndim > 2 else terms.unsqueeze(0)  # views
        found = torch.stack([softmax_over_components(one) for one in each])
        return found.reshape(*terms.shape[:-2], terms.shape[-1])
    peak = terms.amax(-2, keepdim=True)
    total = terms.sub_(peak).exp_().sum(-2, keepdim=True)
    terms.div_(total)
    return (peak + total.log()).squeeze(-2)


def type_of_products(device: torch.device) -> torch.dtype:
    """Float64 where its matrix products are about as fast as those of float32, else float32."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) in _FAST_DOUBLE:
        return torch.float64
    return torch.float32


@cache
def has_triton() -> bool:
    """Whether Triton is installed and the kernels that need it can be loaded."""
    try:
        importlib.import_module("mogul.kernels.triton_diagonal")
    except (ImportError, RuntimeError):
        return False
    return True
