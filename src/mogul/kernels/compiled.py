"""The expanded E-step, compiled: all that a tile needs is done while it is in a core's cache."""

from __future__ import annotations

import itertools
import math
import sys
from functools import lru_cache, reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mogul._threads import spread
from mogul.covariances import Covariance
from mogul.errors import InputError
from mogul.kernels import _tiles
from mogul.kernels._blocks import BLOCK
from mogul.kernels._vectors import PANEL
from mogul.kernels.expansion import Expansion, expansion_limit
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = [
    "CompiledKernel",
    "Sums",
    "as_array",
    "as_lines",
    "check_width",
    "collect_sums",
    "cut",
    "empty_plan",
    "fits_one_core",
]


def _announce() -> None:
    """Say on a terminal why the first fit on a machine takes long."""
    cache = Path(_tiles.collect.stats.cache_path)
    if sys.stderr.isatty() and not any(cache.glob("_tiles.collect-*.nbi")):
        print(
            "mogul compiles its kernels, once on this machine: some twenty seconds.",
            file=sys.stderr,
        )


_announce()

_MOST_LINES = 160
"""Features made at a time: with 256 rows they take 320 kB of a core's own cache."""
_TILE_NUMBERS = 1 << 16
"""Features and terms of a tile, in numbers."""
_MOST_PANELS = 8
_FEW = 8
_MANY = 64
"""Up to so many components and from so many features on, products of columns are made as they are
used: to store them takes longer than to use them."""
_SPANS = 4
"""Stretches of rows for each thread."""
_SPAN_WORK = 1 << 19
"""Multiplications in a stretch, at least: to hand one to a thread takes as long as thousands."""
_ONE_CORE_WORK = 1 << 21
"""Multiplications of a pass that one core does as soon as two, some 0.2 ms, since all iterations
are then one call."""
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
        k, n_mixtures = mixture.n_components, mixture.batch_shape.numel()
        plan = empty_plan(type(covariance), k, n_features, n_mixtures)
        spare = len(plan.left) + n_features + 1 - self.weights.shape[-1]
        weights = self.weights.reshape(n_mixtures, k, self.weights.shape[-1]).numpy()
        whitening = plan.whitening
        if not self.shared:
            upper = covariance.precisions_cholesky().reshape(-1, n_features, n_features)
            whitening = _blocked(upper.transpose(-1, -2).numpy())
        self.plan = plan._replace(
            centre=self.centre.numpy(),
            sharpest=self.sharpest.numpy(),
            weights=_blocked(
                np.insert(weights, [weights.shape[-1] - n_features - 1] * spare, 0, 2)
            ),
            whitening=whitening,
        )

    @property
    def applies(self) -> bool:
        return self.is_near

    @property
    def tile_rows(self) -> int:
        return self.plan.tile_panels * PANEL

    def collect(
        self, rows: Tensor, sample_weight: Tensor | None, uniform: Tensor | None = None
    ) -> Stats:
        """Statistics of rows (N, D); see :meth:`ReferenceKernel.collect`."""
        shape, n_features = self.mixture.batch_shape, self.mixture.n_features
        weight, chance = as_lines(sample_weight, rows, shape), as_lines(uniform, rows, shape)
        if len(chance) == 1:
            chance = np.broadcast_to(chance, (shape.numel(), rows.shape[0])).copy()
        sums = collect_sums(as_array(rows), weight, chance, self.plan, shape.numel())
        own = self._stats(
            torch.from_numpy(sums.products).reshape(*shape, *sums.products.shape[1:]),
            torch.from_numpy(sums.second[..., :n_features]).reshape(*shape, n_features, -1),
            torch.from_numpy(sums.totals).reshape(*shape, 2),
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
            for stray in sums.strays
        ]
        return reduce(add, others, own)

    def score(self, rows: Tensor, what: str) -> Tensor:
        """What is asked of each row; see :func:`mogul.kernels.reference.scored`."""
        shape, n_rows = self.mixture.batch_shape, rows.shape[0]
        values = as_array(rows)
        check_width(values, self.plan)
        width = self.plan.n_components if what == "responsibilities" else 1
        answer = torch.empty((shape.numel(), n_rows, width), dtype=torch.float64)
        array, question = answer.numpy(), _tiles.QUESTIONS[what]

        def fill(span: slice) -> NDArray[np.bool_]:
            strays = _no_strays(span, self.tile_rows)
            _tiles.score(values, span.start, span.stop, self.plan, question, array, strays)
            return strays

        spans = cut(n_rows, 0, self.plan, torch.get_num_threads())
        strays = spread(fill, spans)
        answer = answer.reshape(*shape, n_rows, width)
        if what != "responsibilities":
            answer = answer.squeeze(-1)
        if what == "labels":
            answer = answer.long()
        for stray in _stray_rows(spans, strays, self.tile_rows):
            part = answer.narrow(len(shape), stray.start, stray.stop - stray.start)
            part.copy_(self.fallback.score(rows[stray], what))
        return answer

    def _stats(self, sums: Tensor, second: Tensor, totals: Tensor) -> Stats:
        n_features, n_made = self.mixture.n_features, len(self.plan.left)
        products = sums[..., : self.quadratic.shape[-1]]
        return Stats(
            count=sums[..., n_made + n_features],
            first=sums[..., n_made : n_made + n_features],
            second=self.mixture.covariance.raw_second(products) if self.shared else second,
            origin=self.origin,
            row_weight=totals[..., 0],
            log_likelihood=totals[..., 1],
        )


