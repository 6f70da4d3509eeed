"""The expanded E-step, compiled: all that a tile needs is done while it is in a core's cache."""

from __future__ import annotations

from functools import lru_cache, reduce
from operator import add

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mogul._threads import spread
from mogul.covariances import Covariance
from mogul.kernels import _tiles
from mogul.kernels._blocks import BLOCK
from mogul.kernels._vectors import PANEL
from mogul.kernels.expansion import Expansion
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = ["CompiledKernel"]

_MOST_LINES = 160
"""Features made at a time: with 256 rows they take 320 kB of a core's own cache."""
_TILE_NUMBERS = 1 << 16
"""Features and terms of a tile, in numbers."""
_MOST_PANELS = 8
_SPANS = 4
"""Stretches of rows for each thread."""
_SPAN_WORK = 1 << 18
"""Multiplications in a stretch, at least: to hand one to a thread takes as long as thousands."""
_MOST_SUMS = 1 << 21
"""Sums kept for all stretches together, in numbers, where that leaves one for each thread."""


class CompiledKernel(Expansion):
    """The E-step in one pass over the rows, for any structure; needs Numba and a CPU.

    A tile of rows is transposed, its features made, its terms computed, exponentiated and
    normalised, and its statistics added up without leaving the cache of a core. All arithmetic is
    in float64 whatever the type of the rows. Otherwise as
    :class:`~mogul.kernels.expanded.ExpandedKernel`.
    """

    own_threads = True

    def __init__(self, mixture: Mixture):
        super().__init__(mixture)
        covariance, n_features = mixture.covariance, mixture.n_features
        left, right, spare = _columns(type(covariance), n_features)
        weights = self.weights.reshape(-1, mixture.n_components, self.weights.shape[-1]).numpy()
        whitening = np.empty(0)
        if not self.shared:
            upper = covariance.precisions_cholesky().reshape(-1, n_features, n_features)
            whitening = _blocked(upper.transpose(-1, -2).numpy())
        n_lines = len(left)
        chunk = _tiles.padded(-(-n_lines // -(-n_lines // _MOST_LINES)))
        panels = _TILE_NUMBERS // (PANEL * (chunk + mixture.n_components))
        self.plan = _tiles.Plan(
            n_components=mixture.n_components,
            centre=self.centre.numpy(),
            sharpest=self.sharpest.numpy(),
            limit=self.limit,
            left=left,
            right=right,
            weights=_blocked(np.pad(weights, ((0, 0), (0, 0), (0, spare)))),
            whitening=whitening,
            squares=bool((left == n_features + 1).any()),
            tile_panels=max(1, min(_MOST_PANELS, panels)),
            chunk=chunk,
        )

    @property
    def tile_rows(self) -> int:
        return self.plan.tile_panels * PANEL

    def collect(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None = None
    ) -> Stats:
        """Statistics of rows (N, D); see :meth:`ReferenceKernel.collect`."""
        plan, shape = self.plan, self.mixture.batch_shape
        n_features, n_lines = self.mixture.n_features, len(plan.left)
        values = _array(rows)
        weight, chance = _stacked(sample_weight, rows), _stacked(uniform, rows)
        n_mixtures = shape.numel()
        width = 0 if self.shared else _tiles.padded(n_features)
        sizes = n_mixtures * np.array([plan.n_components * n_lines, n_features * width, 2])

        def sums(span: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            flat = np.zeros(sizes.sum())
            products, second, totals = np.split(flat, sizes.cumsum()[:-1])
            strays = np.zeros(-(-(span.stop - span.start) // self.tile_rows), dtype=np.bool_)
            _tiles.collect(
                values,
                span.start,
                span.stop,
                weight,
                chance,
                plan,
                products.reshape(n_mixtures, plan.n_components, n_lines),
                second.reshape(n_mixtures, n_features, width),
                totals.reshape(n_mixtures, 2),
                strays,
            )
            return flat, strays

        spans = self._spans(len(values), int(sizes.sum()))
        found = spread(sums, spans)
        flat = reduce(np.add, [part for part, _ in found])
        products, second, totals = np.split(flat, sizes.cumsum()[:-1])
        second = second.reshape(n_mixtures, n_features, width)
        if width and len(weight) < 2:
            second[1:] = second[0]  # of all components together: the same for all mixtures
        own = self._stats(
            torch.from_numpy(products).reshape(*shape, plan.n_components, n_lines),
            torch.from_numpy(second[..., :n_features]).reshape(*shape, n_features, -1),
            torch.from_numpy(totals).reshape(*shape, 2),
        )
        others = [
            self.mixture.covariance.recentre(
                self.fallback.collect(
                    rows[stray],
                    None if sample_weight is None else sample_weight[..., stray],
                    None if uniform is None else uniform[..., stray],
                ),
                self.origin,
            )
            for stray in self._strays(spans, [strays for _, strays in found])
        ]
        return reduce(add, others, own)

    def score(self, rows: Tensor, what: str) -> Tensor:
        """What is asked of each row; see :func:`mogul.kernels.reference.scored`."""
        shape, n_rows = self.mixture.batch_shape, rows.shape[0]
        values = _array(rows)
        width = self.plan.n_components if what == "responsibilities" else 1
        answer = torch.empty((shape.numel(), n_rows, width), dtype=torch.float64)
        array, question = answer.numpy(), _tiles.QUESTIONS[what]

        def fill(span: slice) -> NDArray[np.bool_]:
            strays = np.zeros(-(-(span.stop - span.start) // self.tile_rows), dtype=np.bool_)
            _tiles.score(values, span.start, span.stop, self.plan, question, array, strays)
            return strays

        spans = self._spans(n_rows, 0)
        strays = spread(fill, spans)
        answer = answer.reshape(*shape, n_rows, width)
        if what != "responsibilities":
            answer = answer.squeeze(-1)
        if what == "labels":
            answer = answer.long()
        for stray in self._strays(spans, strays):
            part = answer.narrow(len(shape), stray.start, stray.stop - stray.start)
            part.copy_(self.fallback.score(rows[stray], what))
        return answer

    def _spans(self, n_rows: int, n_sums: int) -> list[slice]:
        """Stretches of rows for threads to take, whole tiles but for the last.

        More of them than threads, since a core may be slower than another; one where there is
        little to do. The cut does not depend on what happens, so that sums repeat.
        """
        n_threads = torch.get_num_threads()
        work = n_rows * len(self.plan.weights)
        n_tiles = -(-n_rows // self.tile_rows)
        most = max(n_threads, min(_SPANS * n_threads, _MOST_SUMS // max(1, n_sums)))
        n_spans = max(1, min(most, n_tiles, work // _SPAN_WORK)) if n_threads > 1 else 1
        step = max(1, -(-n_tiles // n_spans)) * self.tile_rows
        return [slice(i, min(i + step, n_rows)) for i in range(0, max(n_rows, 1), step)]

    def _strays(self, spans: list[slice], strays: list[NDArray[np.bool_]]) -> list[slice]:
        """The rows of tiles that the compiled function left out."""
        starts = [
            (span.start + int(tile) * self.tile_rows, span.stop)
            for span, marks in zip(spans, strays, strict=True)
            for tile in np.flatnonzero(marks)
        ]
        return [slice(start, min(start + self.tile_rows, stop)) for start, stop in starts]

    def _stats(self, sums: Tensor, second: Tensor, totals: Tensor) -> Stats:
        n_features, n_products = self.mixture.n_features, self.quadratic.shape[-1]
        if not self.shared:
            n_products = 0
        products = sums[..., :n_products]
        return Stats(
            count=sums[..., n_products + n_features],
            first=sums[..., n_products : n_products + n_features],
            second=self.mixture.covariance.raw_second(products) if self.shared else second,
            origin=self.origin,
            row_weight=totals[..., 0],
            log_likelihood=totals[..., 1],
        )


@lru_cache(maxsize=64)
def _columns(
    structure: type[Covariance], n_features: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Which columns each line of features is the product of, and how many lines are zero.

    The structure's own features, then the columns themselves, then one.
    """
    one, zero = n_features, n_features + 2
    pairs = [*structure.feature_pairs(n_features), *((i, one) for i in range(n_features))]
    pairs.append((one, one))
    spare = _tiles.padded(len(pairs)) - len(pairs)
    left, right = np.array(pairs + [(zero, zero)] * spare, dtype=np.int64).T.copy()
    return left, right, spare


def _array(rows: Tensor) -> NDArray:
    """Rows as an array that compiled functions take: float64 or float32."""
    known = rows.dtype in (torch.float64, torch.float32)
    return (rows if known else rows.double()).detach().numpy()


def _stacked(values: Tensor | None, rows: Tensor) -> NDArray[np.float64]:
    """Values for each row, (0 or more, N): none, one for all mixtures, or one for each."""
    if values is None:
        return np.empty((0, rows.shape[0]))
    shape = values.shape[:-1].numel(), values.shape[-1]
    return values.detach().double().reshape(shape).contiguous().numpy()


def _blocked(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices (B, K, F) by blocks of rows, each stored column by column; see `multiply`."""
    blocks = [matrices[:, k : k + BLOCK] for k in range(0, matrices.shape[1], BLOCK)]
    flat = [block.transpose(0, 2, 1).reshape(len(block), -1) for block in blocks]
    return np.concatenate(flat, axis=1).ravel()
