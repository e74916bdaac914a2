"""The model among transformers: generation is the plain loop, files and Auto classes bring it back."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from bmojo import BMojoConfig
from bmojo.hf import BMojoCache, BMojoForCausalLM, BMojoModelConfig, StateLayer
from bmojo.hf.cache import CACHE
from tests.source import run_python
from tests.tolerances import assert_close

V = 29
LAYER = BMojoConfig(d_model=16, heads=2, window=4, chunk=2, eidetic=3, state_size=3)
MIXER = BMojoConfig(d_model=16, heads=2, window=0, eidetic=0, state_size=3)


def lively(layers=(LAYER, MIXER), *, seed=0, **options):
    """A model that does not repeat its last token."""
    torch.manual_seed(seed)
    model = BMojoForCausalLM(BMojoModelConfig(vocab_size=V, layers=list(layers), **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" not in name and not name.endswith(("dt_bias", "A_log")):
                parameter += 0.4 * torch.randn_like(parameter)
    return model.eval()


def prompt(batch=3, length=13, seed=0):
    return torch.randint(1, V, (batch, length), generator=torch.Generator().manual_seed(seed))


def generated(model, tokens, count=8, **options):
    mask = options.pop("attention_mask", torch.ones_like(tokens))
    chosen = {"do_sample": False, "max_new_tokens": count, "pad_token_id": 0} | options
    return model.generate(tokens, attention_mask=mask, **chosen)[:, tokens.shape[1] :]


class TestGenerate:
    def test_greedy_is_the_plain_loop(self):
        model, tokens = lively(), prompt()
        whole = tokens
        with torch.no_grad():
            for _ in range(10):
                logits = model(whole, use_cache=False).logits
                whole = torch.cat([whole, logits[:, -1:].argmax(-1)], dim=1)
        found = generated(model, tokens, 10)
        assert torch.equal(found, whole[:, 13:])
        assert torch.equal(found, model.model.generate(tokens, 10).tokens)
        assert len(found.unique()) > 3

    @pytest.mark.parametrize("beams", [2, 4])
    def test_beams_reorder_the_state(self, beams):
        model, tokens = lively(), prompt()
        options = {"num_beams": beams, "num_return_sequences": 2}
        with_state = generated(model, tokens, 9, **options)
        assert torch.equal(with_state, generated(model, tokens, 9, use_cache=False, **options))
        assert not torch.equal(with_state[::2], generated(model, tokens, 9))

    def test_padded_prompts(self):
        model, tokens = lively(), prompt()
        mask = torch.ones_like(tokens)
        mask[0, :4], mask[2, :1] = 0, 0
        found = generated(model, tokens, attention_mask=mask)
        for b, begin in enumerate((4, 0, 1)):
            assert torch.equal(found[b : b + 1], generated(model, tokens[b : b + 1, begin:]))

    def test_all_prompts_padded(self):
        model, tokens = lively(), prompt(2)
        mask = torch.ones_like(tokens)
        mask[:, :3] = 0
        assert torch.equal(generated(model, tokens, attention_mask=mask), generated(model, tokens[:, 3:]))

    def test_a_seed_repeats(self):
        model, tokens, found = lively(), prompt(), []
        for _ in range(2):
            torch.manual_seed(5)
            found.append(generated(model, tokens, do_sample=True, temperature=1.3, top_k=9))
        assert torch.equal(*found)

    def test_it_goes_on_with_a_cache(self):
        model, tokens = lively(), prompt(1)
        options = {"do_sample": False, "return_dict_in_generate": True, "pad_token_id": 0}
        first = model.generate(tokens, max_new_tokens=4, **options)
        cache = getattr(first, CACHE)
        rest = model.generate(first.sequences, max_new_tokens=5, **{CACHE: cache}, **options).sequences
        assert torch.equal(rest[:, 13:], generated(model, tokens, 9))

    def test_from_embeddings(self):
        model, tokens = lively(), prompt()
        embedded = model.get_input_embeddings()(tokens)
        options = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}
        found = model.generate(inputs_embeds=embedded, attention_mask=torch.ones_like(tokens), **options)
        assert torch.equal(found, generated(model, tokens, 6))

    def test_the_state_is_constant_in_size(self):
        model, cache = lively(), BMojoCache(2)
        with torch.no_grad():
            model(prompt(2, 20), cache=cache)
            early = cache.nbytes
            model(prompt(2, 90), cache=cache)
        assert cache.nbytes == early > 0
        assert cache.get_seq_length() == 110


class TestPasses:
    @pytest.mark.parametrize("name", ["cache", "past_key_values"])
    def test_pieces(self, name):
        model, tokens, cache = lively(), prompt(2, 20), BMojoCache(2)
        whole = model(tokens).logits
        parts = [model(part, **{name: cache}).logits for part in tokens.split([7, 1, 12], dim=1)]
        assert_close(torch.cat(parts, dim=1), whole)

    def test_the_loss_is_that_of_the_next_token(self):
        model, tokens = lively(), prompt()
        labels = tokens.clone()
        labels[:, :4] = -100
        out = model(tokens, labels=labels)
        expected = torch.nn.functional.cross_entropy(
            out.logits[:, 3:-1].flatten(0, 1), tokens[:, 4:].flatten()
        )
        assert_close(out.loss, expected)
        parts = model(tokens, labels=labels, num_items_in_batch=2 * 27).loss
        assert_close(parts, expected / 2)
        assert_close(model(tokens, labels=labels, return_dict=False)[0], expected)

    def test_it_trains(self):
        model, tokens = lively().train(), prompt(4, 20)
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
        for _ in range(12):
            out = model(tokens, labels=tokens)
            assert getattr(out, CACHE) is None
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            losses.append(out.loss.item())
        assert losses[-1] < 0.8 * losses[0]

    def test_activations_computed_anew_give_the_same_gradients(self):
        model, tokens, found = lively().train(), prompt(), []
        for anew in (False, True):
            if anew:
                getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
            model.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            found.append({name: p.grad.clone() for name, p in model.named_parameters()})
        assert model.model.gradient_checkpointing
        for name, grad in found[0].items():
            assert_close(found[1][name], grad, what=name)

    def test_compiled_in_one_graph(self):
        model, tokens = lively([LAYER]).train(), prompt()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        found, expected = compiled(tokens, labels=tokens), model(tokens, labels=tokens)
        assert_close(found.logits, expected.logits)
        assert_close(found.loss, expected.loss)
        found.loss.backward()
        assert all(p.grad is not None for p in model.parameters())

    @pytest.mark.parametrize("keep", [1, 4, torch.tensor([2, 5])])
    def test_some_logits_only(self, keep):
        model, tokens = lively(), prompt()
        kept = slice(-keep, None) if isinstance(keep, int) else keep
        assert_close(model(tokens, logits_to_keep=keep).logits, model(tokens).logits[:, kept])

    def test_packed_tokens_are_refused_by_name(self):
        model, tokens = lively(), prompt(1)
        with pytest.raises(ValueError, match="position_ids came"):
            model(tokens, position_ids=torch.arange(13)[None])
        with pytest.raises(ValueError, match="output_attentions came"):
            model(tokens, output_attentions=True)
        model(tokens, output_attentions=False)

    def test_what_is_refused(self):
        model, tokens = lively(), prompt()
        with pytest.raises(ValueError, match="one of the two"):
            model()
        with pytest.raises(ValueError, match=r"BMojoCache\(2\) is needed"):
            model(tokens, cache=DynamicCache())
        with pytest.raises(ValueError, match=r"attention_mask \(3, 9\)"):
            model(tokens, attention_mask=torch.ones(3, 9))
        cache, mask = BMojoCache(2), torch.ones(3, 26)
        model(tokens, cache=cache)
        mask[0, 15] = 0
        with pytest.raises(ValueError, match="after others were absorbed"):
            model(tokens, attention_mask=mask, cache=cache)


class TestFiles:
    @pytest.mark.parametrize("mixer", ["mamba2", "lti", "gated_kalmanet", "headwise_mamba2_normed"])
    def test_it_comes_back_through_auto_classes(self, mixer, tmp_path):
        config = BMojoConfig(
            d_model=16, heads=2, window=4, eidetic=3, rule="random", mixer=mixer, state_size=4
        )
        model, tokens = lively([config, MIXER], eos_token_id=2), prompt()
        model.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(again) is BMojoForCausalLM
        assert again.config.layer_configs() == [config, MIXER]
        assert isinstance(AutoConfig.from_pretrained(tmp_path), BMojoModelConfig)
        assert again.config.eos_token_id == 2
        assert_close(again(tokens).logits, model(tokens).logits, "bitwise")

    def test_in_bfloat16(self, tmp_path):
        model = lively()
        model.save_pretrained(tmp_path)
        narrow = BMojoForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert narrow.dtype is torch.bfloat16
        tokens = prompt()
        assert narrow(tokens).logits.isfinite().all()
        assert generated(narrow, tokens).shape == (3, 8)

    def test_missing_weights_are_told(self, tmp_path):
        lively([LAYER]).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["layers"] = config["layers"] * 2
        config["num_hidden_layers"] = 2
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"the files lack .*model.blocks.1.norm.weight"):
            BMojoForCausalLM.from_pretrained(tmp_path)

    def test_a_larger_vocabulary(self):
        model, tokens = lively(), prompt()
        before = model(tokens).logits
        model.resize_token_embeddings(V + 4)
        after = model(tokens).logits
        assert after.shape[-1] == V + 4
        assert_close(after[..., :V], before)


class TestConfiguration:
    def test_one_layer_for_all(self):
        config = BMojoModelConfig(vocab_size=9, layers={"d_model": 24, "heads": 3}, num_hidden_layers=3)
        assert config.layer_configs() == [BMojoConfig(d_model=24, heads=3)] * 3
        assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (24, 3, 3)

    def test_it_is_made_again_from_its_values(self):
        config = BMojoModelConfig(vocab_size=9, layers=[LAYER, MIXER], mlp_ratio=1.5, use_cache=False)
        again = BMojoModelConfig.from_dict(json.loads(config.to_json_string()))
        assert again.to_dict() == config.to_dict()
        assert (again.mlp_ratio, again.use_cache) == (1.5, False)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layers": [LAYER], "num_hidden_layers": 2}, "num_hidden_layers=2 came with 1 layers"),
            ({"layers": []}, "0 layers"),
            ({"layers": LAYER, "hidden_size": 8}, "hidden_size is that of the layers, 16"),
            ({"layers": LAYER, "tie_word_embeddings": False}, "the head is the embedding"),
            ({"layers": {"d_model": 8, "window": -1}}, "window=-1"),
        ],
    )
    def test_what_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            BMojoModelConfig(vocab_size=9, **options)


class TestState:
    def test_it_is_no_place_for_keys_and_values(self):
        kept = StateLayer()
        with pytest.raises(NotImplementedError, match="takes no keys"):
            kept.update(torch.zeros(1), torch.zeros(1))
        with pytest.raises(NotImplementedError, match="cannot be cut back"):
            kept.crop(-1)
        kept.crop(0)

    def test_rows_are_chosen_repeated_and_forgotten(self):
        model, cache, tokens = lively(), BMojoCache(2), prompt()
        model(tokens, cache=cache)
        cache.batch_select_indices(torch.tensor([2, 0]))
        cache.batch_repeat_interleave(2)
        more = prompt(4, 3)
        whole = model(torch.cat([tokens[[2, 2, 0, 0]], more], dim=1)).logits[:, 13:]
        assert_close(model(more, cache=cache).logits, whole)
        cache.reset()
        assert cache.get_seq_length() == 0
        assert_close(model(tokens, cache=cache).logits, model(tokens).logits)


def test_without_transformers_the_extra_is_named():
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import bmojo
import bmojo.hf
"""
    result = run_python(code)
    assert result.returncode != 0
    assert "pip install 'realization[hf]'" in result.stderr.strip().splitlines()[-1]
