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
# # In storage: memory that outlives the sequence
#
# **An eidetic set has a fixed number of places. Where does a token go when it loses its own, who can find it
# again, and what is left once the sequence, or the process, has ended?**
#
# A layer with a *store* loses nothing: what is pushed out of the set is written to a disk, and each query
# reads the few stored keys that suit it best, under the same softmax as all other memories. Here a layer
# that keeps four tokens answers from the whole of a long past, and a second process goes on where the first
# one stopped.
#
# You need to know what an attention layer does.

# %%
# %config InlineBackend.figure_format = "retina"
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from bmojo import BMojo, BMojoConfig
from bmojo.storage import FlatStore, Stream, attach, detach
from realization import plot

torch.manual_seed(0)
torch.set_num_threads(1)
folder = tempfile.TemporaryDirectory()
place = Path(folder.name)

# %% [markdown]
# ## 1. A store, alone
#
# Rows are keys and values; a stream is one layer's memory of one sequence. `search` gives, for each query
# and head, the rows with the largest inner products. 500 keys, and a query that is one of them, blurred:

# %%
keys = torch.nn.functional.normalize(torch.randn(500, 2, 16), dim=-1)
stream = Stream(layer=0, entry=0)
with FlatStore(place / "alone") as store:
    store.append(stream, keys, keys, torch.arange(500))
    found = store.search(stream, keys[123:124] + 0.1 * torch.randn(1, 2, 16), count=4)
    print("positions found, by head:", found.positions[0].tolist())
    store.flush()
    print(store.committed(stream), "rows are on the disk,", store.nbytes // 500, "bytes each")
assert (found.positions[0, :, 0] == 123).all()

# %% [markdown]
# Keys lie in float16, which halves what they take; the choice is exact, row by row.
#
# ## 2. What the set lets go
#
# Attach one to a layer. Its set holds four tokens; whatever had to leave in favour of a more surprising
# one, or never got a place, goes into the store.

# %%
config = BMojoConfig(
    d_model=32, heads=2, window=8, chunk=4, eidetic=4, state_size=4, eidetic_position="none"
)
layer = BMojo(config).eval()
x = torch.randn(1, 160, 32)
store = FlatStore(place / "layer")
attach(layer, store, read=6)
with torch.no_grad():
    trace = layer.trace(x)
store.flush()
rows = store.rows((0, 0))
print("tokens: 160; in the set at the end: 4; in the window: 8; rows stored:", rows)

# %% tags=["hide-input"]
index, chunks = trace.eidetic_index[0].numpy(), trace.eidetic_index.shape[1]
mass = dict(zip(trace.segments, trace.attention_mass[0].mean(dim=0).T.numpy()))
NAMES = {"window": "window", "fading": "fading", "eidetic": "eidetic", "stored": "weights"}
with plot.style():
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7, 4.4), sharex=True, height_ratios=[1.5, 1]
    )
    for c in range(chunks):
        start, gone = (
            4 * c,
            4 * c - 5,
        )  # newest position that has left the window by the chunk's end
        held = index[c][index[c] >= 0]
        away = np.setdiff1d(np.arange(max(gone + 1, 0)), held)
        above.hlines(
            away, start, start + 4, color=plot.COLOURS["weights"], linewidth=0.6, alpha=0.35
        )
        above.hlines(held, start, start + 4, color=plot.COLOURS["eidetic"], linewidth=2)
        above.fill_between(
            [start, start + 4],
            max(gone + 0.5, 0),
            start + 4,
            color=plot.COLOURS["window"],
            alpha=0.4,
        )
    above.set_ylabel("token")
    above.set_title("in the window (blue), in the set (red), in the store (violet)")
    shown = [name for name in NAMES if name in mass]
    below.stackplot(
        np.arange(160),
        [mass[name] for name in shown],
        colors=[plot.COLOURS[NAMES[n]] for n in shown],
    )
    below.set(xlabel="query", ylabel="attention", ylim=(0, 1), xlim=(0, 160))
plt.show()

# %% [markdown]
# No token is in two memories that a query sees, and none is in no memory. The layer is not trained, so it
# looks at all of them alike; a trained one reads the store it was never trained with, and the page [In
# storage](../storage.md) has the figures.
#
# ## 3. One softmax, whatever lies where
#
# With $o$ the output of the other memories and $L$ the logarithm of their normalizer, reading $r$ more rows
# gives $p_0 o + \sum_i p_i v_i$ with $p = \operatorname{softmax}(L, q^\top k_1, \dots)$. That is the
# softmax over everything, so a layer with four places *and a store that is read in full* is a layer with
# places for all. The only difference is float16.


# %%
def with_set(places):
    """The same layer with another budget."""
    other = BMojo(BMojoConfig(**(vars(config) | {"eidetic": places}))).eval()
    other.load_state_dict(layer.state_dict())
    return other


everything = with_set(160)
detach(layer)
with torch.no_grad():
    wanted = everything(x)
    without = layer(x)
    error = {"no store": float((without - wanted).norm() / wanted.norm())}
    for read in (1, 4, 16, 64, 160):
        with FlatStore(place / f"read{read}") as other:
            attach(layer, other, read=read)
            error[str(read)] = float((layer(x) - wanted).norm() / wanted.norm())
            detach(layer)
for name, value in error.items():
    print(f"rows read: {name:>9}  relative difference to a set without a bound: {value:.1e}")
