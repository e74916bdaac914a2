"""Read forged folders, and say of each which files outside of it were opened: `python watched.py ROOT`.

Python tells of what it opens itself (`sys.addaudithook`). Libraries in other languages do not: the folder
that links and names lead to is watched by the system (inotify), which tells of whatever opens in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import realization as rz
from tests.trust.strangers import KINDS, made, read

OPENED, RECORDED = 0x20, ("open", "os.listdir", "os.scandir")  # IN_OPEN; what Python tells of
recorded: list[str] | None = None


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if recorded is not None and event in RECORDED and isinstance(arguments[0], str | bytes | os.PathLike):
        recorded.append(os.path.realpath(os.fsdecode(arguments[0])))


class Watch:
    """What was opened in a folder."""

    def __init__(self, folder: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.handle = self.libc.inotify_init1(os.O_NONBLOCK)
        for place in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            assert self.libc.inotify_add_watch(self.handle, os.fsencode(place), OPENED) >= 0

    def seen(self) -> bool:
        """Whether anything was, since the last time."""
        try:
            return len(os.read(self.handle, 1 << 16)) > 0
        except BlockingIOError:
            return False


def links(folder: Path, outside: Path) -> list[tuple[str, Callable[[Path], None]]]:
    """Each file, and each folder, in turn is a link to its like outside."""

    def linked(name: str) -> Callable[[Path], None]:
        def change(place: Path) -> None:
            path = place / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            path.symlink_to(outside / name)

        return change

    # What is named to the reader may be a link of one's own: the folder is where that leads.
    roots = [folder] if (folder / "config.json").exists() else [p for p in folder.iterdir() if p.is_dir()]
    names = [str(path.relative_to(folder)) for root in roots for path in sorted(root.rglob("*"))]
    return [(f"{name} is a link", linked(name)) for name in names]


def names(kind: str, outside: Path) -> list[tuple[str, Callable[[Path], None]]]:
    """Files that name others outside."""
    return {
        "checkpoints": [("a share elsewhere", lambda place: _share(place, outside))],
        "matlab 7.3": [
            ("a link in HDF5", lambda place: _hdf5(place, outside, "link")),
            ("data elsewhere", lambda place: _hdf5(place, outside, "external")),
            ("a virtual data set", lambda place: _hdf5(place, outside, "virtual")),
        ],
        "parquet": [("columns elsewhere", lambda place: _parquet(place, outside))],
        "zarr group": [("a column elsewhere", lambda place: _zarr(place))],
    }.get(kind, [])


def _share(place: Path, outside: Path) -> None:
    for path in place.rglob("state.json"):
        values = json.loads(path.read_text())
        inside = os.path.relpath(outside / "secret", path.parent)
        path.write_text(json.dumps(values | {"shards": {inside: "0", str(outside / "secret"): "0"}}))


def _hdf5(place: Path, outside: Path, way: str) -> None:
    with h5py.File(place / "data.mat", "w") as file:
        file["u"] = np.ones((1, 20))
        if way == "link":
            file["y"] = h5py.ExternalLink(str(outside / "data.mat"), "y")
        elif way == "external":
            file.create_dataset("y", (1, 4), "f8", external=[(str(outside / "secret"), 0, 32)])
        else:
            layout = h5py.VirtualLayout((1, 20), "f8")
            layout[:] = h5py.VirtualSource(str(outside / "data.mat"), "y", (1, 20))
            file.create_virtual_dataset("y", layout)


def _parquet(place: Path, outside: Path) -> None:
    import pyarrow.parquet as pq

    about = pq.ParquetFile(outside / "data.parquet").metadata
    about.set_file_path(os.path.relpath(outside / "data.parquet", place))
    (place / "data.parquet").unlink()
    about.write_metadata_file(place / "data.parquet")


def _zarr(place: Path) -> None:
    array = json.loads((place / "data.zarr" / "1" / ".zarray").read_text())
    metadata = {".zgroup": {"zarr_format": 2}, "0/.zarray": array, "../../outside/data.zarr/1/.zarray": array}
    told = {"zarr_consolidated_format": 1, "metadata": metadata}
    (place / "data.zarr" / ".zmetadata").write_text(json.dumps(told))


def run(kind: str, root: Path) -> list[str]:
    """What was opened outside, by what was done to the folder."""
    global recorded
    outside, place, found = root / "outside", root / "inside", []
    files = made(kind, outside)
    (outside / "secret").write_bytes(b"secret" * 40)
    read(kind, outside)  # whatever is loaded on the way is there
    shutil.copytree(outside, root / "whole")
    (root / "whole" / "secret").unlink()
    watch = Watch(outside)
    for what, change in [
        ("nothing", lambda place: None),
        *links(root / "whole", outside),
        *names(kind, outside),
    ]:
        shutil.copytree(root / "whole", place)
        change(place)
        watch.seen()
        recorded = []
        try:
            read(kind, place)
            said = "read"
        except (rz.RealizationError, FileNotFoundError) as error:
            said = str(error)
        finally:
            opened, recorded = recorded, None
        foreign = [path for path in opened if not _allowed(Path(path), place)]
        if foreign or watch.seen() or (what == "nothing" and said != "read"):
            found.append(f"{kind}: {what}: {said}: {foreign or 'opened by a library'}")
        shutil.rmtree(place)
    assert len(files) > 0
    return found


def _allowed(path: Path, place: Path) -> bool:
    system = [Path(sys.prefix), Path(sys.base_prefix), Path("/proc"), Path("/dev"), Path("/sys")]
    return any(path.is_relative_to(os.path.realpath(one)) for one in (place, *system))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.addaudithook(hook)
    faults = []
    for number, kind in enumerate(KINDS):
        if kind == "configuration":
            continue  # a file, no folder
        (Path(sys.argv[1]) / str(number)).mkdir()
        faults += run(kind, Path(sys.argv[1]) / str(number))
    print("\n".join(faults))
    sys.exit(bool(faults))
