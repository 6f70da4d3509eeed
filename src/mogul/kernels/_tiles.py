"""The E-step of a stretch of rows, compiled: tiles of rows, their terms, their statistics."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mogul.kernels._blocks import (
    BLOCK,
    LINES,
    accumulate,
    add_outer,
    multiply,
    multiply_pairs,
    n_blocked,
    squares_across,
    unblock,
)
from mogul.kernels._vectors import (
    LANES,
    NO,
    PANEL,
    YES,
    ZERO,
    blank,
    compiled,
    dense,
    exp,
    fma,
    inner,
    leaf,
    load,
    load_centred,
    load_narrow,
    load_square,
    load_twice,
    load_upright,
    load_with_terms,
    log,
    magnitude,
    maximum,
    prefetch,
    splat,
    store,
    store_across,
    total,
    unless_below,
)

__all__ = [
    "BY_ROW",
    "CACHE_LINE",
    "KNOWN",
    "POOLED",
    "QUESTIONS",
    "Plan",
    "ask_for",
    "collect",
    "load_near",
    "padded",
    "pool_squares",
    "pooled_squares",
    "score",
    "units_of",
]

_LOG_PROB, _LABELS, _RESPONSIBILITIES = range(3)
QUESTIONS = {"log_prob": _LOG_PROB, "labels": _LABELS, "responsibilities": _RESPONSIBILITIES}
"""What :func:`score` finds of each row."""


_FACTORS = 16
"""Sums of up to K exponentials, none above one, that are multiplied: a number while K < 2⁶⁴."""
_MOST_CANCELLED = 2.0**13
"""How many times as large as the sum of squares its terms may be: twelve digits are then left."""
BY_ROW, POOLED, KNOWN = map(np.int64, range(3))
"""Where the squares of whitened columns, which all components of a tied covariance share, come
from: each row's own, the second moments of all rows together, or those of an earlier pass."""
CACHE_LINE = 64
"""Bytes that memory hands over at a time."""
_TWO = np.int64(2)


class Plan(NamedTuple):
    """A batch of B mixtures, ready to be evaluated at any rows.

    A panel holds D lines of centred columns, a line of ones, one of squares and lines of zeros.
    Terms are linear in P features, each the product of two of these lines, and in the first lines
    themselves: D + 1, or D + 2 where squares count. These are the sums of the columns' squares, of
    spherical covariances, or −½ times those of the whitened columns, of tied ones.
    """

    n_components: int
    centre: NDArray[np.float64]  # (D,)
    sharpest: NDArray[np.float64]  # (D,)
    limit: float
    left: NDArray[np.int64]  # (P,): which lines a feature is the product of
    right: NDArray[np.int64]
    n_lines: int  # D + 1 or D + 2
    weights: NDArray[np.float64]  # (B · K · (P + n_lines),), in the order of `multiply`
    whitening: NDArray[np.float64]  # (B · D · D,) likewise, or (0,) where nothing is whitened
    squares: bool  # whether any feature needs the sum of squares
    pairs: bool  # whether features are all pairs of columns and not to be stored
    tile_panels: int
    long_panels: int  # of a tile that need not fit the first cache: whole tiles
    chunk: int  # features made at a time
    side: int  # width of rows that are kept as they lie, whole vectors; 0 where lines serve
    across: bool  # whether terms too are of rows as they lie: squares of columns, and columns

    @property
    def n_sums(self) -> int:
        """The width of the sums of a component."""
        return len(self.left) + padded(self.n_lines)


@compiled
def collect(rows, first_row, last_row, weight, chance, plan, squares, sums, second, totals, strays):
    """Add statistics of some of ``rows`` (N, D) to ``sums``, ``second`` and ``totals``.

    ``sums`` (B, K, P + n_lines or more) are responsibilities times features and lines. ``weight``
    has shape (0 or 1 or B, N), ``chance`` (0 or B, N). ``second`` (B, D, D or more) is that of all
    components together, where rows are whitened. ``totals`` (B, 2) are row weights and
    log-likelihoods. Tiles that are too far away are marked in ``strays`` and left out.

    A tied covariance's squares do not change responsibilities. Unless they are computed BY_ROW, the
    log-likelihoods lack them; :func:`pooled_squares` has them. If they are KNOWN, ``second`` stays
    as it is.
    """
    whitened = plan.whitening.size > 0
    by_row, whiten = whitened and squares == BY_ROW, whitened and squares != KNOWN
    space = _space(plan, totals.shape[0], rows.shape[1], sums.shape[2], by_row, whiten)
    _add_tiles(
        rows, first_row, last_row, weight, chance, plan, by_row, whiten, space, totals, strays
    )
    _hand_over(plan, space, whiten, sums, second)


