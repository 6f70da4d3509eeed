"""Vectors of numbers in a processor's registers, for compiled kernels.

Numba leaves it to its optimiser whether a loop is computed several rows at a time, and where
arrays may overlap it does not. Here a :class:`Vector` is a type of its own: ``load``, arithmetic,
``store``. Each operation is one instruction; LLVM splits it where a processor's registers are
narrower.
"""

from __future__ import annotations

import math
import operator
import platform
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import overload
from numpy.polynomial import Chebyshev, Polynomial

__all__ = [
    "LANES",
    "NO",
    "PANEL",
    "REGISTERS",
    "VECTORS",
    "YES",
    "ZERO",
    "Loop",
    "VectorType",
    "above",
    "blank",
    "compiled",
    "dense",
    "exp",
    "fetch_add",
    "fma",
    "inner",
    "intrinsic",
    "leaf",
    "load",
    "load_across",
    "load_centred",
    "load_narrow",
    "load_square",
    "load_twice",
    "load_upright",
    "load_with_terms",
    "log",
    "lowest_bit",
    "magnitude",
    "maximum",
    "narrow",
    "narrowed",
    "pause",
    "prefetch",
    "publish",
    "splat",
    "splat_narrow",
    "spliced",
    "store",
    "store_across",
    "total",
    "unless_below",
    "vector",
    "witness",
]

_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
LANES = 8 if _WIDE else 4
"""Numbers in a vector: eight with AVX-512, else four."""
REGISTERS = 32 if _WIDE else 16
"""Vectors that a processor holds at once."""
VECTORS = 4 if _WIDE else 2
"""Vectors in a line of a panel."""
PANEL = LANES * VECTORS
"""Rows that are computed side by side."""

ZERO, NO, YES = np.int64(0), np.bool_(False), np.bool_(True)
"""As arguments: a literal has a type of its own, and a function is compiled anew for it."""

