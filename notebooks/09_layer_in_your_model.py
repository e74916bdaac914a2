# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A layer in your model
#
# **You have a model, yours or one that somebody trained. How do its layers get four memories, what stays as
# it was at first, and what does it cost to go on for ever?**
#
# Four ways in, from a single layer in plain PyTorch to a Transformer whose weights are there already. What
# they share is a state of constant size, so that a stream can go on without end; that is shown first and
# tested in the exercises.
#
# You need to know a Transformer's parts.

# %%
# %config InlineBackend.figure_format = "retina"
import copy
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bmojo import BMojo, BMojoConfig, BMojoLM
from realization import plot

torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# ## 1. In plain PyTorch
#
# `BMojo` maps $(B, T, D)$ to $(B, T, D)$ and is causal: it stands where attention stood.


# %%
class Block(nn.Module):
    """A block of a model of one's own."""

    def __init__(self, width, layer):
        super().__init__()
        self.norm, self.layer = nn.RMSNorm(width), layer
        self.mlp = nn.Sequential(
            nn.RMSNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        x = x + self.layer(self.norm(x))
        return x + self.mlp(x)


config = BMojoConfig(d_model=32, heads=4, window=8, mixer="mamba2", state_size=8, eidetic=4)
block = Block(32, BMojo(config))
x = torch.randn(2, 60, 32)
y = block(x)
y.square().mean().backward()
trained = sum(p.grad is not None for p in block.parameters())
print(
    tuple(x.shape),
    "->",
    tuple(y.shape),
    f"; gradients in {trained} of {len(list(block.parameters()))} tensors",
)

# %% [markdown]
# ## 2. As a stream
#
# The same layer takes a sequence whole, in pieces, or token by token, with the same result. What it carries
# is `state`: window, mixer, set. Its size does not depend on how much has gone by. A Transformer's cache
# does.

# %%
layer = block.layer.eval()
with torch.no_grad():
    whole = layer(x)
    first, state = layer(x[:, :25], layer.init_state(2))
    rest, state = layer(x[:, 25:], state)
    state_t, steps = layer.init_state(2), []
    for t in range(60):
        out, state_t = layer.step(x[:, t], state_t)
        steps.append(out)
print(f"in two pieces: {(torch.cat([first, rest], 1) - whole).abs().max():.0e}")
print(f"step by step:  {(torch.stack(steps, 1) - whole).abs().max():.0e}")
assert torch.allclose(torch.stack(steps, 1), whole, atol=1e-4)

lengths = [16, 64, 256, 1024]
with torch.no_grad():
    carried = [layer(torch.randn(1, T, 32), layer.init_state(1))[1].nbytes for T in lengths]
cache = [2 * 4 * 32 * T for T in lengths]  # keys and values, 32 floats of 4 bytes each
assert len(set(carried)) == 1

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 2.6))
    ax.plot(lengths, cache, "o--", color=plot.COLOURS["window"], label="cache of full attention")
    ax.plot(lengths, carried, "o-", color=plot.COLOURS["fading"], label="state of the layer")
    ax.set(xscale="log", yscale="log", xlabel="tokens gone by", ylabel="bytes, one layer")
    ax.set_xticks(lengths, [str(T) for T in lengths])
    ax.legend()
plt.show()

# %% [markdown]
# ## 3. A language model
#
# `BMojoLM` is an embedding, blocks, a norm and a head. Its layers may differ; here every second one has no
# set. The task is a text of three words that come in an order with a pattern.

# %%
words = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2], [6, 6, 2, 6, 0]])


def sentences(count, generator):
    """Words 0, 1, 2, 0, 1, 2, ... from a random first one, each spelled in five letters."""
    start = torch.randint(3, (count, 1), generator=generator)
    return words[(start + torch.arange(8)) % 3].flatten(1)