assert error["160"] < 1e-3 < error["no store"]

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 2.6))
    ax.plot(list(error), list(error.values()), "o-", color=plot.COLOURS["weights"])
    ax.set(yscale="log", xlabel="rows read by each query and head", ylabel="difference")
plt.show()

# %% [markdown]
# ## 4. After the process
#
# The rows lie in a folder. A process that ended left them there, one that was killed left all that were
# committed. Let another Python write a sequence and exit:

# %%
torch.save(layer.state_dict(), place / "layer.pt")
PROGRAM = """
import sys, torch
from bmojo import BMojo, BMojoConfig
from bmojo.storage import FlatStore, attach
place = sys.argv[1]
torch.set_num_threads(1)
options = dict(d_model=32, heads=2, window=8, chunk=4, eidetic=4, state_size=4)
layer = BMojo(BMojoConfig(**options, eidetic_position="none")).eval()
layer.load_state_dict(torch.load(place + "/layer.pt"))
store = FlatStore(place + "/lasting")
attach(layer, store, read=6)
torch.manual_seed(5)
with torch.no_grad():
    layer(torch.randn(1, 160, 32))
store.close()
"""
subprocess.run([sys.executable, "-c", PROGRAM, str(place)], check=True)
lasting = FlatStore(place / "lasting")
print("found here:", lasting.rows((0, 0)), "rows that this process never wrote")
assert lasting.rows((0, 0)) > 100

# %% [markdown]
# `anew=False` lets a new sequence read what earlier ones left in its stream. A query sees a row whose place
# lies at least a window behind its own, so the first eight find nothing:

# %%
y = torch.randn(1, 40, 32)
with torch.no_grad():
    alone = layer(y)
    attach(layer, lasting, read=6, anew=False)
    remembering = layer(y)
    detach(layer)
change = (remembering - alone).norm(dim=-1)[0] / alone.norm(dim=-1)[0]
print(
    f"change of the first eight outputs {change[:8].max():.2f}, of later ones up to {change.max():.2f}"
)
print("rows now:", lasting.rows((0, 0)))
assert change[:8].max() < 1e-5 < 0.02 < change.max()
lasting.close()
store.close()

# %% [markdown]
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: the merge.** Given the output `o` of some keys, the logarithm `L` of their normalizer, and
# more logits and values, give the output over all.


# %%
def merged(o, L, logits, values):
    """Output (d,) of one softmax, from o (d,), L, logits (r,) and values (r, d)."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def merged_solution(o, L, logits, values):
    p = torch.softmax(torch.cat([L[None], logits]), dim=0)
    return p[0] * o + p[1:] @ values


def check_merged(answer):
    logits, values = torch.randn(30), torch.randn(30, 5)
    whole = torch.softmax(logits, 0) @ values
    o, L = torch.softmax(logits[:20], 0) @ values[:20], torch.logsumexp(logits[:20], 0)
    assert torch.allclose(answer(o, L, logits[20:], values[20:]), whole, atol=1e-5)
    print("the output and one number are all that the rest must know of a memory")


check_merged(merged_solution)

# %% [markdown]
# **Exercise 2: what it costs.** A row is keys and values of `G` heads of width `d` in float16, with 8 bytes
# for its place. How many tokens of a model with `layers` layers fit into a disk?


# %%
def tokens_on_disk(gigabytes, layers, G, d):
    """Whole tokens that fit."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def tokens_on_disk_solution(gigabytes, layers, G, d):
    return int(gigabytes * 1e9 // (layers * (2 * G * 2 * d + 8)))


def check_tokens_on_disk(answer):
    assert answer(1, 1, 4, 64) == 968992
    assert answer(1000, 32, 4, 64) == 30281007
    print("a terabyte is thirty million tokens of 32 layers")


check_tokens_on_disk(tokens_on_disk_solution)

# %% [markdown]
# **Exercise 3: nothing twice, nothing lost.** From the set at the start of chunk `c` give the positions
# that only the store holds for the *first* query of that chunk. (A position is eligible once it will have
# left the window by the end of the chunk, $j \le cC - (w - C + 1)$.)


# %%
def only_in_store(held, c, window, chunk):
    """Sorted positions, from the set `held` at the start of chunk c."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def only_in_store_solution(held, c, window, chunk):
    eligible = range(max(0, c * chunk - (window - chunk + 1) + 1))
    seen = set(range(c * chunk - window + 1, c * chunk + 1))
    return sorted(set(eligible) - set(held) - seen)


def check_only_in_store(answer):
    for c in (0, 3, 20, chunks - 1):
        held = [j for j in index[c].tolist() if j >= 0]
        stored = answer(held, c, 8, 4)
        seen = range(max(0, 4 * c - 7), 4 * c + 1)
        assert set(stored) | set(held) | set(seen) == set(range(4 * c + 1))
        assert not set(stored) & (set(held) | set(seen))
    print("window, set and store share out the past")


check_only_in_store(only_in_store_solution)
folder.cleanup()

# %% [markdown]
# ## Sources
#
# - L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
#   Memory*, NeurIPS 2024, [arXiv 2407.06324](https://arxiv.org/abs/2407.06324).
# - Y. Wu, M. N. Rabe, D. Hutchins, C. Szegedy, *Memorizing transformers*, ICLR 2022: keys and values that
#   are looked up.
# - T. Dao et al., *FlashAttention*, NeurIPS 2022: parts of a softmax, merged by their normalizers.
