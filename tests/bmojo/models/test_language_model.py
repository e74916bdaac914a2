"""The language model: pieces and packed sequences give what each would, generation is the plain loop."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from bmojo import BMojoConfig, BMojoLM
from bmojo.models import Sampler
from bmojo.storage import FlatStore, attach, detach
from tests.source import run_python
from tests.tolerances import assert_close

V = 23
LAYER = BMojoConfig(d_model=16, heads=2, window=4, chunk=2, eidetic=3, state_size=3)
MIXER = BMojoConfig(d_model=16, heads=2, window=0, eidetic=0, state_size=3)


def lively(layers=(LAYER, MIXER, LAYER), *, seed=0, dtype=torch.float64, **options):
    """A model that does not repeat its last token: the embedding is small beside what the blocks add."""
    torch.manual_seed(seed)
    model = BMojoLM(V, layers, **options).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" not in name and not name.endswith(("dt_bias", "A_log")):
                parameter += 0.4 * torch.randn_like(parameter)
    return model.eval()


def prompt(batch=2, length=15, seed=0):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


class TestPasses:
    @given(cuts=st.lists(st.integers(1, 20), max_size=4))
    def test_pieces(self, cuts):
        model, tokens = lively(), prompt(2, 21)
        state, parts = model.init_state(2), []
        edges = [0, *sorted(set(cuts)), 21]
        for start, stop in itertools.pairwise(edges):
            logits, state = model(tokens[:, start:stop], state)
            parts.append(logits)
        assert_close(torch.cat(parts, dim=1), model(tokens))

    def test_packed_sequences(self):
        model, tokens = lively(), prompt(1, 20)
        packed = model(tokens, cu_seqlens=torch.tensor([0, 3, 12, 20]))
        alone = torch.cat([model(tokens[:, a:b]) for a, b in ((0, 3), (3, 12), (12, 20))], dim=1)
        assert_close(packed, alone)

    def test_padding(self):
        model, tokens = lively(), prompt(2, 12)
        mask = torch.ones(2, 12, dtype=torch.bool)
        mask[0, :5] = False
        assert_close(model(tokens, mask=mask)[0, 5:], model(tokens[:1, 5:])[0])

    def test_retrieved_keys_reach_their_layer(self):
        model, tokens = lively((LAYER, LAYER)), prompt()
        stored = tuple(torch.randn(2, 5, 2, 8, dtype=torch.float64) for _ in range(2))
        hidden = model.embedding(tokens)
        first, second = model._blocks()
        hidden, _ = first(hidden, None)
        hidden, _ = second(hidden, None, retrieved=stored)
        expected = model.readout(model.norm(hidden))
        assert_close(model(tokens, retrieved=[None, stored]), expected, "bitwise")
        assert float((expected - model(tokens)).detach().abs().max()) > 1e-3
        with pytest.raises(ValueError, match="retrieved for 1 layers came, the model has 2"):
            model(tokens, retrieved=[stored])

    def test_a_state_of_another_model(self):
        with pytest.raises(ValueError, match="a state of 2 layers came, the model has 3"):
            lively()(prompt(), lively((LAYER, LAYER)).init_state(2))

    @pytest.mark.parametrize("rule", ["top", "random"])
    def test_activations_computed_anew_give_the_same_gradients(self, rule):
        config = BMojoConfig(d_model=16, heads=2, window=4, eidetic=3, state_size=3, rule=rule)
        model = lively((config, config)).train()
        other, tokens = copy.deepcopy(model), prompt()
        other.gradient_checkpointing = True
        for m in (model, other):
            cross_entropy(m(tokens).flatten(0, 1), tokens.flatten()).backward()
        for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
            assert p.grad is not None, name
            assert_close(q.grad, p.grad, what=name)

    def test_compiled(self):
        model, tokens = lively(dtype=torch.float32).train(), prompt()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        expected = model(tokens)
        expected.square().mean().backward()
        wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        found = compiled(tokens)
        found.square().mean().backward()
        assert_close(found, expected)
        for name, p in model.named_parameters():
            assert_close(p.grad, wanted[name], "recurrence", what=name)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"vocabulary": 0, "layers": [LAYER]}, "vocabulary=0"),
            ({"vocabulary": 5, "layers": [LAYER], "mlp_ratio": -1.0}, "mlp_ratio=-1.0"),
            ({"vocabulary": 5, "layers": [LAYER, BMojoConfig(d_model=8)]}, "widths"),
            ({"vocabulary": 5, "layers": []}, "one width is needed"),
            ({"vocabulary": 5, "layers": [{"d_model": 8, "window": -1}]}, "window=-1"),
        ],
    )
    def test_what_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            BMojoLM(**options)


class TestStorage:
    def test_what_leaves_the_sets_is_found_again(self, tmp_path):
        """Read without a bound, a store continues the set: that of a model whose sets have places for all."""
        small, tokens = lively(), prompt(2, 40)
        wide = [c if c.eidetic == 0 else replace(c, eidetic=40) for c in (LAYER, MIXER, LAYER)]
        large = lively(wide)
        large.load_state_dict(small.state_dict())
        without = small(tokens)
        with FlatStore(tmp_path / "store", durable=False) as store:
            attach(small, store, read=64)
            found = small(tokens)
            again = small.generate(tokens[:, :30], 6).tokens
            detach(small)
        assert_close(found, large(tokens), "recurrence", dtype="float16")
        assert float((found - without).detach().abs().max()) > 0.01
        assert torch.equal(again, large.generate(tokens[:, :30], 6).tokens)


class TestDepth:
    def test_activations_and_gradients_keep_their_scale_over_24_layers(self):
        torch.manual_seed(0)
        model = BMojoLM(64, [BMojoConfig(d_model=32, heads=2, window=8, eidetic=4, state_size=4)] * 24)
        tokens = torch.randint(64, (2, 32))
        x, streams = model.embedding(tokens), []
        for block in model._blocks():
            x, _ = block(x, None)
            x.retain_grad()
            streams.append(x)
        loss = cross_entropy(model.readout(model.norm(x)).flatten(0, 1), tokens.flatten())
        loss.backward()
        scales = [float(s.detach().square().mean().sqrt()) for s in streams]
        assert min(scales) > 0.1
        assert max(scales) < 8
        learning = [float(block.layer.in_proj.weight.grad.norm()) for block in model._blocks()]
        assert max(learning) < 100 * min(learning)

    @pytest.mark.slow
    def test_24_layers_learn_from_the_first_steps(self):
        torch.manual_seed(0)
        layer = BMojoConfig(d_model=32, heads=2, window=8, eidetic=4, state_size=4)
        model = BMojoLM(16, [layer] * 24).train()
        tokens = torch.randint(16, (4, 9)).repeat(1, 4)
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
        for _ in range(25):
            loss = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]


class TestGeneration:
    def test_greedy_is_the_loop_over_whole_passes(self):
        model, tokens = lively(), prompt()
        expected = tokens
        for _ in range(12):
            expected = torch.cat([expected, model(expected)[:, -1:].argmax(-1)], dim=1)
        found = model.generate(tokens, 12)
        assert torch.equal(found.tokens, expected[:, 15:])
        assert len(found.tokens.unique()) > 3
        logits = model(expected[:, :-1])[:, 14:].log_softmax(-1)
        told = logits.gather(-1, found.tokens.unsqueeze(-1)).squeeze(-1)
        assert_close(found.log_probabilities, told, "exact", dtype="float32")

    def test_it_goes_on_from_a_state(self):
        model, tokens = lively(), prompt()
        whole = model.generate(tokens, 9).tokens
        first = model.generate(tokens, 4)
        rest = model.generate(first.tokens[:, -1:], 5, state=first.state)
        assert torch.equal(torch.cat([first.tokens, rest.tokens], dim=1), whole)

    def test_padded_prompts(self):
        model, tokens = lively(), prompt(3, 12)
        mask = torch.ones(3, 12, dtype=torch.bool)
        mask[0, :5], mask[2, :1] = False, False
        found = model.generate(tokens, 8, mask=mask).tokens
        for b, begin in enumerate((5, 0, 1)):
            assert torch.equal(found[b : b + 1], model.generate(tokens[b : b + 1, begin:], 8).tokens)

    def test_the_seed_decides(self):
        model, tokens = lively(), prompt(4)
        one, two = (model.generate(tokens, 12, temperature=1.5, seed=3).tokens for _ in range(2))
        assert torch.equal(one, two)
        assert not torch.equal(one, model.generate(tokens, 12, temperature=1.5, seed=4).tokens)

    def test_one_candidate_is_greedy(self):
        model, tokens = lively(), prompt()
        greedy = model.generate(tokens, 8).tokens
        assert torch.equal(model.generate(tokens, 8, temperature=2.0, top_k=1).tokens, greedy)
        assert torch.equal(model.generate(tokens, 8, temperature=2.0, top_p=1e-9).tokens, greedy)

    def test_a_stop_ends_each_sequence(self):
        model, tokens = lively(), prompt()
        free = model.generate(tokens, 12).tokens
        stop = int(free[0, 3])
        found = model.generate(tokens, 12, stop=stop)
        for row, whole in zip(found.tokens.tolist(), free.tolist(), strict=True):
            end = whole.index(stop) + 1 if stop in whole else len(whole)
            assert row[:end] == whole[:end][: len(row)]
            assert set(row[end:]) <= {stop}
        assert (found.log_probabilities[found.tokens != stop] < 0).all()
        alone = model.generate(tokens[:1], 12, stop=stop)
        assert alone.tokens.shape[1] == free[0].tolist().index(stop) + 1

    def test_training_goes_on_afterwards(self):
        model = lively((BMojoConfig(d_model=16, heads=2, dropout=0.5, eidetic=0),)).train()
        one, two = (model.generate(prompt(), 6).tokens for _ in range(2))
        assert torch.equal(one, two)
        assert model.training
        assert model.blocks[0].layer.training

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"count": 0}, "count=0"),
            ({"count": 3, "seed": 1}, "seed=1 came with temperature=0"),
            ({"count": 3, "top_k": 2}, "top_k=2.*temperature=0"),
            ({"count": 3, "top_p": 0.5}, "top_p=0.5.*temperature=0"),
            ({"count": 3, "temperature": -1.0}, "temperature=-1.0"),
            ({"count": 3, "mask": torch.tensor([[True] * 14 + [False]] * 2)}, "padding in front"),
        ],
    )
    def test_what_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            lively().generate(prompt(), **options)


class TestSampler:
    @given(
        seed=st.integers(0, 1000),
        temperature=st.sampled_from([0.3, 1.0, 2.0]),
        k=st.one_of(st.none(), st.integers(1, 9)),
        p=st.one_of(st.none(), st.floats(0.01, 1.0)),
    )
    def test_probabilities_by_their_definition(self, seed, temperature, k, p):
        logits = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = Sampler(temperature=temperature, top_k=k, top_p=p).probabilities(logits)
        for row, got in zip((logits / temperature).exp().tolist(), found, strict=True):
            order = sorted(range(7), key=lambda i: -row[i])[:k]
            total, kept, mass = sum(row[i] for i in order), [], 0.0
            for i in order:
                kept.append(i)
                mass += row[i] / total
                if p is not None and mass >= p:
                    break
            share = sum(row[i] for i in kept)
            expected = [row[i] / share if i in kept else 0.0 for i in range(7)]
            assert_close(got, torch.tensor(expected, dtype=torch.float64))

    def test_tokens_are_drawn_as_often_as_they_are_likely(self):
        logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(20_000, 4)
        generator = torch.Generator().manual_seed(0)
        drawn = Sampler(temperature=1.0, top_k=3).draw(logits, generator)
        share = torch.bincount(drawn, minlength=4) / 20_000
        expected = torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95
        assert (share - expected).abs().max() < 4 * 0.5 / 20_000**0.5

    def test_greedy_puts_all_on_the_largest(self):
        assert Sampler().probabilities(torch.tensor([[0.1, 3.0, -1.0]])).tolist() == [[0.0, 1.0, 0.0]]

    @pytest.mark.parametrize(
        "options",
        [
            {"temperature": float("inf")},
            {"temperature": 1.0, "top_k": 0},
            {"temperature": 1.0, "top_p": 0.0},
            {"temperature": 1.0, "top_p": 1.5},
        ],
    )
    def test_what_is_out_of_range(self, options):
        with pytest.raises(ValueError, match=f"{list(options)[-1]}="):
            Sampler(**options)


class TestFiles:
    @pytest.mark.parametrize("rule", ["top", "random", "threshold"])
    def test_a_model_comes_back(self, rule, tmp_path):
        layers = [BMojoConfig(d_model=16, heads=2, window=4, eidetic=3, rule=rule), MIXER]
        model, tokens = lively(layers, mlp_ratio=1.0, dtype=torch.float32), prompt()
        model.save(tmp_path / "model")
        again = BMojoLM.load(tmp_path / "model")
        assert not again.training
        assert again.options == model.options
        assert_close(again(tokens), model(tokens), "bitwise")
        assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}

    def test_bfloat16_stays(self, tmp_path):
        model = lively(dtype=torch.bfloat16)
        model.save(tmp_path)
        assert BMojoLM.load(tmp_path).embedding.weight.dtype is torch.bfloat16

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no model"):
            BMojoLM.load(tmp_path)

    def test_another_model(self, tmp_path):
        (tmp_path / "config.json").write_text('{"vocab_size": 3}')
        with pytest.raises(ValueError, match="lacks layers, mlp_ratio, vocabulary"):
            BMojoLM.load(tmp_path)

    def test_weights_that_do_not_fit_are_listed(self, tmp_path):
        lively((LAYER,)).save(tmp_path)
        options = json.loads((tmp_path / "config.json").read_text())
        options["vocabulary"] = V + 1
        options["layers"][0] |= {"short_conv": 0}
        options["layers"].append(options["layers"][0])
        (tmp_path / "config.json").write_text(json.dumps(options))
        with pytest.raises(ValueError, match="does not fit the model") as caught:
            BMojoLM.load(tmp_path)
        told = str(caught.value)
        assert "missing blocks.1.norm.weight" in told
        assert "left over blocks.0.layer.short_conv.weight" in told
        assert "embedding.weight: (23, 16) came, (24, 16) is needed" in told

    def test_the_hubs_methods(self, tmp_path):
        pytest.importorskip("huggingface_hub")
        model, tokens = lively(dtype=torch.float32), prompt()
        model.save_pretrained(tmp_path)
        again = BMojoLM.from_pretrained(tmp_path)
        assert again.options == model.options
        assert_close(again(tokens), model(tokens), "bitwise")
        assert "bmojo" in (tmp_path / "README.md").read_text()

    def test_without_the_hub_its_extra_is_named(self):
        code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "huggingface_hub":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from bmojo import BMojoConfig, BMojoLM
BMojoLM(9, [BMojoConfig(d_model=8, heads=2)]).save_pretrained("nowhere")
"""
        last = run_python(code).stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: BMojoLM: save_pretrained")
        assert "pip install 'realization[hf]'" in last