lm = BMojoLM(vocabulary=9, layers=[config, BMojoConfig(d_model=32, heads=4, window=8, eidetic=0)])
optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-2)
generator = torch.Generator().manual_seed(0)
losses = []
for _ in range(40):
    tokens = sentences(16, generator)
    loss = cross_entropy(lm(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
told = lm.eval().generate(tokens[:1, :10], 15)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; goes on with", told.tokens[0, -15:].tolist())
assert losses[-1] < 0.3

# %% [markdown]
# ## 4. Among transformers
#
# The same model as `BMojoForCausalLM`: with labels, `generate`, beams and files, and the state in the place
# of the cache.

# %%
warnings.filterwarnings("ignore")
import transformers

transformers.logging.set_verbosity_error()
from transformers import Qwen3Config, Qwen3ForCausalLM

from bmojo.hf import BMojoForCausalLM, BMojoModelConfig, prime

causal = BMojoForCausalLM(BMojoModelConfig(vocab_size=9, layers=config, num_hidden_layers=2)).eval()
out = causal(tokens, labels=tokens)
more = causal.generate(tokens[:2, :10], max_new_tokens=5, num_beams=3)
print(f"loss {float(out.loss.detach()):.2f};", tuple(more.shape))

# %% [markdown]
# ## 5. A model that is trained already
#
# `prime` puts B'MOJO layers in the place of a Transformer's attention. They start from its projections,
# with a mixer that is silent at first, so for the first `window` tokens *nothing* has changed; and with a
# window as long as the sequence nothing changes at all. A small Qwen3 stands for one that you would load
# with `from_pretrained`; train it on the same words.

# %%
sizes = {"vocab_size": 9, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
original = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads))


def train(model, steps, rate):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    found = []
    for _ in range(steps):
        tokens = sentences(16, generator)
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    model.eval()
    return found


before = train(original, 60, 1e-2)
primed = prime(copy.deepcopy(original), window=8, mixer="mamba2", state_size=8, eidetic=4)
tokens = sentences(16, torch.Generator().manual_seed(5))
with torch.no_grad():
    moved = (primed(tokens).logits - original(tokens).logits).abs().amax(dim=(0, 2)).numpy()
print(
    f"change of the logits: {moved[:8].max():.0e} within the window, up to {moved[8:].max():.2f} beyond"
)
assert moved[:8].max() < 1e-4

after = train(primed, 20, 3e-3)
print(
    f"loss: as trained {before[-1]:.2f}, just primed {after[0]:.2f}, 20 steps later {after[-1]:.2f}"
)
assert after[-1] < before[-1] + 0.1

# %% tags=["hide-input"]
with plot.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    left.plot(moved, "o-", markersize=4, color=plot.COLOURS["innovation"])
    left.axvspan(-0.5, 7.5, color=plot.COLOURS["window"], alpha=0.12)
    left.set(
        xlabel="token (shaded: the window)", ylabel="change of the logits", title="just primed"
    )
    right.plot(before, color=plot.COLOURS["window"], label="full attention")
    right.plot(np.arange(60, 80), after, color=plot.COLOURS["eidetic"], label="primed, window of 8")
    right.set(xlabel="step", ylabel="loss, nats", ylim=(0, None))
    right.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: an endless stream.** Run a layer over tokens that come in pieces of any length, without ever
# holding more than one piece.


# %%
def streamed(layer, pieces):
    """Yield the output of each piece (B, T_i, D)."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
@torch.no_grad()
def streamed_solution(layer, pieces):
    state = None
    for piece in pieces:
        state = layer.init_state(len(piece)) if state is None else state
        out, state = layer(piece, state)
        yield out


def check_streamed(answer):
    pieces = x.split([1, 7, 30, 2, 20], dim=1)
    assert torch.allclose(torch.cat(list(answer(layer, pieces)), dim=1), whole, atol=1e-4)
    print("any chunking is the same function")


check_streamed(streamed_solution)

# %% [markdown]
# **Exercise 2: causal.** Show it by gradients: which inputs can the output at `t` depend on? Return the
# positions at which its gradient is not zero.


# %%
def depends_on(layer, x, t):
    """Positions, ascending, whose input changes the output at t."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def depends_on_solution(layer, x, t):
    leaf = x.clone().requires_grad_()
    layer(leaf)[:, t].square().sum().backward()
    return torch.nonzero(leaf.grad.abs().amax(dim=(0, 2)) > 0).flatten().tolist()


def check_depends_on(answer):
    for t in (0, 5, 40):
        found = answer(layer, x[:1], t)
        assert max(found) == t
        assert len(found) > min(t, 8)
    print("on all of the past, on nothing of the future")


check_depends_on(depends_on_solution)

# %% [markdown]
# **Exercise 3: when is the state the smaller one?** From how many tokens on does a cache of full attention
# (keys and values of `d` floats each) take more than a state of so many bytes?


# %%
def crossing(state_bytes, d):
    """Least whole number of tokens whose cache of float32 is larger than the state."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def crossing_solution(state_bytes, d):
    return state_bytes // (2 * 4 * d) + 1


def check_crossing(answer):
    tokens = answer(carried[0], 32)
    assert 2 * 4 * 32 * tokens > carried[0] >= 2 * 4 * 32 * (tokens - 1)
    assert answer(255, 1) == 32
    print(f"from {tokens} tokens on")


check_crossing(crossing_solution)

# %% [markdown]
# ## Sources
#
# - L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
#   Memory*, NeurIPS 2024, [arXiv 2407.06324](https://arxiv.org/abs/2407.06324).
# - T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024: the mixer.
# - J. Kasai et al., *Finetuning pretrained transformers into RNNs*, EMNLP 2021: swap, then train on.
# - A. Yang et al., *Qwen3 technical report*, 2025: the architecture that is primed.