_FLAGS: dict[str, Any] = {
    "cache": True,  # compiled once on a machine, not once a process
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract"},  # a · b + c in one instruction; nothing is reordered
}
_INNER: dict[str, Any] = {**_FLAGS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(function: Any) -> Any:
    """A function that Python calls."""
    return njit(**_FLAGS)(function)


def inner(function: Any) -> Any:
    """A function that only compiled ones call: quicker to compile."""
    return njit(**_INNER)(function)


def leaf(function: Any) -> Any:
    """An inner function that makes no arrays.

    It does not count references to those that it is given either. Numba counts them at every call,
    so that threads could share them; each count holds a processor up for twenty cycles or more.
    """
    options: dict[str, Any] = {**_INNER, "_nrt": False}
    return njit(**options)(function)


def spliced(function: Any) -> Any:
    """An inner function that is a part of its one caller: not compiled by itself at all."""
    return njit(inline="always", **_INNER)(function)


def dense(function: Any) -> Any:
    """An inner function whose sums of products may be taken in any order."""
    options: dict[str, Any] = {**_INNER, "fastmath": {"contract", "reassoc", "nsz"}}
    return njit(**options)(function)


def intrinsic(function: Any) -> Any:
    """A function that is written in LLVM's terms."""
    return numba_intrinsic(function)


@inner
def blank(n):
    """As ``numpy.zeros``, from where a line of memory begins, so that no vector lies in two."""
    buffer = np.zeros(n + LANES)
    skip = -(buffer.ctypes.data // buffer.itemsize) % LANES
    return buffer[skip : skip + n]


_DOUBLE, _LONG, _INT = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
_VECTOR, _BITS = ir.VectorType(_DOUBLE, LANES), ir.VectorType(_LONG, LANES)
_FLAT, _TABLE = (types.Array(types.float64, n_axes, "C") for n_axes in (1, 2))


class VectorType(types.Type):
    """As many numbers as a register holds: of double precision, or twice as many of single."""

    def __init__(self, number: Any, code: Any, suffix: str, lanes: int) -> None:
        self.number, self.lanes, self.suffix = number, lanes, f"v{lanes}{suffix}"
        self.flat = types.Array(number, 1, "C")
        self.code = ir.VectorType(code, lanes)
        super().__init__(name=f"Vector{lanes}{suffix}")


vector = VectorType(types.float64, _DOUBLE, "f64", LANES)
narrow = VectorType(types.float32, ir.FloatType(), "f32", 2 * LANES)
_KINDS = vector, narrow


@register_default(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, fe_type.code)


def constant(value: float, kind: VectorType = vector) -> ir.Constant:
    """The same number in every lane, in LLVM's terms."""
    return ir.Constant(kind.code, [value] * kind.lanes)


def pointer(context: Any, builder: Any, array: Any, index: Any, kind: VectorType = vector) -> Any:
    """Where a vector begins in a flat array, in LLVM's terms."""
    data = context.make_array(kind.flat)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.code.as_pointer())


def read(builder: Any, place: Any) -> Any:
    """A vector from memory that need not be aligned."""
    value = builder.load(place)
    value.align = 4 if place.type == narrow.code.as_pointer() else 8
    return value


def write(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, place).align = 4 if value.type == narrow.code else 8


def row_of(context: Any, builder: Any, table: Any, row: Any) -> Any:
    """Where a row of a table of whole vectors begins, and how wide the table is."""
    array = context.make_array(_TABLE)(context, builder, table)
    width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
    return builder.gep(array.data, [builder.mul(row, width)]), width


def without_sign(builder: Any, value: Any) -> Any:
    mask = ir.Constant(_BITS, [(1 << 63) - 1] * LANES)
    return builder.bitcast(builder.and_(builder.bitcast(value, _BITS), mask), _VECTOR)


def repeated(builder: Any, number: Any, kind: VectorType = vector) -> Any:
    """A number in every lane."""
    undefined = ir.Constant(kind.code, ir.Undefined)
    single = builder.insert_element(undefined, number, _INT(0))
    lanes = ir.Constant(ir.VectorType(_INT, kind.lanes), [0] * kind.lanes)
    return builder.shuffle_vector(single, undefined, lanes)


def multiplied_added(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """A · b + c, rounded once."""
    kind = narrow if a.type == narrow.code else vector
    function_type = ir.FunctionType(kind.code, [kind.code] * 3)
    name = f"llvm.fma.{kind.suffix}"
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, [a, b, c])


def sums(builder: Any, vectors: list[Any]) -> Any:
    """The sums over the lanes of as many vectors as there are lanes, as one vector."""
    while len(vectors) > 1:
        halves = []
        for parity in (0, 1):
            lanes = [*range(parity, LANES, 2), *range(LANES + parity, 2 * LANES, 2)]
            halves.append(ir.Constant(ir.VectorType(_INT, LANES), lanes))
        vectors = [
            builder.fadd(*(builder.shuffle_vector(a, b, half) for half in halves))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


class Loop:
    """A loop in LLVM's terms that carries vectors from pass to pass."""

    def __init__(self, builder: Any, n_passes: Any, values: list[Any]):
        self.builder, self.n_passes = builder, n_passes
        before = builder.block
        self.body = builder.append_basic_block("body")
        builder.branch(self.body)
        builder.position_at_end(self.body)
        self.index = builder.phi(_LONG)
        self.index.add_incoming(_LONG(0), before)
        self.values = [builder.phi(value.type) for value in values]
        for phi, value in zip(self.values, values, strict=True):
            phi.add_incoming(value, before)

    def close(self, values: list[Any]) -> None:
        """Go round again with ``values``, or on after the last pass."""
        builder = self.builder
        following = builder.add(self.index, _LONG(1))
        self.index.add_incoming(following, builder.block)
        for phi, value in zip(self.values, values, strict=True):
            phi.add_incoming(value, builder.block)
        after = builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed("<", following, self.n_passes), self.body, after)
        builder.position_at_end(after)


# --- operations of compiled functions -------------------------------------------------------------


def _kind_of(*values: Any) -> Any:
    """The one kind of vector that all values are, or are an array of, or a number for; or None."""
    for kind in _KINDS:
        if all(value in (kind, kind.flat) for value in values):
            return kind
    return None


@intrinsic
def load(typingctx, array, index):
    """The vector that begins at ``index`` of a flat array."""
    kind = _kind_of(array)

    def code(context, builder, signature, arguments):
        array, index = arguments
        return read(builder, pointer(context, builder, array, index, kind))

    return kind and (kind(kind.flat, types.intp), code)


@intrinsic
def store(typingctx, array, index, value):
    """Write a vector to a flat array."""
    kind = _kind_of(array, value)

    def code(context, builder, signature, arguments):
        array, index, value = arguments
        write(builder, value, pointer(context, builder, array, index, kind))
        return context.get_dummy_value()

    return kind and (types.void(kind.flat, types.intp, kind), code)


def _splat(kind: VectorType) -> Any:
    @intrinsic
    def operation(typingctx, number):
        """A number in every lane."""

        def code(context, builder, signature, arguments):
            return repeated(builder, arguments[0], kind)

        return kind(kind.number), code

    return operation


splat, splat_narrow = map(_splat, _KINDS)


def _binary(name: str) -> Any:
    @intrinsic
    def operation(typingctx, left, right):
        kind = _kind_of(left, right)

        def code(context, builder, signature, arguments):
            return getattr(builder, name)(*arguments)

        return kind and (kind(kind, kind), code)

    return operation


_add, _subtract, _multiply, _divide = map(_binary, ("fadd", "fsub", "fmul", "fdiv"))


def _overload(operation: Any, function: Any) -> None:
    @overload(operation)
    def of_vectors(left, right):
        if left in _KINDS and left is right:
            return lambda left, right: function(left, right)
        return None


for _operation, _function in (
    (operator.add, _add),
    (operator.sub, _subtract),
    (operator.mul, _multiply),
    (operator.truediv, _divide),
):
    _overload(_operation, _function)


@intrinsic
def fma(typingctx, a, b, c):
    """A · b + c, rounded once."""

    def code(context, builder, signature, arguments):
        return multiplied_added(builder, *arguments)

    return vector(vector, vector, vector), code


@intrinsic
def maximum(typingctx, left, right):
    """The larger of each pair; the right one where either is NaN."""
    kind = _kind_of(left, right)

    def code(context, builder, signature, arguments):
        larger = builder.fcmp_ordered(">", *arguments)
        return builder.select(larger, *arguments)

    return kind and (kind(kind, kind), code)


@intrinsic
def magnitude(typingctx, value):
    """Without the sign."""

    def code(context, builder, signature, arguments):
        return without_sign(builder, arguments[0])

    return vector(vector), code


@intrinsic
def unless_below(typingctx, value, limit, below, otherwise):
    """``below`` where value < limit, else ``otherwise``, as where the value is NaN."""
    kind = _kind_of(value, limit, below, otherwise)

    def code(context, builder, signature, arguments):
        value, limit, below, otherwise = arguments
        return builder.select(builder.fcmp_ordered("<", value, limit), below, otherwise)

    return kind and (kind(kind, kind, kind, kind), code)


@intrinsic
def narrowed(typingctx, first, last):
    """Two vectors as one of single precision."""

    def code(context, builder, signature, arguments):
        order = ir.Constant(ir.VectorType(_INT, 2 * LANES), list(range(2 * LANES)))
        return builder.fptrunc(builder.shuffle_vector(*arguments, order), narrow.code)

    return narrow(vector, vector), code


@intrinsic
def above(typingctx, value, limit):
    """Bits, the lowest for the first lane: where value > limit."""
    kind = _kind_of(value, limit)

    def code(context, builder, signature, arguments):
        larger = builder.fcmp_ordered(">", *arguments)
        return builder.zext(builder.bitcast(larger, ir.IntType(kind.lanes)), _LONG)

    return kind and (types.int64(kind, kind), code)


@intrinsic
def lowest_bit(typingctx, bits):
    """The place of the lowest bit that is set."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), code


@intrinsic
def total(typingctx, value):
    """The sum over the lanes."""

    def code(context, builder, signature, arguments):
        parts = [builder.extract_element(arguments[0], _INT(i)) for i in range(LANES)]
        while len(parts) > 1:
            parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return types.float64(vector), code


def _is_table(rows: Any) -> bool:
    """Whether a type is that of a table of floating-point numbers."""
    known = isinstance(rows, types.Array) and rows.ndim == 2
    return known and rows.dtype in (types.float64, types.float32)


def _element(context: Any, builder: Any, kind: Any, table: Any, row: Any, column: Any) -> Any:
    """The address of an element of a table, as a number, and the table's strides."""
    array = context.make_array(kind)(context, builder, table)
    strides = cgutils.unpack_tuple(builder, array.strides, 2)
    start = builder.ptrtoint(array.data, _LONG)
    for index, stride in zip((row, column), strides, strict=True):
        start = builder.add(start, builder.mul(index, stride))
    return start, strides


def _square(context: Any, builder: Any, kind: Any, table: Any, row: Any, column: Any) -> Any:
    """As many rows of a table, in any layout, as a vector is long, and as many columns.

    As the rows where these lie in memory vector by vector, else as the columns; which they are.
    """
    number = context.get_value_type(kind.dtype)
    start, strides = _element(context, builder, kind, table, row, column)

    several = ir.VectorType(number, LANES)

    def along(place: Any, stride: Any, kind: Any) -> list[Any]:
        """As many values as a vector is long, each so far from the one before it."""
        found = []
        for _ in range(LANES):
            found.append(builder.load(builder.inttoptr(place, kind.as_pointer())))
            found[-1].align = 8 if number == _DOUBLE else 4
            place = builder.add(place, stride)
        return found

    if kind.layout == "F":
        found = along(start, strides[1], several)
    elif kind.layout == "C":
        found = along(start, strides[0], several)
    else:
        found = []
        for _ in range(LANES):
            column_of = ir.Constant(several, ir.Undefined)
            for i, value in enumerate(along(start, strides[0], number)):
                column_of = builder.insert_element(column_of, value, _INT(i))
            found.append(column_of)
            start = builder.add(start, strides[1])
    return found, kind.layout == "C"


def _widened(builder: Any, value: Any) -> Any:
    """In double precision."""
    return value if value.type == _VECTOR else builder.fpext(value, _VECTOR)


@intrinsic
def load_square(typingctx, rows, row, column, lines, at):
    """Columns of as many rows as a vector is long, from ``row`` and ``column`` on, as lines.

    Of a table of floating-point numbers in any layout; a line begins ``PANEL`` numbers after the
    one before it.
    """

    def code(context, builder, signature, arguments):
        table, row, column, lines, at = arguments
        found, across = _square(context, builder, signature.args[0], table, row, column)
        for j, value in enumerate(_transposed(builder, found) if across else found):
            place = pointer(context, builder, lines, builder.add(at, _LONG(j * PANEL)))
            write(builder, _widened(builder, value), place)
        return context.get_dummy_value()

    signature = types.void(rows, types.intp, types.intp, _FLAT, types.intp)
    return (signature, code) if _is_table(rows) else None


def _load_centred(keep: bool) -> Any:
    @intrinsic
    def operation(typingctx, rows, row, column, centre, scale, lines, at, near, at_near):
        """As :func:`load_square`, less ``centre``; for each row two sums over these columns.

        Those of magnitudes times ``scale`` and of squares. ``load_twice`` keeps the rows as they
        lie too, in ``near`` (rows, side).
        """

        def code(context, builder, signature, arguments):
            table, row, column, *known, lines, at, near, at_near = arguments
            middle, factor = (
                context.make_array(_FLAT)(context, builder, array).data for array in known
            )

            def number(data, j):
                place = builder.gep(data, [builder.add(column, _LONG(j))])
                return repeated(builder, builder.load(place))

            found, across = _square(context, builder, signature.args[0], table, row, column)
            if across:
                several = builder.bitcast(builder.gep(middle, [column]), _VECTOR.as_pointer())
                origin = read(builder, several)
                upright = [builder.fsub(_widened(builder, value), origin) for value in found]
                found = _transposed(builder, upright)
            else:
                found = [
                    builder.fsub(_widened(builder, value), number(middle, j))
                    for j, value in enumerate(found)
                ]
                upright = _transposed(builder, found) if keep else []
            if keep:
                start, side = row_of(context, builder, near, at_near)
                place = builder.gep(start, [column])
                for value in upright:
                    write(builder, value, builder.bitcast(place, _VECTOR.as_pointer()))
                    place = builder.gep(place, [side])
            reach, squares = ([constant(0.0)] * 2 for _ in range(2))  # which need not wait
            for j, value in enumerate(found):
                place = pointer(context, builder, lines, builder.add(at, _LONG(j * PANEL)))
                write(builder, value, place)
                size = without_sign(builder, value)
                reach[j % 2] = multiplied_added(builder, size, number(factor, j), reach[j % 2])
                squares[j % 2] = multiplied_added(builder, value, value, squares[j % 2])
            answer = [builder.fadd(*sums) for sums in (reach, squares)]
            return context.make_tuple(builder, signature.return_type, answer)

        places = _FLAT, types.intp, _TABLE, types.intp
        known = rows, types.intp, types.intp, _FLAT, _FLAT
        signature = types.UniTuple(vector, 2)(*known, *places)
        return (signature, code) if _is_table(rows) else None

    return operation


load_centred, load_twice = map(_load_centred, (False, True))


def _load_upright(n_terms: int) -> Any:
    @intrinsic
    def operation(typingctx, rows, row, n_columns, units, near, at_near, weights):
        """As many rows as a vector is long less their centre, to ``near`` (rows, side) as they lie.

        ``units`` (2, side), flat, holds the centre, then what each column counts in the sum of
        magnitudes that is returned for each row. Of the first ``n_columns``, whole vectors of them.

        ``load_with_terms`` returns Σ (a x + b) x over them too, twice; ``weights`` holds a, b, and
        once more a, b, side each. ``load_upright`` does not look at ``weights``.
        """

        def code(context, builder, signature, arguments):
            table, row, n_columns, units, near, at_near, weights = arguments
            start, side = row_of(context, builder, near, at_near)
            n = builder.sdiv(n_columns, _LONG(LANES))
            loop = Loop(builder, n, [constant(0.0)] * (LANES * (1 + n_terms)))
            column = builder.mul(loop.index, _LONG(LANES))
            found, across = _square(context, builder, signature.args[0], table, row, column)
            upright = found if across else _transposed(builder, found)

            def known(array, i):
                at = builder.add(column, builder.mul(side, _LONG(i)))
                return read(builder, pointer(context, builder, array, at))

            origin, factor = known(units, 0), known(units, 1)
            places = [builder.gep(start, [column])]
            for _ in range(LANES - 1):
                places.append(builder.gep(places[-1], [side]))
            upright = [builder.fsub(_widened(builder, value), origin) for value in upright]
            for value, place in zip(upright, places, strict=True):
                write(builder, value, builder.bitcast(place, _VECTOR.as_pointer()))
            so_far = iter(loop.values)
            more = [
                multiplied_added(builder, without_sign(builder, value), factor, next(so_far))
                for value in upright
            ]
            for i in range(n_terms):
                square, linear = known(weights, 2 * i), known(weights, 2 * i + 1)
                for value in upright:
                    slope = multiplied_added(builder, square, value, linear)
                    more.append(multiplied_added(builder, slope, value, next(so_far)))
            loop.close(more)
            answer = [sums(builder, more[i : i + LANES]) for i in range(0, len(more), LANES)]
            return context.make_tuple(builder, signature.return_type, answer)

        places = types.intp, types.intp, _FLAT, _TABLE, types.intp, _FLAT
        signature = types.UniTuple(vector, 1 + n_terms)(rows, *places)
        return (signature, code) if _is_table(rows) else None

    return operation


load_upright, load_with_terms = map(_load_upright, (0, 2))


@intrinsic
def load_across(typingctx, rows, row, column):
    """Consecutive columns of a row of a table, in any layout, as many as a vector is long."""

    def code(context, builder, signature, arguments):
        kind = signature.args[0]
        number = context.get_value_type(kind.dtype)
        start, strides = _element(context, builder, kind, *arguments)
        several, size = ir.VectorType(number, LANES), 8 if number == _DOUBLE else 4
        if kind.layout == "C":
            found = builder.load(builder.inttoptr(start, several.as_pointer()))
            found.align = size
        else:
            found = ir.Constant(several, ir.Undefined)
            for i in range(LANES):
                place = builder.add(start, builder.mul(strides[1], _LONG(i)))
                value = builder.load(builder.inttoptr(place, number.as_pointer()))
                value.align = size
                found = builder.insert_element(found, value, _INT(i))
        return found if number == _DOUBLE else builder.fpext(found, _VECTOR)

    return (vector(rows, types.intp, types.intp), code) if _is_table(rows) else None


@intrinsic
def store_across(typingctx, table, row, column, value):
    """Write a vector to consecutive columns of a row of a table of whole vectors."""

    def code(context, builder, signature, arguments):
        table, row, column, value = arguments
        start, _ = row_of(context, builder, table, row)
        place = builder.gep(start, [column])
        write(builder, value, builder.bitcast(place, _VECTOR.as_pointer()))
        return context.get_dummy_value()

    return types.void(_TABLE, types.intp, types.intp, vector), code


@intrinsic
def load_narrow(typingctx, rows, row, lines, at):
    """All columns, fewer than ``LANES``, of as many rows as a vector is long, as lines.

    Answers whether it could: of a table that lies in memory row by row, without gaps.
    """

    def code(context, builder, signature, arguments):
        table, row, lines, at = arguments
        kind = signature.args[0]
        if kind.layout != "C":
            return context.get_constant(types.boolean, False)
        array = context.make_array(kind)(context, builder, table)
        number = context.get_value_type(kind.dtype)
        several = ir.VectorType(number, LANES)
        n_columns = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        start = builder.gep(array.data, [builder.mul(row, n_columns)])
        after = builder.append_basic_block("after")
        cases = {n: builder.append_basic_block(f"columns{n}") for n in range(1, LANES)}
        choice = builder.switch(n_columns, after)
        for n, block in cases.items():
            choice.add_case(_LONG(n), block)
            builder.position_at_end(block)
            parts = []
            for i in range(n):
                place = builder.gep(start, [_LONG(i * LANES)])
                parts.append(builder.load(builder.bitcast(place, several.as_pointer())))
                parts[-1].align = 8 if number == _DOUBLE else 4
            for column in range(n):
                places = [divmod(i * n + column, LANES) for i in range(LANES)]
                value = parts[0]
                order = [lane if part == 0 else 0 for part, lane in places]
                for part in range(n):
                    if part:
                        order = [
                            LANES + lane if source == part else i
                            for i, (source, lane) in enumerate(places)
                        ]
                    mask = ir.Constant(ir.VectorType(_INT, LANES), order)
                    value = builder.shuffle_vector(value, parts[part], mask)
                wide = value if number == _DOUBLE else builder.fpext(value, _VECTOR)
                place = pointer(context, builder, lines, builder.add(at, _LONG(column * PANEL)))
                write(builder, wide, place)
            builder.branch(after)
        builder.position_at_end(after)
        return builder.icmp_signed("<", n_columns, _LONG(LANES))

    return (types.boolean(rows, types.intp, _FLAT, types.intp), code) if _is_table(rows) else None


@intrinsic
def prefetch(typingctx, rows, row, offset):
    """Ask for memory of a table, ``offset`` bytes from the beginning of ``row``, to be read soon.

    Beyond the last row nothing happens.
    """

    def code(context, builder, signature, arguments):
        table, row, offset = arguments
        array = context.make_array(signature.args[0])(context, builder, table)
        stride = cgutils.unpack_tuple(builder, array.strides, 2)[0]
        start = builder.add(builder.ptrtoint(array.data, _LONG), builder.mul(row, stride))
        start = builder.add(start, offset)
        place = builder.inttoptr(start, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, _INT(0), _INT(2), _INT(1)])  # to read, into the second cache
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp), code


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """As many vectors as there are lanes, lanes for vectors; by exchange of ever larger blocks."""
    step = 1
    while step < LANES:
        following = list(rows)
        low = [lane if not lane & step else LANES + lane - step for lane in range(LANES)]
        high = [lane + step if not lane & step else LANES + lane for lane in range(LANES)]
        for i in range(LANES):
            if not i & step:
                for place, lanes in ((i, low), (i + step, high)):
                    order = ir.Constant(ir.VectorType(_INT, LANES), lanes)
                    following[place] = builder.shuffle_vector(rows[i], rows[i + step], order)
        rows = following
        step *= 2
    return rows


