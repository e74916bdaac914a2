"""What the Triton kernels share: launching, tables of chunks, precision of products.

Loaded only where a Triton kernel is about to run. A launch can be recorded instead of made (`recording`),
from meta tensors, so that every kernel is compiled for chips that are not here with just its arguments there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.backends import interpreting

__all__ = [
    "Chunks",
    "Launch",
    "architecture",
    "ceil_div",
    "chunk_decays",
    "chunk_logs",
    "chunked",
    "launch",
    "load_rows",
    "load_tile",
    "power_of_two",
    "precision",
    "processors",
    "product_dtype",
    "recording",
    "store_rows",
    "store_tile",
    "tables",
]

# Multiprocessors of each chip, for deciding how far to split time.
PROCESSORS = {"sm_80": 108, "sm_90": 132, "gfx942": 304}
CLOSED = tl.constexpr(-104.0)  # a logarithm of which nothing is left in float32


@dataclass
class Launch:
    """One kernel with the arguments it would be launched with."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass
class _Recorder:
    architecture: str
    launches: list[Launch] = field(default_factory=list)


_recorders: list[_Recorder] = []


@contextmanager
def recording(architecture: str) -> Iterator[list[Launch]]:
    """Collect launches as they would be made on a chip, and make none."""
    recorder = _Recorder(architecture)
    _recorders.append(recorder)
    try:
        yield recorder.launches
    finally:
        _recorders.remove(recorder)


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, **options: Any) -> None:
    """Run a kernel over a grid on the device of its first tensor; an empty grid runs nothing."""
    if _recorders:
        _recorders[-1].launches.append(Launch(kernel, tuple(grid), arguments, options))
        return
    if 0 in grid:
        return
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    if device.type == "cpu" or device.index == torch.cuda.current_device():
        kernel[tuple(grid)](*arguments, **options)
        return
    with torch.cuda.device(device):
        kernel[tuple(grid)](*arguments, **options)


