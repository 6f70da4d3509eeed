"""The E-step of diagonal and spherical mixtures on an accelerator, without leaving its registers.

Neither rows × components nor rows × components × features is ever stored. Up to 128 components are
taken at once, in one pass over the rows. Of more, a first pass finds the log-density of each row,
block of components by block; the second computes each block's terms again and sums its statistics.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mogul.covariances import DiagCovariance, SphericalCovariance
from mogul.kernels.expansion import is_near_in_float32
from mogul.kernels.reference import ReferenceKernel
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["TritonKernel"]

_MOST_FEATURES = 64
"""More than these do not fit the registers beside the sums; matrix products then do as well."""
_MOST_AT_ONCE = 128
"""Components of one pass."""
_BLOCK = 64
"""Components of a block where there are more."""
_SMALL, _MIDDLE, _LARGE = 1 << 10, 1 << 11, 1 << 13
"""Components × lines of a block; see :func:`_shape`."""
_STRIPS = 528
"""Stretches of rows, each of which is summed by itself: four for each of 132 multiprocessors."""
_MOST_NUMBERS = 1 << 24
"""Numbers kept for the sums of all stretches."""


def _shape(sums: int) -> tuple[int, int]:
    """The rows of a block and the warps that share it, where it has so many sums.

    The compiler writes each multiplication of a block out, and keeps operands in memory instead of
    registers where a thread has more than a thousand. Measured on an H100.
    """
    if sums <= _SMALL:
        return 128, 4
    return (64 if sums <= _MIDDLE else 32 if sums <= _LARGE else 16), 8


@triton.jit
def _lines(x, centre, rows, inside, D: tl.constexpr, WIDTH: tl.constexpr):
    """Rows less the origin, and their squares beside them: (ROWS, 2 WIDTH), zero where padded."""
    columns = tl.arange(0, 2 * WIDTH)
    features = columns % WIDTH
    there = features < D
    origin = tl.load(centre + features, mask=there, other=0.0)
    cells = inside[:, None] & there[None, :]
    values = tl.load(x + rows[:, None] * D + features[None, :], mask=cells, other=0.0)
    gap = tl.where(cells, values - origin[None, :], 0.0)
    return tl.where((columns < WIDTH)[None, :], gap, gap * gap)


@triton.jit
def _block_terms(lines, weights, constants, ks, padded, WIDTH: tl.constexpr):
    """Log w_k + log N(x; μ_k, σ_k) of a block of components; (ROWS, COMPONENTS)."""
    columns = tl.arange(0, 2 * WIDTH)
    block = tl.load(weights + columns[:, None] * padded + ks[None, :])
    return tl.dot(lines, block, input_precision="ieee") + tl.load(constants + ks)[None, :]


@triton.jit
def _log_densities(
    x, centre, weights, constants, answer, n_rows, padded,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COMPONENTS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < n_rows
    lines = _lines(x, centre, rows, inside, D, WIDTH)
    peak = tl.full((ROWS,), -float("inf"), tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    for first in range(0, padded, COMPONENTS):
        ks = first + tl.arange(0, COMPONENTS)
        terms = _block_terms(lines, weights, constants, ks, padded, WIDTH)
        higher = tl.maximum(peak, tl.max(terms, 1))
        level = tl.where(higher == -float("inf"), 0.0, higher)
        mass = mass * tl.exp(peak - level) + tl.sum(tl.exp(terms - level[:, None]), 1)
        peak = higher
    tl.store(answer + rows, peak + tl.log(mass), mask=inside)


@triton.jit
def _strip_sums(
    x, centre, weights, constants, log_prob, row_weight, answer, n_rows, padded, strip_rows,
    D: tl.constexpr, WIDTH: tl.constexpr, WEIGHTED: tl.constexpr, ALONE: tl.constexpr,
    ROWS: tl.constexpr, COMPONENTS: tl.constexpr,
):  # fmt: skip
    """Σ r, Σ r x and Σ r x² of one stretch of rows and one block of components.

    A block that is ALONE also finds the log-densities, which are otherwise given.
    """
    strip = tl.program_id(0).to(tl.int64)
    ks = tl.program_id(1) * COMPONENTS + tl.arange(0, COMPONENTS)
    count = tl.zeros((COMPONENTS,), tl.float32)
    sums = tl.zeros((COMPONENTS, 2 * WIDTH), tl.float32)
    for start in range(0, strip_rows, ROWS):
        place = start + tl.arange(0, ROWS)
        rows = strip * strip_rows + place
        inside = (rows < n_rows) & (place < strip_rows)
        lines = _lines(x, centre, rows, inside, D, WIDTH)
        terms = _block_terms(lines, weights, constants, ks, padded, WIDTH)
        if ALONE:
            peak = tl.max(terms, 1)
            share = tl.exp(terms - peak[:, None])
            mass = tl.sum(share, 1)
            tl.store(log_prob + rows, peak + tl.log(mass), mask=inside)
            scale = 1.0 / mass
        else:
            share = tl.exp(terms - tl.load(log_prob + rows, mask=inside, other=0.0)[:, None])
            scale = tl.full((ROWS,), 1.0, tl.float32)
        if WEIGHTED:
            scale *= tl.load(row_weight + rows, mask=inside, other=0.0)
        share = tl.where(inside[:, None], share * scale[:, None], 0.0)
        count += tl.sum(share, 0)
        sums += tl.dot(tl.trans(share), lines, input_precision="ieee")
    base = answer + (strip * padded + ks) * (2 * WIDTH + 1)
    tl.store(base, count)
    tl.store(base[:, None] + 1 + tl.arange(0, 2 * WIDTH)[None, :], sums)


class TritonKernel:
    """Diagonal or spherical mixtures of up to 64 features, float32 rows; needs Triton.

    Arithmetic is IEEE float32 and never TF32, about the common mean; sums over stretches of rows
    are float64, in a fixed order. Applies where the means are near the common one; see
    :func:`~mogul.kernels.expansion.is_near_in_float32`.

    Parameters
    ----------
    mixture : Mixture
        On any device: the constants are computed where it lies.
    device : torch.device
        Of the rows.
    """

    own_threads = True
    tile_rows = 1 << 20

    def __init__(self, mixture: Mixture, device: torch.device):
        exact = mixture.to(dtype=torch.float64)
        self.mixture = exact.to(device=device)
        d, k = mixture.n_features, mixture.n_components
        self.width = max(8, triton.next_power_of_2(d))
        most = max(16, triton.next_power_of_2(k))
        self.block = most if most <= _MOST_AT_ONCE else _BLOCK
        self.padded = -(-k // self.block) * self.block
        self.block_rows, self.n_warps = _shape(self.block * 2 * self.width)
        centre = exact.mean.float()  # representable, so that x − c is right to the last digit
        precisions = exact.covariance.precision_diagonal()  # (K, D)
        means = exact.means - centre.double()
        linear = precisions * means
        squared = (linear * means).sum(-1)
        self._farthest = squared.max()
        constant = exact.log_weights - exact.covariance.log_diagonal().sum(-1) - 0.5 * squared
        weights = exact.means.new_zeros((2 * self.width, self.padded))
        weights[:d, :k] = linear.T
        weights[self.width : self.width + d, :k] = -0.5 * precisions.T
        constants = constant.new_full((self.padded,), -torch.inf)
        constants[:k] = constant - 0.5 * d * math.log(2 * math.pi)
        self.centre = centre.to(device)
        self.weights = weights.float().to(device)
        self.constants = constants.float().to(device)

    @staticmethod
    def takes(rows: Tensor, mixture: Mixture) -> bool:
        """Whether rows and mixture are of the kinds that it computes."""
        kinds = (DiagCovariance, SphericalCovariance)
        return (
            rows.ndim == 2
            and not mixture.batch_shape
            and rows.dtype == torch.float32
            and isinstance(mixture.covariance, kinds)
            and mixture.n_features <= _MOST_FEATURES
        )

    @property
    def applies(self) -> bool:
        """Whether all means are near enough to the common one."""
        return is_near_in_float32(self._farthest)

    @property
    def fallback(self) -> ReferenceKernel:
        """For what this kernel does not compute, and no rows."""
        return ReferenceKernel(self.mixture.to(dtype=torch.float32))

    def collect(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None = None
    ) -> Stats:
        """Statistics of rows (N, D); see :meth:`ReferenceKernel.collect`."""
        if uniform is not None or not rows.shape[0]:
            return self.fallback.collect(rows, sample_weight, uniform)
        rows = rows.contiguous()
        n_rows, d = rows.shape
        k, width, n_blocks = self.mixture.n_components, self.width, self.padded // self.block
        log_prob = rows.new_empty(n_rows) if n_blocks == 1 else self.log_prob(rows)
        numbers = self.padded * (2 * width + 1)
        most = min(_STRIPS, max(1, _MOST_NUMBERS // numbers), triton.cdiv(n_rows, self.block_rows))
        strip_rows = triton.cdiv(triton.cdiv(n_rows, most), self.block_rows) * self.block_rows
        n_strips = triton.cdiv(n_rows, strip_rows)
        parts = rows.new_empty((n_strips, self.padded, 2 * width + 1))
        weight = None if sample_weight is None else sample_weight.to(rows).contiguous()
        strip_sums: Any = _strip_sums
        strip_sums[(n_strips, n_blocks)](
            rows, self.centre, self.weights, self.constants, log_prob,
            rows if weight is None else weight, parts, n_rows, self.padded, strip_rows,
            D=d, WIDTH=width, WEIGHTED=weight is not None, ALONE=n_blocks == 1,
            ROWS=self.block_rows, COMPONENTS=self.block, num_warps=self.n_warps,
        )  # fmt: skip
        sums = parts.sum(0, dtype=torch.float64)[:k]
        second = sums[:, 1 + width : 1 + width + d]
        values = log_prob if weight is None else weight * log_prob
        stats = Stats(
            count=sums[:, 0],
            first=sums[:, 1 : 1 + d],
            second=second if self.mixture.covariance.feature_blocks else second.sum(-1),
            origin=self.centre.double().expand(k, d),
            row_weight=sums.new_tensor(n_rows) if sample_weight is None else sample_weight.sum(),
            log_likelihood=values.sum(dtype=torch.float64),
        )
        return self.mixture.covariance.recentre(stats, self.mixture.means)

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-densities in nats, (N,), float32."""
        rows = rows.contiguous()
        n_rows, d = rows.shape
        answer = rows.new_empty(n_rows)
        log_densities: Any = _log_densities
        log_densities[(triton.cdiv(n_rows, self.block_rows),)](
            rows, self.centre, self.weights, self.constants, answer, n_rows, self.padded,
            D=d, WIDTH=self.width, ROWS=self.block_rows, COMPONENTS=self.block,
            num_warps=self.n_warps,
        )  # fmt: skip
        return answer

    def score(self, rows: Tensor, what: str) -> Tensor:
        """What is asked of each row; see :func:`mogul.kernels.reference.scored`."""
        if what == "log_prob" and rows.shape[0]:
            return self.log_prob(rows)
        return self.fallback.score(rows, what)
