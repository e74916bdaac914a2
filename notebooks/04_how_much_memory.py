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
# # How much memory does a process have?
#
# **A river, an economy, an ocean and the sun: which of them remembers most, in nats, and how many numbers and
# how many years does one need to know what it remembers?**
#
# Memory is what the past tells about the future. That is one number, the mutual information of the two, and
# for a process with a state of $n$ numbers it is a sum of $n$ terms, one for each pair of a combination of
# the past and a combination of the future that are correlated. This notebook derives the sum, computes it for
# four records, finds the same number in the cost of not having a past, compares states with windows, and asks
# whose memory a state is made of.
#
# You need the singular value decomposition, and the entropy of a normal variable.

# %%
# %config InlineBackend.figure_format = "retina"
import warnings

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg

import realization as rz
from realization import plot

COLOURS = plot.COLOURS

# %% [markdown]
# ## 1. Pairs of directions
#
# Let $a$ and $b$ be Gaussian vectors. Measure each in its own units, $L_a^{-1} a$ and $L_b^{-1} b$ with
# $L L^\top$ the covariance, so that each is white. What is left of their joint covariance is one matrix, and
# the singular value decomposition turns both sides until it is diagonal:
#
# $$L_a^{-1} \operatorname{cov}(a, b)\, L_b^{-\top} = U \Sigma V^\top .$$
#
# Now $U^\top L_a^{-1} a$ and $V^\top L_b^{-1} b$ are vectors of independent entries, and entry $i$ of the one
# is correlated, by $\sigma_i$, with entry $i$ of the other *and with nothing else*. These are the **canonical
# correlations** (Hotelling 1936). Two normal variables with the correlation $\sigma$ share
# $-\frac12 \log(1 - \sigma^2)$ nats, and independent pairs add:
#
# $$I(a; b) = -\tfrac12 \sum_i \log(1 - \sigma_i^2) .$$
#
# Let $a$ be the last $N$ samples of a process and $b$ the next $N$. How does the list go on as $N$ grows?


# %%
def between(Lambda, N):
    """Canonical correlations of N past and N future samples of one output, from its covariances."""
    own = np.linalg.cholesky(scipy.linalg.toeplitz(Lambda[:N]))
    both = rz.hankel(Lambda[1:], N, N)  # future below, past (latest first) across
    half = scipy.linalg.solve_triangular(own, both, lower=True)
    return np.linalg.svd(scipy.linalg.solve_triangular(own, half.T, lower=True), compute_uv=False)


turn = 0.95 * np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
process = rz.innovations_form(
    turn, [[1.0, 0.0]], np.eye(2), [[4.0]]
)  # an oscillation, seen in noise
Lambda = rz.covariances(process, 81)[:, 0, 0]
for N in (1, 2, 5, 10, 40):
    sigma = between(Lambda, N)
    shown = "  ".join(f"{value:.4f}" for value in sigma[:4])
    print(f"N = {N:2d}: {-0.5 * np.log1p(-(sigma**2)).sum():.4f} nats   {shown}")
print(
    "state:  {:.4f} nats   {:.4f}  {:.4f}".format(
        rz.mutual_information(process), *rz.canonical_correlations(process)
    )
)

assert np.allclose(between(Lambda, 40)[:2], rz.canonical_correlations(process), atol=1e-6)
assert between(Lambda, 40)[2] < 1e-7

# %% [markdown]
# There are two, however long the vectors, for the process has two states: everything that passes from the
# past to the future passes through them, so the covariance of the two has rank two. And the two values
# settle. They need no $N$: `canonical_correlations` computes them from the state's covariance seen from the
# past, $P_-$, and from the future, $Q_-$, as $\sigma_i^2 = \lambda_i(P_- Q_-)$ (Akaike 1975). Nor do they
# depend on the coordinates of the state, or on the units of the output.
#
# ## 2. Four records
#
# The flow of the Nile at Aswan, a hundred years; the growth of the economy of the United States, two hundred
# quarters; the temperature of the sea off Peru, 732 months without their seasons; the number of sunspots (its
# root), 309 years. From each: covariances, their canonical correlations, and a realization. Grey is what
# shuffled samples have in one case of twenty.

# %%
months = rz.load_series("elnino").y.reshape(-1, 12)
records = {
    "Nile": (rz.load_series("nile").y[:, 0], 1, "year"),
    "economy": (rz.load_series("macro").y[:, 0], 1, "quarter"),
    "ocean": ((months - months.mean(axis=0)).ravel(), 1, "month"),
    "sunspots": (np.sqrt(rz.load_series("sunspots").y[:, 0]), 3, "year"),
}
rows = 10


