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
# # Lower: what a trained layer remembers
#
# **Which tokens does a trained layer still hold, for how long, and which of its memories would it miss?**
#
# Attention can be asked: it has weights to look at. A recurrent state cannot; it is a matrix of numbers that
# mean nothing by themselves. But along one given input a recurrent layer *is* a linear system whose matrices
# change with time, and what a linear system holds of its past can be computed. Here two small models learn
# to recall pairs across a gap. We write their states as matrices, count what crosses the gap, see which
# tokens are in it, and then take the memories away one by one.
#
# You need linear algebra and an idea of what a recurrent layer does; the notebook *A window is a nilpotent
# matrix* has both.

# %%
# %config InlineBackend.figure_format = "retina"
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from torch.nn.functional import cross_entropy

import bmojo.plot
from bmojo import (
    BMojoConfig,
    BMojoLM,
    ablate,
    hankel_spectrum,
    lower,
    memory_curves,
    memory_shares,
    time_constants,
)
from bmojo.tasks import GapRecall
from bmojo.training import Stage, recall_accuracy, train_recall
from realization import plot

torch.set_num_threads(1)

# %% [markdown]
# ## 1. Two models, one task
#
# Four pairs of a key and a value, then 24 tokens of filler, then the keys again: each time the value that
# belonged to it is asked for. The window holds six tokens, so no query sees a pair in it.
#
# Both models have two layers, each with a window of six and a state written by a gated delta rule (four
# heads, eight numbers for each value channel). The second also has an eidetic set of eight places, for the
# tokens that were hardest to predict.

# %%
task = GapRecall(pairs=4, gap=24, queries=8, vocabulary=32)
easy = GapRecall(pairs=2, gap=8, queries=4, vocabulary=32)