@compiled
def score(rows, first_row, last_row, plan, what, answer, strays):
    """Fill ``answer`` (B, N, 1 or K) with what is asked of each row; see :func:`collect`."""
    n_mixtures, n_features = answer.shape[0], rows.shape[1]
    n_components, n_made = plan.n_components, plan.left.shape[0]
    n_panels, chunk = plan.tile_panels, plan.chunk
    tile_rows = n_panels * PANEL
    lines = _empty_lines(n_panels, n_features)
    features = blank(0 if plan.pairs else n_panels * apart(chunk) * PANEL)
    terms_step = apart(n_components) * PANEL
    terms = blank(n_panels * terms_step)
    whiten = plan.whitening.size > 0
    white = blank(n_features * PANEL if whiten else 0)
    found, near = np.empty(2 * LANES), np.empty((0, 0))
    in_one = n_made <= chunk
    for tile in range(strays.shape[0]):
        start = first_row + tile * tile_rows
        n_rows = min(tile_rows, last_row - start)
        ask_for(rows, start + tile_rows, tile_rows)
        if not _load_tile(rows, start, n_rows, plan, lines, near):
            strays[tile] = True
            continue
        used = (n_rows + PANEL - 1) // PANEL
        if in_one and not plan.pairs:
            _make_features(lines, n_features, plan, ZERO, n_made, used, features)
        for b in range(n_mixtures):
            _all_terms(lines, n_features, plan, b, used, in_one, whiten, features, white, terms)
            for at in range(0, n_rows, 2 * LANES):
                place = at // PANEL * terms_step + at % PANEL
                if what == _LABELS:
                    store(found, 0, _label(terms, place, n_components))
                    store(found, LANES, _label(terms, place + LANES, n_components))
                else:
                    peak, mass, other, more = _normalise(terms, place, n_components)
                    if what == _LOG_PROB:
                        store(found, 0, peak + log(mass))
                        store(found, LANES, other + log(more))
                    else:
                        one = splat(1.0)
                        _scale(terms, place, n_components, one / mass, one / more)
                for i in range(min(2 * LANES, n_rows - at)):
                    if what == _RESPONSIBILITIES:
                        for k in range(n_components):
                            answer[b, start + at + i, k] = terms[place + k * PANEL + i]
                    else:
                        answer[b, start + at + i, 0] = found[i]


@dense
def pooled_squares(whitening, start, second, n_features):
    """The sum over all rows of their squared whitened columns, tr(L⁻¹ S L⁻ᵀ).

    ``whitening`` from ``start`` on is L⁻¹ in the order of `multiply`, ``second`` (D, D or more) the
    moments S. NaN where the terms of this sum are so much larger than it that their rounding may
    be seen, since columns are almost multiples of each other.
    """
    found, size = 0.0, 0.0
    row, spread = np.empty(n_features), np.empty(n_features)
    for i in range(n_features):
        spread[i] = math.sqrt(max(second[i, i], 0.0))
    for i in range(n_features):
        block = i // BLOCK * BLOCK
        step = min(BLOCK, n_features - block)
        at, reach = start + block * n_features + i - block, 0.0
        for j in range(n_features):
            row[j] = 0.0
        for m in range(i + 1):
            factor = whitening[at + m * step]
            reach += abs(factor) * spread[m]
            for j in range(i + 1):
                row[j] += factor * second[m, j]
        for j in range(i + 1):
            found += row[j] * whitening[at + j * step]
        size += reach * reach
    return found if size <= _MOST_CANCELLED * found else math.nan


@compiled
def pool_squares(whitening, start, second, n_features):
    """:func:`pooled_squares`, for Python."""
    return pooled_squares(whitening, start, second, n_features)


# --- parts ----------------------------------------------------------------------------------------


class _Space(NamedTuple):
    """What a thread computes in, tile by tile; flat where nothing is said."""

    lines: NDArray[np.float64]  # panels of the plan's lines
    near: NDArray[np.float64]  # (tile rows, side): rows as they lie, less the centre
    units: NDArray[np.float64]  # see `units_of`
    across: NDArray[np.float64]  # see `_across`
    features: NDArray[np.float64]  # panels of features
    terms: NDArray[np.float64]  # panels of terms, then of responsibilities
    row_weight: NDArray[np.float64]
    white: NDArray[np.float64]  # a panel of whitened columns
    heavy: NDArray[np.float64]  # panels of columns times responsibilities
    blocks: NDArray[np.float64]  # sums, as `accumulate` adds them up: of lines, then of features
    shared: NDArray[np.float64]  # and of the second moments of all rows
    outer: NDArray[np.float64]  # (B, K, 1 or 2, side): sums of rows, as `add_outer` adds them up
    counts: NDArray[np.float64]  # (B, K, 2, lanes): of responsibilities and of sums of squares