# --- exponentials and logarithms ------------------------------------------------------------------


def _interpolated(degree: int, half: float) -> tuple[float, ...]:
    """Coefficients of q in exp(r) = 1 + r + r² q(r), lowest first, for |r| ≤ ``half``.

    By interpolation at Chebyshev's points, which needs one or two terms less than Taylor's
    polynomial.
    """

    def rest(r: Any) -> Any:
        return sum(r**i / math.factorial(i + 2) for i in range(20))

    found = Chebyshev.interpolate(rest, degree, domain=[-half, half]).convert(kind=Polynomial)
    return tuple(map(float, found.coef))


_SHIFT = 1.5 * 2.0**52
"""A number added to this is rounded to an integer, which is then in its lowest bits."""
_LOG2_E = 1.0 / math.log(2.0)
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_LEAST = -600.0
"""What is below is zero: products with numbers near the smallest take a processor ten times as long
as others, and what is not normal has another form."""
_STEPS = 16 if _WIDE else 1
"""Powers of 2 to the sixteenth are looked up where two registers of a processor hold them."""
_REST = _interpolated(4 if _WIDE else 9, math.log(2.0) / 2 / _STEPS)
"""Leaves exp(r) right to 7e-17, less than its rounding."""
_POWERS = [
    int(np.float64(2.0 ** (i / _STEPS)).view(np.int64)) - (i << 52) // _STEPS for i in range(_STEPS)
]
"""The bits of 2^(i / steps), less what i adds to them as it is added to a number's exponent."""


