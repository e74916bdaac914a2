r"""Identification of files larger than memory: read in chunks, reduced as they come, resumable.

A chunk of samples is reduced to lagged products, so that memory depends neither on the length of the record
nor on where it was interrupted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realization.archives import load_arrays
from realization.arguments import check_whole
from realization.errors import DataError
from realization.files import read_small, write_atomically
from realization.progress import Progress
from realization.signals.chunks import Column, Source, source_of
from realization.stream import StreamingFactorization

__all__ = ["as_sequence", "stream_file"]

MAGIC = b"realization-stream-1\n"
LARGEST_CHECKPOINT = 1 << 30
CHUNK = 65_536


def stream_file(
    source: Any,
    *,
    outputs: Column | Sequence[Column] = (),
    inputs: Column | Sequence[Column] = (),
    block_rows: int = 15,
    dt: float | None = None,
    contiguous: bool = False,
    chunk: int = CHUNK,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 64,
    progress: bool | None = None,
) -> StreamingFactorization:
    r"""Reduce files of any size to one factorization, from which models of every order are read.

    $$G = \sum_t z_{t:t+2i}\, z_{t:t+2i}^\top, \qquad z = (u, y)$$

    Parameters
    ----------
    source : path, IOData, ndarray of shape (T, columns), or a sequence of these
        Files end in `.npy` (a matrix, a vector or named fields), `.zarr` (a matrix, or a group of vectors),
        `.parquet`, `.csv`, `.tsv`, `.txt` or `.dat`.
    outputs, inputs : sequence of str or int
        Columns by name, or by number from 0. An `IOData` has its own.
    block_rows : int
        Block rows of the past and of the future.
    dt : float, optional
        Seconds between samples.
    contiguous : bool
        Whether each source goes on where the one before ends; else they are separate experiments.
    chunk : int
        Samples read at a time; memory is in proportion.
    checkpoint : path, optional
        A file in which work is saved, whole and with a checksum; if it is there, work goes on from it, and
        ends with the same numbers to the last bit. It is left in place.
    every : int
        Chunks between two savings.
    progress : bool, optional
        Whether a bar shows how far it is; when left out, on a terminal.

    Returns
    -------
    StreamingFactorization
        `.n4sid(order)`, `.ssarx(order)`, `.pbsid(order)`, `.factorization()`.

    Raises
    ------
    DataError
        If a file or column is not there, a value is not finite (with its place), or the checkpoint is
        damaged or of another work.

    References
    ----------
    T. Kailath, A. H. Sayed, Displacement structure: theory and applications, SIAM Review 37 (1995) 297-386.

    Examples
    --------
    >>> import pathlib, tempfile, numpy as np, realization as rz
    >>> u = np.random.default_rng(0).standard_normal((5000, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * u[::-1]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(pathlib.Path(folder, "record.npy"), np.hstack([u, y]))
    ...     seen = rz.stream_file(pathlib.Path(folder, "record.npy"), inputs=[0], outputs=[1], block_rows=5)
    >>> seen.length, seen.n4sid(1).poles.real.round(2)
    (5000, array([0.8]))
    """
    check_whole("stream_file", chunk=(chunk, 1), every=(every, 1), block_rows=(block_rows, 2))
    wanted = as_sequence(outputs), as_sequence(inputs)
    places = list(source) if isinstance(source, list | tuple) else [source]
    if not places:
        raise DataError("stream_file: no source came; at least one is needed.")
    sources = [source_of(place, *wanted, chunk) for place in places]
    p, m = _channels(places[0], *wanted)
    work = {"marks": [s.mark for s in sources], "columns": [[str(c) for c in part] for part in wanted]}
    work |= {"block_rows": block_rows, "dt": dt, "chunk": chunk, "contiguous": contiguous}
    seen, number, done = StreamingFactorization(p, m, block_rows=block_rows, dt=dt), 0, 0
    if checkpoint is not None and Path(checkpoint).exists():
        seen, number, done = _read_checkpoint(checkpoint, work, seen)
    with Progress("stream_file", shown=progress, unit="sample") as bar:
        bar.expect(sum(s.length or 0 for s in sources))
        bar.advance(seen.length)
        since = 0
        for at in range(number, len(sources)):
            if at > number:
                done = 0
                if not contiguous:
                    seen.end_record()
            for k, z in enumerate(sources[at].chunks(chunk, done), start=done):
                take(seen, z, sources[at], k * chunk)
                bar.advance(len(z))
                since += 1
                if checkpoint is not None and since % every == 0:
                    _write_checkpoint(checkpoint, work, seen, at, k + 1)
                done = k + 1
        if checkpoint is not None:
            _write_checkpoint(checkpoint, work, seen, len(sources) - 1, done)
    return seen


def take(seen: StreamingFactorization, z: np.ndarray, source: Source, begin: int) -> None:
    """Put a chunk to a stream; what is wrong with it is said with its place."""
    m = seen.n_inputs
    try:
        seen.update(z[:, m:], z[:, :m] if m else None)
    except DataError as error:
        raise DataError(f"{source.name}, from row {begin} on: {error}") from None


def as_sequence(columns: Column | Iterable[Column]) -> list[Column]:
    """One column as a list of one."""
    return [columns] if isinstance(columns, str | int) else list(columns)


def _channels(place: Any, outputs: Sequence[Column], inputs: Sequence[Column]) -> tuple[int, int]:
    if hasattr(place, "n_outputs"):
        return place.n_outputs, place.n_inputs
    return len(outputs), len(inputs)


def _write_checkpoint(
    path: str | os.PathLike[str], work: dict[str, Any], seen: StreamingFactorization, number: int, done: int
) -> None:
    buffer = io.BytesIO()
    header = json.dumps({"work": work, "source": number, "chunk": done})
    np.savez(buffer, header=np.array(header), **seen._arrays())  # pyright: ignore[reportArgumentType]
    content = buffer.getvalue()
    write_atomically(path, MAGIC + hashlib.sha256(content).digest() + content)


def _read_checkpoint(
    path: str | os.PathLike[str], work: dict[str, Any], fresh: StreamingFactorization
) -> tuple[StreamingFactorization, int, int]:
    try:
        raw = read_small(path, LARGEST_CHECKPOINT)
        begin = len(MAGIC) + 32
        if raw[: len(MAGIC)] != MAGIC or raw[len(MAGIC) : begin] != hashlib.sha256(raw[begin:]).digest():
            raise ValueError("its checksum is another")
        arrays = load_arrays(raw[begin:])
        if not isinstance(arrays, dict):
            raise ValueError("it holds one array")
        header = json.loads(str(arrays.pop("header")))
        told, number, done = header["work"], header["source"], header["chunk"]
        if not (isinstance(told, dict) and type(number) is type(done) is int and min(number, done) >= 0):
            raise ValueError("its header is another")
        if told == work:
            _check_arrays(arrays, fresh._arrays())
            seen = StreamingFactorization._from_arrays(arrays)
            return seen, min(number, len(work["marks"])), done
    except (OSError, LookupError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise DataError(
            f"stream_file: the checkpoint {path} is damaged or none ({error}). Delete it to begin anew."
        ) from None
    changed = [name for name in {**work, **told} if told.get(name) != work.get(name)]
    raise DataError(
        f"stream_file: the checkpoint {path} is of another work ({', '.join(changed)} differ). Name "
        "another file, or delete it to begin anew."
    )


def _check_arrays(arrays: dict[str, np.ndarray], fresh: dict[str, np.ndarray]) -> None:
    """Refuse arrays that do not fit this work, before any memory is taken for what they say."""
    if set(arrays) != set(fresh) or any(x.dtype != np.float64 for x in arrays.values()):
        raise ValueError("it holds other arrays")
    q, lagged = fresh["starts"].size, len(fresh["products"])
    for name, x in arrays.items():
        if name == "origin":
            fits = x.shape in ((0,), (q,))
        elif name in ("head", "rest"):
            fits = x.ndim == 2 and x.shape[1] == q and len(x) <= lagged
        else:
            fits = x.shape == fresh[name].shape
        if not fits:
            raise ValueError(f"{name} has shape {x.shape}")
    if (arrays["numbers"][:3] != fresh["numbers"][:3]).any():
        raise ValueError("it is of other channels")
