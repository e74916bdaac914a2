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
# # A window is a nilpotent matrix
#
# **Why is a Transformer's cache a matrix whose $w$-th power is zero?**
#
# Because the cache forgets. A window of $w$ tokens is a linear system whose state is moved one place along
# at every step; after $w$ steps whatever was in it has dropped off the end, and "moved $w$ times, nothing
# is left" is what $A^w = 0$ says. Let one row of that matrix be other than zero and the very same system
# never quite forgets: it becomes a state-space model. This notebook derives both, shows them, and counts
# what each remembers.
#
# You need linear algebra, and one of two fields: either you have met $x_{t+1} = A x_t + B u_t$, or you know
# what a key-value cache is. The other one you will have met by the end.

# %%
# %config InlineBackend.figure_format = "retina"
import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
import sympy as sp
from bmojo_kernels import lti_scan
from IPython.display import Math
from matplotlib.colors import LinearSegmentedColormap

import realization as rz
from realization import plot

# %% [markdown]
# ## 1. The cache as a recurrence
#
# At time $t$ a sliding window holds the last $w$ inputs, oldest first:
#
# $$x_t = \begin{bmatrix} u_{t-w} & u_{t-w+1} & \cdots & u_{t-1} \end{bmatrix}^T .$$
#
# When $u_t$ arrives, each entry moves up one place, the oldest leaves at the top, and the new one enters at
# the bottom. That is a matrix:
#
# $$x_{t+1} = A_w x_t + B u_t, \qquad
# A_w = \begin{bmatrix} 0 & 1 & & \\ & 0 & \ddots & \\ & & \ddots & 1 \\ 0 & \cdots & & 0 \end{bmatrix},
# \qquad B = \begin{bmatrix} 0 \\ \vdots \\ 0 \\ 1 \end{bmatrix} .$$
#
# It is a *companion matrix*: ones above the diagonal, and a last row that is free. The window's last row is
# zero. Where a token is a vector in $\mathbb{R}^d$, each entry becomes a block: $A_w \otimes I_d$. The keys
# and values that a Transformer caches are linear in the tokens, so they travel along the same belt.


# %%
def companion(last_row):
    """Shift matrix of a state with `len(last_row)` places, and where the input enters."""
    w = len(last_row)
    A = np.eye(w, k=1)
    A[-1] = last_row
    return A, np.eye(w)[:, -1:]


w = 8
A_window, B = companion(np.zeros(w))

# %% [markdown]
# ## 2. $A^w = 0$
#
# Each multiplication by $A$ lifts the diagonal of ones by one; a matrix of size $w$ has room for $w - 1$
# lifts.

# %%
A4 = rz.symbolic.shift_form(4).A
Math(r" \qquad ".join(f"A^{k} = {sp.latex(A4**k)}" for k in range(1, 5)))

# %% [markdown]
# Now free the last row, let it be any $a_0, \dots, a_{w-1}$, and ask SymPy for the characteristic
# polynomial.

# %%
A_free = rz.symbolic.companion(sp.symbols("a:4"))
assert rz.symbolic.nilpotency_index(A4) == 4
assert rz.symbolic.nilpotency_index(A_free) is None
rz.symbolic.characteristic_polynomial(A_free).as_expr()

# %% [markdown]
# The last row *is* the characteristic polynomial,
#
# $$\det(\lambda I - A) = \lambda^w - a_{w-1} \lambda^{w-1} - \dots - a_1 \lambda - a_0,$$
#
# at every size: expanding along the first column gives $p_w(\lambda) = \lambda\, p_{w-1}(\lambda) - a_0$,
# where $p_{w-1}$ belongs to the row $a_1, \dots, a_{w-1}$. If the row is zero, $\lambda^w$ is what remains;
# a matrix satisfies its own characteristic polynomial (Cayley and Hamilton), so $A^w = 0$. If any
# $a_j \neq 0$, some eigenvalue is not zero and no power of $A$ vanishes. So, for a companion matrix:
#
# > **nilpotent $\iff$ the last row is zero $\iff$ all poles are at 0.**
#
# The same in a picture, for the window of eight:

# %% tags=["hide-input"]
white_to_blue = LinearSegmentedColormap.from_list("window", ["#f0f2f6", plot.COLOURS["window"]])

with plot.style():
    figure, axes = plt.subplots(1, w, figsize=(8, 1.5))
    for k, ax in enumerate(axes, 1):
        ax.matshow(np.linalg.matrix_power(A_window, k), cmap=white_to_blue, vmin=0, vmax=1)
        ax.set_title("$A$" if k == 1 else f"$A^{k}$" if k < w else f"$A^{k} = 0$", loc="center")
        ax.set(
            xticks=np.arange(w + 1) - 0.5,
            yticks=np.arange(w + 1) - 0.5,
            xticklabels=[],
            yticklabels=[],
        )
        ax.tick_params(length=0)
        ax.grid(color="white", linewidth=1)
        ax.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# ## 3. The state *is* the last $w$ inputs
#
# Not an approximation of them: the numbers themselves. Run the recurrence over random tokens of dimension 3
# and compare with slices of the input, bit by bit. (`lti_scan` returns the state *before* each input acts.)

# %%
d, T = 3, 200
tokens = np.random.default_rng(0).standard_normal((T, d))
states, _ = lti_scan(np.kron(A_window, np.eye(d)), np.kron(B, np.eye(d)), tokens)

for t in range(w, T):
    assert np.array_equal(states[t], tokens[t - w : t].ravel())
print(f"{T - w} states of {w} x {d} numbers, each equal to the last {w} tokens to the last bit")

# %% [markdown]
# A conveyor belt: each diagonal stripe below is one input on its way out.

# %% tags=["hide-input"]
u = np.random.default_rng(1).uniform(size=(40, 1))
belt, _ = lti_scan(A_window, B, u)

with plot.style():
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 3.6), sharex=True, height_ratios=[1, 2])
    top.bar(np.arange(40), u[:, 0], color=plot.COLOURS["data"], width=0.55)
    top.set(ylabel="input $u_t$", yticks=[0, 1])
    bottom.imshow(belt.T, cmap=white_to_blue, vmin=0, vmax=1, aspect="auto")
    bottom.set(xlabel="time $t$", yticks=[0, w - 1], yticklabels=["leaves next", "came last"])
plt.show()

# %% [markdown]
# ## 4. One row that is not zero
#
# Now let the last row act: $x_{t+1} = A x_t + B u_t$ with $A = A_w + B\,a^T$. The belt is as it was, but
# what enters at the bottom is no longer $u_t$ alone; a mixture of everything on the belt is fed back in,
#
# $$z_t = u_t + a_{w-1} z_{t-1} + \dots + a_0 z_{t-w}, \qquad
# x_t = \begin{bmatrix} z_{t-w} & \cdots & z_{t-1} \end{bmatrix}^T .$$
#
# The simplest row is $(g, 0, \dots, 0)$: a share $g$ of what leaves is put back on. One pulse on each belt,
# with $g = 0.7$: the window carries it to the end and drops it; the other lets it come round again and
# again, weaker each time. In powers of the matrix: $A^w = 0$ against $A^w = g I$.

# %% tags=["hide-input"]
ring, _ = companion(0.7 * np.eye(w)[0])
assert np.array_equal(np.linalg.matrix_power(ring, w), 0.7 * np.eye(w))

pulse = np.zeros((40, 1))
pulse[2] = 1.0
white_to_green = LinearSegmentedColormap.from_list("fading", ["#f0f2f6", plot.COLOURS["fading"]])

with plot.style():
    figure, axes = plt.subplots(2, 1, figsize=(7, 3.6), sharex=True)
    belts = (("window", A_window, white_to_blue), ("fading", ring, white_to_green))
    for ax, (name, A, colours) in zip(axes, belts):
        belt, _ = lti_scan(A, B, pulse)
        ax.imshow(belt.T, cmap=colours, vmin=0, vmax=1, aspect="auto")
        ax.set(yticks=[0, w - 1], yticklabels=["leaves next", "came last"])
        ax.set_title(f"{name}: one pulse on the belt")
    axes[-1].set_xlabel("time $t$")
