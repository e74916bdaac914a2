"""Times on a GPU, and the speed of its memory; in a dry run wall-clock times of the interpreter."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

import torch

__all__ = ["Bench", "Device"]


class Device:
    """Where a benchmark runs.

    Parameters
    ----------
    dry : bool
        On the CPU, with Triton interpreting: sizes shrink, times mean nothing.
    once : bool
        Each call is made once and not timed: for what it compiles.
    """

    def __init__(self, dry: bool, once: bool = False) -> None:
        self.dry, self.once = dry, once
        self.name = "cpu" if dry else "cuda"

    def size(self, full: int, small: int) -> int:
        """A length, or the small one of a dry run."""
        return small if self.dry else full

    def numbers(self, *shape: int, dtype: torch.dtype = torch.bfloat16, grad: bool = False) -> torch.Tensor:
        """Normal numbers."""
        x = torch.randn(*shape, device=self.name, dtype=torch.float32).to(dtype)
        return x.requires_grad_(grad)

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Median time of a call."""
        if self.dry or self.once:
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)
        from triton.testing import do_bench

        return float(do_bench(call, warmup=25, rep=100, return_mode="median"))

    @cache  # noqa: B019 - one device for the whole run
    def copy_speed(self) -> float:
        """Bytes a second that a copy of gigabytes reads and writes."""
        x = torch.randn(self.size(1 << 29, 1 << 10), device=self.name)
        y = torch.empty_like(x)
        return 2 * x.numel() * x.element_size() / (self.milliseconds(lambda: y.copy_(x)) * 1e-3)


class Bench:
    """A measured call: forward, and with gradients.

    Parameters
    ----------
    call : callable
        Of the inputs, to a tensor or a tuple whose first is differentiated.
    inputs : sequence of Tensor
    """

    def __init__(self, call: Callable[..., object], inputs: Sequence[torch.Tensor]) -> None:
        self.call, self.inputs = call, inputs
        self.weight: torch.Tensor | None = None

    def forward(self) -> object:
        """The call without gradients."""
        with torch.no_grad():
            return self.call(*self.inputs)

    def both(self) -> object:
        """The call and the gradients of the inputs that take one."""
        y = self.call(*self.inputs)
        y = y[0] if isinstance(y, tuple) else y
        assert isinstance(y, torch.Tensor)
        if self.weight is None:
            self.weight = torch.randn_like(y)
        return torch.autograd.grad(y, [x for x in self.inputs if x.requires_grad], self.weight)