@inner
def _space(plan, n_mixtures, n_features, width, by_row, whiten):
    """Room for tiles and their sums, which begin at zero."""
    n_panels, n_components = plan.tile_panels, plan.n_components
    upright = plan.side > 0
    tile_rows = n_panels * PANEL
    heavy = whiten or plan.pairs
    _, n_square, n_own = _n_sums(plan, n_features, width)
    return _Space(
        _empty_lines(0 if plan.across else n_panels, n_features),
        blank(tile_rows * plan.side).reshape((tile_rows if upright else 0, plan.side)),
        units_of(plan, plan.side) if plan.across else blank(ZERO),
        _across(plan, n_mixtures, n_features) if plan.across else blank(ZERO),
        blank(0 if plan.pairs or plan.across else n_panels * apart(plan.chunk) * PANEL),
        blank(n_panels * apart(n_components) * PANEL),
        blank(tile_rows),
        blank(n_features * PANEL if by_row else 0),
        blank(n_panels * apart(n_features) * PANEL if heavy else 0),
        blank(n_mixtures * n_own + LANES),
        blank(n_mixtures * n_square if whiten else 0),
        blank(n_mixtures * n_components * plan.side * (2 if plan.across else 1)),
        blank(n_mixtures * n_components * 2 * LANES if upright else 0),
    )


@inner
def _across(plan, n_mixtures, n_features):
    """Weights of squares of columns and of columns, in vectors for each component; and of one."""
    n_made, side, n_all = plan.left.shape[0], plan.side, plan.left.shape[0] + plan.n_lines
    n_terms = n_mixtures * plan.n_components
    found = blank(n_terms * (2 * side + 1))
    for k in range(n_terms):
        own = k % plan.n_components
        block = own // BLOCK * BLOCK
        size = min(BLOCK, plan.n_components - block)
        at = (k - own + block) * n_all + own - block  # in the order of `multiply`
        for d in range(n_features):
            found[2 * k * side + d] = plan.weights[at + d * size]
            found[(2 * k + 1) * side + d] = plan.weights[at + (n_made + d) * size]
        found[2 * n_terms * side + k] = plan.weights[at + (n_made + n_features) * size]
    return found


@leaf
def _n_sums(plan, n_features, width):
    """Numbers in the blocks of a mixture's lines, of a square of columns, and of all it has."""
    n_components, n_made = plan.n_components, plan.left.shape[0]
    n_linear = 0 if plan.side else n_blocked(n_components, width - n_made, NO)
    n_square = n_blocked(n_features, _padded(n_features), YES)
    n_products = n_components * n_square if plan.pairs else n_blocked(n_components, n_made, NO)
    return n_linear, n_square, n_linear + (0 if plan.across else n_products)


