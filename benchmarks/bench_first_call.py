"""What the first call of each kernel costs: compiled, and read from the disk as an earlier process left it.

Each operation in a process of its own, forward and then backward, processor seconds of one thread; without
the import of torch and of the kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from _results import Row, write_results

PROGRAM = """
import json, sys, time
import torch, bmojo_kernels as bk

torch.set_num_threads(1)
torch.rand(2, requires_grad=True).sum().backward()

def made(*shape):
    return torch.rand(*shape).requires_grad_()

CALLS = {
    "linear_scan": lambda: bk.linear_scan(made(1, 64, 32), made(1, 64, 32)),
    "selective_scan": lambda: bk.selective_scan(
        made(1, 64, 32), made(1, 64, 32), -made(32, 16), made(1, 64, 16), made(1, 64, 16)
    ),
    "causal_conv1d": lambda: bk.causal_conv1d(made(1, 64, 32), made(32, 4), activation="silu"),
    "ssd_scan": lambda: bk.ssd_scan(
        made(1, 64, 2, 16), -made(1, 64, 2), made(1, 64, 1, 16), made(1, 64, 1, 16)
    ),
    "gated_delta_scan": lambda: bk.gated_delta_scan(
        *(made(1, 64, 2, 16) for _ in range(3)), -made(1, 64, 2), made(1, 64, 2)
    ),
    "gated_kalman_scan": lambda: bk.gated_kalman_scan(
        *(made(1, 64, 2, 16) for _ in range(3)), -made(1, 64, 2)
    ),
    "memory_attention": lambda: bk.memory_attention(*(made(1, 64, 2, 16) for _ in range(3)), window=8),
}
times = [time.process_time()]
found = CALLS[sys.argv[1]]()
times.append(time.process_time())
found[0].sum().backward()
times.append(time.process_time())
print(json.dumps([times[1] - times[0], times[2] - times[1]]))
"""
OPERATIONS = (
    "linear_scan", "selective_scan", "causal_conv1d", "ssd_scan", "gated_delta_scan", "gated_kalman_scan",
    "memory_attention",
)  # fmt: skip


def seconds(operation: str, cache: str) -> list[float]:
    command = [sys.executable, "-c", PROGRAM, operation]
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


def main() -> None:
    rows = []
    for operation in OPERATIONS:
        with tempfile.TemporaryDirectory() as cache:
            compiled, read = seconds(operation, cache), seconds(operation, cache)
        for what, first, later in zip(("forward", "backward"), compiled, read, strict=True):
            rows.append(
                Row(
                    f"{operation}, first {what}, float32",
                    first,
                    "s",
                    "from the disk",
                    later,
                    larger_is_better=False,
                )
            )
    write_results("first_call", rows)


if __name__ == "__main__":
    main()
