"""Memories taken away: against the definition of the layer with shorter lists of keys."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from bmojo import BMojo, BMojoConfig, BMojoLM, ablate, memory_shares
from bmojo.bridge import MEMORIES
from bmojo.storage import FlatStore, attach, detach
from tests.layers import configs, perturbed, tokens
from tests.oracles.dense_bmojo import dense_bmojo
from tests.strategies import seeds
from tests.tolerances import assert_close

OPTIONS: dict[str, Any] = {"d_model": 8, "heads": 2, "window": 3, "eidetic": 2, "state_size": 3}


def there(config, stored=0):
    names = {"window"} | ({"eidetic"} if config.eidetic else set()) | ({"retrieved"} if stored else set())
    if config.mixer != "none":
        names |= {"fading", "readout"} if config.fading_readout == "add" else {"fading"}
    return sorted(names)


@settings(max_examples=80)
@given(data=st.data(), config=configs(), length=st.integers(1, 18), stored=st.integers(0, 2), seed=seeds)
def test_it_is_the_definition_without_those_keys(data, config, length, stored, seed):
    layer, u = perturbed(config, seed=seed), tokens(2, length, seed=seed)
    removed = frozenset(data.draw(st.sets(st.sampled_from(there(config, stored)))))
    shape = (2, stored, config.kv_heads, config.head_dim)
    retrieved: Any = None
    if stored:
        retrieved = tuple(torch.randn(shape, dtype=torch.float64) for _ in range(2))
    found = ablate(layer, u, removed, retrieved=retrieved)
    for row in range(2):
        own: Any = None if retrieved is None else tuple(part[row].numpy() for part in retrieved)
        dense = dense_bmojo(layer, u[row].numpy(), retrieved=own, without=removed)
        assert_close(found[row], dense.output, "recurrence")


class TestLayer:
    def test_the_state_is_both_of_its_ways_out(self):
        layer, u = perturbed(BMojoConfig(**OPTIONS)), tokens(1, 20)
        assert_close(ablate(layer, u, "state"), ablate(layer, u, ["fading", "readout"]), "bitwise")
        authors = perturbed(BMojoConfig(fading_readout="none", **OPTIONS))
        assert_close(ablate(authors, u, "state"), ablate(authors, u, "fading"), "bitwise")

    def test_with_nothing_left_a_query_reads_zero(self):
        layer, u = perturbed(BMojoConfig(**OPTIONS)), tokens(1, 20)
        assert not ablate(layer, u, ["window", "state", "eidetic"]).any()
        bare = perturbed(BMojoConfig(d_model=8, heads=2, window=0, eidetic=0, state_size=3))
        assert not ablate(bare, u, "readout").any()

    def test_what_left_the_set_into_a_store_is_one_more_memory(self, tmp_path):
        """Set and store hold what an unbounded set holds: without both, what a layer without a set reads."""
        layer, u = perturbed(BMojoConfig(**OPTIONS)), tokens(1, 24)
        unbounded = BMojo(dataclasses.replace(layer.config, eidetic=24)).double().eval()
        unbounded.load_state_dict(layer.state_dict())
        with FlatStore(tmp_path / "store", durable=False) as store:
            attach(layer, store, read=24)
            for removed in ([], ["window"], ["fading", "readout"], ["window", "fading"]):
                found, wanted = ablate(layer, u, removed), ablate(unbounded, u, removed)
                assert_close(found, wanted, dtype=torch.float16, what=str(removed))
            neither = ablate(layer, u, ["eidetic", "stored"])
            assert_close(neither, ablate(unbounded, u, "eidetic"), "recurrence")
            shares = memory_shares(layer, u)
            detach(layer)
        assert shares.memories == ("window", "fading", "readout", "eidetic", "stored")
        assert_close(np.nansum(shares.mass), 1.0)
        assert shares.change[-1] > 1e-3

    def test_training_and_dropout_do_not_enter(self):
        layer, u = perturbed(BMojoConfig(dropout=0.5, **OPTIONS)), tokens(1, 20)
        quiet = ablate(layer, u, "fading")
        layer.train()
        assert_close(ablate(layer, u, "fading"), quiet, "bitwise")
        assert layer.training

    @pytest.mark.parametrize(
        ("removed", "message"),
        [("windows", "the memories are"), ("retrieved", "what is there is"), ("stored", "what is there is")],
    )
    def test_what_is_not_there_is_refused(self, removed, message):
        with pytest.raises(ValueError, match=message):
            ablate(perturbed(BMojoConfig(**OPTIONS)), tokens(1, 5), removed)
        with pytest.raises(ValueError, match="layers="):
            ablate(perturbed(BMojoConfig(**OPTIONS)), tokens(1, 5), "window", layers=[0])

    def test_a_layer_without_a_state_has_none_to_lose(self):
        options = {name: x for name, x in OPTIONS.items() if name != "state_size"}
        layer = perturbed(BMojoConfig(mixer="none", **options))
        with pytest.raises(ValueError, match="remove=\\['state'\\] came"):
            ablate(layer, tokens(1, 5), "state")


def model_of(*configs):
    torch.manual_seed(2)
    return BMojoLM(11, configs).double().eval()


class TestModel:
    def numbers(self):
        return torch.randint(11, (2, 20), generator=torch.Generator().manual_seed(0))

    def test_layers_behind_go_on_with_what_they_get(self):
        """By hand, block by block, each with its own ablated output."""
        model, numbers = model_of(*[BMojoConfig(**OPTIONS)] * 2), self.numbers()
        with torch.no_grad():
            assert_close(ablate(model, numbers, []), model(numbers))
            for chosen in ([0], [1], [0, 1]):
                x = model.embedding(numbers)
                for i, block in enumerate(model.blocks):
                    u = block.norm(x)  # pyright: ignore[reportCallIssue]
                    layer = block.get_submodule("layer")
                    mixed = ablate(layer, u, "window") if i in chosen else layer(u)  # pyright: ignore
                    x = block.after(x, mixed)  # pyright: ignore[reportCallIssue]
                wanted = model.readout(model.norm(x))
                assert_close(ablate(model, numbers, "window", layers=chosen), wanted)

    def test_shares_are_what_ablation_gives(self):
        without_state = BMojoConfig(d_model=8, heads=2, window=3, mixer="none", eidetic=2)
        model, numbers = model_of(BMojoConfig(**OPTIONS), without_state), self.numbers()
        at, whole = [7, 19], model(numbers).detach()

        def loss(logits):
            return cross_entropy(logits[:, :-1].flatten(0, 1), numbers[:, 1:].flatten())

        shares = memory_shares(model, numbers, loss=loss, at=at)
        assert shares.memories == ("window", "fading", "readout", "eidetic")
        assert_close(shares.loss, loss(whole).item())
        for j, name in enumerate(shares.memories):
            cut = ablate(model, numbers, name)
            change = (cut - whole)[:, at].norm() / whole[:, at].norm()
            assert_close(shares.change[j], change.item(), what=name)
            assert_close(shares.loss_without[j], loss(cut).item())
            for i in range(2):
                if name in ("fading", "readout") and i == 1:
                    assert np.isnan(shares.change_by_layer[i, j])
                    continue
                cut = ablate(model, numbers, name, layers=[i])
                assert_close(shares.loss_by_layer[i, j], loss(cut).item())
        traces = model.trace(numbers)
        for trace, mass in zip(traces, shares.mass, strict=True):
            for name, value in zip(shares.memories, mass, strict=True):
                if name in trace.segments:
                    seen = trace.attention_mass[:, :, at, trace.segments.index(name)]
                    assert_close(value, seen.mean().item())
                else:
                    assert np.isnan(value)

    def test_what_is_looked_at_may_be_of_no_use(self):
        """Values of zero: attention goes to the window, and without it nothing changes."""
        layer = perturbed(BMojoConfig(d_model=8, heads=2, window=4, mixer="none", eidetic=0))
        with torch.no_grad():
            layer.in_proj.weight[2 * 8 :] = 0.0
        shares = memory_shares(layer, tokens(1, 9) + 1.0, loss=lambda o: o.square().mean())
        assert shares.mass.item() == pytest.approx(1.0)
        assert shares.loss == 0.0
        assert shares.loss_without.item() == 0.0


def test_every_memory_can_be_named():
    assert MEMORIES == ("window", "fading", "readout", "eidetic", "retrieved", "stored")
    layer, u = perturbed(BMojoConfig(**OPTIONS)), tokens(1, 12)
    outputs = [ablate(layer, u, name) for name in MEMORIES[:4]]
    for one, other in itertools.combinations(outputs, 2):
        assert not torch.allclose(one, other)
