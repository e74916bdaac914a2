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
# # Compress: how much of a state is needed
#
# **A trained layer carries a state of a thousand numbers. How many of them does it need, and which?**
#
# Not the largest ones, and not the ones that change most. A direction of the state matters if it is *reached*
# (something is written there) and *looked at* (something is read from there), and what counts is the product
# of the two. Control theory has measured both since 1981, by two matrices called gramians, and keeps the
# directions in which their product is large: balanced truncation. Here we do it to a linear layer, where it
# comes with a guarantee, and then to a layer that was trained to remember.
#
# You need linear algebra up to the singular value decomposition; the notebook *A window is a nilpotent
# matrix* introduces the states.

# %%
# %config InlineBackend.figure_format = "retina"
import matplotlib.pyplot as plt
import numpy as np
import torch

import realization as rz
from bmojo import BMojoConfig, BMojoLM, compress, lift
from bmojo.bridge import empirical_gramians
from bmojo.tasks import GapRecall
from bmojo.training import Stage, recall_accuracy, train_recall
from realization import plot

torch.set_num_threads(1)

# %% [markdown]
# ## 1. Reached, looked at, and both
#
# Six modes, decoupled. Some are driven hard and hardly read, some the other way round, and one of each kind
# counts for little although its number in the state is large. The energy that mode $i$ takes up from white
# noise is $b_i^2 / (1 - a_i^2)$, what it gives back is $c_i^2 / (1 - a_i^2)$: the diagonals of the
# controllability gramian $W_c$ and the observability gramian $W_o$.

# %%
a = np.array([0.95, 0.6, 0.8, 0.9, -0.7, 0.3])
b = np.array([1.0, 0.1, 2.0, 0.3, 1.5, 1.0])
c = np.array([0.6, 2.0, 0.05, 0.9, 0.1, 0.4])
model = rz.StateSpace(np.diag(a), b[:, None], c[None])
reached, seen = b / np.sqrt(1 - a**2), c / np.sqrt(1 - a**2)

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 2.6))
    place = np.arange(6)
    ax.bar(place - 0.27, reached, 0.25, color=plot.COLOURS["window"], label="reached")
    ax.bar(place, seen, 0.25, color=plot.COLOURS["innovation"], label="looked at")
    ax.bar(place + 0.27, reached * seen, 0.25, color=plot.COLOURS["fading"], label="product")
    ax.set(xlabel="mode", xticks=place, xticklabels=place + 1)
    ax.legend()
plt.show()

# %% [markdown]
# Mode 3 is the largest number in the state and worth next to nothing. In general the modes are not what one
# keeps: the coordinates in which both gramians are diagonal *and equal* are another mixture of them, and
# their common diagonal are the **Hankel singular values** $\sigma_i = \sqrt{\lambda_i(W_c W_o)}$. Dropping
# all but $r$ of these coordinates costs, whatever the input,
#
# $$\lVert y - \hat y \rVert \le 2 \sum_{i > r} \sigma_i \; \lVert u \rVert .$$
#
# Lift the model into a layer and compress the layer; beside it, layers that keep the modes which are
# reached best.

# %%
layer = lift(model)
u = torch.randn(1, 5000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
y = layer(u)
gain = (u.norm() / y.norm()).item()


def error(other):
    return ((y - other).norm() / y.norm()).item()


orders, balanced, bound, by_size = range(1, 6), [], [], []
for r in orders:
    small = compress(layer, u, order=r)
    balanced.append(error(small.model(u)))
    bound.append(small.reports[0].gain_bound * gain)
    largest = np.sort(np.argsort(-reached)[:r])
    by_size.append(
        error(lift(rz.StateSpace(np.diag(a[largest]), b[largest, None], c[None, largest]))(u))
    )

assert all(e <= limit for e, limit in zip(balanced, bound))

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 3))
    ax.semilogy(orders, by_size, "o-", color=plot.COLOURS["window"], label="the modes reached best")
    ax.semilogy(orders, bound, color=plot.COLOURS["baseline"], label="bound of balanced truncation")
    ax.semilogy(orders, balanced, "o-", color=plot.COLOURS["fading"], label="balanced truncation")
    ax.set(xlabel="states that are kept, of 6", ylabel="error / output", xticks=list(orders))
    ax.legend()
plt.show()

# %% [markdown]
# ## 2. A layer that depends on its input
#
# A selective layer such as Mamba-2 writes by a vector $B_t$ and reads by a vector $C_t$, which it computes
# from the tokens:
#
# $$S_t = \alpha_t S_{t-1} + v_t B_t^\top, \qquad y_t = S_t C_t .$$
#
# Train one to remember. Three pairs of key and value, sixteen tokens of filler, then the keys again. Each of
# the two blocks has a mixer and a window of four, so only the state can bridge the gap: two heads, each with
# 32 rows of 16 numbers.

