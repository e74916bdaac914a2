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
# # Kernels: one recurrence, from its definition to the limit
#
# **How fast can $h_t = a_t h_{t-1} + b_t$ possibly be, what stands between the definition and that limit, and
# what changes when gradients are asked for?**
#
# Every fading memory of this project is some form of this line. It has two operations for each number that it
# reads, so no cleverness with arithmetic can help: the time it must take is the time that its numbers need
# to travel. We measure that first, then write the recurrence four times.
#
# You need Python and the chain rule.

# %%
# %config InlineBackend.figure_format = "retina"
import os
import time

os.environ.setdefault("NUMBA_NUM_THREADS", "1")
import bmojo_kernels as bk
import matplotlib.pyplot as plt
import numba
import numpy as np
import torch

from realization import plot

torch.set_num_threads(1)
rng = np.random.default_rng(0)


def fastest(run, repeats=5):
    """Least seconds of several runs: what disturbs a measurement only ever adds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


# %% [markdown]
# ## 1. The definition
#
# Batch, time, channels: `a` and `b` are $(B, T, C)$. Each channel is a recurrence of its own.


# %%
def by_definition(a, b):
    B, T, C = a.shape
    h = np.empty_like(b)
    for i in range(B):
        for c in range(C):
            state = 0.0
            for t in range(T):
                state = float(a[i, t, c]) * state + float(b[i, t, c])
                h[i, t, c] = state
    return h


def signals(B, T, C):
    a = rng.uniform(0.9, 1.0, (B, T, C)).astype(np.float32)
    return a, rng.standard_normal((B, T, C)).astype(np.float32)


small = signals(2, 300, 16)
wanted = by_definition(*small)

# %% [markdown]
# ## 2. The limit
#
# The recurrence reads two arrays and writes one, as a product of arrays does, and as little can be computed
# on the way in either. So its limit is what this machine needs for `torch.mul(a, b, out=...)`, measured
# here on arrays that are too large for the cache.

# %%
a, b = signals(4, 8192, 256)
ta, tb, out = torch.from_numpy(a), torch.from_numpy(b), torch.empty(a.shape)
limit = fastest(lambda: torch.mul(ta, tb, out=out), repeats=15)
moved = 3 * a.nbytes
print(f"{moved / 1e6:.0f} MB travel in {1e3 * limit:.1f} ms: {moved / limit / 1e9:.1f} GB/s")

# %% [markdown]
# ## 3. Four ways to write it
#
# NumPy does a time step for all channels at once: $T$ calls, each with an array of $B \times C$. Numba
# compiles the loops themselves, and now their *order* counts. With time innermost, as in the definition,
# each step waits for the one before it and jumps over $C$ numbers; with channels innermost, neighbours lie
# side by side in memory and are independent of one another, so that eight or sixteen of them fit into one
# vector instruction.


# %%
def by_rows(a, b):
    h, state = np.empty_like(b), np.zeros_like(b[:, 0])
    for t in range(a.shape[1]):
        state = a[:, t] * state + b[:, t]
        h[:, t] = state
    return h


@numba.njit
def time_innermost(a, b):
    B, T, C = a.shape
    h = np.empty_like(b)
    for i in range(B):
        for c in range(C):
            state = np.float32(0)
            for t in range(T):
                state = a[i, t, c] * state + b[i, t, c]
                h[i, t, c] = state
    return h


@numba.njit
def channels_innermost(a, b):
    B, T, C = a.shape
    h = np.empty_like(b)
    for i in range(B):
        state = np.zeros(C, a.dtype)
        for t in range(T):
            for c in range(C):
                state[c] = a[i, t, c] * state[c] + b[i, t, c]
                h[i, t, c] = state[c]
    return h


WAYS = {
    "definition": by_definition,
    "NumPy, a step at a time": by_rows,
    "Numba, time innermost": time_innermost,
    "Numba, channels innermost": channels_innermost,
    "bk.linear_scan": lambda a, b: bk.linear_scan(a, b)[0],
}
for name, way in WAYS.items():
    assert np.abs(way(*small) - wanted).max() < 1e-4 * np.abs(wanted).max(), name

seconds = {
    name: fastest(lambda way=way: way(a, b)) for name, way in WAYS.items() if name != "definition"
}
part = a[:, :64].copy(), b[:, :64].copy()
seconds = {"definition": fastest(lambda: by_definition(*part), 1) * a.shape[1] / 64} | seconds
for name, value in seconds.items():
    print(f"{name:<27}{1e3 * value:9.1f} ms{100 * limit / value:8.1f} % of the limit")

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 2.7))
    colours = ["baseline", "baseline", "baseline", "fading", "eidetic"]
    ax.barh(
        list(seconds), [1e3 * s for s in seconds.values()], color=[plot.COLOURS[c] for c in colours]
    )
    ax.axvline(1e3 * limit, color=plot.COLOURS["data"], linestyle="--", linewidth=1)
    ax.set(xscale="log", xlabel="milliseconds; dashed: a product of the same arrays")
    ax.invert_yaxis()
plt.show()

# %% [markdown]
# (The definition was timed on 64 steps and is multiplied.) Everything else follows from one picture: a step
# is one operation on a row that is contiguous, and the row before is still in the cache.
#
# ## 4. Backwards
#
# Let $\bar h_t$ be what the loss says about $h_t$ directly. By the chain rule, all that it says is
#
# $$g_t = \bar h_t + a_{t+1}\, g_{t+1}, \qquad \bar b_t = g_t, \qquad \bar a_t = g_t\, h_{t-1} :$$
#
# the same recurrence, run from the end, with the $a$ of the step after. Three arrays are read and two written
# ($5/3$ of the traffic), and nothing is stored beyond $h$, which the forward pass wrote anyway.


# %%
def backward(a, h, dh):
    """Gradients of `a` and `b` by a scan from the end."""
    later = np.concatenate([a[:, 1:], np.zeros_like(a[:, :1])], axis=1)
    g = bk.linear_scan(later[:, ::-1].copy(), dh[:, ::-1].copy())[0][:, ::-1]
    before = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1)
    return g * before, g


leaf_a, leaf_b = (torch.from_numpy(x).clone().requires_grad_() for x in small)
h, _ = bk.linear_scan(leaf_a, leaf_b)
weight = rng.standard_normal(h.shape).astype(np.float32)
h.backward(torch.from_numpy(weight))
da, db = backward(small[0], h.detach().numpy(), weight)
assert np.allclose(da, leaf_a.grad, atol=1e-4)
assert np.allclose(db, leaf_b.grad, atol=1e-4)
print("a scan from the end gives the gradients that `linear_scan` gives")

# %% [markdown]
# ## 5. Why chunks, then
#
# On a processor with a few cores, channels are enough to keep it busy. A GPU has a hundred thousand lanes,
# and a batch of one has no more than $C$ recurrences: most of the chip would watch. Two facts make time
# itself parallel. Steps compose, since applying $(a_1, b_1)$ and then $(a_2, b_2)$ is applying
#
# $$(a_1, b_1) \circ (a_2, b_2) = (a_1 a_2,\; a_2 b_1 + b_2),$$
#
# and composition is associative. So let every *chunk* of steps run by itself from zero, carry only the ends
# of the chunks across, and add to each state what entered its chunk:
#
# $$h_t = h_t^{\text{local}} + \Big(\prod_{s \le t \text{ in the chunk}} a_s\Big)\, h_{\text{entering}} .$$


# %%
def chunked(a, b, size):
    B, T, C = a.shape
    parts = (B * (T // size), size, C)
    local = by_rows(a.reshape(parts), b.reshape(parts)).reshape(
        B, T // size, size, C
    )  # all chunks at once
    decay = np.cumprod(a.reshape(local.shape), axis=2)
    entering, state = np.empty_like(local[:, :, 0]), np.zeros_like(local[:, 0, 0])
    for c in range(T // size):  # only the ends, one after another
        entering[:, c] = state
        state = decay[:, c, -1] * state + local[:, c, -1]
    return (local + decay * entering[:, :, None]).reshape(a.shape)


one = signals(1, 4096, 64)
reference = by_rows(*one)
depth = {}
for size in (8, 16, 32, 64, 128, 256, 512):
    assert np.abs(chunked(*one, size) - reference).max() < 1e-4 * np.abs(reference).max()
    depth[size] = size + 4096 // size
best = min(depth, key=depth.get)
print(f"steps that must wait for one another: 4096, or {depth[best]} with chunks of {best}")

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 2.7))
    ax.plot(
        list(depth),
        list(depth.values()),
        "o-",
        color=plot.COLOURS["fading"],
        label="steps in a row",
    )
    took = [fastest(lambda size=size: chunked(*one, size), 2) for size in depth]
    twin = ax.twinx()
    twin.plot(list(depth), [1e3 * s for s in took], "s--", color=plot.COLOURS["eidetic"])
    twin.set_ylabel("ms here, in NumPy", color=plot.COLOURS["eidetic"])
    ax.set(xscale="log", ylim=(0, None), xlabel="chunk", ylabel="steps in a row")
    ax.yaxis.label.set_color(plot.COLOURS["fading"])
    ax.set_xticks(list(depth), [str(size) for size in depth])
plt.show()

# %% [markdown]
# The work grew (each number is touched a second time), and the chain became shorter: the choice of a chunk is
# that exchange. With matrices for states, the inside of a chunk becomes products of matrices, which is
# what a chip does best; `ssd_scan` and `gated_delta_scan` are made so.
#
# ## 6. Who runs it
#
# One function stands before all of this; the tensor's device decides. There is never a slow path that is
# taken in silence.

# %%
for device in ("cpu", "cuda"):
    print(f"{device:5s}", bk.backend_for("linear_scan", device=device, dtype="float32"))

# %% [markdown]
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: what the limit says.** Forward moves three arrays, backward five. With a bandwidth in bytes a
# second, how long do both together take at least, and at which share of the limit is a run of `seconds`?


# %%
def share_of_limit(shape, bandwidth, seconds):
    """Least time of forward and backward in float32, over the time that was taken."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def share_of_limit_solution(shape, bandwidth, seconds):
    return 8 * 4 * np.prod(shape) / bandwidth / seconds


