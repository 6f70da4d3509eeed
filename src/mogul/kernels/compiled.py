"""The expanded E-step, compiled: all that a tile needs is done while it is in a core's cache."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from functools import lru_cache, reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mogul._threads import spread
from mogul.covariances import (
    Covariance,
    DiagCovariance,
    FullCovariance,
    SphericalCovariance,
    TiedCovariance,
)
from mogul.errors import InputError
from mogul.kernels import _parameters as code
from mogul.kernels import _tiles
from mogul.kernels._blocks import BLOCK, NARROW_BLOCK
from mogul.kernels._few import (
    MOST_DROPPED,
    FewSums,
    Screen,
    collect_few,
    hand_over,
    n_triangular,
    no_sums,
    sharpen,
)
from mogul.kernels._passes import Desk, empty_desk
from mogul.kernels._vectors import LANES, PANEL
from mogul.kernels.expansion import Expansion, expansion_limit
from mogul.kernels.packed import KINDS, PackedMixture
from mogul.mixture import Mixture
from mogul.stats import Stats

__all__ = [
    "CompiledKernel",
    "Sums",
    "add_squares",
    "as_array",
    "as_lines",
    "check_width",
    "collect_sums",
    "cut",
    "desk_for",
    "empty_plan",
    "empty_screens",
    "fill_screens",
    "fits_one_core",
    "is_exact",
    "shared_rows",
]


def _announce() -> None:
    """Say on a terminal why the first fit on a machine takes long."""
    cache = Path(_tiles.collect.stats.cache_path)
    if sys.stderr.isatty() and not any(cache.glob("_tiles.collect-*.nbi")):
        print(
            "mogul compiles its kernels, once on this machine: about a minute.",
            file=sys.stderr,
        )


_announce()

_MOST_LINES = 160
"""Features made at a time: with 256 rows they take 320 kB of a core's own cache."""
_TILE_NUMBERS = 1 << 16
"""Features and terms of a tile, in numbers: half a core's second cache."""
_UPRIGHT_NUMBERS = 6000
"""Lines, terms and rows of a tile whose rows are kept as they lie: they fill the first cache."""
_ACROSS_NUMBERS = 2400
"""Rows and terms where nothing else is kept: as much again passes through the first cache."""
_FEW_ACROSS = 8
"""Components up to which their terms are sums over a row's columns, not over lines of many rows."""
_MOST_PANELS = 8
_MADE_AS_USED = ((3, 20), (8, 64))
"""Up to so many components and beyond so many features, products of columns are made as they are
used: to store them takes longer than to use them."""
_SPANS = 4
"""Stretches of rows for each thread."""
_SPAN_WORK = 1 << 19
"""Multiplications in a stretch, at least: to hand one to a thread takes as long as thousands."""
_ONE_CORE_WORK = 1 << 21
"""Multiplications of a pass that one core does as soon as two, some 0.2 ms, since all iterations
are then one call."""
_SHARED_WORK = 1 << 17
"""Multiplications of a pass from which on threads share it in a climb: some sixty microseconds."""
_TERM_WORK = 16
"""Multiplications that an exponential takes as long as."""
_PAUSE = 8
"""Tiles that are computed in full, once one did not gain by its screen; and a factor to that when
the next does not either."""
_SCREENED_WHOLE = 48
"""From so many columns on, rows are screened by half of them first."""
_SCREENED_ROWS = 64
"""Rows, at least, and times the columns of full covariances, to make screens for."""
_WORTH_IT = 1.5
"""Pairs a row up to which a screen pays, at least: every row has one, and half of one more pays for
those screens that turn out not to gain anything."""
_LEFT_OUT = 1e-11
"""Of the weight of a component, what screens may leave out."""
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
        weights = self.weights.reshape(n_mixtures, k, self.weights.shape[-1]).numpy()
        if not self.shared:
            weights = np.concatenate([weights, np.ones((n_mixtures, k, 1))], 2)
        elif plan.squares:
            weights = np.roll(weights, -1, 2)  # the weight of the squares comes last
        spare = len(plan.left) + plan.n_lines - weights.shape[-1]
        whitening = plan.whitening
        if not self.shared:
            upper = covariance.precisions_cholesky().reshape(-1, n_features, n_features)
            whitening = _blocked(upper.transpose(-1, -2).numpy())
        self._filled: list[tuple[Screen, ...]] = []  # once they are; shared by all copies
        self._squares = [_tiles.POOLED]  # likewise
        self.plan = plan._replace(
            centre=self.centre.numpy(),
            sharpest=self.sharpest.numpy(),
            weights=_blocked(np.insert(weights, [weights.shape[-1] - plan.n_lines] * spare, 0, 2)),
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
        screens = () if shape or len(chance) else self._screens(rows.shape[0])
        asked = as_array(rows), weight, chance, self.plan, shape.numel()
        sums = collect_sums(*asked, screens=screens, squares=self._squares[0])
        if not add_squares(sums, self.plan):
            self._squares[0] = _tiles.BY_ROW
            sums = collect_sums(*asked, screens=screens, squares=_tiles.BY_ROW)
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

    def _screens(self, n_rows: int) -> tuple[Screen, ...]:
        """Of a single mixture; none where there are too few rows to gain by them."""
        structure, shape = type(self.mixture.covariance), self.mixture.means.shape
        if not _pays_screens(structure, shape[1], n_rows):
            return ()
        if not self._filled:
            screens = empty_screens(structure, *shape)
            packed = PackedMixture.of(self.mixture)
            self._filled.append(fill_screens(screens, packed, self.plan))
        return self._filled[0]

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
        first = n_features + 1 if self.plan.squares else 0
        products = sums[..., first : first + self.quadratic.shape[-1]]
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
    NaN. The log-likelihoods lack a tied covariance's squares unless these were computed
    ``by_row``; see :func:`add_squares`.
    """

    products: NDArray[np.float64]  # (B, K, P + n_lines or more)
    second: NDArray[np.float64]  # (B, D, D or more): of all components together, if whitened
    totals: NDArray[np.float64]  # (B, 2): row weight and log-likelihood
    strays: list[slice]
    n_rows: int
    n_screened: int  # of which components were left out
    by_row: bool

    def plus(self, other: Sums) -> Sums:
        """Those of both parts of some rows, none of which has strays."""
        products, second = self.products + other.products, self.second + other.second
        totals, n_rows = self.totals + other.totals, self.n_rows + other.n_rows
        n_screened = self.n_screened + other.n_screened
        return Sums(products, second, totals, [], n_rows, n_screened, self.by_row)


class _Found(NamedTuple):
    """What a stretch of rows adds up to: as a whole and where screened, None if none is."""

    flat: NDArray[np.float64] | None
    few: FewSums | None
    strays: NDArray[np.bool_]
    n_screened: int


def collect_sums(
    values: NDArray,
    weight: NDArray[np.float64],
    chance: NDArray[np.float64],
    plan: _tiles.Plan,
    n_mixtures: int,
    n_threads: int | None = None,
    screens: Sequence[Screen] = (),
    squares: np.int64 = _tiles.BY_ROW,
) -> Sums:
    """One pass over rows (N, D); see :func:`mogul.kernels._tiles.collect`.

    On as many threads as torch uses, or on ``n_threads``. With ``screens`` of the one mixture,
    tried in turn, components that do not matter at a row are left out. ``squares`` says where those
    of a tied covariance come from.
    """
    by_row = bool(screens) or squares == _tiles.BY_ROW or not plan.whitening.size
    squares = _tiles.BY_ROW if by_row else squares
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

    def sums(span: slice) -> _Found:
        few = no_sums(screens[0], n_features) if screens else None
        flat, strays = None, _no_strays(span, tile_rows)
        row, pause, n_screened = span.start, _PAUSE, 0
        while row < span.stop:
            before = row
            for screen in screens:
                if row < span.stop:
                    row = collect_few(values, row, span.stop, weight, plan, screen, few)
            pause = _PAUSE if row > before else _PAUSE * pause
            n_screened += row - before
            stop = min(span.stop, row + pause * tile_rows) if screens else span.stop
            if row < stop:
                tiles = [-(-(end - span.start) // tile_rows) for end in (row, stop)]
                left = strays[slice(*tiles)]
                flat = np.zeros(sum(sizes)) if flat is None else flat
                own = parts(flat)
                _tiles.collect(values, row, stop, weight, chance, plan, squares, *own, left)
            row = stop
        return _Found(flat, few, strays, n_screened)

    spans = cut(len(values), sum(sizes), plan, n_threads)
    found = spread(sums, spans, n_threads)
    strays = _stray_rows(spans, [one.strays for one in found], tile_rows)
    n_screened = sum(one.n_screened for one in found)
    flat, few = found[0].flat, found[0].few
    while len(found) > 1:  # one after another: these are large
        more = found.pop(1)
        if more.flat is not None:
            flat = more.flat if flat is None else np.add(flat, more.flat, out=flat)
        if few is not None and more.few is not None:
            few.add(more.few)
    flat = np.zeros(sum(sizes)) if flat is None else flat
    products, second, totals = parts(flat)
    if few is not None:
        hand_over(screens[0].kind, few, plan, products[0], second[0], totals[0])
    if width and len(weight) < 2:
        second[1:] = second[0]  # the same for all mixtures
    return Sums(products, second, totals, strays, len(values), n_screened, by_row)


def add_squares(sums: Sums, plan: _tiles.Plan) -> bool:
    """Complete the log-likelihoods, in place, by the second moments.

    False where these do not tell the squares to twelve digits.
    """
    if sums.by_row:
        return True
    n_features = len(plan.centre)
    for b, own in enumerate(sums.second):
        found = _tiles.pool_squares(plan.whitening, b * n_features**2, own, n_features)
        if math.isnan(found):
            return False
        sums.totals[b, 1] -= found / 2
    return True


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
    one = n_threads == 1 or fits_one_core(n_rows, plan)
    n_spans = 1 if one else max(1, min(most, n_tiles, work // _SPAN_WORK))
    step = max(1, -(-n_tiles // n_spans)) * tile_rows
    return [slice(i, min(i + step, n_rows)) for i in range(0, max(n_rows, 1), step)]


def _stray_rows(
    spans: Sequence[slice], strays: Sequence[NDArray[np.bool_]], tile_rows: int
) -> list[slice]:
    """The rows of tiles that the compiled function left out."""
    starts = [
        (span.start + int(tile) * tile_rows, span.stop)
        for span, marks in zip(spans, strays, strict=True)
        for tile in np.flatnonzero(marks)
    ]
    return [slice(start, min(start + tile_rows, stop)) for start, stop in starts]


def shared_rows(
    structure: type[Covariance], n_components: int, n_features: int, n_rows: int, n_threads: int
) -> int:
    """How many rows of a pass a thread takes at a time, at least, in a climb that threads share."""
    each = n_components * (n_features + len(structure.feature_pairs(n_features)) + _TERM_WORK)
    if n_threads == 1 or n_rows * each < _SHARED_WORK:
        return n_rows
    return -(-n_rows // (_SPANS * n_threads))


def desk_for(
    n_rows: int, n_least: int, plan: _tiles.Plan, n_threads: int, structure: type[Covariance]
) -> Desk:
    """Where passes over so many rows are shared, in stretches of ``n_least`` of them or more."""
    tile_rows, n_features = plan.tile_panels * PANEL, len(plan.centre)
    n_tiles = -(-n_rows // tile_rows)
    most = max(n_threads, _MOST_SUMS // (plan.n_components * plan.n_sums))
    each = max(-(-n_tiles // most), min(n_tiles, -(-n_least // tile_rows)), 1)
    width = _tiles.padded(n_features) if plan.whitening.size else 0
    shapes = (plan.n_components, plan.n_sums), (n_features, width)
    n = max(1, -(-n_tiles // each))
    return empty_desk(n, each * tile_rows, each, *shapes, KINDS[structure])


def fits_one_core(n_rows: int, plan: _tiles.Plan) -> bool:
    """Whether there is too little to do in a pass over so many rows to cut it up."""
    return n_rows * len(plan.weights) < _ONE_CORE_WORK


def empty_plan(
    structure: type[Covariance],
    n_components: int,
    n_features: int,
    n_mixtures: int = 1,
    n_rows: int | None = None,
) -> _tiles.Plan:
    """A plan whose coefficients are still to be filled in; ``n_rows`` is how many there will be."""
    left, right, squares = _columns(structure, n_features)
    n_made = len(left)
    n_lines = n_features + (2 if squares or not structure.shared_features else 1)
    all_pairs = len(structure.feature_pairs(n_features)) == n_features * (n_features + 1) // 2
    as_used = any(n_components <= few and n_made > many for few, many in _MADE_AS_USED)
    pairs = all_pairs and as_used
    chunk = max(1, _tiles.padded(-(-n_made // max(1, -(-n_made // _MOST_LINES)))))
    whitened = 0 if structure.shared_features else n_features
    across = issubclass(structure, DiagCovariance) and _is_across(n_components, n_features)
    upright = across or (n_made == 0 and n_features >= LANES and n_components >= LANES)
    side = -(-n_features // LANES) * LANES if upright else 0
    most = _MOST_PANELS if n_rows is None else min(_MOST_PANELS, -(-n_rows // PANEL))

    def fitting(numbers: int, per_row: int) -> int:
        return max(1, min(most, numbers // (PANEL * per_row)))

    long = fitting(_TILE_NUMBERS, n_components + 2 * n_features + (0 if pairs else chunk))
    short = long
    if across:
        short = fitting(_ACROSS_NUMBERS, n_components + side)
    elif upright:
        short = fitting(_UPRIGHT_NUMBERS, n_components + side + n_features + 2)
    return _tiles.Plan(
        n_components=n_components,
        centre=np.zeros(n_features),
        sharpest=np.zeros(n_features),
        limit=expansion_limit(n_features),
        left=left,
        right=right,
        n_lines=n_lines,
        weights=np.zeros(n_mixtures * n_components * (n_made + n_lines)),
        whitening=np.zeros(n_mixtures * whitened * whitened),
        squares=squares,
        pairs=pairs,
        tile_panels=short,
        long_panels=max(1, long // short) * short,
        chunk=chunk,
        side=side,
        across=across,
    )


def _is_across(n_components: int, n_features: int) -> bool:
    """Whether rows of so many columns are not worth being transposed for so few components."""
    return n_features >= 2 * LANES and n_components <= _FEW_ACROSS


def empty_screens(
    structure: type[Covariance], n_components: int, n_features: int, n_rows: int | None = None
) -> tuple[Screen, ...]:
    """Screens that are still to be filled in, to be tried in turn; those that may gain something.

    By half of the columns and by all; ``n_rows`` is how many rows there will be in a pass.
    """
    if n_rows is not None and not _pays_screens(structure, n_features, n_rows):
        return ()
    half = -(-n_features // (2 * LANES)) * LANES
    widths = (half, n_features) if n_features > _SCREENED_WHOLE else (n_features,)
    screens = [_empty_screen(structure, n_components, n_features, width) for width in widths]
    shared = {"scales": screens[0].scales, "whitening": screens[0].whitening}  # of one mixture
    return tuple(screen._replace(**shared) for screen in screens if screen.most_pairs > _WORTH_IT)


def fill_screens(
    screens: Sequence[Screen], mixture: PackedMixture, plan: _tiles.Plan
) -> tuple[Screen, ...]:
    """Those that could be filled in, with a mixture and its plan."""
    return tuple(screen for screen in screens if sharpen(*mixture.arrays, plan.centre, screen))


def _pays_screens(structure: type[Covariance], n_features: int, n_rows: int) -> bool:
    """Whether there are so many rows that it does not matter what it takes to fill screens in."""
    return n_rows >= _SCREENED_ROWS * (n_features if structure is FullCovariance else 1)


def is_exact(counts: NDArray[np.float64], log_weights: NDArray[np.float64], weight: float) -> bool:
    """Whether what screens left out is below rounding for each component's own statistics."""
    usual = np.minimum(1.0, len(counts) * np.exp(log_weights))
    return bool((weight * MOST_DROPPED * usual <= _LEFT_OUT * counts).all())


def _empty_screen(
    structure: type[Covariance], n_components: int, n_features: int, n_columns: int
) -> Screen:
    kind, k, d = KINDS[structure], n_components, n_features
    width = -(-d // LANES) * LANES
    left, right = _screened_products(structure, n_columns)
    n_bound = len(left) + n_columns + 1
    vectors = np.zeros(k * -(-d // PANEL) * PANEL)
    n_blocked = -(-k // NARROW_BLOCK) * NARROW_BLOCK
    return Screen(
        kind=kind,
        most_pairs=_most_pairs(kind, k, d, n_bound),
        groups=np.zeros(-(-n_columns // LANES), dtype=np.int64),
        n_columns=n_columns,
        left=left,
        right=right,
        roots=np.zeros(width),
        weights=np.zeros(n_blocked * n_bound, dtype=np.float32),
        shifts=np.zeros(k, dtype=np.float32),
        reach=np.zeros(2),
        means=vectors,
        scales=np.zeros(k * n_triangular(d) if kind == code.FULL else len(vectors)),
        constants=np.zeros(k),
        whitening=np.zeros(n_triangular(d) if kind == code.TIED else 0),
    )


@lru_cache(maxsize=64)
def _screened_products(
    structure: type[Covariance], n_columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which columns a bound's products are of; one stands for the sum of all squares."""
    squares = structure in (TiedCovariance, SphericalCovariance)
    products = [(0, 0)] if squares else structure.feature_pairs(n_columns)
    left, right = np.array(products, dtype=np.int64).T.copy()
    return left, right


def _most_pairs(kind: int, n_components: int, n_features: int, n_bound: int) -> float:
    """How many components of a row may matter before it is quicker to compute all of them.

    By clock cycles with AVX-512, of which two products of eight numbers take one.
    """
    k, d = n_components, n_features
    features = {code.FULL: d * (d + 1) / 2, code.DIAG: d, code.SPHERICAL: 1}.get(kind, 0) + d + 1
    whole = 2 * features * k / 16 + 2.0 * k
    bound = n_bound * k / 32 + 0.4 * k + 2 * d
    pair = {code.FULL: d * d / 7, code.DIAG: 1.5 * d}.get(kind, 1.0 * d) + 50
    return (whole - bound) / pair


@lru_cache(maxsize=64)
def _columns(
    structure: type[Covariance], n_features: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Which lines each of the structure's features is the product of, in whole blocks.

    And whether the squares' line, which is there as it is, is one more.
    """
    zero, as_it_is = n_features + 2, (n_features + 1, n_features)
    features = structure.feature_pairs(n_features)
    pairs = [pair for pair in features if pair != as_it_is]
    pairs = pairs + [(zero, zero)] * (_tiles.padded(len(pairs)) - len(pairs))
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T.copy()
    return left, right, as_it_is in features


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
