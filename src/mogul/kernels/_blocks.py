"""The two matrix products of an E-step, over blocks that fit a processor's registers.

Lines of numbers are kept in *panels*: ``PANEL`` rows of data side by side, line after line. A block
of four components by one panel, or by four lines, stays in registers while it is summed, which is
what makes a matrix product fast (Goto and van de Geijn 2008); both operands come from caches, since
the caller works tile by tile.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from mogul.kernels._vectors import (
    LANES,
    PANEL,
    REGISTERS,
    VECTORS,
    Loop,
    VectorType,
    constant,
    intrinsic,
    leaf,
    multiplied_added,
    narrow,
    pointer,
    read,
    repeated,
    row_of,
    sums,
    vector,
    write,
)

__all__ = [
    "BLOCK",
    "LINES",
    "NARROW_BLOCK",
    "accumulate",
    "add_outer",
    "multiply",
    "multiply_narrow",
    "multiply_pairs",
    "multiply_strip",
    "n_blocked",
    "squares_across",
    "unblock",
]

BLOCK = 4
"""Components in a block."""
NARROW_BLOCK = 8
"""Components in a block of single precision."""
LINES = REGISTERS // 8
"""Lines in a block of statistics; numbers of lines are multiples of it."""
GROUP = 8
"""Lines that stay in a core's first cache while all components are multiplied with them."""

_FLAT, _TABLE = (types.Array(types.float64, n_axes, "C") for n_axes in (1, 2))
_INDEX = types.intp
_LONG = ir.IntType(64)


def _multiply_block(size: int, kind: VectorType = vector) -> Any:
    n_vectors = PANEL // kind.lanes

    @intrinsic
    def block(
        typingctx, weights, at_weight, weight_step, weight_apart, lines, at_line, line_step,
        terms, at_term, term_step, n_lines, fresh,
    ):  # fmt: skip
        """``size`` lines of terms, of one panel: weights @ lines, added to what is there.

        Unless ``fresh``: then to zero. Weights of a line are ``weight_apart``, those of the next
        one ``weight_step`` further; lines of both panels are as far apart as their steps.
        """

        def code(context, builder, signature, arguments):
            weights, at_weight, weight_step, weight_apart, *arguments = arguments
            lines, at_line, line_step, terms, at_term, term_step, n_lines, fresh = arguments

            def place(array, start, step, i, v):
                start = builder.add(start, builder.mul(step, i))
                index = builder.add(start, _LONG(v * kind.lanes))
                return pointer(context, builder, array, index, kind)

            places = [
                place(terms, at_term, term_step, _LONG(i), v)
                for i in range(size)
                for v in range(n_vectors)
            ]
            entry = builder.block
            with builder.if_then(builder.not_(fresh)):
                earlier = [read(builder, p) for p in places]
                taken = builder.block
            start = []
            for value in earlier:
                phi = builder.phi(value.type)
                phi.add_incoming(constant(0.0, kind), entry)
                phi.add_incoming(value, taken)
                start.append(phi)
            loop = Loop(builder, n_lines, start)
            line = [
                read(builder, place(lines, at_line, line_step, loop.index, v))
                for v in range(n_vectors)
            ]
            row = builder.add(at_weight, builder.mul(loop.index, weight_step))
            data = context.make_array(kind.flat)(context, builder, weights).data
            found = []
            for i in range(size):
                at = builder.add(row, builder.mul(weight_apart, _LONG(i)))
                weight = repeated(builder, builder.load(builder.gep(data, [at])), kind)
                found += [
                    multiplied_added(builder, weight, line[v], loop.values[i * n_vectors + v])
                    for v in range(n_vectors)
                ]
            loop.close(found)
            for value, p in zip(found, places, strict=True):
                write(builder, value, p)
            return context.get_dummy_value()

        arrays = [kind.flat, *[_INDEX] * 3, *[kind.flat, _INDEX, _INDEX] * 2]
        return types.void(*arrays, _INDEX, types.boolean), code

    return block