@cache
def _architecture(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@cache
def _processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def architecture(x: Tensor) -> str:
    """Name of the chip that a tensor lies on, as in `sm_90`; the nearest one that was tuned for."""
    if _recorders:
        return _recorders[-1].architecture
    if x.device.type != "cuda":
        return "sm_90"
    name = _architecture(x.device.index or 0)
    if name in PROCESSORS:
        return name
    return "gfx942" if name.startswith("gfx") else ("sm_90" if name >= "sm_90" else "sm_80")


def processors(x: Tensor) -> int:
    """Multiprocessors of the chip that a tensor lies on."""
    if _recorders or x.device.type != "cuda":
        return PROCESSORS[architecture(x)]
    return _processors(x.device.index or 0)


def ceil_div(n: int, d: int) -> int:
    """How many pieces of `d` cover `n`."""
    return -(-n // d)


def power_of_two(n: int, least: int = 1) -> int:
    """The smallest power of two that is not below `n` and `least`; matrix units need 16 of each side."""
    return max(least, 1 << max(n - 1, 0).bit_length())


def product_dtype(x: Tensor) -> tl.dtype:
    """In what products are taken: the interpreter's bfloat16 products are wrong, so it takes float32."""
    return tl.bfloat16 if x.dtype is torch.bfloat16 and not interpreting() else tl.float32


def precision(x: Tensor) -> str:
    """How products of float32 are taken on the matrix units.

    To float32's own precision, by three products of the shorter format where there is no other way; torch's
    `set_float32_matmul_precision("high")` allows the short format alone, as it does for torch's products.
    """
    if architecture(x).startswith("gfx"):
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@triton.jit
def load_tile(p, rows, there, head, HEADS, width, start, COLUMNS: tl.constexpr):
    """Columns from `start` on of one head of rows of a (rows, heads, width) array; zero outside."""
    c = start + tl.arange(0, COLUMNS)
    place = (rows[:, None] * HEADS + head) * width + c[None, :]
    return tl.load(p + place, mask=there[:, None] & (c < width)[None, :], other=0.0)


@triton.jit
def store_tile(p, x, rows, there, head, HEADS, width, start, COLUMNS: tl.constexpr):
    """What `load_tile` reads, written in the array's dtype."""
    c = start + tl.arange(0, COLUMNS)
    place = (rows[:, None] * HEADS + head) * width + c[None, :]
    tl.store(p + place, x.to(p.dtype.element_ty), mask=there[:, None] & (c < width)[None, :])


@triton.jit
def load_rows(p, first, t, there, head, HEADS, width, start, COLUMNS: tl.constexpr):
    """As `load_tile`, of rows `first + t`: offsets from the first one are counted in 32 bits."""
    c = start + tl.arange(0, COLUMNS)
    place = t[:, None] * (HEADS * width) + c[None, :]
    rows = p + (first * HEADS + head) * width
    return tl.load(rows + place, mask=there[:, None] & (c < width)[None, :], other=0.0)


@triton.jit
def store_rows(p, x, first, t, there, head, HEADS, width, start, COLUMNS: tl.constexpr):
    """What `load_rows` reads, written in the array's dtype."""
    c = start + tl.arange(0, COLUMNS)
    place = t[:, None] * (HEADS * width) + c[None, :]
    rows = p + (first * HEADS + head) * width
    tl.store(rows + place, x.to(p.dtype.element_ty), mask=there[:, None] & (c < width)[None, :])


@triton.jit
def chunk_logs(log_decay, first, t, count, head, H):
    """Of each step of a chunk: its logarithm, the sum up to it, the sum of those after it."""
    start = log_decay + first * H + head
    a = tl.load(start + t * H, mask=t < count, other=0.0).to(tl.float32)
    later = tl.load(start + t * H + H, mask=t + 1 < count, other=0.0).to(tl.float32)
    return a, tl.cumsum(a, 0), tl.cumsum(later, 0, reverse=True)


@triton.jit
def chunk_decays(a, t, count, KIND: tl.constexpr, TURNED: tl.constexpr):
    """Decay from step s (columns) to step t (rows), 0 where s is later; turned with s in the rows.

    For products of float32 by sums over just the steps between the two, so that a gate that closes takes no
    digits from the steps behind it; for those of a shorter format by differences of one sum, in which a
    closed gate counts no more than it must to leave nothing.
    """
    if TURNED:
        earlier, later = t[:, None], t[None, :]
    else:
        earlier, later = t[None, :], t[:, None]
    inside = (later >= earlier) & (later < count)
    if tl.float32 == KIND:
        if TURNED:
            between = tl.cumsum(tl.where(later > earlier, a[None, :], 0.0), 1)
        else:
            between = tl.cumsum(tl.where(later > earlier, a[:, None], 0.0), 0)
    else:
        total = tl.cumsum(tl.maximum(a, CLOSED), 0)
        if TURNED:
            between = total[None, :] - total[:, None]
        else:
            between = total[:, None] - total[None, :]
    return tl.exp(tl.where(inside, between, float("-inf")))


@dataclass(frozen=True)
class Chunks:
    """Where chunks of sequences lie that follow one another along one axis of rows.

    Parameters
    ----------
    bounds : Tensor of int64, shape (S + 1,)
        Rows at which sequences begin, and the end.
    first : Tensor of int64, shape (chunks,)
        First row of each chunk; there may be entries for no chunk at the end.
    sequence : Tensor of int32, shape (chunks,)
        The sequence that it belongs to; -1 for no chunk.
    offsets : Tensor of int64, shape (S + 1,)
        Chunks at which sequences begin, and the end.
    length : int
        Rows in a chunk.
    whole : bool
        Whether every chunk is a whole sequence.
    """

    bounds: Tensor
    first: Tensor
    sequence: Tensor
    offsets: Tensor
    length: int
    whole: bool

    @property
    def count(self) -> int:
        """Number of entries."""
        return self.first.shape[0]

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return self.bounds.shape[0] - 1


def chunked(x: Tensor, cu_seqlens: Tensor | None, length: int) -> Chunks:
    """Chunks of at most `length` rows of x (B, T, ...), or of its packed sequences.

    The device is not waited for: there may be entries for no chunk.
    """
    (batch, steps), device = x.shape[:2], x.device
    if cu_seqlens is None:
        return _even(batch, steps, length, device)
    bounds = cu_seqlens.to(device=device, dtype=torch.int64)
    rows = steps // length + len(cu_seqlens) - 1
    per_sequence = (bounds.diff() + (length - 1)) // length
    offsets = torch.cat([bounds.new_zeros(1), per_sequence.cumsum(0)])
    number = torch.arange(rows, device=device)
    sequence = torch.searchsorted(offsets, number, right=True) - 1
    there = sequence < len(bounds) - 1
    known = sequence.clamp(0, max(len(bounds) - 2, 0))
    first = bounds[known] + (number - offsets[known]) * length
    return Chunks(bounds, first, torch.where(there, sequence, -1).int(), offsets, length, length >= steps)


def tables(make: Callable[..., Any]) -> Callable[..., Any]:
    """Let small tables on the device that follow from their arguments alone be made once and kept.

    Each would take several launches in every pass. One stream's are not another's, and what is made while a
    graph is captured belongs to the graph.
    """
    kept = lru_cache(maxsize=256)(lambda stream, *arguments: make(*arguments))

    def found(*arguments: Any) -> Any:
        device = next(x for x in arguments if isinstance(x, torch.device))
        if device.type != "cuda" or _recorders or torch.cuda.is_current_stream_capturing():
            return make(*arguments)
        return kept(torch.cuda.current_stream(device).cuda_stream, *arguments)

    return found


@tables
def _even(batch: int, steps: int, length: int, device: torch.device) -> Chunks:
    """Chunks of sequences of one length, from as few operations as can be: each is a launch."""
    each = -(-steps // length)

    def count(number: int, step: int = 1, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.arange(0, number * max(step, 1), max(step, 1), device=device, dtype=dtype)

    bounds = count(batch + 1, steps) if steps else torch.zeros(batch + 1, device=device, dtype=torch.int64)
    offsets = count(batch + 1, each) if steps else bounds
    sequence = count(batch * each, 1, torch.int32)
    sequence = sequence if each == 1 else sequence // max(each, 1)
    if steps % length == 0:
        first = count(batch * each, length)
    elif each == 1:
        first = bounds[:-1]
    else:
        first = count(batch * each, length) - sequence * (each * length - steps)
    return Chunks(bounds, first, sequence, offsets, length, length >= steps)