# %%
task = GapRecall(pairs=3, gap=16, queries=3, vocabulary=32)
mixer = BMojoConfig(d_model=64, heads=2, window=0, eidetic=0, mixer="mamba2", state_size=16)
window = BMojoConfig(d_model=64, window=4, mixer="none", eidetic=0)
torch.manual_seed(0)
model = BMojoLM(32, [mixer, window] * 2, mlp_ratio=0.0)
easy = GapRecall(pairs=2, gap=8, queries=3, vocabulary=32)
losses = train_recall(model, [Stage(easy, 250), Stage(task, 650)], seed=0, rate=1e-2)
model.eval()
whole = recall_accuracy(model, task)
print(f"right answers: {whole:.1%}")

# %% [markdown]
# No Lyapunov equation tells the gramians of such a layer. The tokens do: along a sample of them take the
# second moments of what is in the state and of what asks for it,
#
# $$G = \sum_t \omega_t\, S_t^\top S_t, \qquad O = \sum_t \omega_t\, C_t C_t^\top ,$$
#
# where $\omega_t$ may say that only the queries count: elsewhere it does not matter what comes out.

# %%
sample = task.sample(64, torch.Generator().manual_seed(1))
counts = torch.zeros(task.length)
counts[sample.queries] = 1.0

# What reaches each mixer: the hidden tokens, normed.
hidden = []
hooks = [
    block.layer.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    for block in model.blocks
]
with torch.no_grad():
    model(sample.tokens)
for hook in hooks:
    hook.remove()
mixers = [(model.blocks[i].layer.mixer, hidden[i]) for i in (0, 2)]
gramians = [empirical_gramians(m, x, weight=counts) for m, x in mixers]

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
    for ax, found, name in zip(axes, gramians, ("first mixer", "second mixer")):
        for head, (values, dash) in enumerate(zip(found.hsv, ("o-", "s--"))):
            options = {
                "color": plot.COLOURS["fading"],
                "markersize": 4,
                "label": f"head {head + 1}",
            }
            ax.semilogy(np.arange(1, 17), values / values[0], dash, **options)
        ax.set(title=name, xlabel="index", xticks=[1, 4, 8, 12, 16], ylim=(1e-5, 2))
    axes[0].set_ylabel(r"$\sigma_i / \sigma_1$")
    axes[0].legend()
plt.show()

# %% [markdown]
# The singular values fall: most of the sixteen directions are either hardly written or hardly asked for.
#
# ## 3. Half the state, a quarter of it
#
# `compress` finds the balanced directions of every mixer, and returns a model of the same kind with a smaller
# state. No training. Beside it two controls: keep the first $r$ of the sixteen numbers, or a random subspace.


# %%
def with_maps(model, order, make):
    """The compressed model, its maps replaced by those that `make` gives."""
    small = compress(model, sample.tokens, order=order).model
    with torch.no_grad():
        for block in small.blocks:
            if block.layer.mixer is not None:
                maps = block.layer.mixer.key_map
                new = make(maps.write.shape)
                maps.write.copy_(new), maps.read.copy_(new)
    return small


def first(shape):
    return torch.eye(16)[:, : shape[-1]].expand(shape)


def subspace(shape):
    return torch.linalg.qr(torch.randn(shape, generator=torch.Generator().manual_seed(3))).Q


kept = (16, 12, 8, 6, 4, 2)
accuracy = {"balanced": [], "first numbers": [], "random subspace": []}
for r in kept:
    small = compress(model, sample.tokens, order=r, weight=counts)
    accuracy["balanced"].append(recall_accuracy(small.model, task))
    if r < 16:
        accuracy["first numbers"].append(recall_accuracy(with_maps(model, r, first), task))
        accuracy["random subspace"].append(recall_accuracy(with_maps(model, r, subspace), task))

assert accuracy["balanced"][kept.index(8)] > whole - 0.01

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 3))
    ax.plot(kept, accuracy["balanced"], "o-", color=plot.COLOURS["fading"], label="balanced")
    ax.plot(
        kept[1:],
        accuracy["first numbers"],
        "s-",
        color=plot.COLOURS["baseline"],
        label="first numbers",
    )
    ax.plot(
        kept[1:],
        accuracy["random subspace"],
        ":",
        color=plot.COLOURS["data"],
        label="random subspace",
    )
    ax.set(
        xlabel="states of a head that are kept",
        ylabel="right answers",
        xticks=sorted(kept),
        ylim=(0, 1.03),
    )
    ax.legend()
plt.show()

# %% [markdown]
# Half the state is enough for what the model knew, to a point in a hundred. What each mixer lost is in the
# reports: the error of its output, that of what is read from the state, what the singular values alone
# predict, and a bound.