@leaf
def _add_tiles(
    rows, first_row, last_row, weight, chance, plan, by_row, whiten, space, totals, strays
):  # fmt: skip
    """Add the statistics of some rows to ``space`` and ``totals``; see :func:`collect`."""
    n_mixtures, n_features = totals.shape[0], rows.shape[1]
    n_components, chunk = plan.n_components, plan.chunk
    lines, features, terms, heavy = space.lines, space.features, space.terms, space.heavy
    row_weight, blocks = space.row_weight, space.blocks
    tile_rows, step = plan.tile_panels * PANEL, padded_lines(n_features) * PANEL
    terms_step, heavy_step = apart(n_components) * PANEL, apart(n_features) * PANEL
    n_made, side = plan.left.shape[0], _padded(n_features)
    linear = _padded(plan.n_lines)
    n_linear, n_square, n_own = _n_sums(plan, n_features, n_made + linear)
    in_one, quarter = n_made <= chunk, tile_rows // 4
    for tile in range(strays.shape[0]):
        start = first_row + tile * tile_rows
        n_rows, ahead = min(tile_rows, last_row - start), start + tile_rows
        # Part by part, since a core waits for no more than some lines of memory at a time.
        ask_for(rows, ahead, quarter)
        if plan.across:
            strays[tile] = not _load_across(
                rows, start, n_rows, space.units, plan.limit, space.near,
                terms, space.across, n_mixtures, n_components,
            )  # fmt: skip
        else:
            strays[tile] = not _load_tile(rows, start, n_rows, plan, lines, space.near)
        if strays[tile]:
            continue
        used = (n_rows + PANEL - 1) // PANEL
        if in_one and not plan.pairs and not plan.across:
            _make_features(lines, n_features, plan, ZERO, n_made, used, features)
        for b in range(n_mixtures):
            if b == 0 or weight.shape[0] > 1:
                _load_weight(weight, b, start, n_rows, row_weight)
            if plan.across:
                for row in range(0, used * PANEL if b else 0, LANES):
                    _terms_across(
                        terms, space.near, space.across, n_mixtures, b, ZERO, n_components, row
                    )
            else:
                _all_terms(
                    lines, n_features, plan, b, used, in_one, by_row, features, space.white, terms
                )
            if b == 0:
                ask_for(rows, ahead + quarter, quarter)
            scaled = chance.shape[0] == 0
            even = weight.shape[0] == 0 and n_rows == tile_rows
            mass, likelihood = _share_out(
                terms, terms_step, n_components, used, row_weight, scaled, even
            )
            totals[b, 0] += mass
            totals[b, 1] += likelihood
            if chance.shape[0]:
                _draw(terms, n_components, chance[b], start, n_rows, row_weight)
            if b == 0:
                ask_for(rows, ahead + 2 * quarter, quarter)
            own = b * n_own
            if plan.side:
                _count(terms, n_components, lines, n_features, plan, used, space.counts, b)
            else:
                accumulate(
                    terms, n_components, terms_step, lines, linear, step, blocks, own, used, NO
                )
            if b == 0:
                ask_for(rows, ahead + 3 * quarter, quarter)
            if plan.side:
                near, outer = space.near, space.outer
                add_outer(terms, n_components, terms_step, near, outer, b, used, plan.across)
            elif plan.pairs:
                for k in range(n_components):
                    _weigh(lines, n_features, terms, k * PANEL, terms_step, used, heavy)
                    accumulate(
                        heavy, n_features, heavy_step, lines, side, step,
                        blocks, own + n_linear + k * n_square, used, YES,
                    )  # fmt: skip
            else:
                for first in range(0, n_made, chunk):
                    count = min(chunk, n_made - first)
                    if not in_one:
                        _make_features(lines, n_features, plan, first, count, used, features)
                    accumulate(
                        terms, n_components, terms_step, features, count, apart(count) * PANEL,
                        blocks, own + n_linear + n_blocked(n_components, first, NO), used, NO,
                    )  # fmt: skip
            if whiten and (b == 0 or weight.shape[0] > 1):
                _weigh(lines, n_features, row_weight, ZERO, PANEL, used, heavy)
                accumulate(
                    heavy, n_features, heavy_step, lines, side, step,
                    space.shared, b * n_square, used, YES,
                )  # fmt: skip


@inner
def _hand_over(plan, space, whiten, sums, second):
    """Add what tiles added up to the sums that were asked for."""
    n_mixtures, n_components, width = sums.shape
    n_features, chunk = plan.centre.shape[0], plan.chunk
    n_made, side = plan.left.shape[0], _padded(n_features)
    n_linear, n_square, n_own = _n_sums(plan, n_features, width)
    blocks, flat, flat_second = space.blocks, sums.reshape(-1), second.reshape(-1)
    square = np.empty(n_features * side if plan.pairs else 0)
    for b in range(n_mixtures):
        at, own = b * n_components * width, b * n_own
        if plan.side:
            _take_outer(plan, space, b, n_features, flat, at, width)
        else:
            unblock(blocks, own, n_components, width - n_made, flat, at + n_made, width, NO)
        own += n_linear
        if plan.across:
            continue
        if whiten:
            at_second = b * n_features * side
            unblock(space.shared, b * n_square, n_features, side, flat_second, at_second, side, YES)
            for i in range(n_features):
                for j in range(i):
                    second[b, j, i] = second[b, i, j]
        if not plan.pairs:
            for first in range(0, n_made, chunk):
                place, count = own + n_blocked(n_components, first, NO), min(chunk, n_made - first)
                unblock(blocks, place, n_components, count, flat, at + first, width, NO)
            continue
        for k in range(n_components):
            square[:] = 0.0
            unblock(blocks, own + k * n_square, n_features, side, square, ZERO, side, YES)
            place = at + k * width
            for i in range(n_features):
                for j in range(i + 1):
                    flat[place] += square[i * side + j]
                    place += 1


