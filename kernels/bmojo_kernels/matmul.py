"""Products of small matrices inside Numba kernels, where a library's call would leave the cache.

The innermost tile, a few rows by a few vectors held in registers over the whole depth, is written as LLVM
vector instructions: Numba's own loops store what they add up at each step, because it cannot say that two
arrays do not overlap. All matrices here are scratch memory: numbers of rows and columns are multiples of
`PAD`, filled up with zeros. Left factors may be views of any strides (a transpose costs nothing there); right
factors and results have their columns side by side.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "PAD",
    "dot",
    "multiply",
    "multiply_lower",
    "multiply_lower_part",
    "multiply_upper",
    "padded",
    "scratch",
    "solve_lower",
    "solve_upper",
    "tile",
    "transpose",
]

Array = NDArray[Any]

PAD = 16
ROWS = 4
LINE = 64

_WIDE = bool(binding.get_host_cpu_features().get("avx512f"))
# Bytes of a vector, and vectors of a tile: 16 sums in 32 registers, or 8 in 16.
BYTES, ACROSS = (64, 4) if _WIDE else (32, 2)


def tile(rows: int, across: int, ways: int = 1) -> Any:
    """A compiled function `(A, B, C, depth, accumulate)`: `C = A B`, or `C += A B`, for one tile.

    Parameters
    ----------
    rows, across : int
        Size of the tile: rows by vectors. `A` is (rows, depth), `B` (depth, columns), `C` (rows, columns).
    ways : int
        Sums kept apart along the depth, a multiple of it: for tiles so small that they would wait for
        themselves.
    """

    @intrinsic
    def product(typingctx, A, B, C, depth, accumulate):
        def generate(context, builder, signature, arguments):
            return _generate(context, builder, (A, B, C), arguments, (rows, across, ways))

        return types.void(A, B, C, types.intp, types.boolean), generate

    return product


def _generate(context: Any, builder: Any, kinds: Any, arguments: Any, size: tuple[int, int, int]) -> Any:
    """A call of the tile's function, with the arrays as addresses and strides."""
    word = ir.IntType(64)
    values = []
    for kind, value in zip(kinds, arguments[:3], strict=True):
        array = context.make_array(kind)(context, builder, value)
        values.append(builder.bitcast(array.data, ir.IntType(8).as_pointer()))
        values += cgutils.unpack_tuple(builder, array.strides)
    values += [arguments[3], builder.zext(arguments[4], word)]
    name = "bmojo_tile_" + "_".join(map(str, (*size, kinds[0].dtype)))
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(
            builder.module, ir.FunctionType(ir.VoidType(), [x.type for x in values]), name=name
        )
        # One copy, called: put into each place that uses it, it would be most of what there is to compile.
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        _write_tile(function, context.get_data_type(kinds[0].dtype), kinds[0].dtype.bitwidth // 8, size)
    builder.call(function, values)
    return context.get_dummy_value()


def _write_tile(function: Any, number: Any, width: int, size: tuple[int, int, int]) -> None:
    builder: Any = ir.IRBuilder(function.append_basic_block("entry"))
    rows, across, ways = size
    vector, byte, word = ir.VectorType(number, BYTES // width), ir.IntType(8), ir.IntType(64)
    a, a_row, a_column, b, b_row, _, c, c_row, _, depth, accumulate = function.args
    places = [(w, i, j) for w in range(ways) for i in range(rows) for j in range(across)]
    sums = {place: builder.alloca(vector) for place in places}
    counter = builder.alloca(word)

    def constant(n: int) -> Any:
        return ir.Constant(word, n)

    def address(base: Any, offset: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(base, [offset], source_etype=byte), kind.as_pointer())

    def load(base: Any, offset: Any, kind: Any) -> Any:
        value = builder.load(address(base, offset, kind))
        value.align = width
        return value

    def spread(x: Any) -> Any:
        nothing = ir.Constant(vector, ir.Undefined)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), BYTES // width), None)
        first = builder.insert_element(nothing, x, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, nothing, lanes)

    def add(w: int, i: int, j: int, value: Any) -> None:
        total = builder.fadd(builder.load(sums[w, i, j]), value, flags=("contract",))
        builder.store(total, sums[w, i, j])

    at_c = {
        (i, j): builder.add(builder.mul(c_row, constant(i)), constant(j * BYTES))
        for i in range(rows)
        for j in range(across)
    }
    for place in places:
        builder.store(ir.Constant(vector, None), sums[place])
    with builder.if_then(builder.icmp_unsigned("!=", accumulate, constant(0))):
        for (i, j), offset in at_c.items():
            builder.store(load(c, offset, vector), sums[0, i, j])
    builder.store(constant(0), counter)
    again, inside, after = (builder.append_basic_block(x) for x in ("again", "inside", "after"))
    builder.branch(again)
    builder.position_at_end(again)
    here = builder.load(counter)
    builder.cbranch(builder.icmp_unsigned("<", here, depth), inside, after)
    builder.position_at_end(inside)
    for w in range(ways):
        k = builder.add(here, constant(w))
        row = builder.mul(b_row, k)
        right = [load(b, builder.add(row, constant(j * BYTES)), vector) for j in range(across)]
        for i in range(rows):
            place = builder.add(builder.mul(a_row, constant(i)), builder.mul(a_column, k))
            left = spread(load(a, place, number))
            for j in range(across):
                add(w, i, j, builder.fmul(left, right[j], flags=("contract",)))
    builder.store(builder.add(here, constant(ways)), counter)
    builder.branch(again)
    builder.position_at_end(after)
    for w in range(1, ways):
        for i, j in at_c:
            add(0, i, j, builder.load(sums[w, i, j]))
    for (i, j), offset in at_c.items():
        stored = builder.store(builder.load(sums[0, i, j]), address(c, offset, vector))
        stored.align = width
    builder.ret_void()


_wide, _narrow = tile(ROWS, ACROSS), tile(ROWS, 1)


def _transposing(typingctx: Any, A: Any, C: Any) -> Any:
    """Square tile of one vector's length: `C = Aᵀ`, by shuffles."""

    def generate(context, builder, signature, arguments):
        number, width = context.get_data_type(A.dtype), A.dtype.bitwidth // 8
        lanes = BYTES // width
        vector, byte, word = ir.VectorType(number, lanes), ir.IntType(8), ir.IntType(64)
        index = ir.VectorType(ir.IntType(32), lanes)
        sides = []
        for kind, value in zip((A, C), arguments, strict=True):
            array = context.make_array(kind)(context, builder, value)
            base = builder.bitcast(array.data, byte.as_pointer())
            row = cgutils.unpack_tuple(builder, array.strides)[0]
            rows = [
                builder.bitcast(
                    builder.gep(base, [builder.mul(row, ir.Constant(word, i))], source_etype=byte),
                    vector.as_pointer(),
                )
                for i in range(lanes)
            ]
            sides.append(rows)
        values = []
        for pointer in sides[0]:
            values.append(builder.load(pointer))
            values[-1].align = width
        # Interleaving row i with row i + lanes / 2, log2(lanes) times, is the transpose.
        low = ir.Constant(index, [i // 2 + lanes * (i % 2) for i in range(lanes)])
        high = ir.Constant(index, [lanes // 2 + i // 2 + lanes * (i % 2) for i in range(lanes)])
        for _ in range(lanes.bit_length() - 1):
            half = lanes // 2
            pairs = [(values[i], values[i + half]) for i in range(half)]
            values = [
                builder.shuffle_vector(one, other, mask) for one, other in pairs for mask in (low, high)
            ]
        for value, pointer in zip(values, sides[1], strict=True):
            builder.store(value, pointer).align = width
        return context.get_dummy_value()

    return types.void(A, C), generate


_transpose_tile: Any = intrinsic(_transposing)


def _summing(typingctx: Any, a: Any, b: Any) -> Any:
    """Sum of the products of two contiguous vectors, in four vectors of partial sums."""

    def generate(context, builder, signature, arguments):
        number, width = context.get_data_type(a.dtype), a.dtype.bitwidth // 8
        lanes, ways = BYTES // width, 4
        vector, word = ir.VectorType(number, lanes), ir.IntType(64)
        arrays = [context.make_array(t)(context, builder, v) for t, v in zip((a, b), arguments, strict=True)]
        count = cgutils.unpack_tuple(builder, arrays[0].shape)[0]
        sums = [cgutils.alloca_once(builder, vector) for _ in range(ways)]
        rest = cgutils.alloca_once(builder, number)
        for place in sums:
            builder.store(ir.Constant(vector, None), place)
        builder.store(ir.Constant(number, 0.0), rest)

        def load(array: Any, k: Any, kind: Any) -> Any:
            value = builder.load(builder.bitcast(builder.gep(array.data, [k]), kind.as_pointer()))
            value.align = width
            return value

        def add(place: Any, k: Any, kind: Any) -> None:
            value = builder.fmul(*(load(array, k, kind) for array in arrays), flags=("contract",))
            builder.store(builder.fadd(builder.load(place), value, flags=("contract",)), place)

        step = ir.Constant(word, lanes * ways)
        blocks = builder.udiv(count, step)
        with cgutils.for_range(builder, blocks) as loop:
            start = builder.mul(loop.index, step)
            for w, place in enumerate(sums):
                add(place, builder.add(start, ir.Constant(word, w * lanes)), vector)
        done = builder.mul(blocks, step)
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            add(rest, builder.add(done, loop.index), number)
        total = builder.load(rest)
        values = [builder.load(place) for place in sums]
        folded = builder.fadd(builder.fadd(values[0], values[1]), builder.fadd(values[2], values[3]))
        while lanes > 1:
            lanes //= 2
            halves = [
                builder.shuffle_vector(
                    folded,
                    ir.Constant(folded.type, ir.Undefined),
                    ir.Constant(ir.VectorType(ir.IntType(32), lanes), [first + i for i in range(lanes)]),
                )
                for first in (0, lanes)
            ]
            folded = builder.fadd(*halves)
        return builder.fadd(total, builder.extract_element(folded, ir.Constant(ir.IntType(32), 0)))

    return a.dtype(a, b), generate


dot: Any = intrinsic(_summing)


@numba.njit(cache=True, inline="always")
def padded(n: int) -> int:
    """`n` rounded up to a multiple of `PAD`."""
    return -(-n // PAD) * PAD


@numba.njit(cache=True)
def scratch(count: int, rows: int, columns: int, like: Array) -> Array:
    """So many zero matrices (count, rows, columns) of the dtype of `like`, each row on whole cache lines."""
    size = count * rows * columns
    memory = np.zeros(size + LINE // like.itemsize, like.dtype)
    skip = (-memory.ctypes.data % LINE) // like.itemsize
    return memory[skip : skip + size].reshape((count, rows, columns))


@numba.njit(cache=True, inline="always")
def _row_block(A: Array, B: Array, C: Array, columns: int, accumulate: bool) -> None:
    """`C = A B` for `ROWS` rows and the first `columns` columns."""
    lanes = BYTES // C.itemsize
    whole = columns - columns % (ACROSS * lanes)
    for j in range(0, whole, ACROSS * lanes):
        _wide(A, B[:, j:], C[:, j:], A.shape[1], accumulate)
    for j in range(whole, columns, lanes):
        _narrow(A, B[:, j:], C[:, j:], A.shape[1], accumulate)


@numba.njit(cache=True)
def multiply(A: Array, B: Array, C: Array, accumulate: bool) -> None:
    """`C = A B`, or `C += A B`."""
    for i in range(0, len(C), ROWS):
        _row_block(A[i : i + ROWS], B, C[i : i + ROWS], C.shape[1], accumulate)


@numba.njit(cache=True)
def multiply_lower(A: Array, B: Array, C: Array, accumulate: bool) -> None:
    """The same for a lower triangular `A`."""
    for i in range(0, len(C), ROWS):
        _row_block(A[i : i + ROWS, : i + ROWS], B, C[i : i + ROWS], C.shape[1], accumulate)


@numba.njit(cache=True)
def multiply_upper(A: Array, B: Array, C: Array, accumulate: bool) -> None:
    """The same for an upper triangular `A`."""
    for i in range(0, len(C), ROWS):
        _row_block(A[i : i + ROWS, i:], B[i:], C[i : i + ROWS], C.shape[1], accumulate)


@numba.njit(cache=True)
def multiply_lower_part(A: Array, B: Array, C: Array) -> None:
    """The lower triangle of `C = A B`; above it some entries are filled, others stay."""
    for i in range(0, len(C), ROWS):
        _row_block(A[i : i + ROWS], B, C[i : i + ROWS], padded(i + ROWS), False)


@numba.njit(cache=True, fastmath={"contract"})
def solve_lower(A: Array, X: Array) -> None:
    """`X <- (I - A)⁻¹ X` for a strictly lower triangular `A`."""
    for i in range(0, len(X), ROWS):
        block = X[i : i + ROWS]
        if i > 0:
            _row_block(A[i : i + ROWS, :i], X, block, X.shape[1], True)
        for t in range(1, ROWS):
            for s in range(t):
                weight, row, above = A[i + t, i + s], block[t], block[s]
                for p in range(X.shape[1]):
                    row[p] += weight * above[p]


@numba.njit(cache=True, fastmath={"contract"})
def solve_upper(A: Array, X: Array) -> None:
    """`X <- (I - A)⁻¹ X` for a strictly upper triangular `A`."""
    for i in range(len(X) - ROWS, -1, -ROWS):
        block = X[i : i + ROWS]
        if i + ROWS < len(X):
            _row_block(A[i : i + ROWS, i + ROWS :], X[i + ROWS :], block, X.shape[1], True)
        for t in range(ROWS - 2, -1, -1):
            for s in range(t + 1, ROWS):
                weight, row, below = A[i + t, i + s], block[t], block[s]
                for p in range(X.shape[1]):
                    row[p] += weight * below[p]


@numba.njit(cache=True)
def transpose(A: Array, C: Array) -> None:
    """`C = Aᵀ`."""
    lanes = BYTES // C.itemsize
    for i in range(0, len(C), lanes):
        for j in range(0, C.shape[1], lanes):
            _transpose_tile(A[j : j + lanes, i : i + lanes], C[i : i + lanes, j : j + lanes])
