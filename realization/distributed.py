r"""Identification on many processes or machines, by Dask: records reduced where they lie, fleets of systems.

A record is cut into parts at fixed rows; each part is reduced to its lagged products by the worker that reads
it, and these are merged as a tree, in the order of time. What comes out depends neither on the number of
workers nor on which of them dies: a part that is lost is reduced again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from realization.arguments import check_whole
from realization.errors import DataError
from realization.signals.chunks import Column, source_of
from realization.signals.data import IOData
from realization.stream import StreamingFactorization
from realization.streaming import CHUNK, as_sequence, take

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Fleet", "factorize", "fleet", "local_client"]

BATCH = 16
KEPT_MEMORY = 1 << 28


@dataclass(frozen=True)
class Fleet:
    """Many systems, each identified from its own record.

    Attributes
    ----------
    fits : dict from str to result
        What the method gave, by name.
    failures : dict from str to str
        What went wrong with the others, in a line.

    Examples
    --------
    >>> from realization.distributed import Fleet
    >>> Fleet({}, {"pump 3": "DataError: output 'y1' is constant"})
    Fleet(0 fits, 1 failure)
    """

    fits: dict[str, Any]
    failures: dict[str, str]

    def __repr__(self) -> str:
        count = len(self.failures)
        return f"Fleet({len(self.fits)} fits, {count} failure{'' if count == 1 else 's'})"


def factorize(
    source: Any,
    *,
    outputs: Column | Sequence[Column] = (),
    inputs: Column | Sequence[Column] = (),
    block_rows: int = 15,
    dt: float | None = None,
    contiguous: bool = False,
    chunk: int = CHUNK,
    part: int = 16,
    client: Client | None = None,
) -> StreamingFactorization:
    r"""One factorization of records of any size, reduced by many workers; as `stream_file` to rounding.

    Parameters
    ----------
    source : path, IOData, ndarray of shape (T, columns), or a sequence of these
        As for `stream_file`; workers open paths themselves.
    outputs, inputs : sequence of str or int
        Columns by name or number.
    block_rows : int
        Block rows of the past and of the future.
    dt : float, optional
        Seconds between samples.
    contiguous : bool
        Whether each source goes on where the one before ends.
    chunk : int
        Samples read at a time by a worker.
    part : int
        Chunks in a part, which one worker reduces; a text file is one part.
    client : distributed.Client, optional
        The current one when left out, else workers on this machine, one a core, for this call.

    Returns
    -------
    StreamingFactorization

    Raises
    ------
    DataError
        As for `stream_file`.
    ImportError
        If Dask is not installed.

    References
    ----------
    J. Demmel, L. Grigori, M. Hoemmen, J. Langou, Communication-optimal parallel and sequential QR and LU
    factorizations, SIAM J. Sci. Comput. 34 (2012) A206-A239 (reduction by a tree).

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from distributed import Client
    >>> rng = np.random.default_rng(0)
    >>> y = rz.InnovationsModel([[0.8]], np.zeros((1, 0)), [[1.0]], K=[[0.5]]).simulate(
    ...     e=rng.standard_normal((4000, 1)))
    >>> with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
    ...     seen = rz.distributed.factorize(rz.IOData(y), block_rows=5, chunk=500, part=2, client=client)
    >>> seen.length, seen.n4sid(1).poles.real.round(1)
    (4000, array([0.8]))
    """
    check_whole("factorize", chunk=(chunk, 1), part=(part, 1), block_rows=(block_rows, 2))
    wanted = as_sequence(outputs), as_sequence(inputs)
    places = list(source) if isinstance(source, list | tuple) else [source]
    if not places:
        raise DataError("factorize: no source came; at least one is needed.")
    options = {"block_rows": block_rows, "dt": dt}
    with _connected(client) as workers:
        records = []
        for place in places:
            length = source_of(place, *wanted, chunk).length
            if not isinstance(place, str | os.PathLike):
                place = workers.scatter(place, hash=False)
            count = 1 if length is None else max(1, -(-length // (chunk * part)))
            steps = None if length is None else part
            parts = [
                workers.submit(_reduced, place, wanted, options, chunk, k * part, steps, pure=False)
                for k in range(count)
            ]
            records.append(parts)
        if contiguous:
            records = [[one for parts in records for one in parts]]
        whole = _tree(workers, [_tree(workers, parts, True) for parts in records], False)
        return whole.result()


def _reduced(
    place: Any,
    wanted: tuple[list[Column], list[Column]],
    options: dict[str, Any],
    chunk: int,
    first: int,
    count: int | None,
) -> StreamingFactorization:
    """Some chunks of a source, reduced."""
    outputs, inputs = wanted
    p, m = (place.n_outputs, place.n_inputs) if isinstance(place, IOData) else (len(outputs), len(inputs))
    source, seen = source_of(place, outputs, inputs, chunk), StreamingFactorization(p, m, **options)
    for k, z in enumerate(islice(source.chunks(chunk, first), count), start=first):
        take(seen, z, source, k * chunk)
    return seen


def _merged(a: StreamingFactorization, b: StreamingFactorization, contiguous: bool) -> StreamingFactorization:
    return a.merge(b, contiguous=contiguous)


def _tree(workers: Client, parts: list[Any], contiguous: bool) -> Any:
    """Neighbours merged, and these again, until one is left: the order does not depend on who is fast."""
    while len(parts) > 1:
        parts = [
            workers.submit(_merged, *pair, contiguous, pure=False) if len(pair) == 2 else pair[0]
            for pair in (parts[k : k + 2] for k in range(0, len(parts), 2))
        ]
    return parts[0]


def fleet(
    records: Mapping[str, IOData | Mapping[str, Any]],
    *,
    method: str | Callable[..., Any] = "identify",
    client: Client | None = None,
    **options: Any,
) -> Fleet:
    """Identify many systems in parallel; what fails is listed, and stops nothing else.

    Parameters
    ----------
    records : mapping from str to IOData or mapping
        One record a system, by name. A mapping holds the arguments of `read_data` (`path`, `outputs`, ...):
        the worker reads the file.
    method : str or callable
        A function of `realization` by name (`"identify"`, `"n4sid"`, ...), or one that takes a record.
    client : distributed.Client, optional
        The current one when left out, else workers on this machine, one a core, for this call.
    **options
        Of the method.

    Returns
    -------
    Fleet

    Raises
    ------
    DataError
        If there is no such method.
    ImportError
        If Dask is not installed.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from distributed import Client
    >>> rng = np.random.default_rng(0)
    >>> records = {f"pump {k}": rz.IOData(rng.standard_normal(200).cumsum()) for k in range(3)}
    >>> records["stuck"] = rz.IOData(np.ones(200))
    >>> with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
    ...     found = rz.distributed.fleet(records, method="n4sid", order=1, client=client)
    >>> found, list(found.failures)
    (Fleet(3 fits, 1 failure), ['stuck'])
    """
    import realization

    if isinstance(method, str) and method not in realization.__all__:
        raise DataError(f"fleet: method={method!r} came; a function of realization, such as 'identify'.")
    names = list(records)
    fits: dict[str, Any] = {}
    failures: dict[str, str] = {}

    def collect(batches: list[list[str]], workers: Client) -> list[str]:
        """Run batches; give back the systems whose batch was lost with its worker."""
        lost: list[str] = []
        futures = [
            workers.submit(_identified, {name: records[name] for name in batch}, method, options, pure=False)
            for batch in batches
        ]
        for batch, future in zip(batches, futures, strict=True):
            error: Any = future.exception()
            if error is None:
                for name, (fit, failure) in future.result().items():
                    fits.update({} if failure else {name: fit})
                    failures.update({name: failure} if failure else {})
            elif len(batch) > 1:
                lost += batch
            else:
                failures[batch[0]] = _in_a_line(error)
        return lost

    with _connected(client) as workers:
        lost = collect([names[k : k + BATCH] for k in range(0, len(names), BATCH)], workers)
        collect([[name] for name in lost], workers)
    return Fleet(
        {name: fits[name] for name in names if name in fits},
        {name: failures[name] for name in names if name in failures},
    )


def _identified(
    records: Mapping[str, Any], method: str | Callable[..., Any], options: dict[str, Any]
) -> dict[str, tuple[Any, str]]:
    """Result, or what went wrong, of each of some systems."""
    import realization

    function = getattr(realization, method) if isinstance(method, str) else method
    found: dict[str, tuple[Any, str]] = {}
    for name, record in records.items():
        try:
            data = record if isinstance(record, IOData) else realization.read_data(**record)
            found[name] = function(data, **options), ""
        except Exception as error:  # isolation is the purpose
            found[name] = None, _in_a_line(error)
    return found


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def local_client(workers: int | None = None) -> Iterator[Client]:
    """Workers on this machine, one thread each, that end with the block.

    Dask tells its workers to give freed memory back at once, which costs them more than half of their speed
    (every array of a chunk is mapped anew); these keep up to 256 MB.

    Parameters
    ----------
    workers : int, optional
        One a core when left out.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ImportError
        If Dask is not installed.

    Examples
    --------
    In a script, below `if __name__ == "__main__":`, since the workers import it:

    >>> import realization as rz
    >>> with rz.distributed.local_client(2) as client: # doctest: +SKIP
    ...     found = rz.distributed.fleet(records, client=client)
    """
    check_whole("local_client", workers=(workers, 1))
    try:
        import dask.config
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError("distributed: Dask is not installed: pip install 'realization[dask]'.") from error
    name = "distributed.nanny.pre-spawn-environ"
    kept = {"MALLOC_TRIM_THRESHOLD_": str(KEPT_MEMORY), "MALLOC_MMAP_THRESHOLD_": str(KEPT_MEMORY)}
    with (
        dask.config.set({name: {**dask.config.get(name, {}), **kept}}),
        LocalCluster(
            n_workers=workers or multiprocessing.cpu_count(),
            threads_per_worker=1,
            dashboard_address=None,  # pyright: ignore[reportArgumentType]
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _connected(client: Client | None) -> Iterator[Client]:
    """The client given, the current one, or workers on this machine that end with the block."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("distributed: Dask is not installed: pip install 'realization[dask]'.") from error
    if client is not None:
        yield client
        return
    try:
        current = Client.current()
    except ValueError:
        current = None
    if current is not None:
        yield current
        return
    with local_client() as local:
        yield local
