"""Primed models do what they did, padded, packed, in beams; then they learn, and come back from files."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StaticCache,
)

from bmojo import BMojo, BMojoConfig
from bmojo.fading import LTI, register_mixer
from bmojo.hf import PrimedAttention, install, load_primed, prime
from bmojo.hf.cache import CACHE
from bmojo.models import AttentionLike, convert_layers
from bmojo.storage import FlatStore, attach, detach
from tests.authors import state_dict
from tests.oracles.bmojo_f import bmojo_f
from tests.tolerances import assert_close

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 128.0,
    "original_max_position_embeddings": 16,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama3 with biases": (
        LlamaConfig,
        LlamaForCausalLM,
        {"attention_bias": True, "rope_parameters": LLAMA3},
    ),
    "llama with yarn": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": YARN}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 12}),
    "qwen3 with a sliding layer": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 12} | SLIDING),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 6}),
}
NOTHING = {"mixer": "none", "eidetic": 0}


def model_of(family, *, attention="sdpa", dtype=torch.float32):
    """A random model, away from where norms are one and biases zero."""
    config, kind, options = FAMILIES[family]
    torch.manual_seed(0)
    model = kind(config(**SIZES, **options, attn_implementation=attention)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def prompt(batch=2, length=24):
    return torch.randint(1, 40, (batch, length), generator=torch.Generator().manual_seed(1))


def generated(model, tokens, mask=None, **options):
    mask = torch.ones_like(tokens) if mask is None else mask
    chosen = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(tokens, attention_mask=mask, **(chosen | options))[:, tokens.shape[1] :]


@pytest.mark.parametrize("family", FAMILIES)
class TestUnchanged:
    def test_with_a_full_window_and_no_memories(self, family):
        model, tokens = model_of(family), prompt()
        before = model(tokens).logits
        assert prime(model, window=64, **NOTHING) is model
        assert all(isinstance(layer.self_attn, PrimedAttention) for layer in model.model.layers)
        assert_close(model(tokens).logits, before)

    def test_in_float64_to_rounding(self, family):
        """But for the model's own frequencies and angles, which it forms in float32."""
        model, tokens = model_of(family, dtype=torch.float64), prompt()
        before = model(tokens).logits
        assert_close(prime(model, window=64, **NOTHING)(tokens).logits, before, "exact", dtype="float32")

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_padded_and_generated(self, family, attention):
        model, tokens = model_of(family, attention=attention), prompt()
        mask = torch.ones_like(tokens)
        mask[0, :5] = 0
        before, visible = model(tokens, attention_mask=mask).logits, mask.bool()
        greedy, beams = generated(model, tokens, mask), generated(model, tokens, mask, num_beams=3)
        prime(model, window=64, **NOTHING)
        assert_close(model(tokens, attention_mask=mask).logits[visible], before[visible])
        assert torch.equal(generated(model, tokens, mask), greedy)
        assert torch.equal(generated(model, tokens, mask, num_beams=3), beams)

    def test_in_training_mode_the_gradients_are_the_same(self, family):
        model, tokens = model_of(family).train(), prompt()
        primed = prime(copy.deepcopy(model), window=64, **NOTHING)
        for m in (model, primed):
            m(tokens, labels=tokens).loss.backward()
        old = dict(model.named_parameters())
        for name, parameter in primed.named_parameters():
            if ".self_attn." not in name:
                assert_close(parameter.grad, old[name].grad, "recurrence", what=name)
        assert primed.model.layers[0].self_attn.layer.in_proj.weight.grad.abs().max() > 0


OTHERS = [
    {},
    {"mixer": "gated_deltanet", "predictor": "residual", "tie_projections": False, "state_size": 4},
    {"mixer": "lti", "short_conv": 3, "write_gate": True, "eidetic_position": "edge"},
    {"mixer": "headwise_mamba2", "state_size": 8, "eidetic_norm": True, "fading_readout": "none"},
]


