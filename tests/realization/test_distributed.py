"""Work shared among processes gives what one process gives, whoever dies."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pytest

import realization as rz
from tests.tolerances import assert_close

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client() -> Any:
    with distributed.Client(
        processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as found:
        yield found


def table(length: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u = 3.0 + rng.standard_normal((length, 1))
    y = rz.StateSpace([[0.8, 0.2], [-0.2, 0.6]], [[1.0], [0.5]], [[1.0, 0.3]]).simulate(u)
    return np.hstack([u, y + 0.2 * rng.standard_normal(y.shape) - 40.0])


@pytest.mark.parametrize(("length", "chunk", "part"), [(3001, 100, 3), (3001, 7, 1), (500, 500, 2)])
def test_a_tree_of_parts_is_the_factor_in_memory(
    client: Any, tmp_path: Any, length: int, chunk: int, part: int
):
    z = table(length)
    np.save(tmp_path / "z.npy", z)
    seen = rz.distributed.factorize(
        tmp_path / "z.npy", inputs=0, outputs=1, block_rows=4, chunk=chunk, part=part, client=client
    )
    whole = rz.stream_file(rz.IOData(z[:, 1:], z[:, :1]), block_rows=4, chunk=length)
    assert seen.length == length
    assert_close(seen.factorization().R, whole.factorization().R, "recurrence")


@pytest.mark.parametrize("contiguous", [True, False])
def test_several_sources_are_one_record_or_several(client: Any, contiguous: bool):
    z = table(2500)
    pieces = [z[:900], z[900:1000], z[1000:]]
    options: dict[str, Any] = {"inputs": 0, "outputs": 1, "block_rows": 4, "chunk": 128}
    seen = rz.distributed.factorize(pieces, contiguous=contiguous, part=2, client=client, **options)
    alone = rz.stream_file(pieces, contiguous=contiguous, **options)
    assert_close(seen.factorization().R, alone.factorization().R, "recurrence")
    if contiguous:
        assert_close(seen.factorization().R, rz.stream_file(z, **options).factorization().R, "recurrence")


def test_a_fleet_lists_what_fails(client: Any, tmp_path: Any):
    z = table(400)
    records: dict[str, Any] = {f"system {k}": rz.IOData(z[:, 1:], z[:, :1]) for k in range(20)}
    records["stuck"] = rz.IOData(np.ones((400, 1)), z[:, :1])
    np.savetxt(tmp_path / "a.csv", z, delimiter=",", header="u,y")
    records["file"] = {"path": tmp_path / "a.csv", "inputs": "u", "outputs": "y"}
    records["away"] = {"path": tmp_path / "none.csv", "outputs": "y"}
    found = rz.distributed.fleet(records, method="n4sid", order=2, client=client)
    assert list(found.failures) == ["stuck", "away"]
    assert found.failures["stuck"].startswith("DataError: n4sid")
    assert "there is no file" in found.failures["away"]
    assert list(found.fits) == [name for name in records if name not in found.failures]
    expected = rz.n4sid(records["system 0"], 2).model
    for name in ("system 0", "system 19", "file"):
        assert_close(found.fits[name].model.A, expected.A, "iterative")


def test_what_cannot_be_done_says_why(client: Any, tmp_path: Any):
    with pytest.raises(rz.DataError, match="no file"):
        rz.distributed.factorize(tmp_path / "none.npy", outputs=0, client=client)
    with pytest.raises(rz.DataError, match="no source"):
        rz.distributed.factorize([], outputs=0, client=client)
    with pytest.raises(rz.DataError, match="method="):
        rz.distributed.fleet({}, method="guess", client=client)
    z = table(900)
    z[700, 1] = np.nan
    with pytest.raises(rz.DataError, match=r"from row 700 on.*NaN"):
        rz.distributed.factorize(z, inputs=0, outputs=1, chunk=100, part=2, client=client)


def deadly_fit(data: rz.IOData, order: int) -> Any:
    if data.length == 301:
        os.kill(os.getpid(), signal.SIGKILL)
    return rz.n4sid(data, order)


@pytest.fixture
def processes() -> Any:
    with rz.distributed.local_client(2) as client:
        yield client


@pytest.mark.slow
def test_a_worker_killed_changes_nothing(processes: Any, tmp_path: Any):
    np.save(tmp_path / "z.npy", table(2_000_000))
    options: dict[str, Any] = {"inputs": 0, "outputs": 1, "block_rows": 10, "chunk": 4096, "part": 4}
    undisturbed = rz.distributed.factorize(tmp_path / "z.npy", client=processes, **options)
    victims = [worker["pid"] for worker in processes.run(lambda: {"pid": os.getpid()}).values()]
    killer = threading.Timer(0.15, os.kill, (victims[0], signal.SIGKILL))
    killer.start()
    disturbed = rz.distributed.factorize(tmp_path / "z.npy", client=processes, **options)
    killer.join()
    after = [worker["pid"] for worker in processes.run(lambda: {"pid": os.getpid()}).values()]
    assert victims[0] not in after
    assert_close(disturbed.factorization().R, undisturbed.factorization().R, "bitwise")


@pytest.mark.slow
def test_a_record_that_kills_its_worker_is_listed(processes: Any):
    z = table(300)
    records = {f"{k}": rz.IOData(z[:, 1:], z[:, :1]) for k in range(5)}
    records["deadly"] = rz.IOData(table(301)[:, 1:])
    found = rz.distributed.fleet(records, method=deadly_fit, order=1, client=processes)
    assert list(found.failures) == ["deadly"]
    assert "KilledWorker" in found.failures["deadly"]
    assert len(found.fits) == 5
