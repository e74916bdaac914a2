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
# # Balanced truncation: what may be forgotten
#
# **A model carries a hundred numbers. Which of them may it forget, and how wrong can its output become, for
# any input whatever?**
#
# "Which numbers" is not yet a question: in other coordinates they are other numbers. There is one choice of
# coordinates in which it is, and in which the answer comes with a guarantee, twice the sum of what was
# forgotten. This notebook finds the coordinates, proves the guarantee in half a page, and tries both on a rod
# that forgets nearly everything, a beam that forgets little, a window that forgets nothing, and on a model
# that was fitted to an ocean.
#
# You need eigenvalues and the singular value decomposition. For the proof, how to differentiate a product.

# %%
# %config InlineBackend.figure_format = "retina"
import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg

import realization as rz
from realization import plot

COLOURS = plot.COLOURS

# %% [markdown]
# ## 1. A rod
#
# A rod of a hundred cells. Heat enters at one end, the temperature is measured at the other, and in between
# each cell passes heat to its neighbours in proportion to the difference:
#
# $$\dot x_i = N^2\,(x_{i-1} - 2 x_i + x_{i+1}), \qquad \dot x = A x + B u, \quad y = C x,$$
#
# the near end insulated, the far one losing heat to a bath.


# %%
def heated_rod(cells):
    A = cells**2 * (np.eye(cells, k=1) - 2 * np.eye(cells) + np.eye(cells, k=-1))
    A[0, 0] = -(cells**2)
    return rz.StateSpace(A, cells * np.eye(cells)[:, :1], np.eye(cells)[-1:], dt=0.0)


rod = heated_rod(100)
print(rod)

# %% [markdown]
# The state is a hundred temperatures. None of them looks idle.
#
# ## 2. What a direction costs, and what it is worth
#
# Two questions about a direction $x$ of the state. *How hard is it to reach?* The least energy of an input
# that steers from rest to $x$ is $x^\top W_c^{-1} x$. *How well is it seen?* Left alone from $x$ on, the
# output has the energy $x^\top W_o x$. The two gramians solve
#
# $$A W_c + W_c A^\top + B B^\top = 0, \qquad A^\top W_o + W_o A + C^\top C = 0 .$$
#
# Neither alone will do: count the first cell in thousandths of a degree, and it is easier to reach and worth
# less. Under $x = T z$ they become $T^{-1} W_c T^{-\top}$ and $T^\top W_o T$, but their product becomes
# $T^{-1} (W_c W_o) T$: **its eigenvalues do not depend on coordinates**. Their roots
#
# $$\sigma_i = \sqrt{\lambda_i(W_c W_o)}$$
#
# are the *Hankel singular values*: $\sigma_i^2$ is the energy that comes out, over the least that had to be
# put in, along direction $i$. (They are the singular values of the operator that takes past inputs to future
# outputs, hence the name.) And there are coordinates in which both gramians are the same diagonal matrix.
# With $W_c = R R^\top$, $W_o = L L^\top$ and $L^\top R = U \Sigma V^\top$ they are
#
# $$T = R V \Sigma^{-1/2}, \qquad T^{-1} = \Sigma^{-1/2} U^\top L^\top .$$
#
# There a direction that is hard to reach is also hard to see.


# %%
def root(W):
    """R with R Rᵀ = W, for a covariance that is nearly singular."""
    values, vectors = np.linalg.eigh(W)
    return vectors * np.sqrt(np.maximum(values, 0))


def balance(model):
    """T, its inverse, and the Hankel singular values."""
    R = root(scipy.linalg.solve_continuous_lyapunov(model.A, -model.B @ model.B.T))
    L = root(scipy.linalg.solve_continuous_lyapunov(model.A.T, -model.C.T @ model.C))
    U, s, Vt = np.linalg.svd(L.T @ R)
    return R @ Vt.T / np.sqrt(s), (U / np.sqrt(s)).T @ L.T, s


