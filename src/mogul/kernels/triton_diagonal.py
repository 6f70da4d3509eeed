"""The E-step of diagonal and spherical mixtures on an accelerator, in two passes over the rows.

Neither rows × components nor rows × components × features is ever stored: the first pass finds the
log-density of each row, block of components by block; the second computes each block's terms again
and sums its statistics in registers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mogul.covariances import DiagCovariance, SphericalCovariance
from mogul.kernels.reference import ReferenceKernel
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["TritonKernel"]

_ROWS, _COMPONENTS = 64, 64
"""Rows and components of a block."""
_MOST_FEATURES = 64
"""More than these do not fit the registers beside the sums; matrix products then do as well."""
_STRIPS = 512
"""Stretches of rows, each of which is summed by itself: some for each multiprocessor."""
_MOST_NUMBERS = 1 << 24
"""Numbers kept for the sums of all stretches."""
_FARTHEST = 30.0
"""How far a mean may be from the common origin, in standard deviations: sums about the origin then
keep covariances to 1e-4 in float32."""


@triton.jit
def _block_terms(
    x, centre, means, scales, constants, rows, inside, ks, live,
    D: tl.constexpr, ROWS: tl.constexpr, COMPONENTS: tl.constexpr,
):  # fmt: skip
    """Log w_k + log N(x; μ_k, σ_k), from differences: nothing cancels."""
    distance = tl.zeros((ROWS, COMPONENTS), tl.float32)
    for d in range(D):
        column = tl.load(x + rows * D + d, mask=inside, other=0.0) - tl.load(centre + d)
        mean = tl.load(means + ks * D + d, mask=live, other=0.0)
        scale = tl.load(scales + ks * D + d, mask=live, other=0.0)
        gap = (column[:, None] - mean[None, :]) * scale[None, :]
        distance += gap * gap
    return tl.load(constants + ks, mask=live, other=-float("inf"))[None, :] - 0.5 * distance


@triton.jit
def _log_densities(
    x, centre, means, scales, constants, answer, n_rows, n_components,
    D: tl.constexpr, ROWS: tl.constexpr, COMPONENTS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < n_rows
    peak = tl.full((ROWS,), -float("inf"), tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    for first in range(0, n_components, COMPONENTS):
        ks = first + tl.arange(0, COMPONENTS)
        terms = _block_terms(
            x, centre, means, scales, constants, rows, inside, ks, ks < n_components,
            D, ROWS, COMPONENTS,
        )  # fmt: skip
        higher = tl.maximum(peak, tl.max(terms, 1))
        level = tl.where(higher == -float("inf"), 0.0, higher)
        mass = mass * tl.exp(peak - level) + tl.sum(tl.exp(terms - level[:, None]), 1)
        peak = higher
    tl.store(answer + rows, peak + tl.log(mass), mask=inside)


@triton.jit
def _strip_sums(
    x, centre, means, scales, constants, log_prob, weight, answer, n_rows, n_components, strip_rows,
    D: tl.constexpr, WIDTH: tl.constexpr, WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr, COMPONENTS: tl.constexpr,
):  # fmt: skip
    """Σ r, Σ r x and Σ r x² of one stretch of rows and one block of components."""
    strip = tl.program_id(0).to(tl.int64)
    ks = tl.program_id(1) * COMPONENTS + tl.arange(0, COMPONENTS)
    live = ks < n_components
    columns = tl.arange(0, WIDTH)
    there = columns < D
    origin = tl.load(centre + columns, mask=there, other=0.0)
    count = tl.zeros((COMPONENTS,), tl.float32)
    once = tl.zeros((COMPONENTS, WIDTH), tl.float32)
    twice = tl.zeros((COMPONENTS, WIDTH), tl.float32)
    for start in range(0, strip_rows, ROWS):
        place = start + tl.arange(0, ROWS)
        rows = strip * strip_rows + place
        inside = (rows < n_rows) & (place < strip_rows)
        terms = _block_terms(
            x, centre, means, scales, constants, rows, inside, ks, live, D, ROWS, COMPONENTS
        )
        share = tl.exp(terms - tl.load(log_prob + rows, mask=inside, other=0.0)[:, None])
        if WEIGHTED:
            share *= tl.load(weight + rows, mask=inside, other=0.0)[:, None]
        share = tl.where(inside[:, None], share, 0.0)
        place_of = x + rows[:, None] * D + columns[None, :]
        table = tl.load(place_of, mask=inside[:, None] & there[None, :], other=0.0)
        table = tl.where(inside[:, None], table - origin[None, :], 0.0)
        count += tl.sum(share, 0)
        shares = tl.trans(share)
        once += tl.dot(shares, table, input_precision="ieee")
        twice += tl.dot(shares, table * table, input_precision="ieee")
    base = answer + (strip * n_components + ks) * (2 * D + 1)
    tl.store(base, count, mask=live)
    cells = live[:, None] & there[None, :]
    tl.store(base[:, None] + 1 + columns[None, :], once, mask=cells)
    tl.store(base[:, None] + 1 + D + columns[None, :], twice, mask=cells)


class TritonKernel:
    """Diagonal or spherical mixtures of up to 64 features, float32 rows; needs Triton.

    Arithmetic is IEEE float32 and never TF32; sums over stretches of rows are float64, in a fixed
    order. Where a mean is more than 30 of its standard deviations from the common origin the
    reference takes over, since sums about that origin would lose the covariance.
    """

    own_threads = False
    tile_rows = 1 << 20

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        self.fallback = ReferenceKernel(mixture.to(dtype=torch.float32))
        exact = mixture.to(dtype=torch.float64)
        centre = exact.mean.float()  # representable, so that x − c is right to the last digit
        deviations = exact.covariance.variances().sqrt()  # (K, D)
        means = exact.means - centre.double()
        constant = exact.log_weights - deviations.log().sum(-1)
        constant = constant - 0.5 * mixture.n_features * math.log(2 * math.pi)
        self.centre = centre.contiguous()
        self.means = means.float().contiguous()
        self.scales = deviations.reciprocal().float().contiguous()
        self.constants = constant.float().contiguous()
        self._reach = (means.abs() / deviations).amax()

    @staticmethod
    def takes(rows: Tensor, mixture: Mixture) -> bool:
        """Whether rows and mixture are of the kinds that it computes."""
        kinds = (DiagCovariance, SphericalCovariance)
        return (
            rows.ndim == 2
            and rows.dtype == torch.float32
            and not mixture.batch_shape
            and isinstance(mixture.covariance, kinds)
            and mixture.n_features <= _MOST_FEATURES
        )

    @property
    def applies(self) -> bool:
        """Whether all means are near enough to the common origin; waits for the accelerator."""
        return bool(self._reach <= _FARTHEST)

    def collect(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None = None
    ) -> Stats:
        """Statistics of rows (N, D); see :meth:`ReferenceKernel.collect`."""
        if uniform is not None or not rows.shape[0]:
            return self.fallback.collect(rows, sample_weight, uniform)
        rows = rows.contiguous()
        log_prob = self.log_prob(rows)
        n_rows, d = rows.shape
        k = self.mixture.n_components
        width = 2 * d + 1
        n_blocks = triton.cdiv(k, _COMPONENTS)
        most = min(_STRIPS, max(1, _MOST_NUMBERS // (k * width)), triton.cdiv(n_rows, _ROWS))
        strip_rows = triton.cdiv(triton.cdiv(n_rows, most), _ROWS) * _ROWS
        n_strips = triton.cdiv(n_rows, strip_rows)
        parts = rows.new_empty((n_strips, k, width))
        weight = None if sample_weight is None else sample_weight.to(rows).contiguous()
        strip_sums: Any = _strip_sums
        strip_sums[(n_strips, n_blocks)](
            rows, self.centre, self.means, self.scales, self.constants, log_prob,
            rows if weight is None else weight, parts, n_rows, k, strip_rows,
            D=d, WIDTH=max(16, triton.next_power_of_2(d)), WEIGHTED=weight is not None,
            ROWS=_ROWS, COMPONENTS=_COMPONENTS,
        )  # fmt: skip
        sums = parts.sum(0, dtype=torch.float64)
        second = sums[:, d + 1 :]
        values = log_prob if weight is None else weight * log_prob
        total = torch.full((), n_rows) if sample_weight is None else sample_weight.sum()
        stats = Stats(
            count=sums[:, 0],
            first=sums[:, 1 : d + 1],
            second=second if self.mixture.covariance.feature_blocks else second.sum(-1),
            origin=self.centre.double().expand(k, d),
            row_weight=total.to(sums),
            log_likelihood=values.sum(dtype=torch.float64),
        )
        return self.mixture.covariance.recentre(stats, self.mixture.means.double())

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-densities in nats, (N,), float32."""
        rows = rows.contiguous()
        n_rows, d = rows.shape
        answer = rows.new_empty(n_rows)
        log_densities: Any = _log_densities
        log_densities[(triton.cdiv(n_rows, _ROWS),)](
            rows, self.centre, self.means, self.scales, self.constants, answer, n_rows,
            self.mixture.n_components, D=d, ROWS=_ROWS, COMPONENTS=_COMPONENTS,
        )  # fmt: skip
        return answer

    def score(self, rows: Tensor, what: str) -> Tensor:
        """What is asked of each row; see :func:`mogul.kernels.reference.scored`."""
        if what == "log_prob" and rows.shape[0]:
            return self.log_prob(rows)
        return self.fallback.score(rows, what)
