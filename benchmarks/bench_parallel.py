"""Training on one process and on two: tokens a second, bytes, messages, and what follows for a large model.

Two processes of one thread each, joined by gloo on this machine. The rows of the 7B model are computed: the
state's size is that of its layers, activations a token are those measured on a block of the same make.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _results import Row, write_results
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.spawn import spawn

from bmojo import BMojo, BMojoConfig, BMojoLM
from bmojo.tasks import Batch
from bmojo.training import TrainOptions
from bmojo.training.parallel import ParallelOptions, Ranks, message_bytes
from bmojo.training.parallel.step import Gradient, sharded

SMALL = {"d_model": 128, "heads": 4, "window": 64, "eidetic": 32, "mixer": "mamba2", "state_size": 32}
LARGE = {
    "d_model": 4096,
    "heads": 32,
    "kv_heads": 8,
    "window": 1024,
    "eidetic": 1024,
    "mixer": "mamba2",
    "state_size": 128,
}
LAYERS, PROCESSES, TOKENS, VOCABULARY, MLP = 32, 64, 2**20, 50_000, 2.4
SPREADS = {
    "one process": None,
    "two, the batch shared (ddp)": {},
    "two, batch and parameters shared (fsdp)": {"data": "fsdp"},
    "two, the sequence shared, 1 piece": {"context": 2},
    "two, the sequence shared, 2 pieces": {"context": 2, "pieces": 2},
    "two, the sequence shared, 4 pieces": {"context": 2, "pieces": 4},
}


def model_of(layers: int) -> BMojoLM:
    torch.manual_seed(0)
    return BMojoLM(64, [BMojoConfig(**SMALL)] * layers)


def measured(spread: dict[str, Any] | None, layers: int, batch: int, length: int, repeats: int) -> dict:
    """Seconds of the best step, and what a process sent in one."""
    ranks = Ranks(ParallelOptions(**(spread or {})))
    model = sharded(model_of(layers), ranks).train()
    gradient = Gradient(model, ranks, TrainOptions())
    tokens = torch.randint(64, (batch, length), generator=torch.Generator().manual_seed(0))
    drawn, taken = [Batch(tokens, tokens.roll(-1, 1), torch.ones_like(tokens, dtype=torch.bool))], []
    for _ in range(repeats + 1):
        if gradient.context is not None:
            gradient.context.sent.clear()
        ranks.each(lambda: None)
        start = time.perf_counter()
        model.zero_grad()
        gradient.take(drawn)
        ranks.each(lambda: None)
        taken.append(time.perf_counter() - start)
    sent = {} if gradient.context is None else dict(gradient.context.sent)
    return {"seconds": min(taken[1:]), "sent": sent}


def gloo(count: int) -> tuple[float, float]:
    """Seconds of an empty message there and back, halved, and bytes a second of long ones."""
    times = []
    for size in (1, count):
        message, best = torch.zeros(size, dtype=torch.uint8), float("inf")
        for _ in range(20):
            dist.barrier()
            start = time.perf_counter()
            if dist.get_rank() == 0:
                dist.send(message, 1)
                dist.recv(message, 1)
            else:
                dist.recv(message, 0)
                dist.send(message, 0)
            best = min(best, (time.perf_counter() - start) / 2)
        times.append(best)
    return times[0], count / (times[1] - times[0])


def worker(rank: int, store: str, cases: list[tuple], told: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = [measured(*case) for case in cases]
    link = gloo(2**24)
    everything: list[Any] = [None, None]
    dist.all_gather_object(everything, found)
    if rank == 0:
        Path(told).write_text(json.dumps((everything, link)))
    dist.destroy_process_group()


def kept_bytes(options: dict[str, Any], length: int) -> float:
    """Bytes a token that one block keeps for the backward pass, parameters apart, over the width."""
    torch.manual_seed(0)
    model = BMojoLM(64, [BMojoConfig(**options)], mlp_ratio=MLP).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    x = torch.randn(1, length, options["d_model"], requires_grad=True)
    with saved_tensors_hooks(note, lambda x: x):
        output = model.blocks[0](x, None)
    del output
    return sum(held.values()) / length / options["d_model"]


def planned(kept: float) -> list[Row]:
    """Memory, bytes and messages of each process, for one sequence of a million tokens."""
    with torch.device("meta"):
        block = BMojoLM(1, [BMojoConfig(**LARGE)], mlp_ratio=MLP)
    layer: Any = block.blocks[0].layer
    assert isinstance(layer, BMojo)
    own = sum(p.numel() for p in block.blocks[0].parameters())
    parameters = LAYERS * own + VOCABULARY * LARGE["d_model"]
    message, tokens = message_bytes(layer.init_state(1)), TOKENS // PROCESSES
    width, giga = LARGE["d_model"], 1e9
    case = f"planned, {parameters / giga:.1f}e9 parameters, {TOKENS} tokens, {PROCESSES} processes"
    both = message["forward"] + message["backward"]
    return [
        Row(f"{case}: parameters, gradients, averages (fsdp, float32)", 16 * parameters / PROCESSES, "bytes"),
        Row(f"{case}: one block and its gradient, whole", 8 * own, "bytes"),
        Row(f"{case}: inputs of {LAYERS} blocks, kept", 4.0 * LAYERS * tokens * width, "bytes"),
        Row(f"{case}: activations of one block, computed anew", kept * width * tokens, "bytes"),
        Row(f"{case}: state of a layer, sent forwards", message["forward"], "bytes"),
        Row(f"{case}: gradient of a state, sent back", message["backward"], "bytes"),
        Row(f"{case}: messages of a process and step", 2 * LAYERS, "messages"),
        Row(f"{case}: sent along the sequence, by a process", LAYERS * both, "bytes"),
        Row(f"{case}: sent along the sequence, per token", LAYERS * both * (PROCESSES - 1) / TOKENS, "bytes"),
        Row(
            f"{case}: parameters and gradients (fsdp), by a process",
            3 * 4 * parameters * (PROCESSES - 1) / PROCESSES,
            "bytes",
        ),
        Row(f"{case}: share of the time that is work, 1 piece", LAYERS / (LAYERS + PROCESSES - 1), "1"),
        Row(f"{case}: share of the time that is work, 8 pieces", 256 / (256 + PROCESSES - 1), "1"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sizes = given.layers, given.batch, given.length, given.repeats
    shared = {name: spread for name, spread in SPREADS.items() if spread is not None}
    with tempfile.TemporaryDirectory() as folder:
        cases = [(spread, *sizes) for spread in shared.values()]
        told = Path(folder) / "told.json"
        spawn(worker, (str(Path(folder) / "store"), cases, str(told)), nprocs=2)
        found, (latency, rate) = json.loads(told.read_text())
    tokens = given.batch * given.length
    one = tokens / measured(None, *sizes)["seconds"]
    rows = [Row("one process", one, "tokens/s")]
    for name, first, second in zip(shared, *found, strict=True):
        rows.append(Row(name, tokens / first["seconds"], "tokens/s", "one process", one))
        if first["sent"]:
            state = message_bytes(model_of(given.layers).init_state(given.batch)[0])
            formula = given.layers * (state["forward"] + state["backward"])
            sent = first["sent"]["forward bytes"] + second["sent"]["backward bytes"]
            count = first["sent"]["forward messages"] + second["sent"]["backward messages"]
            rows.append(Row(f"{name}: sent per token", sent / tokens, "bytes", "formula", formula / tokens))
            rows.append(Row(f"{name}: messages of a step", count, "messages"))
    rows.append(Row("gloo: a message of one byte", latency, "s"))
    rows.append(Row("gloo: a message of 16 MiB", rate, "bytes/s"))
    kept = kept_bytes(SMALL, 1024)
    rows.append(Row("a block keeps for the backward pass, per token and unit of width", kept, "bytes"))
    write_results("parallel", [*rows, *planned(kept)])


if __name__ == "__main__":
    main()