def autocovariances(y, lags):
    """Lambda_0 ... Lambda_lags; divided by T at every lag, so that they stay those of a process."""
    z = y - y.mean()
    return np.array([z[k:] @ z[: len(z) - k] for k in range(lags + 1)]) / len(z)


def realize(y, order):
    return rz.stochastic_realization(
        autocovariances(y, 2 * rows), order=order, rows=rows, cols=rows
    )


rng = np.random.default_rng(0)
found = {name: realize(y, order) for name, (y, order, _) in records.items()}
chance = {
    name: np.quantile(
        [between(autocovariances(rng.permutation(y), 2 * rows), rows) for _ in range(60)],
        0.95,
        axis=0,
    )
    for name, (y, _, _) in records.items()
}

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(1, 4, figsize=(8, 2.7), sharey=True)
    place = np.arange(1, rows + 1)
    for ax, (name, result) in zip(axes, found.items()):
        ax.bar(place, chance[name], width=1.0, color=COLOURS["baseline"], alpha=0.35)
        colours = [COLOURS["fading"]] * result.order + [COLOURS["data"]] * (rows - result.order)
        ax.bar(place, result.singular_values, width=0.55, color=colours)
        ax.set_title(name)
        ax.set(ylim=(0, 1), xticks=[1, 5, 10])
    axes[0].set_ylabel("canonical correlation")
plt.show()

# %% [markdown]
# The green ones are kept. The Nile and the economy have one that is barely above chance; the ocean one that
# is far above it, and a second that hardly is. The sun has three that are far above it, and four more that
# are above it too. Does the answer hang on where we stop?

# %%
sun = records["sunspots"][0]
for order in (3, 4, 5, 7):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the repair is printed here
        more = realize(sun, order)
    repaired = (
        f", with {100 * more.added:.0f} % of the variance added as noise" if more.added else ""
    )
    print(f"sunspots, {order} states: {rz.mutual_information(more.model):.2f} nats{repaired}")
    assert (more.added > 0) == (order == 7)

# %% [markdown]
# Not as long as the model found is one of a process. With seven states it is not: its spectrum is negative
# somewhere, and has to be lifted, and the nats are then those of the repair. So what follows is the memory of
# a three-state model of the sun.
#
# How sure is the sum? Let each model make records of the same length, and do with them what was done with the
# measured one.


# %%
def spread(model, length, order, times=40):
    """Nats found again in records that the model makes itself: quantiles of 5 and 95 %."""
    nats = []
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a short record may need the repair that stochastic_realization makes
        for _ in range(times):
            e = np.sqrt(model.Re[0, 0]) * rng.standard_normal((length + 100, 1))
            nats.append(rz.mutual_information(realize(model.simulate(e=e)[100:, 0], order).model))
    return np.quantile(nats, [0.05, 0.95])


nats = {name: rz.mutual_information(result.model) for name, result in found.items()}
for name, (y, order, step) in records.items():
    low, high = spread(found[name].model, len(y), order)
    print(
        f"{name:<9} {order} states: {nats[name]:.2f} nats (models again: {low:.2f} to {high:.2f})",
        end=", ",
    )
    print(f"steps of one {step}")
assert nats["Nile"] < nats["ocean"] < nats["sunspots"]

# %% [markdown]
# A nat is 1.44 bits. What the past of the Nile tells about all of its future is less than a third of a bit,
# with an error nearly as large; growth in one quarter tells next to nothing about the later ones, nothing at
# all perhaps; the sun's past tells more than two bits. The step matters: an ocean looked at once a year
# remembers less than one looked at every month (exercise 3).
#
# ## 3. The same number: what it costs to have no past
#
# Let a predictor begin at time 1 with nothing. Its first error has the variance $D_1 = \Lambda_0$, and with
# every sample the next one is smaller, down to $R_e$, what remains with all of the past. The entropy of a
# normal variable of variance $D$ is $\frac12 \log D$ and a constant, so each sample costs
# $\frac12 \log (D_k / R_e)$ nats more than it would have. Altogether, by the chain rule,
#
# $$\sum_{k=1}^{\infty} \tfrac12 \log \frac{D_k}{R_e}
# = \sum_k \bigl[ h(y_k \mid y_1 \dots y_{k-1}) - h(y_k \mid \dots, y_{-1}, y_0, y_1, \dots, y_{k-1}) \bigr]
# = I(\text{past}; \text{future}) .$$
#
# The memory of a process is the bill for starting without one. (Physicists call it excess entropy.) The $D_k$
# are the squared diagonal of the Cholesky factor of the covariance matrix, or what a Kalman filter says.