plt.show()

# %% [markdown]
# In general the row decides the poles, so choose poles and read off the row. With every pole inside the
# unit circle an input fades like $\rho^k$, $\rho$ being the largest modulus, and never vanishes.

# %%
radius_angle = [(0.95, 0.25), (0.90, 0.70), (0.85, 1.30), (0.80, 2.20)]
chosen = np.array([r * np.exp(sign * 1j * angle) for r, angle in radius_angle for sign in (1, -1)])
last_row = -np.poly(chosen).real[:0:-1]
A_fading, _ = companion(last_row)

read_out = np.full((1, w), 1 / w)  # any read-out that looks at every place will do
window = rz.StateSpace(A_window, B, read_out)
fading = rz.StateSpace(A_fading, B, read_out)
print("last row of the window:", np.zeros(w))
print("last row that fades:   ", last_row.round(2))

# %% tags=["hide-input"]
with plot.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.5))
    plot.poles(window, ax=left).set_title("window: eight poles, all at 0")
    left.lines[-1].set_color(plot.COLOURS["window"])
    plot.poles(fading, ax=right).set_title("fading: eight poles, none at 0")
plt.show()

# %% [markdown]
# Read through the same $C$, that is an impulse response of finite length against one that decays
# geometrically: $h_k = C A^{k-1} B$ is zero for $k > w$ in the window (a *finite impulse response* filter:
# attention over a window with fixed weights is one), and bounded by a multiple of $\rho^k$ otherwise.

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(2, 1, figsize=(7, 4), sharex=True)
    plot.impulse_response(window, 60, meaning="window", ax=axes[0]).set_xlabel("")
    axes[0].set_title("window: over after 8 samples")
    plot.impulse_response(fading, 60, ax=axes[1]).set_title(
        r"fading: within a multiple of $0.95^k$, for ever"
    )
    k = np.arange(1, 60)
    envelope = np.abs(fading.impulse_response(60)[1:, 0, 0] / 0.95**k).max() * 0.95**k
    axes[1].plot(k, envelope, k, -envelope, color=plot.COLOURS["baseline"], linewidth=1)
plt.show()

assert not window.impulse_response(60)[w + 1 :].any()
assert fading.impulse_response(400)[-40:].any()

# %% [markdown]
# ## 5. How much of $u_{t-k}$ is left?
#
# An impulse response depends on what one reads out, and the entries of a state on the basis. Ask instead
# what *any* read-out could recover: feed white noise of variance 1 and let $m_k$ be the share of the
# variance of $u_{t-k}$ that the best linear estimate from $x_t$ explains. The state's covariance is the
# controllability gramian $W = A W A^T + B B^T$, its covariance with $u_{t-k}$ is $A^{k-1} B$, and so
#
# $$m_k = (A^{k-1} B)^T\, W^{-1} (A^{k-1} B) .$$
#
# A change of basis cancels. And the sum is something one can do in one's head:
#
# $$\sum_{k \ge 1} m_k = \operatorname{tr}\Bigl(W^{-1} \sum_{k \ge 1} A^{k-1} B B^T (A^{k-1})^T\Bigr)
# = \operatorname{tr}(W^{-1} W) = n .$$
#
# **Every linear memory of $n$ states that can all be reached holds exactly $n$ inputs' worth.** The row
# decides only how it is spread (Jaeger 2001; White, Lee and Sompolinsky 2004).


# %%
def memory(A, B, lags):
    """Share of the variance of u[t-k] that the state x[t] explains, for k = 1 .. lags."""
    W = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    reach, m = B, np.empty(lags)
    for k in range(lags):
        m[k] = np.trace(reach.T @ np.linalg.solve(W, reach))
        reach = A @ reach
    return m


# %% tags=["hide-input"]
in_window, in_state = memory(A_window, B, 32), memory(A_fading, B, 32)
with plot.style():
    ax = plot.memory({"window": in_window, "fading": in_state})
    ax.set_title("eight states each: the two areas are equal")
