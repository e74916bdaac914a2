r"""Small matrix products inside Numba kernels, with the sums kept in registers.

Loops that the compiler vectorizes reach a quarter of the processor's rate, and a call of BLAS for a product
of 64 x 64 half of it; here LLVM is told which vectors to hold. The unit of width is one vector of the
machine, `vector_lanes` numbers: rows of the second factor and of the result are whole vectors.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

from bmojo_kernels.vectors import INT64, VECTOR_BYTES, WIDEST, Writer, data

__all__ = ["multiply"]


def _make_tile(rows: int, vectors: int) -> Any:
    """Intrinsic for one tile, `rows` x `vectors` sums: see `multiply` for what the arguments are."""

    @intrinsic
    def tile(typing, a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, depth, fresh):
        place = types.intp
        given = (a, place, place, place, b, place, place, c, place, place, place, types.boolean)

        def generate(context, builder, signature, arguments):
            a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, depth, fresh = arguments
            write = Writer(context, builder, signature.args[7].dtype)
            left = data(context, builder, signature.args[0], a, a_at)
            right = data(context, builder, signature.args[4], b, b_at)
            tops = [data(context, builder, signature.args[7], c, c_at)]
            for _ in range(rows - 1):
                tops.append(builder.gep(tops[-1], [c_row]))
            results = [[write.address(top, v) for v in range(vectors)] for top in tops]
            entry = builder.basic_block
            fetch, head, body, end = (
                builder.append_basic_block(name) for name in ("fetch", "head", "body", "end")
            )
            builder.cbranch(fresh, head, fetch)
            builder.position_at_end(fetch)
            before = [[write.load(address) for address in row] for row in results]
            builder.branch(head)

            builder.position_at_end(head)
            sums = [[builder.phi(write.vector) for _ in range(vectors)] for _ in range(rows)]
            i = builder.phi(INT64)
            for row, old in zip(sums, before, strict=True):
                for total, value in zip(row, old, strict=True):
                    total.add_incoming(write.every(0.0), entry)
                    total.add_incoming(value, fetch)
            i.add_incoming(INT64(0), entry)
            i.add_incoming(INT64(0), fetch)
            builder.cbranch(builder.icmp_signed("<", i, depth), body, end)

            builder.position_at_end(body)
            b_top = builder.gep(right, [builder.mul(i, b_step)])
            factors = [write.load(write.address(b_top, v)) for v in range(vectors)]
            a_top = builder.gep(left, [builder.mul(i, a_step)])
            for r, row in enumerate(sums):
                number = write.broadcast(a_top)
                for total, factor in zip(row, factors, strict=True):
                    total.add_incoming(write.add(write.times(number, factor), total), body)
                if r + 1 < rows:
                    a_top = builder.gep(a_top, [a_row])
            i.add_incoming(builder.add(i, INT64(1)), body)
            builder.branch(head)

            builder.position_at_end(end)
            for row, addresses in zip(sums, results, strict=True):
                for total, address in zip(row, addresses, strict=True):
                    write.store(total, address)
            return context.get_dummy_value()

        return types.void(*given), generate

    return tile


_tile_4x4, _tile_8x2, _tile_4x2, _tile_8x1 = (
    _make_tile(*shape) for shape in ((4, 4), (8, 2), (4, 2), (8, 1))
)
_tile_1x4, _tile_1x2, _tile_1x1 = (_make_tile(1, vectors) for vectors in (4, 2, 1))


@numba.njit(cache=True)
def multiply(a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, rows, vectors, depth, fresh):
    """`c = a @ b`, or `c += a @ b` unless `fresh`, for blocks inside three contiguous arrays of one dtype.

    `a_at`, `b_at`, `c_at` are the places of the first entries, `a_row` and `a_step` the steps of `a` along
    rows and along the summed index, `b_step` and `c_row` those between rows of `b` and `c`; all in entries.
    `c` is `rows` high and `vectors` vectors of the machine wide, `depth` entries are summed.
    """
    lanes, v = VECTOR_BYTES // c.itemsize, 0
    while v < vectors:
        i, left = 0, vectors - v
        width = 4 if WIDEST == 4 and left >= 4 else 2 if left >= 2 else 1
        b_here, c_here = b_at + v * lanes, c_at + v * lanes
        if width == 4:
            while i + 4 <= rows:
                _tile_4x4(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_here,
                    b_step,
                    c,
                    c_here + i * c_row,
                    c_row,
                    depth,
                    fresh,
                )
                i += 4
        elif width == 2 and WIDEST == 4:
            while i + 8 <= rows:
                _tile_8x2(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_here,
                    b_step,
                    c,
                    c_here + i * c_row,
                    c_row,
                    depth,
                    fresh,
                )
                i += 8
        if width == 2:
            while i + 4 <= rows:
                _tile_4x2(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_here,
                    b_step,
                    c,
                    c_here + i * c_row,
                    c_row,
                    depth,
                    fresh,
                )
                i += 4
        elif width == 1:
            while i + 8 <= rows:
                _tile_8x1(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_here,
                    b_step,
                    c,
                    c_here + i * c_row,
                    c_row,
                    depth,
                    fresh,
                )
                i += 8
        while i < rows:
            if width == 4:
                _tile_1x4(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_here,
                    b_step,
                    c,
                    c_here + i * c_row,
                    c_row,
                    depth,
                    fresh,
                )
            elif width == 2:
                _tile_1x2(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_here,
                    b_step,
                    c,
                    c_here + i * c_row,
                    c_row,
                    depth,
                    fresh,
                )
            else:
                _tile_1x1(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_step,
                    b,
                    b_here,
                    b_step,
                    c,
                    c_here + i * c_row,
                    c_row,
                    depth,
                    fresh,
                )
            i += 1
        v += width