def truncate(model, r):
    """The first r balanced states, and all Hankel singular values."""
    T, back, s = balance(model)
    T, back = T[:, :r], back[:r]
    return rz.StateSpace(back @ model.A @ T, back @ model.B, model.C @ T, dt=0.0), s


small, hsv = truncate(rod, 4)
theirs = rz.balanced_truncation(rod, 4)
omega = np.geomspace(0.1, 1e4, 400)
print("Hankel singular values:", hsv[:6])
assert np.allclose(hsv[:6], theirs.hsv[:6], rtol=1e-6)
assert np.allclose(
    small.frequency_response(omega), theirs.model.frequency_response(omega), atol=1e-9
)

# %% tags=["hide-input"]
with plot.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    plot.hankel_singular_values(theirs.hsv[:16], order=4, ax=left)
    profiles = balance(rod)[0][:, :4]
    for k, (meaning, dashes) in enumerate(
        zip(("fading", "window", "eidetic", "weights"), ("-", "--", ":", "-."))
    ):
        profile = np.sign(profiles[0, k]) * profiles[:, k]
        right.plot(
            np.arange(1, 101), profile, dashes, color=COLOURS[meaning], label=f"state {k + 1}"
        )
    right.set(xlabel="cell", ylabel="temperature", xticks=[1, 50, 100])
    right.set_title("its first four states")
    right.legend()
plt.show()

# %% [markdown]
# Each singular value is about a seventh of the one before. Of a hundred numbers a handful matter: smooth
# profiles, not single temperatures.
#
# ## 3. The guarantee
#
# Cut the last state, $x = (x_1, x_2)$ with singular value $\sigma$ for $x_2$, and keep
# $\dot z = A_{11} z + B_1 u$, $y_r = C_1 z$. **Claim:** from rest, for every input,
# $\displaystyle \int |y - y_r|^2 \le (2\sigma)^2 \int |u|^2$.
#
# Call $\hat x = (z, 0)$. It obeys the full equation but for its second row, where $h = A_{21} z + B_2 u$ is
# missing: $\dot{\hat x} = A \hat x + B u - (0, h)$. Take the difference $d = x - \hat x$ and the sum
# $s = x + \hat x$; both have $x_2$ as second part:
#
# $$\dot d = A d + (0, h), \qquad \dot s = A s + 2 B u - (0, h), \qquad y - y_r = C d .$$
#
# In balanced coordinates $A^\top \Sigma + \Sigma A = -C^\top C$, and
# $A^\top \Sigma^{-1} + \Sigma^{-1} A = -\Sigma^{-1} B B^\top \Sigma^{-1}$ (the other equation between two
# $\Sigma^{-1}$). Differentiate:
#
# $$\frac{d}{dt}\, d^\top \Sigma\, d = -|y - y_r|^2 + 2\sigma\, x_2^\top h,$$
#
# $$\frac{d}{dt}\, s^\top \Sigma^{-1} s = |2u|^2 - |2u - B^\top \Sigma^{-1} s|^2 -
# \frac{2}{\sigma}\, x_2^\top h .$$
#
# Add the first to $\sigma^2$ times the second, and what was neglected, $h$, **cancels**:
#
# $$\frac{d}{dt} \bigl( d^\top \Sigma\, d + \sigma^2 s^\top \Sigma^{-1} s \bigr)
# \le -|y - y_r|^2 + 4 \sigma^2 |u|^2 .$$
#
# Integrate: the left side begins at zero and ends at something that is not negative. $\square$
#
# What is left is balanced again, with the remaining $\sigma_i$; cut one after the other, and the errors add
# to at most
#
# $$\|G - G_r\|_\infty \le 2\,(\sigma_{r+1} + \dots + \sigma_n) ,$$
#
# the largest amplification of the error at any frequency. In discrete time the same holds (Hinrichsen and
# Pritchard 1990).

