"""Folders as a stranger may send them: a whole example of each kind, its reader, and ways to forge it."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import realization as rz
from bmojo import BMojo, BMojoConfig, BMojoLM, BMojoState, SignalModel
from bmojo.bridge.signal_model.loop import Loop
from bmojo.bridge.signal_model.memory import Member, MemoryCorrection
from bmojo.storage import FlatStore, Stream
from bmojo.storage.journal import Journal, Segment
from bmojo.storage.protocol import checked_rows
from bmojo.tasks import GapRecall
from bmojo.training import Stage, TrainOptions, fit, load_model, read_configuration
from bmojo.training.parallel.ranks import Ranks
from bmojo.training.standing import Run

__all__ = ["KINDS", "forge", "made", "read"]

LAYER = BMojoConfig(d_model=8, heads=2, window=4, eidetic=4, state_size=4)
TASK = GapRecall(pairs=2, gap=4, queries=4, vocabulary=8)
OPTIONS = TrainOptions(steps=4, batch=2, sequences=4, evaluate_every=2, checkpoint_every=2)
TOML = """
[task]
kind = "gap_recall"
pairs = 2
vocabulary = 8

[model]
d_model = 16
heads = 2
window = 4
mixer_options = {conv = 2}

[train]
steps = 40
rates = [1e-3, 1e-2]
seeds = [0]