@intrinsic
def _power_of_two(typingctx, shifted):
    """2^(n / steps), where n is in the lowest bits of ``shifted``."""

    def code(context, builder, signature, arguments):
        power = builder.bitcast(arguments[0], _BITS)
        by = 52 - (_STEPS.bit_length() - 1)
        exponent = builder.shl(power, ir.Constant(_BITS, [by] * LANES))
        if _WIDE:
            tables = (ir.Constant(_BITS, _POWERS[i : i + LANES]) for i in (0, LANES))
            name = "llvm.x86.avx512.vpermi2var.q.512"
            kind = ir.FunctionType(_BITS, [_BITS] * 3)
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            low, high = tables
            start = builder.call(function, [low, power, high])
        else:
            start = ir.Constant(_BITS, _POWERS * LANES)
        return builder.bitcast(builder.add(start, exponent), _VECTOR)

    return vector(vector), code


@inner
def exp(x):
    """Exponentials of numbers that are not positive, to two roundings; 0 below −600.

    With n the nearest integer to s x / log 2, s steps, exp(x) = 2^(n / s) exp(x − n log(2) / s); of
    the rest r, at most log(2) / 2 s, exp(r) = 1 + r + r² q(r) with a polynomial q.
    """
    shifted = fma(x, splat(_LOG2_E * _STEPS), splat(_SHIFT))
    n = shifted - splat(_SHIFT)
    rest = fma(n, splat(-_LN2_LOW / _STEPS), fma(n, splat(-_LN2_HIGH / _STEPS), x))
    value = _polynomial(rest)
    value = fma(value, rest * rest, rest)
    power = _power_of_two(shifted)
    return unless_below(x, splat(_LEAST), splat(0.0), fma(power, value, power))