def _pairs_block(size: int) -> Any:
    @intrinsic
    def block(typingctx, weights, at_weight, lines, at_line, terms, at_term, n_features):
        """``size`` lines of terms, of one panel: weights @ products of all pairs of lines.

        The products are made as they are used and stored nowhere.
        """

        def code(context, builder, signature, arguments):
            weights, at_weight, lines, at_line, terms, at_term, n_features = arguments

            def line(number):
                start = builder.add(at_line, builder.mul(number, _LONG(PANEL)))
                places = [builder.add(start, _LONG(v * LANES)) for v in range(VECTORS)]
                return [read(builder, pointer(context, builder, lines, p)) for p in places]

            data = context.make_array(_FLAT)(context, builder, weights).data
            start = [constant(0.0)] * (size * VECTORS)
            outer = Loop(builder, n_features, [*start, at_weight])
            *found, first = outer.values
            left = line(outer.index)
            inner = Loop(builder, builder.add(outer.index, _LONG(1)), found)
            right = line(inner.index)
            product = [builder.fmul(a, b) for a, b in zip(left, right, strict=True)]
            row = builder.add(first, builder.mul(inner.index, _LONG(size)))
            found = []
            for i in range(size):
                number = builder.load(builder.gep(data, [builder.add(row, _LONG(i))]))
                weight = repeated(builder, number)
                found += [
                    multiplied_added(builder, weight, product[v], inner.values[i * VECTORS + v])
                    for v in range(VECTORS)
                ]
            inner.close(found)
            length = builder.mul(builder.add(outer.index, _LONG(1)), _LONG(size))
            outer.close([*found, builder.add(first, length)])
            for i, value in enumerate(found):
                place = builder.add(at_term, _LONG(i * LANES))
                write(builder, value, pointer(context, builder, terms, place))
            return context.get_dummy_value()

        return types.void(*[_FLAT, _INDEX] * 3, _INDEX), code

    return block