# %%
print(compress(model, sample.tokens, order=8, weight=counts))

# %% [markdown]
# ## 4. Why the product of gramians
#
# If the state is projected, $\hat S_t = S_t W$, and read by $R^\top C_t$, what is lost is
# $S_t (I - W R^\top) C_t$. Nothing else: the decay $\alpha_t$ is one number, so it passes through $W$. Let
# every state meet every query, and the mean square of what is lost is
#
# $$\lVert L_G^\top (I - W R^\top)\, L_O \rVert_F^2, \qquad G = L_G L_G^\top, \quad O = L_O L_O^\top .$$
#
# A matrix $L_G^\top L_O$ is to be approximated by one of rank $r$. Eckart and Young: keep its $r$ largest
# singular values; the rest, $\sum_{i>r} \sigma_i^2$, is lost. Those singular values are
# $\sqrt{\lambda_i(G O)}$. Predicted and measured error of the second mixer:

# %% tags=["hide-input"]
m, x = mixers[1]
reports = [compress(m, x, order=r, weight=counts).reports[0] for r in range(1, 16)]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 3))
    ax.semilogy(
        range(1, 16), [r.bound for r in reports], color=plot.COLOURS["baseline"], label="bound"
    )
    ax.semilogy(
        range(1, 16),
        [r.predicted for r in reports],
        "--",
        color=plot.COLOURS["prediction"],
        label="predicted",
    )
    ax.semilogy(
        range(1, 16), [r.read_error for r in reports], "o", color=plot.COLOURS["fading"], label="measured",
        markersize=4,
    )  # fmt: skip
    ax.set(xlabel="states that are kept", ylabel="error / read-out", xticks=[1, 4, 8, 12, 15])
    ax.legend()
plt.show()

assert all(r.read_error <= r.bound for r in reports)

# %% [markdown]
# ## 5. What a change of basis does not pass
#
# Why are the maps parameters of the smaller mixer, instead of a smaller projection? Because $B_t$ is
# $\mathrm{SiLU}$ of a convolution of a projection, and SiLU acts on each number by itself. Mix the numbers
# before it and something else comes out:

# %%
mixing = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
before = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
after_it = torch.nn.functional.silu(before) @ mixing
in_front = torch.nn.functional.silu(before @ mixing)
print(f"relative difference: {((after_it - in_front).norm() / after_it.norm()).item():.2f}")

small = compress(model, sample.tokens, order=8, weight=counts).model.blocks[0].layer.mixer
print(
    "state of a head:",
    tuple(small.init_state(1)[1].shape[2:]),
    " maps:",
    tuple(small.key_map.write.shape),
)

# %% [markdown]
# So the sixteen features of a token are computed as before, and mapped to eight behind the nonlinearity. What
# is carried from token to token, and read and written at every step, is half as large.
#
# The delta rule is harder. There the vector that writes also erases,
# $S_t = \alpha_t S_{t-1} (I - \beta_t k_t k_t^\top) + \beta_t v_t k_t^\top$, so only an orthogonal projection
# will do; and what the projection does not see of a key is not erased. That error stays in the state until it
# fades. Exercise 3 bounds it.
#
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: how small may it be?** Given the singular values of all heads, shape `(heads, n)`, find the
# least `r` such that the share of $\sum \sigma_i^2$ that is cut is at most `tol` squared. (`compress(...,
# tol=...)` does this for every mixer.)


# %%
def fewest(hsv, tol):
    """Least number of states that keeps all but a share tol**2 of the squared singular values."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def fewest_solution(hsv, tol):
    squares = (hsv**2).sum(0)
    left = squares.sum() - squares.cumsum(0)  # cut when 1, 2, ... are kept
    return int((left > tol**2 * squares.sum()).sum()) + 1


def check_fewest(answer):
    for m, x in mixers:
        for tol in (0.3, 0.1, 0.01):
            small = compress(m, x, tol=tol)
            assert answer(empirical_gramians(m, x).hsv, tol) == small.reports[0].order
    print("each layer says itself how much of its state it uses")


check_fewest(fewest_solution)

# %% [markdown]
# **Exercise 2: the maps.** From `G`, `O` (both $n \times n$) and `r` make `W` and `R`, both $n \times r$,
# with $R^\top W = I$ and the least $\lVert L_G^\top (I - W R^\top) L_O \rVert_F$. Factor the gramians by
# their eigenvectors; one singular value decomposition does the rest.


# %%
def balancing(G, O, r):
    """Maps W (n, r) for what is written and R (n, r) for what is read."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def factor(M):
    values, vectors = np.linalg.eigh(M)
    return vectors * np.sqrt(np.maximum(values, 0))