@leaf
def _take_outer(plan, space, b, n_features, flat, at, width):
    """Add sums of rows, of responsibilities and of squares of a mixture to those of its lines."""
    n_made, depth = plan.left.shape[0], 2 if plan.across else 1
    for k in range(plan.n_components):
        own, place = b * plan.n_components + k, at + k * width
        for d in range(n_features):
            if plan.across:
                flat[place + d] += space.outer[own * depth * plan.side + d]
            flat[place + n_made + d] += space.outer[((own + 1) * depth - 1) * plan.side + d]
        place += n_made + n_features
        flat[place] += total(load(space.counts, own * 2 * LANES))
        if plan.squares:
            flat[place + 1] += total(load(space.counts, own * 2 * LANES + LANES))


def padded(n_lines: int) -> int:
    """The next number of lines that fills blocks."""
    return n_lines + -n_lines % LINES


_padded = inner(padded)


@leaf
def apart(n_lines):
    """How many lines to keep between panels, so that the same lines of all panels fit a cache.

    Panels a multiple of 4096 bytes apart would all be kept in the same few places of it.
    """
    return n_lines if n_lines % 16 or not n_lines else n_lines + 4


@leaf
def padded_lines(n_features):
    """How many lines a panel holds."""
    return apart(_padded(n_features + 3))


@inner
def _empty_lines(n_panels, n_features):
    """Panels of lines, with the one of ones filled in."""
    n_lines = padded_lines(n_features)
    lines = blank(n_panels * n_lines * PANEL)
    for panel in range(n_panels):
        start = (panel * n_lines + n_features) * PANEL
        for i in range(start, start + PANEL):
            lines[i] = 1.0
    return lines


@leaf
def ask_for(rows, first, n_rows):
    """Have rows of a table on their way from memory, while others are worked on."""
    if rows.strides[0] == rows.shape[1] * rows.itemsize:  # not of a few columns of a wide table
        for offset in range(0, n_rows * rows.strides[0], CACHE_LINE):
            prefetch(rows, first, offset)