plt.show()

print("sum over all lags:", memory(A_window, B, 400).sum(), memory(A_fading, B, 400).sum().round(6))
assert np.array_equal(in_window, np.arange(32) < w)
assert abs(memory(A_fading, B, 400).sum() - w) < 1e-6

# %% [markdown]
# The window spends its eight all at once: the last eight inputs perfectly, nothing of the ninth. The fading
# state gives up some of the last eight to keep a little of those before. Neither can do both.
#
# ## 6. The Hankel matrix cannot tell them apart
#
# The matrix $H_{ij} = h_{i+j-1}$ maps past inputs to future outputs. Its rank is the least number of states
# that realizes $h$ (Kronecker; Ho and Kalman 1966). Both systems have rank eight: rank counts the *places*
# of a memory. How long a place holds on is in the poles, which move the entries and not the rank.

# %% tags=["hide-input"]
hankel = {
    name: rz.hankel(model.impulse_response(40)[1:], 20, 20)
    for name, model in (("window", window), ("fading", fading))
}
ranks = {name: np.linalg.matrix_rank(H) for name, H in hankel.items()}

grey_to_green = LinearSegmentedColormap.from_list(
    "signed", [plot.COLOURS["baseline"], "white", plot.COLOURS["fading"]]
)

with plot.style():
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(8, 2.9), width_ratios=[1, 1, 1.35])
    left.imshow(hankel["window"], cmap=white_to_blue)
    middle.imshow(hankel["fading"], cmap=grey_to_green, vmin=-2.4, vmax=2.4)
    for ax, (name, H) in zip((left, middle), hankel.items()):
        ax.set_title(f"{name}: rank {ranks[name]}")
        ax.set(xticks=[], yticks=[], xlabel="past", ylabel="future")
        hsv = np.linalg.svd(H, compute_uv=False)
        shown = np.maximum(hsv / hsv[0], 1e-17)
        right.semilogy(np.arange(1, 21), shown, "o", markersize=4, color=plot.COLOURS[name])
    right.axvline(w + 0.5, color=plot.COLOURS["baseline"], linewidth=1, linestyle="--")
    right.set(xlabel="index", xticks=[1, 8, 20])
    right.set_title("singular values of both")
plt.show()

assert ranks == {"window": w, "fading": w}

# %% [markdown]
# ## 7. What neither holds
#
# Let one unusual input pass and then wait. Sixty steps later the window knows nothing of it, by
# construction; the fading state still holds a share of it, but one too small to use:

# %%
long_ago = 60
print(f"share of u[t-{long_ago}] that is left:")
print(f"  window  {memory(A_window, B, long_ago)[-1]:.6f}")
print(f"  fading  {memory(A_fading, B, long_ago)[-1]:.6f}")

# %% [markdown]
# More states would only push the horizon back: $\sum m_k = n$ is a budget, and an unbounded past does not
# fit. Unless not every input deserves a place. What the state *predicts* of the next output need not be
# stored; it can be computed again. What it does not predict is the **innovation**
#
# $$e_t = y_t - \operatorname{E}[\,y_t \mid \text{past}\,],$$
#
# and the first state together with $e_1, \dots, e_t$ determines the past exactly. So keep a state of fixed
# size, and beside it those few samples whose innovation was too large to lose. That is the third memory,
# *eidetic* like the window and long like the state; B'MOJO (Zancato et al. 2024) puts the three into one
# layer. How surprise is measured, and how many samples are worth a place, is what the pages on memory and
# on the demo show.
#
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: a stack of windows.** Feed what a first window reads out ($y = C x$) into a second window of
# the same $A$ and $B$. Write the $A$ of the two together. What is its nilpotency index, and what does it
# say about a Transformer of $L$ layers with a window of $w$ each?