[parallel]
data = "ddp"
"""
HERE = Stream(0, 0)
WORDS = [
    None, True, -1, 0, 1, 3, 2**31, 10**12, 2**63, 10**30, 0.5, -1e300, float("nan"), float("inf"), "", "a",
    "../outside/secret", "/etc/passwd", "x" * 300, [], {}, [1, 1, 1], [[0]], {"a": 1}, "F16", "<f4", "|O",
]  # fmt: skip


def language_model() -> BMojoLM:
    return BMojoLM(8, [LAYER], mlp_ratio=0.0)


def rows(low: int, high: int) -> Any:
    made = torch.Generator().manual_seed(low)
    keys, values = (torch.randn(high - low, 2, 4, generator=made) for _ in range(2))
    return checked_rows(HERE, keys, values, torch.arange(low, high)).at(low)


# ---- one whole example of each kind


def _configuration(folder: Path) -> None:
    (folder / "config.toml").write_text(TOML)


def _signal_model(folder: Path) -> None:
    linear = rz.InnovationsModel(0.5 * np.eye(2), np.ones((2, 1)), np.ones((1, 2)), [[0.0]])
    memory = MemoryCorrection(LAYER, 1, 2, 1)
    loop = Loop(
        0.5 * np.eye(2), np.ones((2, 1)), np.ones((1, 2)), np.zeros((1, 1)), np.ones((3, 3)), np.zeros(3),
        np.ones((2, 3)), np.ones((1, 3)), np.zeros(1), np.ones(1),
    )  # fmt: skip
    member = Member(loop, memory, (0, 9), (50.0, 60.0, 70.0))
    scales = np.zeros(1), np.ones(1), np.zeros(1), np.ones(1)
    SignalModel(linear, [member], scales, floor=50.0, fit_percent=70.0).save(folder)


def _state(folder: Path) -> None:
    layer = BMojo(LAYER)
    layer(torch.randn(2, 11, 8), layer.init_state(2))[1].save(folder / "state.safetensors")


def _parquet(folder: Path) -> None:
    import pandas as pd

    columns = {"u": np.arange(40.0), "y": np.arange(40.0) ** 2}
    pd.DataFrame(columns).to_parquet(folder / "data.parquet", row_group_size=16)


def _zarr(folder: Path) -> None:
    import zarr

    z: Any = zarr.create_array(folder / "data.zarr", shape=(20, 2), chunks=(8, 2), dtype="f8")
    z[:] = np.arange(40.0).reshape(20, 2)


def _zarr_group(folder: Path) -> None:
    import zarr

    group = zarr.open_group(folder / "data.zarr", mode="w", zarr_format=2)
    for name in "01":
        column: Any = group.create_array(name, shape=(20,), chunks=(8,), dtype="f8")
        column[:] = np.arange(20.0)


def _matlab(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "data.mat", "w") as file:
        file["y"], file["u"] = np.arange(20.0)[None], np.ones((1, 20))


def _store(folder: Path) -> None:
    with FlatStore(folder / "store") as store:
        for low, high in ((0, 6), (6, 8)):
            part = rows(low, high)
            store.append(HERE, *(torch.from_numpy(x) for x in (part.keys, part.values, part.positions)))
            store.flush()


def _journal(folder: Path) -> None:
    journal = Journal(folder / "journal")
    for low, high in ((0, 3), (3, 5)):
        journal.add(Segment(HERE, rows(low, high)))
    journal.close()


def _checkpoints(folder: Path) -> None:
    fit(language_model(), [Stage(TASK, 4)], OPTIONS, folder=folder / "run")


# ---- its reader


def _read_signal_model(folder: Path) -> Any:
    return SignalModel.load(folder).simulate(np.ones((9, 1)))


def _read_state(folder: Path) -> Any:
    state, layer = BMojoState.load(folder / "state.safetensors"), BMojo(LAYER)
    try:
        return layer(torch.randn(state.batch, 5, 8), state)
    except (ValueError, RuntimeError, IndexError, TypeError):
        return state  # of another layer


def _streamed(name: str, columns: Any) -> Callable[[Path], Any]:
    def streamed(folder: Path) -> Any:
        found = rz.stream_file(folder / name, outputs=columns[1], inputs=columns[0], block_rows=2)
        return found if name.endswith(".zarr") else rz.read_data(folder / name, outputs="y", inputs="u")

    return streamed


def _read_store(folder: Path) -> Any:
    with FlatStore(folder / "store", mode="r") as store:
        return store.search(HERE, torch.ones(1, 2, 4), 2)


def _read_journal(folder: Path) -> Any:
    journal = Journal(folder / "journal")
    try:
        return journal.next(9)
    finally:
        journal.close()


def _read_checkpoints(folder: Path) -> Any:
    run = Run(language_model(), [Stage(TASK, 4)], OPTIONS, folder / "run", False, Ranks())
    run.close()
    return run


KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "configuration": (_configuration, lambda folder: read_configuration(folder / "config.toml")),
    "language model": (lambda folder: language_model().save(folder), lambda folder: load_model(folder)),
    "signal model": (_signal_model, _read_signal_model),
    "state": (_state, _read_state),
    "parquet": (_parquet, _streamed("data.parquet", ("u", "y"))),
    "zarr": (_zarr, _streamed("data.zarr", (0, 1))),
    "zarr group": (_zarr_group, _streamed("data.zarr", ("0", "1"))),
    "matlab 7.3": (_matlab, lambda folder: rz.read_data(folder / "data.mat", outputs="y", inputs="u")),
    "store": (_store, _read_store),
    "journal": (_journal, _read_journal),
    "checkpoints": (_checkpoints, _read_checkpoints),
}


def made(kind: str, folder: Path) -> dict[str, bytes]:
    """The files of an example, by their paths."""
    folder.mkdir()
    KINDS[kind][0](folder)
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }  # fmt: skip


def read(kind: str, folder: Path) -> Any:
    """What its reader makes of a folder."""
    return KINDS[kind][1](folder)


# ---- forging: a file that is well-formed on the outside, and says something else


def forge(files: dict[str, bytes], name: str, rng: random.Random) -> dict[str, bytes]:
    """One file says something else, and the checksums of those that vouch for it are right again."""
    raw, changed = files[name], dict(files)
    if name.endswith(".toml"):
        changed[name] = _other_toml(raw.decode(), rng).encode()
    elif name.endswith((".json", ".zarray", ".zgroup", ".zattrs")):
        changed[name] = json.dumps(_other(json.loads(raw), rng)).encode()
    elif name.endswith(".safetensors"):
        changed[name] = _other_tensors(raw, rng)
    elif name.endswith("committed"):
        changed[name] = _other_record(raw, rng)
    elif name.endswith(".rows"):
        changed[name] = _other_segment(raw, rng)
    else:
        changed[name] = _torn(raw, rng)
    for path in [path for path in files if path.endswith("state.json")]:
        _vouch(changed, path)
    return changed


def _vouch(files: dict[str, bytes], path: str) -> None:
    tensors = files[path.replace("state.json", "tensors.safetensors")]
    try:
        values = json.loads(files[path])
    except ValueError:
        return
    if isinstance(values, dict) and "sha256" in values:
        files[path] = json.dumps(values | {"sha256": hashlib.sha256(tensors).hexdigest()}).encode()


def _other(value: Any, rng: random.Random) -> Any:
    """The value with something in it replaced, left out, doubled or renamed."""
    inner = isinstance(value, dict | list) and len(value) > 0 and rng.random() < 0.9
    if not inner:
        return _word(rng)
    if isinstance(value, dict):
        key, rest = rng.choice(list(value)), dict(value)
        way = rng.random()
        if way < 0.1:
            del rest[key]
        elif way < 0.2:
            rest[str(_word(rng))] = rest.pop(key)
        else:
            rest[key] = _other(value[key], rng)
        return rest
    at, items = rng.randrange(len(value)), list(value)
    way = rng.random()
    if way < 0.1:
        del items[at]
    elif way < 0.2:
        items *= rng.choice([2, 1000])
    else:
        items[at] = _other(items[at], rng)
    return items


def _word(rng: random.Random) -> Any:
    word = rng.choice(WORDS)
    for _ in range(rng.choice([0, 0, 0, 0, 900])):
        word = [word]
    return word


def _other_toml(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    key = lines[at].partition("=")[0] or "a"
    word = _word(rng)
    written = {None: "1979-05-27", True: "true", False: "false"}.get(word if isinstance(word, bool) else None)
    lines[at] = rng.choice([
        f"{key}= {json.dumps(word)}", f"{key}= {written}", f"{key}= nan", f"{key}= {'9' * 5000}",
        f"[{word}]", f"{key}= {'[' * 3000}", f"{key}= {{a.b = 1, a = 2}}", lines[at] + "\n" + lines[at], "",
    ])  # fmt: skip
    return "\n".join(lines)


def _other_tensors(raw: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    way = rng.random()
    if way < 0.2:  # another shape or type of the same size, which fits the file
        names = [name for name in header if name != "__metadata__"]
        entry = header[rng.choice(names)]
        count = int(np.prod(entry["shape"]))
        size = (entry["data_offsets"][1] - entry["data_offsets"][0]) // max(count, 1)
        entry["shape"] = rng.choice([[count], [1, count], [count, 1], entry["shape"][::-1]])
        entry["dtype"] = rng.choice({8: ["F64", "I64", "U64"], 4: ["F32", "I32"]}.get(size, [entry["dtype"]]))
    elif way < 0.3:
        body = bytes(rng.choice([0, 255, 127]) for _ in body)
    elif way < 0.4:
        body = rng.randbytes(len(body))
    else:
        header = _other(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _other_record(raw: bytes, rng: random.Random) -> bytes:
    from bmojo.storage.record import LAYOUT, place

    number = rng.choice([9, 2**63, 2**64 - 1])
    widths = [rng.choice([0, 1, 2, 4, 65536, 2**32 - 1]) for _ in range(3)]
    content = LAYOUT.pack(b"bmojoST1", number, rng.choice([0, 1, 8, 9, 10**6, 2**60]), *widths, 0, 0, 0)
    content += zlib.crc32(content).to_bytes(4, "little")
    at = place(number)
    return raw[:at] + content + raw[at + len(content) :]


def _other_segment(raw: bytes, rng: random.Random) -> bytes:
    from bmojo.storage.journal import LAYOUT

    words = list(LAYOUT.unpack(raw[: LAYOUT.size]))
    words[rng.randrange(2, len(words))] = rng.choice([-1, 0, 1, 2**20, 10**12, 2**62])
    content = LAYOUT.pack(*words) + raw[LAYOUT.size : -4]
    return content + zlib.crc32(content).to_bytes(4, "little")


def _torn(raw: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(raw) + 1)
    if rng.random() < 0.3 and start + 8 <= len(raw):  # a length or an offset
        number = rng.choice([0, 1, 2**31 - 1, 2**40, 2**63 - 1])
        return raw[:start] + struct.pack("<q", number) + raw[start + 8 :]
    changed = (
        raw[:start] + rng.randbytes(rng.choice([1, 2, 8, 40])) + raw[start + rng.choice([0, 1, 8, 40]) :]
    )
    return changed[: rng.choice([len(changed), len(changed), rng.randrange(len(changed) + 1)])]