# %%
def extra(model, length):
    """Nats that sample 1, 2, ... costs more than with all of the past."""
    covariance = scipy.linalg.toeplitz(rz.covariances(model, length)[:, 0, 0])
    return np.log(np.diag(np.linalg.cholesky(covariance))) - 0.5 * np.log(model.Re[0, 0])


bill = {name: extra(result.model, 400) for name, result in found.items()}
for name, cost in bill.items():
    first = "  ".join(f"{value:.3f}" for value in cost[:5])
    print(f"{name:<9} {first}  ...  sum {cost.sum():.6f}, canonical correlations {nats[name]:.6f}")
    assert np.isclose(cost.sum(), nats[name], atol=1e-6)

# %% [markdown]
# ## 4. A window or a state
#
# Stop the sum at $w$ and you have what a *window* of the last $w$ samples knows of the future (exercise 2).
# The best *state* of $k$ numbers knows the first $k$ terms of the other sum,
# $-\frac12 \sum_{i \le k} \log(1 - \sigma_i^2)$. Both end at the same height, the state after $n$ numbers,
# the window in general never.

# %%
held = {name: rz.window_memory(result.model, 40) for name, result in found.items()}
for name, memory in held.items():
    print(f"{name:<9} {memory.n_outputs * found[name].order} numbers hold all; for 99 %", end=" ")
    print(f"a window needs {memory.length_for(0.99)} samples")

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(1, 4, figsize=(8, 2.9), sharey=True)
    for ax, (name, memory) in zip(axes, held.items()):
        state = np.r_[memory.state, np.full(13 - len(memory.state), memory.total)]
        ax.step(np.arange(13), state, where="mid", color=COLOURS["fading"], label="state")
        ax.plot(memory.window[:13], "o", markersize=4, color=COLOURS["window"], label="window")
        ax.set_title(name)
        ax.set(xticks=[0, 4, 8, 12])
    axes[0].set_ylabel("nats about the future")
    axes[0].legend(loc="upper left")
    figure.supxlabel("numbers held", fontsize=10.5)
plt.show()

assert all(np.all(m.window <= m.total + 1e-9) for m in held.values())

# %% [markdown]
# Where one state is enough, a short window is nearly as good: that is why looking at the last value is such a
# hard baseline to beat. The sun is the other case. Three numbers, if they are the right three, hold what
# takes a dozen years of samples.
#
# ## 5. Whose memory is it?
#
# Turn the question round: of the innovation $k$ steps ago, how much is left in the state today? The state's
# covariance is $P = \sum_k R_k R_k^\top$ with $R_k = A^{k-1} K R_e^{1/2}$, and the share of the variance of
# $e_{t-k}$ that the best estimate from $x_t$ explains is $m_k = R_k^\top P^{-1} R_k$. As for any linear
# memory, $\sum_k m_k = n$: a state of $n$ numbers holds $n$ innovations' worth, and the process decides how
# it is spread.

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(1, 4, figsize=(8, 2.7), sharey=True)
    for ax, (name, result) in zip(axes, found.items()):
        curve = rz.memory_curve(result.model, 30)
        ax.stairs(curve.memory, np.arange(0.5, 31), fill=True, color=COLOURS["fading"], alpha=0.2)
        ax.stairs(curve.memory, np.arange(0.5, 31), color=COLOURS["fading"], linewidth=1.8)
        ax.set_title(name)
        ax.set(xlabel=f"{records[name][2]}s ago", ylim=(0, 1), xticks=[1, 10, 20, 30])
    axes[0].set_ylabel("share left of $e_{t-k}$")
plt.show()

for name, result in found.items():
    curve = rz.memory_curve(result.model, 2000)
    print(f"{name:<9} capacity {curve.memory.sum():.4f}, slowest", end=" ")
    print(f"time constant {curve.time_constants[0]:.1f} {records[name][2]}s")
    assert np.isclose(curve.memory.sum(), result.order, atol=1e-6)

