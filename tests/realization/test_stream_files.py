"""Files larger than memory: every format and chunking is the record in memory; interrupted work goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import realization as rz
from realization.streaming import stream_file
from tests.tolerances import assert_close

OPTIONS: dict[str, Any] = {"block_rows": 4, "chunk": 256}


def table(length: int = 3001) -> np.ndarray:
    rng = np.random.default_rng(1)
    u = 3.0 + rng.standard_normal((length, 1))
    y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((length, 1))
    return np.hstack([u, y - 20.0])


def write(z: np.ndarray, path: Path) -> tuple[Any, Any]:
    """Write a table in the format of the ending; its input and output are given back."""
    frame = pd.DataFrame(z, columns=["u", "y"])  # pyright: ignore[reportArgumentType]
    if path.name == "fields.npy":
        np.save(path, frame.to_records(index=False))
        return "u", "y"
    if path.suffix == ".npy":
        np.save(path, np.asfortranarray(z) if path.stem == "fortran" else z)
        return 0, 1
    if path.suffix == ".parquet":
        frame.to_parquet(path, row_group_size=700)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        zarr = pytest.importorskip("zarr")
        if path.stem == "matrix":
            zarr.save_array(path, z)
            return 0, 1
        group = zarr.open_group(path, mode="w")
        group["u"], group["y"] = z[:, 0], z[:, 1]
    return "u", "y"


FILES = ["c.npy", "fortran.npy", "fields.npy", "a.parquet", "a.csv", "matrix.zarr", "group.zarr"]


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_the_record_in_memory(tmp_path: Path, name: str):
    z = table()
    u, y = write(z, tmp_path / name)
    seen = stream_file(tmp_path / name, inputs=u, outputs=y, **OPTIONS)
    plain = stream_file(z, inputs=0, outputs=1, **OPTIONS)
    assert_close(seen.factorization().R, plain.factorization().R, "bitwise")
    whole = rz.subspace_orders(rz.IOData(z[:, 1:], z[:, :1]), [1], block_rows=4).models[1]
    assert_close(seen.n4sid(1).poles, whole.poles, "iterative")


@pytest.mark.parametrize("name", ["c.npy", "a.parquet", "a.csv", "group.zarr"])
def test_a_run_that_stopped_goes_on_to_the_same_numbers(tmp_path: Path, name: str, monkeypatch: Any):
    z = table()
    u, y = write(z, tmp_path / name)
    whole = stream_file(tmp_path / name, inputs=u, outputs=y, **OPTIONS)
    kept = tmp_path / "state"
    from realization import streaming

    take, left = streaming.take, [7]

    def until(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        take(*arguments)

    monkeypatch.setattr(streaming, "take", until)
    with pytest.raises(KeyboardInterrupt):
        stream_file(tmp_path / name, inputs=u, outputs=y, checkpoint=kept, every=3, **OPTIONS)
    monkeypatch.setattr(streaming, "take", take)
    seen = stream_file(tmp_path / name, inputs=u, outputs=y, checkpoint=kept, every=3, **OPTIONS)
    assert seen.length == len(z)
    assert_close(seen.factorization().R, whole.factorization().R, "bitwise")
    again = stream_file(tmp_path / name, inputs=u, outputs=y, checkpoint=kept, **OPTIONS)
    assert_close(again.factorization().R, whole.factorization().R, "bitwise")


def test_several_files_are_one_record_or_several(tmp_path: Path):
    z = table()
    names = [tmp_path / f"{k}.npy" for k in range(3)]
    for name, part in zip(names, np.split(z, [1000, 1003])):
        np.save(name, part)
    options: dict[str, Any] = OPTIONS | {"inputs": 0, "outputs": 1}
    joint = stream_file(names, contiguous=True, **options)
    assert_close(joint.factorization().R, stream_file(z, **options).factorization().R, "recurrence")
    apart = stream_file([names[0], names[2]], **options)
    assert apart.length == len(z) - 3
    whole = rz.IOData.concatenate([rz.IOData(p[:, 1:], p[:, :1]) for p in (z[:1000], z[1003:])])
    expected = rz.subspace_orders(whole, [1], block_rows=4).models[1]
    assert_close(apart.n4sid(1).poles, expected.poles, "iterative")


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path):
    z, kept = table(600), tmp_path / "state"
    options: dict[str, Any] = OPTIONS | {"inputs": 0, "outputs": 1}
    stream_file(z, checkpoint=kept, **options)
    raw = kept.read_bytes()
    for bad in (raw[:-1], raw[:50], b"", raw[:-5] + b"\0" + raw[-4:], b"junk" * 100):
        kept.write_bytes(bad)
        with pytest.raises(rz.DataError, match="damaged or none"):
            stream_file(z, checkpoint=kept, **options)
        assert kept.read_bytes() == bad
    kept.write_bytes(raw)
    with pytest.raises(rz.DataError, match=r"another work.*block_rows"):
        stream_file(z, checkpoint=kept, **options | {"block_rows": 5})


def test_what_cannot_be_read_says_where(tmp_path: Path):
    z = table(600)
    spoilt = z.copy()
    spoilt[300, 1] = np.nan
    np.save(tmp_path / "a.npy", spoilt)
    with pytest.raises(rz.DataError, match=r"from row 256 on.*NaN"):
        stream_file(tmp_path / "a.npy", inputs=0, outputs=1, **OPTIONS)
    np.save(tmp_path / "objects.npy", np.array([{}, None] * 50), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 50)
    (tmp_path / "a.csv").write_text("u,y\n1,2\n3\n")
    (tmp_path / "a.zarr").mkdir()
    for name in ("objects.npy", "cut.npy", "a.parquet", "a.csv", "a.zarr", "none.npy", "a.xyz"):
        with pytest.raises(rz.DataError):
            stream_file(tmp_path / name, inputs=0, outputs=1, **OPTIONS)
    for column in ("speed", 7, -1):
        with pytest.raises(rz.DataError, match="is not there"):
            stream_file(tmp_path / "a.npy", outputs=column, **OPTIONS)
    with pytest.raises(rz.DataError, match="at least one output"):
        stream_file(tmp_path / "a.npy", **OPTIONS)
    with pytest.raises(rz.DataError, match="no source"):
        stream_file([], outputs=0, **OPTIONS)