def _accumulate_block(size: int) -> Any:
    @intrinsic
    def block(typingctx, left, at_left, left_step, right, at_right, right_step, out, at_out, n):
        """Add left @ rightᵀ over ``n`` panels: ``size`` lines of left, LINES of right.

        Steps are from panel to panel. The sums are kept side by side.
        """

        def code(context, builder, signature, arguments):
            left, at_left, left_step, right, at_right, right_step, out, at_out, n = arguments

            def vectors(array, start, count, v):
                index = [builder.add(start, _LONG(i * PANEL + v * LANES)) for i in range(count)]
                return [read(builder, pointer(context, builder, array, i)) for i in index]

            loop = Loop(builder, n, [constant(0.0)] * (size * LINES))
            found = list(loop.values)
            from_left = builder.add(at_left, builder.mul(loop.index, left_step))
            from_right = builder.add(at_right, builder.mul(loop.index, right_step))
            for v in range(VECTORS):
                a = vectors(left, from_left, size, v)
                b = vectors(right, from_right, LINES, v)
                found = [
                    multiplied_added(builder, a[i // LINES], b[i % LINES], value)
                    for i, value in enumerate(found)
                ]
            loop.close(found)
            found += [constant(0.0)] * (-len(found) % LANES)
            for first in range(0, len(found), LANES):
                place = pointer(context, builder, out, builder.add(at_out, _LONG(first)))
                more = sums(builder, found[first : first + LANES])
                write(builder, builder.fadd(read(builder, place), more), place)
            return context.get_dummy_value()

        return types.void(*[_FLAT, _INDEX, _INDEX] * 2, _FLAT, _INDEX, _INDEX), code

    return block


def _outer_block(squared: bool) -> Any:
    @intrinsic
    def block(typingctx, left, at_left, left_step, right, first, out, at_out, n, size, n_vectors):
        """Add left @ right over ``n`` panels: ``size`` lines of left, some columns of right.

        These are as many vectors wide as :func:`_widths` allows, from column ``first`` on; ``out``
        is flat, as wide as right. Where ``squared``, sums of the columns' squares come before each
        row of ``out``.
        """

        def code(context, builder, signature, arguments):
            *arguments, size, n_vectors = arguments
            after = builder.append_basic_block("added")
            choice = builder.switch(builder.add(builder.mul(size, _LONG(8)), n_vectors), after)
            for lines in _sizes(squared):
                for width in _widths(lines, squared):
                    case = builder.append_basic_block("lines")
                    choice.add_case(_LONG(8 * lines + width), case)
                    builder.position_at_end(case)
                    _add_block(context, builder, arguments, lines, width, squared)
                    builder.branch(after)
            builder.position_at_end(after)
            return context.get_dummy_value()

        places = _FLAT, _INDEX, _INDEX, _TABLE, _INDEX, _FLAT, _INDEX
        return types.void(*places, *[_INDEX] * 3), code

    return block


def _sizes(squared: bool) -> list[int]:
    """Lines in a block, of which two vectors each, and their squares, stay in registers."""
    most = REGISTERS // (8 if squared else 4)
    return [2**i for i in range(most.bit_length())]


def _widths(size: int, squared: bool) -> tuple[int, ...]:
    """Vectors of columns in a block of so many lines: four where half of the registers do."""
    return (1, 2, 4) if squared and size <= _MOST_WIDE else (1, 2)


def _add_block(
    context: Any, builder: Any, arguments: Any, size: int, n_vectors: int, squared: bool
) -> None:
    left, at_left, left_step, right, first, out, at_out, n = arguments
    data, flat = (context.make_array(_FLAT)(context, builder, array).data for array in (left, out))
    start, side = row_of(context, builder, right, _LONG(0))

    def vectors(place):
        places = [builder.gep(place, [_LONG(v * LANES)]) for v in range(n_vectors)]
        return [builder.bitcast(p, vector.code.as_pointer()) for p in places]

    n_rows = (2 if squared else 1) * size
    starts = [builder.add(at_out, builder.mul(side, _LONG(i))) for i in range(n_rows)]
    places = [p for at in starts for p in vectors(builder.gep(flat, [at]))]
    outer = Loop(builder, n, [read(builder, p) for p in places])
    panel = builder.add(at_left, builder.mul(outer.index, left_step))
    row = builder.mul(outer.index, _LONG(PANEL))
    inner = Loop(builder, _LONG(PANEL), outer.values)
    at = builder.add(builder.mul(builder.add(row, inner.index), side), first)
    line = [read(builder, p) for p in vectors(builder.gep(start, [at]))]
    lines = [[builder.fmul(x, x) for x in line], line] if squared else [line]
    at, found, so_far = builder.add(panel, inner.index), [], iter(inner.values)
    for i in range(size):
        place = builder.gep(data, [builder.add(at, _LONG(i * PANEL))])
        factor = repeated(builder, builder.load(place))
        found += [
            multiplied_added(builder, factor, x, next(so_far)) for line in lines for x in line
        ]
    inner.close(found)
    outer.close(found)
    for value, place in zip(found, places, strict=True):
        write(builder, value, place)


@intrinsic
def squares_across(typingctx, rows, row, weights, at):
    """Σ (a x + b) x over the columns of as many rows as a vector is long, as one vector.

    ``rows`` (rows, side) are as they lie; ``weights`` from ``at`` on holds a, then b, side each.
    """

    def code(context, builder, signature, arguments):
        rows, row, weights, at = arguments
        start, side = row_of(context, builder, rows, row)
        n = builder.sdiv(side, _LONG(LANES))
        loop = Loop(builder, n, [constant(0.0)] * LANES)
        first = builder.mul(loop.index, _LONG(LANES))
        at = builder.add(at, first)
        square, linear = (
            read(builder, pointer(context, builder, weights, place))
            for place in (at, builder.add(at, side))
        )
        place, found = builder.gep(start, [first]), []
        for value in loop.values:
            x = read(builder, builder.bitcast(place, vector.code.as_pointer()))
            factor = multiplied_added(builder, square, x, linear)
            found.append(multiplied_added(builder, factor, x, value))
            place = builder.gep(place, [side])
        loop.close(found)
        return sums(builder, found)

    return vector(_TABLE, _INDEX, _FLAT, _INDEX), code


_multiply_1, _multiply_2, _multiply_3, _multiply_4 = map(_multiply_block, range(1, BLOCK + 1))
_multiply_narrow = _multiply_block(NARROW_BLOCK, narrow)
_pairs_1, _pairs_2, _pairs_3, _pairs_4 = map(_pairs_block, range(1, BLOCK + 1))
_sum_1, _sum_2, _sum_3, _sum_4 = map(_accumulate_block, range(1, BLOCK + 1))
_add_rows, _add_squares = map(_outer_block, (False, True))
_MOST_ROWS, _MOST_SQUARES = (_sizes(squared)[-1] for squared in (False, True))
_MOST_WIDE = REGISTERS // 16


@leaf
def multiply(
    weights, at_weight, lines, at_line, first, n_lines, n_all, terms, at_term, n_terms, fresh
):
    """One panel's terms (n_terms, PANEL) = weights @ lines, or more of them unless ``fresh``.

    ``weights`` are in blocks of up to four terms, each stored line by line over all ``n_all``
    lines; ``lines`` are those from ``first`` on.
    """
    for k in range(0, n_terms, BLOCK):
        size = min(BLOCK, n_terms - k)
        w, t = at_weight + k * n_all + first * size, at_term + k * PANEL
        if size == 4:
            _multiply_4(weights, w, 4, 1, lines, at_line, PANEL, terms, t, PANEL, n_lines, fresh)
        elif size == 3:
            _multiply_3(weights, w, 3, 1, lines, at_line, PANEL, terms, t, PANEL, n_lines, fresh)
        elif size == 2:
            _multiply_2(weights, w, 2, 1, lines, at_line, PANEL, terms, t, PANEL, n_lines, fresh)
        else:
            _multiply_1(weights, w, 1, 1, lines, at_line, PANEL, terms, t, PANEL, n_lines, fresh)


@leaf
def multiply_strip(
    left, at_left, left_step, left_apart, right, at_right, right_step, out, at_out, out_step,
    n_left, n_lines, fresh,
):  # fmt: skip
    """PANEL columns of a product, of ``n_left`` lines, or more of them unless ``fresh``.

    Each of ``n_lines`` is a line of ``right`` times numbers of ``left`` that are ``left_apart``.
    """
    for i in range(0, n_left, BLOCK):
        size, a, o = min(BLOCK, n_left - i), at_left + i * left_apart, at_out + i * out_step
        if size == 4:
            _multiply_4(
                left, a, left_step, left_apart, right, at_right, right_step, out, o, out_step,
                n_lines, fresh,
            )  # fmt: skip
        elif size == 3:
            _multiply_3(
                left, a, left_step, left_apart, right, at_right, right_step, out, o, out_step,
                n_lines, fresh,
            )  # fmt: skip
        elif size == 2:
            _multiply_2(
                left, a, left_step, left_apart, right, at_right, right_step, out, o, out_step,
                n_lines, fresh,
            )  # fmt: skip
        else:
            _multiply_1(
                left, a, left_step, left_apart, right, at_right, right_step, out, o, out_step,
                n_lines, fresh,
            )  # fmt: skip


@leaf
def multiply_narrow(weights, lines, first, n_lines, n_all, terms, at_term, n_terms, fresh):
    """As ``multiply`` in single precision, of whole blocks of ``NARROW_BLOCK`` terms."""
    for k in range(0, n_terms, NARROW_BLOCK):
        _multiply_narrow(
            weights, k * n_all + first * NARROW_BLOCK, NARROW_BLOCK, 1, lines, 0, PANEL,
            terms, at_term + k * PANEL, PANEL, n_lines, fresh,
        )  # fmt: skip


@leaf
def multiply_pairs(weights, at_weight, lines, at_line, n_features, n_all, terms, at_term, n_terms):
    """As ``multiply`` by the products of lines i and j ≤ i, afresh, without making them."""
    for k in range(0, n_terms, BLOCK):
        size = min(BLOCK, n_terms - k)
        w, t = at_weight + k * n_all, at_term + k * PANEL
        if size == 4:
            _pairs_4(weights, w, lines, at_line, terms, t, n_features)
        elif size == 3:
            _pairs_3(weights, w, lines, at_line, terms, t, n_features)
        elif size == 2:
            _pairs_2(weights, w, lines, at_line, terms, t, n_features)
        else:
            _pairs_1(weights, w, lines, at_line, terms, t, n_features)


@leaf
def add_outer(left, n_left, left_step, right, out, b, n_panels, squared):
    """Add left @ right over all rows of a tile to ``out`` (B, n_left, side) of mixture ``b``.

    ``left`` is panels of lines, ``right`` (rows, side) rows as they lie. The sums over rows need
    none over the lanes of a vector, but enough of both operands to keep a processor busy. Where
    ``squared``, ``out`` is (B, n_left, 2, side): of the squares of right, then of right.
    """
    side, k = right.shape[1], 0
    size, depth = (_MOST_SQUARES, 2) if squared else (_MOST_ROWS, 1)
    while k < n_left:
        while size > n_left - k:
            size //= 2
        f = 0
        while f < side:
            a, o = k * PANEL, (b * n_left + k) * depth * side + f
            left_over = (side - f) // LANES
            width = 4 if squared and size <= _MOST_WIDE and left_over >= 4 else min(2, left_over)
            if squared:
                _add_squares(left, a, left_step, right, f, out, o, n_panels, size, width)
            else:
                _add_rows(left, a, left_step, right, f, out, o, n_panels, size, width)
            f += width * LANES
        k += size


@leaf
def _block_start(k, n_right, lower):
    """Where the sums of line ``k``, the first of a block, begin."""
    if not lower:
        return k * n_right
    n_groups = k // GROUP
    width = min(n_right, (n_groups + 1) * GROUP)
    return GROUP * GROUP * n_groups * (n_groups + 1) // 2 + k % GROUP * width


@leaf
def n_blocked(n_left, n_right, lower):
    """How many numbers the sums of :func:`accumulate` take."""
    return _block_start((n_left + BLOCK - 1) // BLOCK * BLOCK, n_right, lower)


@leaf
def accumulate(left, n_left, left_step, right, n_right, right_step, out, at_out, n_panels, lower):
    """Add left @ rightᵀ, over all rows of a tile, to the blocks of ``out``; see `unblock`.

    Each operand is panels of lines; ``n_right`` is a multiple of ``LINES``. Of a symmetric product
    ``lower`` asks for no more than the lower triangle.
    """
    for group in range(0, n_right, GROUP):
        for k in range(group // BLOCK * BLOCK if lower else 0, n_left, BLOCK):
            a = k * PANEL
            size = min(BLOCK, n_left - k)
            start = at_out + _block_start(k, n_right, lower)
            for f in range(group, min(group + GROUP, n_right), LINES):
                b = f * PANEL
                o = start + f * BLOCK
                if size == 4:
                    _sum_4(left, a, left_step, right, b, right_step, out, o, n_panels)
                elif size == 3:
                    _sum_3(left, a, left_step, right, b, right_step, out, o, n_panels)
                elif size == 2:
                    _sum_2(left, a, left_step, right, b, right_step, out, o, n_panels)
                else:
                    _sum_1(left, a, left_step, right, b, right_step, out, o, n_panels)


@leaf
def unblock(blocks, at_blocks, n_left, n_right, out, at_out, width, lower):
    """Add the blocks that `accumulate` left to ``out``: (n_left, n_right) in rows of ``width``.

    Of a lower triangle, no more than whole blocks on the diagonal lie above it.
    """
    for k in range(n_left):
        start = at_blocks + _block_start(k // BLOCK * BLOCK, n_right, lower)
        for f in range(min(n_right, (k // GROUP + 1) * GROUP) if lower else n_right):
            block = start + f // LINES * LINES * BLOCK
            out[at_out + k * width + f] += blocks[block + k % BLOCK * LINES + f % LINES]