def check_share_of_limit(answer):
    assert np.isclose(answer((4, 8192, 256), 20e9, 0.0134217728), 1.0)
    assert np.isclose(answer((1, 1000, 100), 1e9, 0.032), 0.1)
    print("no kernel can do better; one at 90 % is done")


check_share_of_limit(share_of_limit_solution)

# %% [markdown]
# **Exercise 2: composition.** Write the rule for two steps, and use it to scan by doubling: after the round
# with distance $d = 1, 2, 4, \dots$ each place holds the composition of the last $2d$ steps.


# %%
def by_doubling(a, b):
    """The states (T,) of one channel in about log2 T rounds, no loop over time."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def by_doubling_solution(a, b):
    a, b, distance = a.copy(), b.copy(), 1
    while distance < len(a):
        b[distance:] = a[distance:] * b[:-distance] + b[distance:]
        a[distance:] = a[distance:] * a[:-distance]
        distance *= 2
    return b


def check_by_doubling(answer):
    for T in (1, 7, 64, 300):
        x, y = rng.uniform(-1, 1, T), rng.standard_normal(T)
        assert np.allclose(answer(x, y), by_definition(x[None, :, None], y[None, :, None])[0, :, 0])
    print("T log T operations in log T rounds")


check_by_doubling(by_doubling_solution)

# %% [markdown]
# **Exercise 3: never divide.** The sum form $h_t = p_t \sum_{s \le t} b_s / p_s$ with $p_t = a_1 \cdots
# a_t$ needs no loop at all, and is a trap. Find the first $t$ at which it is no longer finite in float32
# for a constant decay `a` (let `b` be one).


# %%
def breaks_at(decay):
    """First t, counted from 1, where the quotient is not finite in float32."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def breaks_at_solution(decay):
    p = np.cumprod(np.full(4000, decay, dtype=np.float32), dtype=np.float32)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        h = p * np.cumsum(1 / p, dtype=np.float32)
    return int(np.argmax(~np.isfinite(h))) + 1


def check_breaks_at(answer):
    for decay in (0.5, 0.9):
        found = answer(decay)
        assert abs(found - np.log(2.0**-128) / np.log(decay)) < 0.2 * found
    print(f"a decay of 0.9 breaks after {answer(0.9)} steps; the recurrence never does")


check_breaks_at(breaks_at_solution)

# %% [markdown]
# ## Sources
#
# - G. E. Blelloch, *Prefix sums and their applications*, Carnegie Mellon University CMU-CS-90-190, 1990.
# - E. Martin, C. Cundy, *Parallelizing linear recurrent neural nets over sequence length*, ICLR 2018.
# - S. Williams, A. Waterman, D. Patterson, *Roofline: an insightful visual performance model*, Communications
#   of the ACM 52, 2009, 65–76.
# - T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024: chunks as products of matrices.
