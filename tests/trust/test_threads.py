"""Threads of one process do not disturb each other, and no call changes what belongs to everybody."""

from __future__ import annotations

import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

import realization as rz
from bmojo import BMojoConfig, BMojoLM
from realization.errors import ExcitationWarning
from realization.identification.contest import Contest
from realization.notes import collected, warn
from tests.source import modules
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


FILTERS = re.compile(r"catch_warnings|simplefilter|filterwarnings|showwarning")
COMMANDS = {  # processes of their own, and what is done once when a module is loaded
    "bmojo.cli", "bmojo.demo.__main__", "bmojo.models.files", "realization.cli",
}  # fmt: skip


def test_no_code_touches_the_filters_of_warnings():
    touching = {name for name, path in modules().items() if FILTERS.search(path.read_text())}
    assert touching <= COMMANDS


def test_who_warns_while_another_thread_identifies_warns_the_user(monkeypatch: pytest.MonkeyPatch):
    """The identification waits in its midst until the other thread has warned."""
    data, inside, done = record_of(model_of(1, 1)), threading.Event(), threading.Event()
    undisturbed, run = rz.identify(data, order=2), Contest.run
    before: list[Any] = []
    within: list[Any] = []

    def waiting(contest: Contest) -> None:
        warn("one of its own", ExcitationWarning)
        within.append((list(warnings.filters), warnings.showwarning))
        inside.set()
        assert done.wait(60)
        run(contest)

    def other() -> None:
        assert inside.wait(60)
        for k in range(20):
            warn(f"by the project, {k}", ExcitationWarning)
            warnings.warn(f"by another, {k}", ExcitationWarning, stacklevel=1)
        done.set()

    monkeypatch.setattr(Contest, "run", waiting)
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(2) as pool:
        warnings.simplefilter("always")
        before.append((list(warnings.filters), warnings.showwarning))
        warned, found = pool.submit(other), pool.submit(rz.identify, data, order=2)
        warned.result(), found.result()
    assert within == before
    told = [str(item.message) for item in caught]
    expected = {f"by {who}, {k}" for who in ("the project", "another") for k in range(20)}
    assert expected <= set(told)
    assert not expected & set(found.result().notes)
    assert "one of its own" in found.result().notes
    assert set(found.result().notes) == {*undisturbed.notes, "one of its own"}


def test_what_is_collected_within_is_not_collected_without():
    with collected() as outer:
        warn("first", ExcitationWarning)
        with suppress(ValueError), collected() as inner:
            warn("second", ExcitationWarning)
            raise ValueError
        warn("third", ExcitationWarning)
    assert [text for _, text in outer] == ["first", "third"]
    assert [text for _, text in inner] == ["second"]
    with pytest.warns(ExcitationWarning, match="fourth"):
        warn("fourth", ExcitationWarning)
