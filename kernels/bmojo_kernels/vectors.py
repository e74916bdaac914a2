r"""Vector instructions for Numba kernels, written out where the compiler does not find them by itself.

Whether LLVM turns a loop into vectors hangs on what stands around it; here it is told. `make_pass` makes an
operation on the rows of a matrix whose columns are lanes: queries, each with running numbers of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["VECTOR_BYTES", "WIDEST", "Writer", "data", "make_pass", "vector_lanes", "workspace"]

_FEATURES = llvm.get_host_cpu_features()
_WIDE = bool(_FEATURES.get("avx512f"))
VECTOR_BYTES = 64 if _WIDE else 32 if _FEATURES.get("avx2") else 16
# How many vectors a loop works on at once: 32 registers hold four and what is made of them, 16 hold two.
WIDEST = 4 if _WIDE or _FEATURES.get("neon") else 2

INT32, INT64 = ir.IntType(32), ir.IntType(64)

# 2^f on [-1/2, 1/2], from the highest power down. In float32 the polynomial with the smallest largest error,
# 9.2e-8, among those exact at 0; in float64 the series of exp(f log 2), 5e-18.
_POWERS = {
    4: (1.326472763e-3, 9.671512646e-3, 5.550733742e-2, 2.402224209e-1, 6.931469776e-1, 1.0),
    8: tuple(math.log(2.0) ** n / math.factorial(n) for n in range(13, -1, -1)),
}
# Bits of the fraction, the exponent of 1, 1.5 * 2^bits (adding and taking it off rounds to a whole number),
# and the exponent of the least normal number.
_LAYOUT = {4: (23, 127, 1.5 * 2.0**23, -126.0), 8: (52, 1023, 1.5 * 2.0**52, -1022.0)}


def vector_lanes(itemsize: int) -> int:
    """Numbers of `itemsize` bytes in one vector of this machine."""
    return VECTOR_BYTES // itemsize


@numba.njit(cache=True)
def workspace(count, like):
    """Uninitialized memory for `count` numbers of the type of `like`, at the start of a cache line.

    Vectors that lie across two lines take twice as long to load, and Numba's own arrays start anywhere.
    """
    line = 64 // like.itemsize
    found = np.empty(count + line, like.dtype)
    skip = (-(found.ctypes.data // like.itemsize)) % line
    return found[skip : skip + count]


def data(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Address of entry `at` of a contiguous array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


class Writer:
    """Vector instructions at the builder's place, for numbers of one type."""

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
        self.builder, self.size = builder, dtype.bitwidth // 8
        self.number = context.get_data_type(dtype)
        self.vector = ir.VectorType(self.number, vector_lanes(self.size))
        self.whole = ir.VectorType(ir.IntType(8 * self.size), self.vector.count)

    def every(self, value: float) -> Any:
        """The same number in every lane."""
        return ir.Constant(self.vector, [value] * self.vector.count)

    def address(self, base: Any, v: int) -> Any:
        """Address of the `v`-th vector from `base` on."""
        moved = self.builder.gep(base, [INT64(v * self.vector.count)])
        return self.builder.bitcast(moved, self.vector.as_pointer())

    def load(self, address: Any) -> Any:
        """Vector or number from an address that may lie anywhere."""
        found = self.builder.load(address)
        found.align = self.size
        return found

    def store(self, value: Any, address: Any) -> None:
        """Put a vector where it may lie anywhere."""
        self.builder.store(value, address).align = self.size

    def broadcast(self, address: Any) -> Any:
        """The number at an address in every lane."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, self.load(address), INT32(0))
        where = ir.Constant(ir.VectorType(INT32, self.vector.count), [0] * self.vector.count)
        return self.builder.shuffle_vector(first, nothing, where)

    def add(self, x: Any, y: Any) -> Any:
        """Sum, in one instruction with a product that it is made of."""
        return self.builder.fadd(x, y, flags=("contract",))

    def subtract(self, x: Any, y: Any) -> Any:
        """Difference, `x - y`."""
        return self.builder.fsub(x, y, flags=("contract",))

    def times(self, x: Any, y: Any) -> Any:
        """Product, in one instruction with a sum that it enters."""
        return self.builder.fmul(x, y, flags=("contract",))

    def larger(self, x: Any, y: Any) -> Any:
        """The larger of two, lane by lane."""
        return self.builder.select(self.builder.fcmp_ordered(">", x, y), x, y)

    def exp2(self, x: Any) -> Any:
        """Power of two; 0 where that is no normal number, exactly 1 at 0."""
        bits, one, magic, least = _LAYOUT[self.size]
        normal = self.builder.fcmp_ordered(">=", x, self.every(least))
        x = self.builder.select(normal, x, self.every(0.0))
        k = self.builder.fsub(self.builder.fadd(x, self.every(magic)), self.every(magic))
        f, p = self.builder.fsub(x, k), self.every(_POWERS[self.size][0])
        for power in _POWERS[self.size][1:]:
            p = self.add(self.times(p, f), self.every(power))
        exponent = self.builder.add(self.builder.fptosi(k, self.whole), self._whole(one))
        factor = self.builder.bitcast(self.builder.shl(exponent, self._whole(bits)), self.vector)
        return self.builder.select(normal, self.builder.fmul(p, factor), self.every(0.0))

    def _whole(self, value: int) -> Any:
        return ir.Constant(self.whole, [value] * self.vector.count)


Vectors = list[Any]


def make_pass(
    body: Callable[[Writer, Vectors, Vectors, Vectors], tuple[Vectors, Vectors]],
    *,
    matrices: int,
    running: Sequence[int] = (),
    finish: Callable[[Writer, Vectors, Vectors], dict[int, Any]] | None = None,
    states: int = 4,
) -> Any:
    """Compiled function that works through the rows of matrices, lane by lane.

    Parameters
    ----------
    body : callable
        Of the writer, each matrix's entries, the lanes' numbers and the running ones: what to put in the
        entries' place, and the next running ones.
    matrices : int
        1 or 2.
    running : sequence of int
        Rows of the state that the running numbers start from and return to.
    finish : callable, optional
        Of the writer, the lanes' numbers before and the last running ones: rows of the state to write.
    states : int
        Rows of the state, (states, lanes).

    Returns
    -------
    run : compiled function
        `run(x, y, state, lanes, rows, first, vectors)` for contiguous matrices `x`, `y` with `lanes`
        columns, of which `rows` rows and `vectors` vectors from number `first` on are worked on; `x` stands
        in for a missing `y`.
    """

    def make(width: int) -> Any:
        @intrinsic
        def group(typing, x, y, state, lanes, rows, at):
            def generate(context, builder, signature, arguments):
                x, y, state, lanes, rows, at = arguments
                write = Writer(context, builder, signature.args[0].dtype)
                bases = [
                    data(context, builder, kind, array, at)
                    for kind, array in list(zip(signature.args, (x, y), strict=False))[:matrices]
                ]
                top = data(context, builder, signature.args[2], state, at)
                tops = [builder.gep(top, [builder.mul(lanes, INT64(r))]) for r in range(states)]
                numbers = [[write.load(write.address(t, v)) for t in tops] for v in range(width)]
                entry = builder.basic_block
                head, inside, end = (builder.append_basic_block(name) for name in ("head", "inside", "end"))
                builder.branch(head)

                builder.position_at_end(head)
                carried = [[builder.phi(write.vector) for _ in running] for _ in range(width)]
                i = builder.phi(INT64)
                for lane, lane_numbers in zip(carried, numbers, strict=True):
                    for value, r in zip(lane, running, strict=True):
                        value.add_incoming(lane_numbers[r], entry)
                i.add_incoming(INT64(0), entry)
                builder.cbranch(builder.icmp_signed("<", i, rows), inside, end)

                builder.position_at_end(inside)
                row = [builder.gep(base, [builder.mul(i, lanes)]) for base in bases]
                for v in range(width):
                    places = [write.address(r, v) for r in row]
                    entries, following = body(write, [write.load(p) for p in places], numbers[v], carried[v])
                    for value, place in zip(entries, places, strict=False):
                        if value is not None:
                            write.store(value, place)
                    for value, new in zip(carried[v], following, strict=True):
                        value.add_incoming(new, inside)
                i.add_incoming(builder.add(i, INT64(1)), inside)
                builder.branch(head)

                builder.position_at_end(end)
                for v in range(width):
                    results = dict(zip(running, carried[v], strict=True))
                    if finish is not None:
                        results |= finish(write, numbers[v], carried[v])
                    for r, value in results.items():
                        write.store(value, write.address(tops[r], v))
                return context.get_dummy_value()

            return types.void(x, y, state, types.intp, types.intp, types.intp), generate

        return group

    four, two, one = make(4), make(2), make(1)

    @numba.njit
    def run(x, y, state, lanes, rows, first, vectors):
        step, v = VECTOR_BYTES // x.itemsize, 0
        while v < vectors:
            at, left = (first + v) * step, vectors - v
            if WIDEST == 4 and left >= 4:
                four(x, y, state, lanes, rows, at)
                v += 4
            elif left >= 2:
                two(x, y, state, lanes, rows, at)
                v += 2
            else:
                one(x, y, state, lanes, rows, at)
                v += 1

    return run