# %%
orders = range(1, 9)
cuts = {r: rz.balanced_truncation(rod, r) for r in orders}
gain = rz.hinf_norm(rod).value
print("order   error         bound         of the gain")
for r, cut in cuts.items():
    print(f"{r:>5}   {cut.error:.2e}  <=  {cut.bound:.2e}   {100 * cut.error / gain:.1e} %")
    assert cut.error <= cut.bound

# %% tags=["hide-input"]
with plot.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=[1, 1.5])
    left.semilogy(
        orders,
        [cut.bound for cut in cuts.values()],
        "_",
        markersize=14,
        color=COLOURS["data"],
        label="bound",
    )
    left.semilogy(
        orders,
        [cut.error for cut in cuts.values()],
        "o",
        markersize=5,
        color=COLOURS["eidetic"],
        label="error",
    )
    left.set(xlabel="order", ylabel="gain", xticks=[1, 4, 8])
    left.legend()
    full = rod.frequency_response(omega)[:, 0, 0]
    right.loglog(omega, abs(full), color=COLOURS["data"], label="rod")
    for r, dashes in ((2, "-"), (4, "--"), (6, ":")):
        error = abs(full - cuts[r].model.frequency_response(omega)[:, 0, 0])
        right.loglog(omega, error, dashes, color=COLOURS["eidetic"], label=f"error, order {r}")
    right.set(xlabel="frequency, rad/s", ylim=(1e-11, 1))
    right.legend(fontsize=9)
plt.show()

# %% [markdown]
# The bound is met and nearly reached. Six numbers in the place of a hundred, at an error that is less than a
# hundred-thousandth of the gain. Less of the *largest* gain: at high frequencies, where the rod hardly
# answers at all, the error is larger than the answer. The guarantee is absolute.
#
# ## 4. What will not be forgotten
#
# A rod smooths, and so it forgets. A *beam* rings: forty modes, each turning for a long time before it dies,
# each at a frequency of its own. And a *window* (the first notebook) of a hundred samples hands every input
# on whole. How do their singular values fall?


# %%
def beam(modes, damping=0.005, struck=0.37, heard=0.71):
    """Pinned beam: frequencies that grow with the square, force at one point, velocity at another."""
    k = np.arange(1, modes + 1)
    blocks = [np.array([[0.0, w], [-w, -2 * damping * w]]) for w in k.astype(float) ** 2]
    B = np.zeros((2 * modes, 1))
    C = np.zeros((1, 2 * modes))
    B[1::2, 0], C[0, 1::2] = np.sin(np.pi * k * struck), np.sin(np.pi * k * heard)
    return rz.StateSpace(scipy.linalg.block_diag(*blocks), B, C, dt=0.0)


rings = beam(50)
window = rz.StateSpace(np.eye(100, k=1), np.eye(100)[:, -1:], np.eye(100)[:1])
three = {"rod": rod, "beam": rings, "window": window}
needed = {}
for name, model in three.items():
    values = rz.hankel_singular_values(model)
    left_over = 2 * np.append(np.cumsum(values[::-1])[::-1], 0.0)
    needed[name] = int(np.argmax(left_over <= 0.05 * rz.hinf_norm(model).value))
    print(
        f"{name:<7} {needed[name]:3d} of {model.n_states} numbers for a guaranteed 5 % of the gain"
    )
assert needed["rod"] < needed["beam"] < needed["window"] == 100

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 3.2))
    for name, meaning in (("rod", "fading"), ("beam", "innovation"), ("window", "window")):
        values = rz.hankel_singular_values(three[name])
        shown = values[values > 1e-14 * values[0]]
        ax.semilogy(
            np.arange(1, len(shown) + 1),
            shown / shown[0],
            "o",
            markersize=3,
            color=COLOURS[meaning],
            label=name,
        )
    ax.set(xlabel="index", ylabel="singular value, first = 1", ylim=(1e-14, 3))
    ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# All hundred singular values of the window are 1: it reaches and sees every place equally well, and to forget