@pytest.mark.parametrize("family", ["llama3 with biases", "qwen3"])
class TestMemories:
    @pytest.mark.parametrize("options", OTHERS, ids=["mamba2", "delta", "lti", "headwise"])
    def test_within_the_window_nothing_changes_whatever_is_added(self, family, options):
        model, tokens = model_of(family), prompt(2, 8)
        before = model(tokens).logits
        assert_close(prime(model, window=8, eidetic=4, **options)(tokens).logits, before)

    @pytest.mark.parametrize("options", OTHERS, ids=["mamba2", "delta", "lti", "headwise"])
    def test_training_goes_on(self, family, options):
        model, tokens = prime(model_of(family), window=4, eidetic=4, **options).train(), prompt(4, 20)
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
        for step in range(15):
            loss = model(tokens, labels=tokens, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            if step == 1:
                lacking = [n for n, p in model.named_parameters() if p.grad is None]
                assert not lacking
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]

    def test_activations_computed_anew_give_the_same_gradients(self, family):
        model, tokens = prime(model_of(family), window=4, eidetic=3, state_size=4).train(), prompt()
        _speak(model)
        found = []
        for anew in (False, True):
            if anew:
                getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
            model.zero_grad()
            model(tokens, labels=tokens, use_cache=False).loss.backward()
            found.append({name: p.grad.clone() for name, p in model.named_parameters()})
        for name, grad in found[0].items():
            assert_close(found[1][name], grad, what=name)

    def test_it_streams(self, family):
        model, tokens = prime(model_of(family), window=4, eidetic=3, state_size=4), prompt(2, 24)
        _speak(model)
        whole, cache = model(tokens).logits, DynamicCache(config=model.config)
        parts = [model(part, **{CACHE: cache}).logits for part in tokens.split([7, 1, 1, 15], dim=1)]
        assert_close(torch.cat(parts, dim=1), whole)
        assert cache.get_seq_length() == 24
        greedy = tokens
        for _ in range(6):
            greedy = torch.cat([greedy, model(greedy, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(generated(model, tokens, max_new_tokens=6), greedy[:, 24:])

    def test_with_a_store(self, family, tmp_path):
        model, tokens = prime(model_of(family), window=4, eidetic=2, state_size=4), prompt(2, 24)
        without = model(tokens).logits
        with FlatStore(tmp_path / "store", durable=False) as store:
            attach(model, store, read=4)
            whole, cache = model(tokens, use_cache=False).logits, DynamicCache(config=model.config)
            parts = [model(part, **{CACHE: cache}).logits for part in tokens.split([7, 1, 16], dim=1)]
            assert_close(torch.cat(parts, dim=1), whole, "recurrence")
            assert generated(model, tokens).shape == (2, 8)
            detach(model)
        assert float((whole - without).detach().abs().max()) > 1e-3

    def test_some_layers_only(self, family):
        model, tokens = model_of(family), prompt()
        before, greedy = model(tokens).logits, generated(model, tokens)
        prime(model, window=64, layers=[1], **NOTHING)
        kinds = [type(layer.self_attn) is PrimedAttention for layer in model.model.layers]
        assert kinds == [False, True]
        assert_close(model(tokens).logits, before)
        assert torch.equal(generated(model, tokens), greedy)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_it_comes_back_from_files(self, family, dtype, tmp_path):
        model = model_of(family, dtype=dtype)
        prime(model, window=4, layers=[0], eidetic=3, state_size=4, tie_projections=False)
        prime(model, window=5, layers=[1], eidetic=2, mixer="lti", state_size=4)
        _speak(model)
        model.save_pretrained(tmp_path)
        again, tokens = load_primed(tmp_path), prompt()
        assert type(again) is type(model)
        assert again.dtype is dtype
        assert [layer.self_attn.layer.config.window for layer in again.model.layers] == [4, 5]
        assert_close(again(tokens).logits, model(tokens).logits, "bitwise")


def _speak(model):
    """Parameters away from where priming leaves them silent."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mixer." in name and not name.endswith(("dt_bias", "A_log", "rho")):
                parameter += 0.2 * torch.randn_like(parameter)


class TestHeadwise:
    @pytest.mark.parametrize("mixer", ["mamba2_normed", "gated_deltanet", "gated_kalmanet"])
    def test_a_mixer_as_wide_as_attention_asks_and_tells_the_same(self, mixer):
        model = model_of("qwen3")
        old = copy.deepcopy(model.model.layers[0].self_attn)
        options = {"mixer": f"headwise_{mixer}", "state_size": 12, "fading_readout": "none"}
        prime(model, window=8, eidetic=0, **options)
        found = model.model.layers[0].self_attn.layer.mixer
        x = torch.randn(3, 32)
        keys, values = (
            p(x).unflatten(-1, (2, 12)).repeat_interleave(2, dim=-2).flatten(-2)
            for p in (old.k_proj, old.v_proj)
        )
        told = found.in_proj(x)
        parts = [values, keys, old.q_proj(x)] if "mamba2" in mixer else [old.q_proj(x), keys, values]
        begin = 48 if "mamba2" in mixer else 0
        assert_close(told[:, begin : begin + 144], torch.cat(parts, dim=-1))
        assert_close(found.out_proj.weight, old.o_proj.weight, "bitwise")
        last = torch.nn.functional.one_hot(torch.tensor(3), 4).float().expand(144, 4)
        assert_close(found.conv.weight, last, "bitwise")
        if "normed" in mixer:
            assert_close(found.conv.read_norm.weight, old.q_norm.weight, "bitwise")
            assert_close(found.conv.write_norm.weight, old.k_norm.weight, "bitwise")

    def test_of_another_size_it_starts_by_itself(self):
        model, tokens = model_of("qwen3"), prompt(1, 8)
        before = model(tokens).logits
        prime(model, window=8, mixer="headwise_gated_deltanet", state_size=5)
        assert_close(model(tokens).logits, before)


@pytest.mark.parametrize("options", [NOTHING, {"eidetic": 3, "state_size": 4}], ids=["plain", "memories"])
class TestCompiled:
    def test_it_compiles(self, options):
        """In pieces: what is looked up in a mask depends on its values."""
        model, tokens = prime(model_of("qwen3"), window=4, **options).train(), prompt(1, 12)
        expected = model(tokens, use_cache=False).logits
        compiled = torch.compile(model, backend="aot_eager")
        found = compiled(tokens, use_cache=False).logits
        assert_close(found, expected)
        found.square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_without_masks_in_one_graph(self, options):
        model, tokens = model_of("qwen3").train(), prompt(1, 12)
        prime(model, window=4, masks=False, **options)
        expected = model(tokens, use_cache=False).logits
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert_close(compiled(tokens, use_cache=False).logits, expected)
        mask = torch.ones_like(tokens)
        mask[0, :3] = 0
        with pytest.raises(ValueError, match="masks=False"):
            model(tokens, attention_mask=mask)


class TestInstalled:
    def test_converted_layers_are_those_of_the_model(self, tmp_path):
        weights, prefix = {}, "model.layers.1.bmojo_f"
        for name, x in state_dict("gdn", tied=False, dtype=torch.float32, prefix=prefix).items():
            weights[name] = x
        layers = convert_layers(weights, window=3, rotary_base=500.0)
        sizes = SIZES | {"hidden_size": 12}
        model, tokens = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=6)).eval(), prompt()
        seen = []
        assert install(model, layers) is model
        model.model.layers[1].self_attn.register_forward_hook(
            lambda module, given, options, output: seen.append((options["hidden_states"], output[0])),
            with_kwargs=True,
        )
        logits = model(tokens, use_cache=False).logits
        given, output = seen[0]
        plain = {name[len(prefix) + 1 :]: x.double().numpy() for name, x in weights.items()}
        oracle = bmojo_f(given[0].detach().double().numpy(), plain, window=3, base=500.0)
        assert_close(output[0], oracle, "recurrence")
        assert generated(model, tokens).shape == (2, 8)
        model.save_pretrained(tmp_path)
        assert_close(load_primed(tmp_path)(tokens).logits, logits, "bitwise")

    @pytest.mark.parametrize(
        ("index", "width", "message"), [(5, 32, r"layer 5 came.*at \[0, 1\]"), (1, 16, "width 16 came")]
    )
    def test_what_does_not_fit(self, index, width, message):
        layer = AttentionLike(BMojoConfig(d_model=width, window=4))
        with pytest.raises(ValueError, match=message):
            install(model_of("llama"), {index: layer})


class TestPacked:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_positions_that_begin_anew(self, attention):
        model, tokens = model_of("qwen3", attention=attention), prompt(1)
        positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
        options = {"position_ids": positions, "use_cache": False}
        before = model(tokens, **options).logits
        prime(model, window=64, **NOTHING)
        assert_close(model(tokens, **options).logits, before)

    def test_each_sequence_alone(self):
        model, tokens = prime(model_of("qwen3"), window=4, eidetic=3, state_size=4), prompt(1)
        _speak(model)
        positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
        packed = model(tokens, position_ids=positions, use_cache=False).logits
        alone = [model(part, use_cache=False).logits for part in tokens.split([10, 14], dim=1)]
        assert_close(packed, torch.cat(alone, dim=1))


class Doubled(LTI):
    def __init__(self, d_model, heads, state_size):
        super().__init__(d_model, d_model, state_size)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"heads": 4}, "heads came, which the model tells"),
            ({"rotary_base": 1e4, "qk_norm": True}, "qk_norm, rotary_base came"),
            ({"layers": [0, 7]}, r"layers \[7\] came.*at \[0, 1\]"),
            ({"layers": []}, r"layers \[\] came"),
            ({"window": 0}, "window=0"),
            ({"mixer": "mamba3"}, "mixer='mamba3'"),
            ({"predictor": "residual"}, "predictor='residual'"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            prime(model_of("llama"), **({"window": 8} | options))

    def test_a_refusal_leaves_the_model_as_it_was(self):
        model = model_of("llama")
        model.model.layers[1].self_attn.attention_dropout = 0.1
        with pytest.raises(ValueError, match=r"attention_dropout=0\.1"):
            prime(model, window=8)
        assert not any(isinstance(module, BMojo) for module in model.modules())
        assert getattr(model.config, "bmojo", None) is None

    def test_a_model_without_such_layers(self):
        with pytest.raises(ValueError, match=r"at \[\]"):
            prime(torch.nn.Linear(3, 3), window=4)

    def test_positions_that_depend_on_the_length(self):
        scaled = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=scaled))
        with pytest.raises(ValueError, match="type 'dynamic'"):
            prime(model, window=8)

    def test_norms_with_another_eps(self):
        model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, rms_norm_eps=1e-4))
        with pytest.raises(ValueError, match=r"eps=0\.0001"):
            prime(model, window=8)

    def test_a_layer_that_does_something_else(self):
        model = model_of("llama")
        attention = model.model.layers[0].self_attn
        plain = attention.forward
        attention.forward = lambda x, **options: (plain(x, **options)[0].tanh(), None)
        with pytest.raises(ValueError, match=r"LlamaAttention 0 differs from it by"):
            prime(model, window=8)
        prime(model, window=8, check=False)

    def test_a_mixer_that_cannot_begin_silent(self):
        register_mixer("doubled", Doubled)
        with pytest.raises(ValueError, match=r"mixer='doubled' has no `out_proj`.*fading_readout='none'"):
            prime(model_of("llama"), window=8, mixer="doubled")
        model, tokens = model_of("llama"), prompt(1, 8)
        before = model(tokens).logits
        prime(model, window=8, mixer="doubled", fading_readout="none")
        assert_close(model(tokens).logits, before)

    def test_caches_of_another_kind(self):
        model = prime(model_of("llama"), window=8, **NOTHING)
        with pytest.raises(ValueError, match="a fresh DynamicCache is needed"):
            model(prompt(), **{CACHE: StaticCache(config=model.config, max_cache_len=40)})
        used = DynamicCache(config=model.config)
        for index in range(2):
            used.update(torch.zeros(2, 2, 3, 8), torch.zeros(2, 2, 3, 8), index)
        with pytest.raises(ValueError, match=r"DynamicLayer of 3 tokens"):
            model(prompt(), **{CACHE: used})

    def test_masks_of_another_kind(self):
        attention = PrimedAttention(BMojo(BMojoConfig(d_model=8, heads=2, window=4)), 0)
        with pytest.raises(ValueError, match="a mask of type str came"):
            attention(torch.randn(1, 5, 8), attention_mask="causal")
        with pytest.raises(ValueError, match="give a batch of 1"):
            attention(torch.randn(2, 5, 8), attention_mask=torch.eye(5, dtype=torch.bool).expand(2, 1, 5, 5))

    def test_padding_after_the_first_piece(self):
        model, tokens = prime(model_of("llama"), window=8, **NOTHING), prompt()
        cache, mask = DynamicCache(config=model.config), torch.ones(2, 24)
        model(tokens[:, :10], **{CACHE: cache})
        mask[0, 12] = 0
        with pytest.raises(ValueError, match="pad in front"):
            model(tokens[:, 10:], attention_mask=mask, **{CACHE: cache})

    def test_a_folder_without_a_primed_model(self, tmp_path):
        model_of("llama").save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="holds no primed model"):
            load_primed(tmp_path)

    def test_weights_that_are_missing(self, tmp_path):
        model = prime(model_of("llama"), window=8, mixer="none", eidetic=0)
        del model.model.layers[1].self_attn.layer.in_proj
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"lacks model.layers.1.self_attn.layer.in_proj.weight"):
            load_primed(tmp_path)
