"""Threads of one process do not disturb each other, and no call changes what belongs to everybody."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

import realization as rz
from bmojo import BMojoConfig, BMojoLM
from tests.tolerances import assert_close
from tests.trust.calls import Call, kernel_calls, model_of, realization_calls, record_of
from tests.trust.spoiling import numbers_in

CALLS = realization_calls() | kernel_calls()


def shared() -> tuple[Any, ...]:
    """What all code of the process has in common."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return (
        list(warnings.filters), np.geterr(), state[1].tolist(), state[2:], torch.get_rng_state().tolist(),
        torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(),
    )  # fmt: skip


def test_no_call_changes_what_is_shared():
    for name, call in CALLS.items():
        before = shared()
        call()
        assert shared() == before, name


def trained() -> list[torch.Tensor]:
    """Weights after a few steps, from a seed of their own."""
    made = torch.Generator().manual_seed(0)
    config = BMojoConfig(d_model=16, heads=2, window=4, mixer="mamba2", eidetic=2)
    model = BMojoLM(11, [config]).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=made, dtype=weight.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(11, (2, 24), generator=made)
    for _ in range(5):
        out = model(tokens[:, :-1])
        logits = out[0] if isinstance(out, tuple) else getattr(out, "logits", out)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    return [weight.detach() for weight in model.parameters()]


def test_two_identifications_and_a_training_at_once_are_those_alone():
    data = record_of(model_of(1, 1))
    works = [
        Call(rz.n4sid, {"data": data, "order": 2}),
        Call(rz.pem, {"data": data, "order": 2, "iterations": 10}),
        Call(trained),
    ]
    alone = [list(numbers_in(work())) for work in works]
    with ThreadPoolExecutor(3) as pool:
        together = [list(numbers_in(done)) for done in pool.map(lambda work: work(), works)]
    for expected, found in zip(alone, together, strict=True):
        for (where, plain), (_, numbers) in zip(expected, found, strict=True):
            assert_close(numbers, plain, "exact", what=where)