def trained(places, steps):
    """A model before and after training."""
    torch.manual_seed(0)
    config = BMojoConfig(
        d_model=48,
        heads=4,
        window=6,
        mixer="gated_deltanet",
        state_size=8,
        eidetic=places,
        eidetic_position="edge",
    )
    model = BMojoLM(32, [config] * 2, mlp_ratio=0)
    before = copy.deepcopy(model).eval()
    train_recall(model, [Stage(easy, steps // 2), Stage(task, steps // 2)], seed=0)
    return before, model


fresh, state_model = trained(places=0, steps=320)
_, set_model = trained(places=8, steps=240)
for name, model in (("window and state", state_model), ("and eight places", set_model)):
    print(f"{name:18s} answers {recall_accuracy(model, task):.0%} of the queries right")

# %% [markdown]
# Chance is 6 %. Both answer most queries from something that is not in the window.
#
# ## 2. Along an input, the state is a linear system
#
# A head of the delta rule holds a matrix $S_t$ (value channels by keys) and does
#
# $$S_t = \gamma_t S_{t-1} + \beta_t \big(v_t - \gamma_t S_{t-1} k_t\big) k_t^\top, \qquad y_t = S_t q_t .$$
#
# Decay $\gamma_t$, write strength $\beta_t$, key $k_t$ and query $q_t$ are functions of the tokens. Fix the
# tokens and they are numbers, and what is left is linear in the values $v_t$. With $X_t = S_{t-1}^\top$, one
# column for each value channel,
#
# $$X_{t+1} = \underbrace{\gamma_t (I - \beta_t k_t k_t^\top)}_{A_t} X_t +
# \underbrace{\beta_t k_t}_{B_t} v_t^\top, \qquad
# y_t^\top = \underbrace{q_t^\top A_t}_{C_t} X_t + \underbrace{q_t^\top B_t}_{D_t} v_t^\top .$$
#
# `lower` writes any of the layers this way, for any input. Nothing is approximated.

# %%
batch = task.sample(16, torch.Generator().manual_seed(5))
first_query = int(batch.queries[0])

realization = lower(state_model, batch.tokens[0])[0]
print(realization)

simulated = realization.output_map(realization.simulate())
fading = state_model.trace(batch.tokens[:1])[0].fading[0].numpy()
difference = np.abs(simulated - fading).max()
print(
    f"largest difference to the layer's own fading tokens, which are in float32: {difference:.0e}"
)
assert difference < 1e-4

# %% [markdown]
# All channels of a head share $A_t, B_t, C_t, D_t$: eight states each, however many values they carry. The
# *operator* of a head, block $(t, s) = C_t A_{t-1} \cdots A_{s+1} B_s$, says what came out at $t$ of what
# went in at $s$: the attention matrix that the recurrence amounts to, though no softmax made it. Before and
# after training, the first layer's four heads, for one sequence:

# %% tags=["hide-input"]
white_to_green = LinearSegmentedColormap.from_list(
    "fading", ["white", plot.COLOURS["fading"], "#0b2e20"]
)

with plot.style():
    figure, axes = plt.subplots(
        2, 4, figsize=(8, 4.2), sharex=True, sharey=True, layout="constrained"
    )
    for row, (name, model) in zip(axes, (("before", fresh), ("after", state_model))):
        for head, (ax, operator) in enumerate(
            zip(row, np.abs(lower(model, batch.tokens[0])[0].operator()))
        ):
            ax.imshow(operator, cmap=white_to_green, vmax=np.quantile(operator[operator > 0], 0.97))
            ax.axhline(first_query - 0.5, color=plot.COLOURS["baseline"], linewidth=0.8)
            ax.set_title(f"{name}: head {head}")
            ax.grid(visible=False)
    for ax in axes[-1]:
        ax.set_xlabel("written at")
    for ax in axes[:, 0]:
        ax.set_ylabel("read at")
plt.show()

# %% [markdown]
# The first eight columns are the pairs; below the line are the queries. Two things can be seen at once. The
# filler's columns are nearly empty but for a fringe, before training already: all filler tokens have the same
# key, and a delta rule overwrites what it holds under a key that comes again. And each head has dark columns
# among the pairs that run down to the queries; after training they are fewer and darker.
#
# ## 3. How many numbers cross the gap?
#
# Cut the operator: rows of the queries, columns of the pairs. This block is a *Hankel operator*
# $H = O\,\Phi\,R$. Inputs before the cut $t_0$ reach the future only through the state:
#
# $$R = [B_{t_0-1},\; A_{t_0-1} B_{t_0-2},\; \dots], \qquad \Phi = A_{t-1} \cdots A_{t_0}, \qquad
# O = \begin{bmatrix} C_t \\ C_{t+1} A_t \\ \vdots \end{bmatrix},$$
#
# so its rank is at most eight, and its singular values say how strongly each of eight independent numbers
# gets across. They need no large matrix: with triangular $L_c$, $L_o$ of $R R^\top = L_c L_c^\top$ and
# $O^\top O = L_o L_o^\top$, one QR factorization a token, they are those of $L_o^\top \Phi L_c$.

# %%
pairs_end = 2 * task.pairs


def across(model, layer):
    """Spectra from the pairs to the queries, all heads of 16 sequences: (16, heads, n)."""
    spectra = [
        hankel_spectrum(lower(model, tokens)[layer], pairs_end, gap=first_query - pairs_end)
        for tokens in batch.tokens
    ]
    return np.concatenate([spectrum.values for spectrum in spectra])


# %% tags=["hide-input"]
spectra = {"before": across(fresh, 0), "after": across(state_model, 0)}
with plot.style():
    ax = bmojo.plot.hankel_singular_values(
        {name: found.mean(axis=0) for name, found in spectra.items()}
    )
    ax.set_ylim(1e-7, 1)
plt.show()

# %% [markdown]
# The first layer, one line for each head. Training made the leading values larger: more gets across. It did
# not make more *numbers* get across; the effective order (the exponential of the entropy of the values,
# each over their sum) fell to less than four, for four pairs.
#
# The eighth value is next to zero before and after. That is the filler once more: its key is one direction
# of eight, and 24 tokens of filler have wiped it clean.
#
# ## 4. Which tokens are they?
#
# A singular value does not say which token it came from. The *memory curve* does. Feed white noise through
# the frozen matrices and ask how much of the variance of the input at position $s$ the best linear estimate
# from the state explains when the first query comes, at $t$:
#
# $$m_s = R_s^\top\, W_t^{-1} R_s, \qquad R_s = A_{t-1} \cdots A_{s+1} B_s, \qquad
# W_t = \sum_s R_s R_s^\top + (\text{noise}),$$
#
# between 0 and 1, and in all at most eight for each head. The small noise at every step keeps us from
# counting what is there in principle and lost in practice.


# %%
def held(model, layer):
    """Mean over 16 sequences of what the state holds of each position, (heads, positions)."""
    curves = [
        memory_curves(lower(model, tokens)[layer], first_query, at=first_query, noise=1e-3).memory[
            0
        ]
        for tokens in batch.tokens
    ]
    return np.mean(curves, axis=0)[:, ::-1]


before, after = held(fresh, 0), held(state_model, 0)

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(2, 1, figsize=(8, 3.6), sharex=True, layout="constrained")
    for ax, values, name in zip(axes, (before, after), ("before training", "after training")):
        image = ax.imshow(values, cmap=white_to_green, vmin=0, vmax=1, aspect="auto")
        ax.set(yticks=range(4), yticklabels=range(4), ylabel="head")
        ax.set_title(f"held when the first query comes, {name}")
        ax.grid(visible=False)
    labels = [f"{kind}$_{pair}$" for pair in range(1, 5) for kind in "kv"]
    axes[-1].set_xticks([*range(8), 20, 31], [*labels, "filler", "31"])
    figure.colorbar(image, ax=axes, label="share of the variance")
plt.show()

for name, found in (("before", before), ("after", after)):
    of_values, of_keys, of_filler = (
        found[:, part].mean() for part in (slice(1, 8, 2), slice(0, 8, 2), slice(11, 32))
    )
    print(
        f"{name:6s} training, of values {of_values:.2f}, of keys {of_keys:.2f}, of filler {of_filler:.2f}"
    )
assert of_values > 1.3 * of_keys
assert of_keys > of_filler

# %% [markdown]
# Before training each head holds a little of all eight tokens, and of the three behind them into which the
# short convolution carries the last pair. After training most heads hold what was written *when a value
# came*, with its key beside it by the same convolution, and less of the keys alone; the head that does it
# the other way round can be seen as well. Nobody told them, and no single weight says it.
#
# ## 5. For how long?
#
# A single number per head would be the decay $\gamma_t$. But the delta rule also erases, in directions that
# turn from token to token; what counts is the product of all $A_t$. Its Lyapunov exponents $\chi_i$, the mean
# logarithms of the diagonal of $R_t$ in $A_t Q_t = Q_{t+1} R_t$, give time constants $-1/\chi_i$.

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for ax, (name, model) in zip(axes, (("before", fresh), ("after", state_model))):
        bmojo.plot.time_constants(time_constants(lower(model, batch.tokens[0])[0]), window=6, ax=ax)
        ax.set(title=name, ylim=(1, 400))
plt.show()

for name, model in (("before", fresh), ("after", state_model)):
    slowest = time_constants(lower(model, batch.tokens[0])[0]).along[:, 0]
    print(f"slowest of each head of the first layer, {name} training:", slowest.round(), "tokens")

# %% [markdown]
# All heads have slowed down, beyond the gap of 24. The fastest direction of each is the filler's key.
#
# ## 6. Who carries what?
#
# Now both models as wholes. `memory_shares` takes each memory away, from all layers, and lets the softmax
# renormalize over what is left; the loss at the queries then says what it carried. Attention mass alone would
# not: a memory can be looked at in vain.

# %%
test = task.sample(64, torch.Generator().manual_seed(7))


def loss(logits):
    return cross_entropy(logits[:, test.queries].flatten(0, 1), test.answers.flatten())


shares = {
    name: memory_shares(model, test.tokens, loss=loss, at=test.queries)
    for name, model in (("window and state", state_model), ("and eight places", set_model))
}

# %% tags=["hide-input"]
colours = {"window": "window", "fading": "fading", "readout": "fading", "eidetic": "eidetic"}
with plot.style():
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharex=True, layout="constrained")
    for ax, (name, found) in zip(axes, shares.items()):
        rows = np.arange(len(found.memories))
        ax.barh(
            rows,
            found.loss_without,
            color=[plot.COLOURS[colours[m]] for m in found.memories],
            height=0.6,
        )
        ax.axvline(found.loss, color=plot.COLOURS["data"], linewidth=1)
        ax.set(
            yticks=rows,
            yticklabels=[f"no {m}" for m in found.memories],
            xlabel="loss at the queries, nats",
        )
        ax.invert_yaxis()
        ax.set_title(name)
plt.show()

for name, found in shares.items():
    mass = found.mass.mean(axis=0)
    print(f"{name}: loss {found.loss:.2f}")
    for memory, without, looked in zip(found.memories, found.loss_without, mass):
        attended = "" if np.isnan(looked) else f", attention {looked:.0%}"
        print(f"   without {memory:8s} {without:5.2f}{attended}")
assert shares["window and state"].loss_without[2] > 1
assert shares["and eight places"].loss_without.argmax() == 3

# %% [markdown]
# The line is the loss with everything in place; a blind guess among the values costs $\log 16 \approx 2.8$
# nats. The first model needs its state, and needs it through its *read-out*, the fading token that is added
# to the output; the same state among the keys of the softmax is hardly missed, though it gets 40 % of the
# attention. The second model has put the pairs into its eight places and can do without its state, and
# without its window. In both it is the first layer that keeps them:

# %%
for name, found in shares.items():
    print(
        f"{name}: change of loss, by layer",
        dict(zip(found.memories, (found.loss_by_layer - found.loss).T.round(2).tolist())),
    )

# %% [markdown]
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: without factors.** Cut the block of a head from `operator()` of a realization, rows from
# `start` on, columns before `stop`, and give its singular values, the `n` largest. Compare with
# `hankel_spectrum`.


# %%
def dense_spectrum(realization, stop, start):
    """Singular values (heads, n) from inputs before `stop` to outputs from `start` on."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def dense_spectrum_solution(realization, stop, start):
    block = realization.operator()[:, start:, :stop]
    return np.linalg.svd(block, compute_uv=False)[:, : realization.n_states]


def check_dense_spectrum(answer):
    for stop, start in ((8, 32), (20, 20), (32, 32)):
        wanted = hankel_spectrum(realization, stop, gap=start - stop).values[0]
        found = answer(realization, stop, start)
        assert np.allclose(found, wanted[:, : found.shape[1]], atol=1e-10 * wanted.max())
    print("the same numbers; of a long input only the factors are affordable")


check_dense_spectrum(dense_spectrum_solution)

# %% [markdown]
# **Exercise 2: the best estimate, by regression.** $m_s$ is defined by a regression; do it. Drive the
# realization from state zero with unit white inputs, many times, and regress the input at position `s` on
# the state at time `t` of each head. (`states(u, x0)` has shape (T + 1, heads, n, channels); channels are
# independent samples. Without noise in the steps, compare with `noise=0`.)


# %%
def explained(realization, s, t, rng, runs):
    """Share of the variance of the input at `s` that the state at `t` explains, for each head."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def explained_solution(realization, s, t, rng, runs):
    heads, channels = realization.groups, realization.copies
    inputs, states = [], []
    for _ in range(runs):
        u = rng.standard_normal(realization.inputs.shape)
        inputs.append(u[s].reshape(heads, channels))
        states.append(realization.states(u, np.zeros_like(realization.x0))[t].swapaxes(1, 2))
    inputs, states = np.concatenate(inputs, axis=1), np.concatenate(states, axis=1)
    shares = []
    for target, regressors in zip(inputs, states):
        weights = np.linalg.lstsq(regressors, target, rcond=None)[0]
        shares.append(1 - np.var(target - regressors @ weights) / np.var(target))
    return np.array(shares)


def check_explained(answer):
    rng, t = np.random.default_rng(0), 12
    wanted = memory_curves(realization, t, at=t).memory[0][:, ::-1]
    for s in (1, 6, 11):
        found = answer(realization, s, t, rng, 100)
        assert np.abs(found - wanted[:, s]).max() < 0.1, (s, found, wanted[:, s])
    print("a regression on 1200 samples finds what one solve with the gramian says")


check_explained(explained_solution)

# %% [markdown]
# **Exercise 3: spares.** A memory whose removal changes little may still hold what another holds too. By how
# many nats is losing both of a pair worse than losing each, taken together:
# $(\ell_{ab} - \ell) - (\ell_a - \ell) - (\ell_b - \ell)$? In the first model the softmax hardly needs the
# fading tokens. Is it so once the read-out is gone?


# %%
def interplay(model, a, b):
    """Nats by which removing both costs more than the sum of removing each."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def interplay_solution(model, a, b):
    def cost(*removed):
        return float(loss(ablate(model, test.tokens, removed)))

    return (cost(a, b) - cost()) - (cost(a) - cost()) - (cost(b) - cost())


def check_interplay(answer):
    found = answer(state_model, "fading", "readout")
    alone = memory_shares(state_model, test.tokens, loss=loss)
    both = float(loss(ablate(state_model, test.tokens, "state")))
    assert np.isclose(found, both + alone.loss - alone.loss_without[1:].sum(), atol=1e-4)
    assert found > 0.5
    print(
        f"{found:.2f} nats beyond the sum: the two ways out of the state are spares for each other"
    )


check_interplay(interplay_solution)

# %% [markdown]
# ## Sources
#
# - P. Dewilde, A.-J. van der Veen, *Time-Varying Systems and Computations*, Kluwer 1998, chapters 3 and 5:
#   time-varying realizations and their Hankel operators.
# - S. Shokoohi, L. M. Silverman, P. Van Dooren, *Linear time-variable systems: balancing and model
#   reduction*, IEEE Transactions on Automatic Control 28, 1983, 810–822.
# - O. L. White, D. D. Lee, H. Sompolinsky, *Short-term memory in orthogonal neural networks*, Physical Review
#   Letters 92, 2004, 148102: the memory curve.
# - O. Roy, M. Vetterli, *The effective rank: A measure of effective dimensionality*, EUSIPCO 2007.
# - S. Yang, J. Kautz, A. Hatamizadeh, *Gated delta networks: Improving Mamba2 with delta rule*, ICLR 2025.
# - T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024: recurrences as matrices over the whole sequence.
# - L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
#   Memory*, NeurIPS 2024, [arXiv 2407.06324](https://arxiv.org/abs/2407.06324).