@intrinsic
def _polynomial(typingctx, x):
    """q(x), from its highest coefficient down."""

    def code(context, builder, signature, arguments):
        value = constant(_REST[-1])
        for coefficient in _REST[-2::-1]:
            value = multiplied_added(builder, value, arguments[0], constant(coefficient))
        return value

    return vector(vector), code


@intrinsic
def _parts(typingctx, value):
    """Fraction between 1 and 2, and exponent of two, of positive normal numbers."""

    def code(context, builder, signature, arguments):
        def bits(number):
            return ir.Constant(_BITS, [number] * LANES)

        number = builder.bitcast(arguments[0], _BITS)
        fraction = builder.and_(number, bits((1 << 52) - 1))
        fraction = builder.or_(fraction, bits(1023 << 52))
        exponent = builder.sub(builder.lshr(number, bits(52)), bits(1023))
        # As floating point without a conversion: AVX2 has none for 64 bits.
        shift = builder.bitcast(constant(_SHIFT), _BITS)
        exponent = builder.bitcast(builder.add(exponent, shift), _VECTOR)
        exponent = builder.fsub(exponent, constant(_SHIFT))
        return context.make_tuple(
            builder, signature.return_type, [builder.bitcast(fraction, _VECTOR), exponent]
        )

    return types.UniTuple(vector, 2)(vector), code