# one number is to be wrong about one input altogether. (It is an all-pass: the lag of a hundred samples.) So
# "how much may be forgotten" is not a matter of size. It is a property of the operator from pasts to futures,
# and $\sigma_1, \sigma_2, \dots$ is its spectrum.
#
# The pairs of the beam are its modes: a state and its quarter turn. A mode that is struck or heard near a
# node goes first.
#
# ## 5. A model that was fitted to an ocean
#
# A regression on the last 24 months is a state-space model with 24 states: its window. Fit one to the sea
# temperature off Peru, 1950 to 1980, seasons taken off, and ask how many of the 24 it needs. The input here
# is the surprise $e_t$, the output the temperature.

# %%
months = rz.load_series("elnino").y.reshape(-1, 12)
anomaly = (months - months[:31].mean(axis=0)).ravel()
learned, held = anomaly[: 31 * 12], rz.IOData(anomaly[31 * 12 :])

lags = 24
columns = np.column_stack([learned[lags - k : len(learned) - k] for k in range(1, lags + 1)])
weights = np.linalg.lstsq(columns, learned[lags:])[0]
rest = learned[lags:] - columns @ weights

shift = np.eye(lags, k=-1)
shift[0] = weights
regression = rz.InnovationsModel(
    shift, np.zeros((lags, 0)), weights[None], K=np.eye(lags)[:, :1], Re=[[rest.var()]]
)
whole_fit = rz.fit_percent(held.y, regression.predict(held))[0]
print(f"24 numbers: fit {whole_fit:.1f} % on the thirty years that were put away")
print(
    f"gain from surprise of unit variance to temperature: {rz.hinf_norm(regression).value:.2f} at most"
)

# %%
reduced = {r: rz.balanced_truncation(regression, r) for r in (1, 2, 4, 8, 16, 24)}
print("order   error   bound   fit one month ahead")
for r, cut in reduced.items():
    fit = rz.fit_percent(held.y, cut.model.predict(held))[0]
    print(f"{r:>5}{cut.error:>8.3f}{cut.bound:>8.3f}{fit:>10.1f} %")
    assert cut.error <= cut.bound
assert rz.fit_percent(held.y, reduced[1].model.predict(held))[0] > whole_fit - 1

# %% [markdown]
# One number predicts the years that were put away as well as twenty-four. Yet the path from surprise to
# temperature is *not* reproduced well at order 1. Those are two questions. The bound speaks of every input,
# the worst too, here an oscillation with a period of about five years, which the 24 states amplify and one
# cannot; the ocean's own surprises are spread over all frequencies, and one month ahead little depends on the
# difference. Nor is what was cut known to be true: it was fitted to 31 years, which hold six such periods.
# Where past and future of the *process* are what matters, one balances those instead:
# `rz.stochastically_balanced`, whose singular values are the canonical correlations of [the notebook
# before](04_how_much_memory.ipynb).
#
# [Compress](12_compress.ipynb) does to a trained layer what was done here to a rod.
#
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: when the bound is reached.** Measure the rod where it is heated. Then $A = A^\top$ and, up to
# a factor, $B = C^\top$, so both gramians are the same $W$. Show that the gain at frequency zero is $G(0) =
# -C A^{-1} B = 2 \sum_i \sigma_i$, so that the error of order $r$ is the bound itself. Give the error at
# frequency zero from the singular values alone.