class Sums(NamedTuple):
    """What one pass over rows adds up, about the plan's centre.

    ``strays`` are the rows that are left out, because the expanded form would cancel or a value is
    NaN.
    """

    products: NDArray[np.float64]  # (B, K, P + D + 1 or more)
    second: NDArray[np.float64]  # (B, D, D or more): of all components together, if whitened
    totals: NDArray[np.float64]  # (B, 2): row weight and log-likelihood
    strays: list[slice]

    def plus(self, other: Sums) -> Sums:
        """Those of both parts of some rows, none of which has strays."""
        products, second = self.products + other.products, self.second + other.second
        return Sums(products, second, self.totals + other.totals, [])


def collect_sums(
    values: NDArray,
    weight: NDArray[np.float64],
    chance: NDArray[np.float64],
    plan: _tiles.Plan,
    n_mixtures: int,
    n_threads: int | None = None,
) -> Sums:
    """One pass over rows (N, D); see :func:`mogul.kernels._tiles.collect`.

    On as many threads as torch uses, or on ``n_threads``.
    """
    n_threads = n_threads or torch.get_num_threads()
    n_features = len(plan.centre)
    check_width(values, plan)
    width = _tiles.padded(n_features) if plan.whitening.size else 0
    shapes = [
        (n_mixtures, plan.n_components, plan.n_sums),
        (n_mixtures, n_features, width),
        (n_mixtures, 2),
    ]
    sizes = [math.prod(shape) for shape in shapes]
    tile_rows = plan.tile_panels * PANEL

    def parts(flat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        ends = list(itertools.accumulate(sizes))
        return [
            flat[end - size : end].reshape(shape)
            for end, size, shape in zip(ends, sizes, shapes, strict=True)
        ]

    def sums(span: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        flat, strays = np.zeros(sum(sizes)), _no_strays(span, tile_rows)
        own = parts(flat)
        _tiles.collect(values, span.start, span.stop, weight, chance, plan, *own, strays)
        return flat, strays

    spans = cut(len(values), sum(sizes), plan, n_threads)
    found = spread(sums, spans, n_threads)
    products, second, totals = parts(reduce(np.add, [flat for flat, _ in found]))
    if width and len(weight) < 2:
        second[1:] = second[0]  # the same for all mixtures
    strays = _stray_rows(spans, [marks for _, marks in found], tile_rows)
    return Sums(products, second, totals, strays)


def check_width(values: NDArray, plan: _tiles.Plan) -> None:
    """Compiled code would read beyond the end of a row."""
    if values.ndim != 2 or values.shape[1] != len(plan.centre):
        raise InputError(
            f"The rows have shape {values.shape}, expected two axes and as many columns as the "
            f"mixture has features, {len(plan.centre)}."
        )


def _no_strays(span: slice, tile_rows: int) -> NDArray[np.bool_]:
    return np.zeros(-(-(span.stop - span.start) // tile_rows), dtype=np.bool_)


def cut(n_rows: int, n_sums: int, plan: _tiles.Plan, n_threads: int) -> list[slice]:
    """Stretches of rows for threads to take, whole tiles but for the last.

    More of them than threads, since a core may be slower than another; one where there is little to
    do. The cut does not depend on what happens, so that sums repeat.
    """
    tile_rows = plan.tile_panels * PANEL
    n_tiles = -(-n_rows // tile_rows)
    most = max(n_threads, min(_SPANS * n_threads, _MOST_SUMS // max(1, n_sums)))
    work = n_rows * len(plan.weights)
    one = n_threads == 1 or work < _ONE_CORE_WORK
    n_spans = 1 if one else max(1, min(most, n_tiles, work // _SPAN_WORK))
    step = max(1, -(-n_tiles // n_spans)) * tile_rows
    return [slice(i, min(i + step, n_rows)) for i in range(0, max(n_rows, 1), step)]


def _stray_rows(spans: list[slice], strays: list[NDArray[np.bool_]], tile_rows: int) -> list[slice]:
    """The rows of tiles that the compiled function left out."""
    starts = [
        (span.start + int(tile) * tile_rows, span.stop)
        for span, marks in zip(spans, strays, strict=True)
        for tile in np.flatnonzero(marks)
    ]
    return [slice(start, min(start + tile_rows, stop)) for start, stop in starts]


def fits_one_core(n_rows: int, plan: _tiles.Plan, n_threads: int) -> bool:
    """Whether there is too little to do in a pass over so many rows to cut it up."""
    n_sums = plan.n_components * plan.n_sums
    return len(cut(n_rows, n_sums, plan, n_threads)) == 1


def empty_plan(
    structure: type[Covariance],
    n_components: int,
    n_features: int,
    n_mixtures: int = 1,
    n_rows: int | None = None,
) -> _tiles.Plan:
    """A plan whose coefficients are still to be filled in; ``n_rows`` is how many there will be."""
    left, right = _columns(structure, n_features)
    n_made = len(left)
    all_pairs = len(structure.feature_pairs(n_features)) == n_features * (n_features + 1) // 2
    pairs = all_pairs and n_components <= _FEW and n_made > _MANY
    chunk = max(1, _tiles.padded(-(-n_made // max(1, -(-n_made // _MOST_LINES)))))
    per_panel = PANEL * (n_components + 2 * n_features + (0 if pairs else chunk))
    whitened = 0 if structure.shared_features else n_features
    most = _MOST_PANELS if n_rows is None else min(_MOST_PANELS, -(-n_rows // PANEL))
    return _tiles.Plan(
        n_components=n_components,
        centre=np.zeros(n_features),
        sharpest=np.zeros(n_features),
        limit=expansion_limit(n_features),
        left=left,
        right=right,
        weights=np.zeros(n_mixtures * n_components * (n_made + n_features + 1)),
        whitening=np.zeros(n_mixtures * whitened * whitened),
        squares=bool((left == n_features + 1).any()),
        pairs=pairs,
        tile_panels=max(1, min(most, _TILE_NUMBERS // per_panel)),
        chunk=chunk,
    )


@lru_cache(maxsize=64)
def _columns(
    structure: type[Covariance], n_features: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which lines each of the structure's features is the product of, in whole blocks."""
    zero = n_features + 2
    pairs = structure.feature_pairs(n_features)
    pairs = pairs + [(zero, zero)] * (_tiles.padded(len(pairs)) - len(pairs))
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()
    return left, right


def as_array(rows: Tensor) -> NDArray:
    """Rows as an array that compiled functions take: float64 or float32."""
    known = rows.dtype in (torch.float64, torch.float32)
    return (rows if known else rows.double()).detach().numpy()


def as_lines(
    values: Tensor | None, rows: Tensor, batch_shape: tuple[int, ...] = ()
) -> NDArray[np.float64]:
    """Values for each row, (0 or 1 or B, N): none, one for all mixtures, or one for each."""
    n_rows = rows.shape[0]
    if values is None:
        return np.empty((0, n_rows))
    shape = (n_rows,) if values.ndim == 1 else (*batch_shape, n_rows)
    try:
        each = values.detach().double().expand(shape)
    except RuntimeError:
        raise InputError(
            f"Values for each row have shape {tuple(values.shape)}, expected {shape}."
        ) from None
    return each.reshape(math.prod(shape[:-1]), n_rows).contiguous().numpy()


def _blocked(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices (B, K, F) by blocks of rows, each stored column by column; see `multiply`."""
    blocks = [matrices[:, k : k + BLOCK] for k in range(0, matrices.shape[1], BLOCK)]
    flat = [block.transpose(0, 2, 1).reshape(len(block), -1) for block in blocks]
    return np.concatenate(flat, axis=1).ravel()