# %%
def stack(A, B, C):
    """A of two equal systems in series: the output C x of the first is the input of the second."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def stack_solution(A, B, C):
    return np.block([[A, np.zeros_like(A)], [B @ C, A]])


def check_stack(answer):
    A_stack = answer(A_window, B, read_out)
    assert A_stack.shape == (2 * w, 2 * w)
    assert np.linalg.matrix_power(A_stack, 2 * w - 1).any()
    assert not np.linalg.matrix_power(A_stack, 2 * w).any()
    print(f"index {2 * w} = 2 x {w}: L layers reach back L w tokens, and not one further")


check_stack(stack_solution)

# %% [markdown]
# **Exercise 2: both in one matrix.** Choose the last row such that the impulse response, once the pulse has
# passed along the belt, halves every `steps` samples exactly and has no other mode. Where are the other
# $w - 1$ poles?


# %%
def last_row_for_half_life(w, steps):
    """Last row of a companion matrix of size w."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def last_row_for_half_life_solution(w, steps):
    row = np.zeros(w)
    row[-1] = 0.5 ** (1 / steps)  # characteristic polynomial: lambda^(w-1) (lambda - r)
    return row


def check_half_life(answer):
    for steps in (1, 5, 30):
        A, B = companion(answer(w, steps))
        h = rz.StateSpace(A, B, read_out).impulse_response(w + 3 * steps + 1)[:, 0, 0]
        assert np.allclose(h[w + steps :], h[w:-steps] / 2, rtol=1e-12)
        assert np.isclose(memory(A, B, 60 * steps).sum(), w)
    print(
        "one pole fades, w - 1 poles at 0 are a window: most real systems with a dead time look like this"
    )


check_half_life(last_row_for_half_life_solution)

# %% [markdown]
# **Exercise 3: forget on purpose.** Given any $A$ and $B$ with one input and
# $\det\,[B, AB, \dots, A^{n-1}B] \neq 0$, find a feedback $u_t = F x_t$ that makes the closed loop a
# window: $(A + B F)^n = 0$. In companion form the answer is visible at once; for a general basis use
# Ackermann's formula, $F = -e_n^T\,[B, AB, \dots, A^{n-1}B]^{-1} p(A)$ for the polynomial $p$ that you
# want.


# %%
def deadbeat(A, B):
    """Row F, shape (1, n), such that (A + B F)^n = 0."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def deadbeat_solution(A, B):
    n = len(A)
    reach = np.hstack([np.linalg.matrix_power(A, k) @ B for k in range(n)])
    return -np.eye(n)[-1:] @ np.linalg.solve(reach, np.linalg.matrix_power(A, n))


def check_deadbeat(answer):
    assert np.allclose(answer(A_fading, B), -last_row, atol=1e-9)
    rng = np.random.default_rng(2)
    for n in (1, 2, 4):
        A, B_any = rng.standard_normal((n, n)), rng.standard_normal((n, 1))
        closed = A + B_any @ answer(A, B_any)
        assert np.abs(np.linalg.matrix_power(closed, n)).max() < 1e-8
    print("control calls it deadbeat: feedback that empties every state in n steps")


check_deadbeat(deadbeat_solution)

# %% [markdown]
# ## Sources
#
# - L. Zancato, A. Seshadri, Y. Dukler, A. Golatkar, Y. Shen, B. Bowman, M. Trager, A. Achille, S. Soatto,
#   *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading Memory*, NeurIPS
#   2024, [arXiv 2407.06324](https://arxiv.org/abs/2407.06324). The window as a nilpotent realization, and
#   the three memories.
# - T. Kailath, *Linear Systems*, Prentice-Hall 1980, chapter 2 (companion forms) and section 3.2
#   (Ackermann's formula).
# - B. L. Ho, R. E. Kalman, *Effective construction of linear state-variable models from input/output
#   functions*, Regelungstechnik 14, 1966, 545–548. Hankel rank and minimal order.
# - H. Jaeger, *Short term memory in echo state networks*, GMD Report 152, 2001; O. L. White, D. D. Lee, H.
#   Sompolinsky, *Short-term memory in orthogonal neural networks*, Physical Review Letters 92, 2004,
#   148102. The sum of $m_k$.
# - A. Vaswani et al., *Attention is all you need*, NeurIPS 2017, [arXiv
#   1706.03762](https://arxiv.org/abs/1706.03762).