# %%
def error_at_zero(hsv, r):
    """G(0) - G_r(0) of a symmetric system."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def error_at_zero_solution(hsv, r):
    # A W + W A = -B Bᵀ, so B Bᵀ A⁻¹ has the trace -2 tr W; what is truncated keeps the symmetry.
    return 2 * hsv[r:].sum()


def check_error_at_zero(answer):
    symmetric = rz.StateSpace(rod.A, rod.B, rod.B.T, dt=0.0)
    values = rz.hankel_singular_values(symmetric)
    assert np.isclose(
        answer(values, 0), symmetric.frequency_response([0.0])[0, 0, 0].real, rtol=1e-8
    )
    for r in (1, 2, 3):
        cut = rz.balanced_truncation(symmetric, r)
        assert np.isclose(answer(values, r), cut.error, rtol=1e-5)
    print("no better constant than 2 is possible")


check_error_at_zero(error_at_zero_solution)

# %% [markdown]
# **Exercise 2: a budget.** You are allowed an error of `tol` for every input of energy 1. What is the least
# order that the bound guarantees?


# %%
def least_order(hsv, tol):
    """Smallest r with 2 (hsv[r] + hsv[r + 1] + ...) <= tol."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def least_order_solution(hsv, tol):
    left = 2 * np.append(np.cumsum(hsv[::-1])[::-1], 0.0)
    return int(np.argmax(left <= tol))


def check_least_order(answer):
    for model in (rod, rings):
        values = rz.hankel_singular_values(model)
        for share in (0.3, 0.05, 1e-3):
            tol = share * rz.hinf_norm(model).value
            assert answer(values, tol) == rz.balanced_truncation(model, tol=tol).order
    assert answer(np.ones(5), 9.9) == 1
    print("the order is an outcome; what one chooses is the error")


check_least_order(least_order_solution)

# %% [markdown]
# **Exercise 3: forget, but not the level.** Truncation sets $x_2 = 0$. Set $\dot x_2 = 0$ instead and solve
# for $x_2$: what is forgotten follows the rest at once. Write the reduced $(A_r, B_r, C_r, D_r)$. At which
# frequency is it exact?


# %%
def follow(A, B, C, r):
    """(A_r, B_r, C_r, D_r) in which the states after the first r are at rest."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def follow_solution(A, B, C, r):
    # 0 = A21 x1 + A22 x2 + B2 u
    X, Y = np.linalg.solve(A[r:, r:], A[r:, :r]), np.linalg.solve(A[r:, r:], B[r:])
    return A[:r, :r] - A[:r, r:] @ X, B[:r] - A[:r, r:] @ Y, C[:, :r] - C[:, r:] @ X, -C[:, r:] @ Y


def check_follow(answer):
    balanced, values = truncate(rod, 6)
    mine = rz.StateSpace(*answer(balanced.A, balanced.B, balanced.C, 2), dt=0.0)
    at_zero = [model.frequency_response([0.0])[0, 0, 0] for model in (mine, balanced)]
    assert np.isclose(*at_zero, rtol=1e-10)
    difference = np.abs(mine.frequency_response(omega) - balanced.frequency_response(omega)).max()
    assert difference <= 2 * values[2:6].sum() * (1 + 1e-6)
    print("exact at frequency zero, under the same bound: rz.singular_perturbation")


check_follow(follow_solution)

# %% [markdown]
# ## Sources
#
# - B. C. Moore, *Principal component analysis in linear systems: controllability, observability, and model
#   reduction*, IEEE Transactions on Automatic Control 26, 1981, 17–32. Balanced coordinates.
# - L. Pernebo, L. M. Silverman, *Model reduction via balanced state space representations*, the same 27,
#   1982, 382–387. What is truncated stays balanced and stable.
# - D. F. Enns, *Model reduction with balanced realizations: an error bound and a frequency weighted
#   generalization*, 23rd IEEE Conference on Decision and Control, 1984, 127–132; K. Glover, *All optimal
#   Hankel-norm approximations of linear multivariable systems and their L∞-error bounds*, International
#   Journal of Control 39, 1984, 1115–1193. The bound.
# - H. Sandberg, A. Rantzer, *Balanced truncation of linear time-varying systems*, IEEE Transactions on
#   Automatic Control 49, 2004, 217–229. The proof in the time domain, by two energies.
# - D. Hinrichsen, A. J. Pritchard, *An improved error estimate for reduced-order models of discrete-time
#   systems*, IEEE Transactions on Automatic Control 35, 1990, 317–320.
# - A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, chapter 7.
# - The record: sea surface temperature off Peru, as shipped with statsmodels.