@leaf
def _load_lines(rows, start, n_rows, filling, lines):
    """Columns of a tile; rows beyond the last are at ``filling``."""
    n_features = rows.shape[1]
    n_lines = padded_lines(n_features)
    ahead = lines.shape[0] // n_lines  # the next tile, while this one is being worked on
    for panel in range((n_rows + PANEL - 1) // PANEL):
        first = start + panel * PANEL
        ask_for(rows, first + ahead, PANEL)
        count = min(PANEL, start + n_rows - first)
        base = panel * n_lines * PANEL
        _load_panel(rows, first, count, filling, lines, base)


@leaf
def _load_panel(rows, first, count, filling, lines, base):
    """Columns of a panel; rows beyond the last are at ``filling``."""
    n_features = rows.shape[1]
    done = 0
    for v in range(0, PANEL if count == PANEL else 0, LANES):
        if load_narrow(rows, first + v, lines, base + v):
            done = n_features
        for square in range(0, n_features if n_features >= LANES else 0, LANES):
            d = min(square, n_features - LANES)  # the last may overlap
            load_square(rows, first + v, d, lines, base + d * PANEL + v)
            done = n_features
    for d in range(done, n_features):
        line = base + d * PANEL
        for i in range(count):
            lines[line + i] = rows[first + i, d]
        for i in range(count, PANEL):
            lines[line + i] = filling[d]


@leaf
def _load_tile(rows, start, n_rows, plan, lines, near):
    """Centred columns of a tile; False where the expanded form would cancel, or a value is NaN.

    Rows beyond the last are at the centre. To ``near`` (rows, side) too, as they lie, unless side
    is 0.
    """
    n_features, side = rows.shape[1], near.shape[1]
    step, far = padded_lines(n_features) * PANEL, splat(0.0)
    whole = n_rows // PANEL if n_features % LANES == 0 else 0
    if whole > 0:
        far = _load_whole(
            rows, start, whole, plan.centre, plan.sharpest, plan.limit, plan.squares,
            lines, step, near,
        )  # fmt: skip
    for panel in range(whole, (n_rows + PANEL - 1) // PANEL):
        first, base = panel * PANEL, panel * step
        _load_panel(rows, start + first, min(PANEL, n_rows - first), plan.centre, lines, base)
        for at in range(base, base + PANEL, LANES):
            bound, squares = splat(0.0), splat(0.0)
            for d in range(n_features):
                x = load(lines, at + d * PANEL) - splat(plan.centre[d])
                store(lines, at + d * PANEL, x)
                bound = fma(magnitude(x), splat(plan.sharpest[d]), bound)
                squares = fma(x, x, squares)
            far = unless_below(bound, splat(plan.limit), far, splat(1.0))
            if plan.squares:
                store(lines, at + (n_features + 1) * PANEL, squares)
        for d in range(n_features if side else 0):
            for i in range(PANEL):
                near[first + i, d] = lines[base + d * PANEL + i]
    return total(far) == 0.0


@leaf
def _load_whole(rows, start, n_panels, centre, sharpest, limit, with_squares, lines, step, near):
    """As `_load_tile`, full panels of columns in whole vectors; above zero where it is too far."""
    n_features, far = rows.shape[1], splat(0.0)
    for first in range(0, n_panels * PANEL, LANES):
        row, at = start + first, first // PANEL * step + first % PANEL
        bound, squares = splat(0.0), splat(0.0)
        for d in range(0, n_features if near.shape[1] else 0, LANES):
            more, square = load_twice(
                rows, row, d, centre, sharpest, lines, at + d * PANEL, near, first
            )
            bound, squares = bound + more, squares + square
        for d in range(0, 0 if near.shape[1] else n_features, LANES):
            more, square = load_centred(
                rows, row, d, centre, sharpest, lines, at + d * PANEL, near, ZERO
            )
            bound, squares = bound + more, squares + square
        far = unless_below(bound, splat(limit), far, splat(1.0))
        if with_squares:
            store(lines, at + (n_features + 1) * PANEL, squares)
    return far


@inner
def units_of(plan, side):
    """The centre, and what each column counts in the distance from it: (2, side), flat."""
    units = blank(2 * side)
    for d in range(plan.centre.shape[0]):
        units[d], units[side + d] = plan.centre[d], plan.sharpest[d]
    return units


@leaf
def load_near(rows, start, n_rows, units, limit, near):
    """Rows about the centre, as they lie; False as of :func:`_load_tile`.

    Rows beyond the last are at the centre. Those of the next tile are asked for meanwhile.
    """
    far = splat(0.0)
    for first in range(0, n_rows, LANES):
        ask_for(rows, start + n_rows + first, LANES)
        reach = _load_some(rows, start, first, min(LANES, n_rows - first), units, near)
        far = unless_below(reach, splat(limit), far, splat(1.0))
    if n_rows < near.shape[0]:
        _clear(near, n_rows)
    return total(far) == 0.0


@leaf
def _load_some(rows, start, first, count, units, near):
    """As many rows as a vector is long, or fewer, as they lie; how far they are at most."""
    n_features, side = rows.shape[1], near.shape[1]
    whole = n_features // LANES * LANES if count == LANES else 0
    reach = splat(0.0)
    if whole:
        (reach,) = load_upright(rows, start + first, whole, units, near, first, units)
    worst, spoilt = 0.0, 0.0
    for i in range(first, first + count if whole < n_features else first):
        more = 0.0
        for d in range(whole, n_features):
            near[i, d] = rows[start + i, d] - units[d]
            more += abs(near[i, d]) * units[side + d]
        worst, spoilt = max(worst, more), spoilt + 0.0 * more
    return reach + splat(worst + spoilt)


@leaf
def _clear(near, first):
    """Rows from ``first`` on to zero."""
    for i in range(first, near.shape[0]):
        for v in range(0, near.shape[1], LANES):
            store_across(near, i, v, splat(0.0))


@leaf
def _load_weight(weight, b, start, n_rows, row_weight):
    """Weights of the rows of a tile; zero beyond the last."""
    row = b if weight.shape[0] > 1 else 0
    for i in range(row_weight.shape[0]):
        if i >= n_rows:
            row_weight[i] = 0.0
        elif weight.shape[0] == 0:
            row_weight[i] = 1.0
        else:
            row_weight[i] = weight[row, start + i]


@leaf
def _make_features(lines, n_features, plan, first, count, n_panels, features):
    """Features ``first`` to ``first + count`` of all panels."""
    for panel in range(n_panels):
        base = panel * padded_lines(n_features) * PANEL
        out = panel * apart(count) * PANEL
        for f in range(first, first + count):
            left = base + plan.left[f] * PANEL
            right = base + plan.right[f] * PANEL
            for v in range(0, PANEL, LANES):
                store(features, out + v, load(lines, left + v) * load(lines, right + v))
            out += PANEL


@leaf
def _all_terms(lines, n_features, plan, b, n_panels, in_one, whiten, features, white, terms):
    """Terms log w_k + log N(x; μ_k, Σ_k) of mixture ``b``, panels of K lines.

    Without what whitened columns add to all of them, unless these are asked for.
    """
    n_components, n_made = plan.n_components, plan.left.shape[0]
    n_all, step = n_made + plan.n_lines, padded_lines(n_features) * PANEL
    terms_step = apart(n_components) * PANEL
    n_linear = plan.n_lines - (1 if plan.whitening.size and not whiten else 0)
    if whiten:
        for panel in range(n_panels):
            w = b * n_features * n_features
            multiply(
                plan.whitening, w, lines, panel * step, ZERO, n_features, n_features,
                white, ZERO, n_features, YES,
            )  # fmt: skip
            for v in range(0, PANEL, LANES):
                squares = splat(0.0)
                for d in range(n_features):
                    y = load(white, d * PANEL + v)
                    squares = fma(y, y, squares)
                place = panel * step + (n_features + 1) * PANEL + v
                store(lines, place, splat(-0.5) * squares)
    weights = b * n_components * n_all
    if plan.pairs:
        for panel in range(n_panels):
            at_term = panel * terms_step
            multiply_pairs(
                plan.weights, weights, lines, panel * step, n_features, n_all,
                terms, at_term, n_components,
            )  # fmt: skip
    else:
        for first in range(0, n_made, plan.chunk):
            count = min(plan.chunk, n_made - first)
            if not in_one:
                _make_features(lines, n_features, plan, first, count, n_panels, features)
            for panel in range(n_panels):
                multiply(
                    plan.weights, weights, features, panel * apart(count) * PANEL, first, count,
                    n_all, terms, panel * terms_step, n_components, first == 0,
                )  # fmt: skip
    for panel in range(n_panels):
        multiply(
            plan.weights, weights, lines, panel * step, n_made, n_linear, n_all,
            terms, panel * terms_step, n_components, n_made == 0,
        )  # fmt: skip


@leaf
def _load_across(
    rows, start, n_rows, units, limit, near, terms, weights, n_mixtures, n_components
):  # fmt: skip
    """As `load_near`; and the terms of the first mixture.

    A few rows at a time, so that others are on their way from memory meanwhile.
    """
    far, side = splat(0.0), near.shape[1]
    two = 0 if n_components < 2 or rows.shape[1] < side else n_rows // LANES * LANES
    constants = 2 * n_mixtures * n_components * side
    for first in range(0, two, LANES):
        reach, one, other = load_with_terms(rows, start + first, side, units, near, first, weights)
        far = unless_below(reach, splat(limit), far, splat(1.0))
        at = first // PANEL * apart(n_components) * PANEL + first % PANEL
        store(terms, at, one + splat(weights[constants]))
        store(terms, at + PANEL, other + splat(weights[constants + 1]))
        _terms_across(terms, near, weights, n_mixtures, ZERO, _TWO, n_components, first)
    if n_rows < near.shape[0]:
        _clear(near, n_rows)
    for first in range(two, (n_rows + PANEL - 1) // PANEL * PANEL, LANES):
        reach = _load_some(rows, start, first, min(LANES, n_rows - first), units, near)
        far = unless_below(reach, splat(limit), far, splat(1.0))
        _terms_across(terms, near, weights, n_mixtures, ZERO, ZERO, n_components, first)
    return total(far) == 0.0


@leaf
def _terms_across(terms, near, weights, n_mixtures, b, first, n_components, row):
    """As `_all_terms`, of as many rows as a vector is long, from rows as they lie.

    Of the components from ``first`` on.
    """
    side, constants = near.shape[1], 2 * n_mixtures * n_components * near.shape[1]
    for k in range(first, n_components):
        own, at = b * n_components + k, (row // PANEL * apart(n_components) + k) * PANEL
        at += row % PANEL
        value = squares_across(near, row, weights, 2 * own * side)
        store(terms, at, value + splat(weights[constants + own]))


@leaf
def _normalise(terms, place, n_components):
    """Exponentials of terms above the largest, in place; that largest, and their sum.

    Of two vectors of rows: while one waits for the largest or the sum so far, the other goes on.
    """
    peak, other = load(terms, place), load(terms, place + LANES)
    for k in range(1, n_components):
        at = place + k * PANEL
        peak = maximum(load(terms, at), peak)
        other = maximum(load(terms, at + LANES), other)
    mass, more = splat(0.0), splat(0.0)
    for k in range(n_components):
        at = place + k * PANEL
        share = exp(load(terms, at) - peak)
        store(terms, at, share)
        mass = mass + share
        share = exp(load(terms, at + LANES) - other)
        store(terms, at + LANES, share)
        more = more + share
    return peak, mass, other, more


@leaf
def _share_out(terms, terms_step, n_components, n_panels, row_weight, scaled, even):
    """From a tile's terms to responsibilities times weights; total weight and log-likelihood.

    To the exponentials of terms above the largest unless ``scaled``. Where all weights are one,
    ``even``, one logarithm is taken of the product of many sums.
    """
    likelihood, more_likelihood = splat(0.0), splat(0.0)
    heaviness, product = splat(0.0), splat(1.0)
    for at in range(0, n_panels * PANEL, 2 * LANES):
        w, v = load(row_weight, at), load(row_weight, at + LANES)
        place = at // PANEL * terms_step + at % PANEL
        peak, mass, other, more = _normalise(terms, place, n_components)
        if even:
            likelihood, more_likelihood = likelihood + peak, more_likelihood + other
            product = product * (mass * more)
            if at & (_FACTORS * LANES - 1) == (_FACTORS - 2) * LANES:
                likelihood, product = likelihood + log(product), splat(1.0)
        else:
            likelihood = fma(w, peak + log(mass), likelihood)
            more_likelihood = fma(v, other + log(more), more_likelihood)
        heaviness = heaviness + (w + v)
        if scaled:
            _scale(terms, place, n_components, w / mass, v / more)
    return total(heaviness), total(likelihood + log(product) + more_likelihood)


@leaf
def _scale(terms, place, n_components, factor, other):
    """Two vectors of rows' terms times a factor each."""
    for k in range(n_components):
        at = place + k * PANEL
        store(terms, at, load(terms, at) * factor)
        store(terms, at + LANES, load(terms, at + LANES) * other)


@leaf
def _count(terms, n_components, lines, n_features, plan, n_panels, counts, b):
    """Add responsibilities, and these times sums of squares where they count, to ``counts``."""
    step, terms_step = padded_lines(n_features) * PANEL, apart(n_components) * PANEL
    for k in range(n_components):
        at = (b * n_components + k) * 2 * LANES
        count, square = load(counts, at), load(counts, at + LANES)
        for panel in range(n_panels):
            place, squares = panel * terms_step + k * PANEL, panel * step + (n_features + 1) * PANEL
            for v in range(0, PANEL, 2 * LANES):  # two of which do not wait for the sum so far
                share, more = load(terms, place + v), load(terms, place + v + LANES)
                count = count + (share + more)
                if plan.squares:
                    square = fma(share, load(lines, squares + v), square)
                    square = fma(more, load(lines, squares + v + LANES), square)
        store(counts, at, count)
        store(counts, at + LANES, square)


@leaf
def _label(terms, place, n_components):
    """The first of the largest terms, as floating point."""
    peak = load(terms, place)
    label = splat(0.0)
    for k in range(1, n_components):
        term = load(terms, place + k * PANEL)
        label = unless_below(peak, term, splat(float(k)), label)
        peak = maximum(term, peak)
    return label


@leaf
def _draw(terms, n_components, chance, start, n_rows, row_weight):
    """Give each row to one component, drawn in proportion to ``terms``."""
    n_panels = (n_rows + PANEL - 1) // PANEL
    for i in range(n_panels * PANEL):
        place = i // PANEL * apart(n_components) * PANEL + i % PANEL
        mass = 0.0
        for k in range(n_components):
            mass += terms[place + k * PANEL]
        # Strictly below the total, so that a row never falls to what comes after all weight.
        level = (chance[start + i] if i < n_rows else 0.0) * mass * (1 - 2.0**-52)
        below = 0.0
        waiting = True
        for k in range(n_components):
            below += terms[place + k * PANEL]
            taken = waiting and below > level
            terms[place + k * PANEL] = row_weight[i] if taken else 0.0
            waiting = waiting and not taken


@leaf
def _weigh(lines, n_features, weight, at_weight, weight_step, n_panels, heavy):
    """Columns times a line of weights."""
    for panel in range(n_panels):
        base = panel * padded_lines(n_features) * PANEL
        out = panel * apart(n_features) * PANEL
        for v in range(0, PANEL, LANES):
            w = load(weight, at_weight + panel * weight_step + v)
            for d in range(n_features):
                store(heavy, out + d * PANEL + v, load(lines, base + d * PANEL + v) * w)