@inner
def log(x):
    """Logarithms of positive normal numbers, to two roundings.

    With x = 2ⁿ m and √½ < m ≤ √2, log m = 2 artanh s of s = (m − 1) / (m + 1), |s| ≤ 0.1716.
    """
    m, n = _parts(x)
    root = splat(math.sqrt(2.0))
    n = unless_below(m, root, n, n + splat(1.0))
    m = unless_below(m, root, m, m * splat(0.5))
    s = (m - splat(1.0)) / (m + splat(1.0))
    square = s * s
    value = splat(1 / 21)
    value = fma(value, square, splat(1 / 19))
    value = fma(value, square, splat(1 / 17))
    value = fma(value, square, splat(1 / 15))
    value = fma(value, square, splat(1 / 13))
    value = fma(value, square, splat(1 / 11))
    value = fma(value, square, splat(1 / 9))
    value = fma(value, square, splat(1 / 7))
    value = fma(value, square, splat(1 / 5))
    value = fma(value, square, splat(1 / 3))
    twice = s + s
    value = fma(twice * square, value, twice)
    return fma(n, splat(_LN2_HIGH), fma(n, splat(_LN2_LOW), value))


# --- numbers that several threads share -----------------------------------------------------------

_SHARED = types.Array(types.int64, 1, "C")


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The address of an element of the array that comes first among some arguments."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@intrinsic
def fetch_add(typingctx, array, i, value):
    """Add to an element, as one step for all threads; what it was before."""

    def code(context, builder, signature, arguments):
        place = _place(context, builder, signature, arguments)
        return builder.atomic_rmw("add", place, arguments[2], "acq_rel")

    return types.int64(_SHARED, types.intp, types.int64), code


@intrinsic
def publish(typingctx, array, i, value):
    """Set an element; a thread that is a witness of it sees all that was written before."""

    def code(context, builder, signature, arguments):
        place = _place(context, builder, signature, arguments)
        builder.store_atomic(arguments[2], place, "release", 8)
        return context.get_dummy_value()

    return types.void(_SHARED, types.intp, types.int64), code


@intrinsic
def witness(typingctx, array, i):
    """An element as the last thread left it that published it."""

    def code(context, builder, signature, arguments):
        place = _place(context, builder, signature, arguments)
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(_SHARED, types.intp), code


@intrinsic
def pause(typingctx):
    """What a thread does while it waits in a loop, where the processor has a word for it."""

    def code(context, builder, signature, arguments):
        if platform.machine().lower() in ("x86_64", "amd64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), code