def balancing_solution(G, O, r):
    LG, LO = factor(G), factor(O)
    U, s, Vt = np.linalg.svd(LG.T @ LO)
    return LO @ Vt[:r].T / np.sqrt(s[:r]), LG @ U[:, :r] / np.sqrt(s[:r])


def check_balancing(answer):
    for (m, x), found in zip(mixers, gramians):
        maps = compress(m, x, order=5, weight=counts).model.key_map
        for head in range(2):
            G, O = found.reach[head].numpy(), found.sight[head].numpy()
            W, R = answer(G, O, 5)
            assert np.allclose(R.T @ W, np.eye(5), atol=1e-6)
            lost = factor(G).T @ (np.eye(16) - W @ R.T) @ factor(O)
            tail = found.hsv[head, 5:].norm().item()
            assert np.isclose(np.linalg.norm(lost), tail, rtol=1e-4)
            theirs = (maps.write[head] @ maps.read[head].T).detach().numpy()
            scale = np.linalg.norm(factor(G).T @ factor(O))
            assert np.linalg.norm(factor(G).T @ (W @ R.T - theirs) @ factor(O)) < 1e-3 * scale
    print("the same projection that compress finds, in other coordinates")


check_balancing(balancing_solution)

# %% [markdown]
# **Exercise 3: what is not erased.** A delta rule with keys $k_t$ of unit length is projected by `Q`
# ($n \times r$, orthonormal columns): $\hat k_t = Q^\top k_t$. Bound $e_t = \lVert S_t Q - \hat S_t \rVert_F$
# by a recursion that runs along the keys and needs only the large state,
# $e_t \le \alpha \,(e_{t-1} + \beta \lVert S_{t-1} (I - Q Q^\top) k_t \rVert \,
# \lVert \hat k_t \rVert)$: show that $I - \beta \hat k \hat k^\top$ never lengthens a vector, then
# write it.


# %%
def drift(states, keys, Q, alpha, beta):
    """Bounds e_1 .. e_T; states[t] is S_t before keys[t] is used, keys (T, n)."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def drift_solution(states, keys, Q, alpha, beta):
    bounds, e = [], 0.0
    for S, k in zip(states, keys):
        missed = S @ (k - Q @ (Q.T @ k))
        e = alpha * (e + beta * np.linalg.norm(missed) * np.linalg.norm(Q.T @ k))
        bounds.append(e)
    return np.array(bounds)


def check_drift(answer):
    rng = np.random.default_rng(0)
    alpha, beta, n, r = 0.95, 0.8, 12, 8
    keys = rng.standard_normal((80, n)) * 0.7 ** np.arange(n)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    Q = np.linalg.qr(np.linalg.svd(keys)[2][:r].T)[0]
    S, small, states, errors = np.zeros((4, n)), np.zeros((4, r)), [], []
    for k in keys:
        states.append(S)
        v = rng.standard_normal(4)
        S = alpha * (S - beta * np.outer(S @ k, k)) + beta * np.outer(v, k)
        small = alpha * (small - beta * np.outer(small @ Q.T @ k, Q.T @ k)) + beta * np.outer(
            v, Q.T @ k
        )
        errors.append(np.linalg.norm(S @ Q - small))
    bounds = answer(states, keys, Q, alpha, beta)
    assert (np.array(errors) <= bounds + 1e-12).all()
    assert bounds[-1] < 50 * errors[-1]
    inside = keys @ Q @ Q.T
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    assert answer(states, inside, Q, alpha, beta).max() < 1e-12
    print(
        "keys within the subspace lose nothing; the others leave a remainder that fades like the state"
    )


check_drift(drift_solution)

# %% [markdown]
# ## Sources
#
# - B. C. Moore, *Principal component analysis in linear systems: controllability, observability, and model
#   reduction*, IEEE Transactions on Automatic Control 26, 1981, 17–32.
# - K. Glover, *All optimal Hankel-norm approximations of linear multivariable systems and their
#   $L^\infty$-error bounds*, International Journal of Control 39, 1984, 1115–1193. The bound.
# - S. Lall, J. E. Marsden, S. Glavaški, *A subspace approach to balanced truncation for model reduction of
#   nonlinear control systems*, International Journal of Robust and Nonlinear Control 12, 2002, 519–535.
#   Empirical gramians.
# - C. Eckart, G. Young, *The approximation of one matrix by another of lower rank*, Psychometrika 1, 1936,
#   211–218.
# - T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024, [arXiv 2405.21060](https://arxiv.org/abs/2405.21060);
#   S. Yang, J. Kautz, A. Hatamizadeh, *Gated delta networks*, ICLR 2025, [arXiv
#   2412.06464](https://arxiv.org/abs/2412.06464). The layers.