# %% [markdown]
# So there are two answers to the question of the title. How many *innovations* a process carries on is its
# order, whatever the record. How many *nats* about the future that is depends on how well the state shows in
# what is to come. The Nile and the ocean both carry one number; the ocean's tells five times as much.
#
# This is what a layer with a state and a window has to divide between the two: a window for what the last
# samples say, a state for what takes many samples to see.
#
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: from poles and zeros.** The logarithm of $1 + C(zI - A)^{-1}K = \prod_i (z - z_i) / (z - p_i)$
# is $\sum_k c_k z^{-k}$ with $c_k = \frac1k \sum_i (p_i^k - z_i^k)$, and $I(\text{past}; \text{future}) =
# \frac12 \sum_k k\, c_k^2$. Sum the series. (The zeros $z_i$ are the eigenvalues of $A - KC$.) When does a
# process have much memory?


# %%
def nats_from(poles, zeros):
    """Mutual information of past and future of one output, from poles and zeros inside the circle."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def nats_from_solution(poles, zeros):
    def pairs(a, b):
        return np.log(1 - np.outer(a, b).astype(complex)).sum().real

    return float(pairs(poles, zeros) - 0.5 * pairs(poles, poles) - 0.5 * pairs(zeros, zeros))


def check_nats_from(answer):
    for model in (process, *(result.model for result in found.values())):
        zeros = np.linalg.eigvals(model.A - model.K @ model.C)
        assert np.isclose(answer(model.poles, zeros), rz.mutual_information(model))
    assert answer(np.array([0.7]), np.array([0.7])) == 0
    print(
        "poles or zeros near the circle, and far from each other: a pole that meets a zero is no memory"
    )


check_nats_from(nats_from_solution)

# %% [markdown]
# **Exercise 2: the window's share.** Show that a window of $w$ samples knows
# $\sum_{k \le w} \frac12 \log(D_k / R_e)$ of the future. (Write the information as a sum over the future's
# samples of a difference of two entropies; it telescopes.) Compute it from `extra`, for $w = 0, \dots, W$.


# %%
def window_nats(model, W):
    """Array of W + 1 values."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def window_nats_solution(model, W):
    # Sample j of the future costs D_{j+w} with the window, D_j without: all but the first w terms cancel.
    return np.r_[0.0, np.cumsum(extra(model, W))]


def check_window_nats(answer):
    for name, result in found.items():
        assert np.allclose(answer(result.model, 40), held[name].window, atol=1e-8)
    print("what a window knows is what it has already paid for")


check_window_nats(window_nats_solution)

# %% [markdown]
# **Exercise 3: look less often.** Observe only every $r$-th sample. The covariances are $\Lambda_0,
# \Lambda_r, \Lambda_{2r}, \dots$, and the order cannot rise. How many nats are left of the ocean's memory if
# it is read once a year?


# %%
def nats_of_every(model, r):
    """Mutual information of past and future of every r-th sample."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def nats_of_every_solution(model, r):
    lags = 2 * model.n_states + 2
    sparse = rz.covariances(model, lags * r + 1)[::r]
    return rz.mutual_information(rz.stochastic_realization(sparse, order=model.n_states).model)


def check_nats_of_every(answer):
    walk = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.9]])
    for r in (1, 2, 5):
        assert np.isclose(answer(walk, r), -0.5 * np.log(1 - 0.9 ** (2 * r)))
    ocean = found["ocean"].model
    assert np.isclose(answer(ocean, 1), nats["ocean"])
    print(
        f"monthly {nats['ocean']:.3f} nats, quarterly {answer(ocean, 3):.3f}, yearly {answer(ocean, 12):.3f}"
    )


check_nats_of_every(nats_of_every_solution)

# %% [markdown]
# ## Sources
#
# - H. Hotelling, *Relations between two sets of variates*, Biometrika 28, 1936, 321–377. Canonical
#   correlations.
# - I. M. Gelfand, A. M. Yaglom, *Calculation of the amount of information about a random function contained
#   in another such function*, American Mathematical Society Translations 12, 1959, 199–246. The sum.
# - H. Akaike, *Markovian representation of stochastic processes by canonical variables*, SIAM Journal on
#   Control 13, 1975, 162–173. The state as the canonical variables of past and future.
# - W. Bialek, I. Nemenman, N. Tishby, *Predictability, complexity, and learning*, Neural Computation 13,
#   2001, 2409–2463; J. P. Crutchfield, D. P. Feldman, *Regularities unseen, randomness observed*, Chaos 13,
#   2003, 25–54. Excess entropy.
# - H. Jaeger, *Short term memory in echo state networks*, GMD Report 152, 2001. The sum of $m_k$.
# - A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, chapter 11.
# - The records, as shipped with statsmodels: flow of the Nile at Aswan 1871–1970; gross domestic product of
#   the United States 1959–2009; sea surface temperature off Peru 1950–2010; yearly sunspot numbers 1700–2008.
