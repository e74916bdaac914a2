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
# # From a measured signal to a realization
#
# **Somebody counted the spots on the sun, one number a year. How many numbers must one carry from year to
# year to say what comes next, and how do they move?**
#
# Nobody has ever seen the state of the sun. But a state, whatever it is, leaves a trace in what can be seen:
# everything that the past says about the future has to pass through it. If it has $n$ numbers, then the
# matrix that takes pasts to futures has rank $n$. This notebook builds that matrix, first from a perfect
# impulse response, then from a noisy one, then from a signal that nobody excited; each time its singular
# values say how many numbers there are, and its factors say how they move.
#
# You need the singular value decomposition, and what a covariance is.

# %%
# %config InlineBackend.figure_format = "retina"
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

import realization as rz
from realization import plot

COLOURS = plot.COLOURS
SIGNED = LinearSegmentedColormap.from_list(
    "signed", [COLOURS["window"], "white", COLOURS["eidetic"]]
)

# %% [markdown]
# ## 1. What passes from the past to the future
#
# Let $x_{t+1} = A x_t + B u_t$ and $y_t = C x_t$ with $n$ states, and call $h_k = C A^{k-1} B$ the impulse
# response. Feed any past, switch the input off at $t = 0$ and watch:
#
# $$\begin{bmatrix} y_0 \\ y_1 \\ y_2 \\ \vdots \end{bmatrix} =
# \begin{bmatrix} h_1 & h_2 & h_3 & \cdots \\ h_2 & h_3 & & \\ h_3 & & \ddots & \\ \vdots & & & \end{bmatrix}
# \begin{bmatrix} u_{-1} \\ u_{-2} \\ u_{-3} \\ \vdots \end{bmatrix} = H u_- .$$
#
# An input $k$ steps ago reaches an output $j$ steps ahead after $j + k$ steps, whichever way these are
# divided: so $H$ is constant along its antidiagonals, a *Hankel matrix*. And since
# $h_{j+k+1} = (C A^j)(A^k B)$, it is a product of a tall and a flat matrix, with the state in the middle:
#
# $$H = \mathcal O\, \mathcal C, \qquad \mathcal O = \begin{bmatrix} C \\ CA \\ CA^2 \\ \vdots \end{bmatrix},
# \qquad \mathcal C = \begin{bmatrix} B & AB & A^2 B & \cdots \end{bmatrix}.$$
#
# $\mathcal C$ writes the past into the state, $\mathcal O$ reads the future out of it. The rank of $H$ is at
# most $n$, and exactly $n$ if no state is idle.

# %%
turn = 0.9 * np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
A = np.block([[turn, np.zeros((2, 1))], [np.zeros((1, 2)), 0.5 * np.eye(1)]])
system = rz.StateSpace(A, [[1.0], [0.0], [1.0]], [[1.0, 0.5, -0.8]])

h = system.impulse_response(41)[1:, 0, 0]  # h_1 ... h_40
H = rz.hankel(h, 20, 20)
print("rank of H:", np.linalg.matrix_rank(H))
assert np.linalg.matrix_rank(H) == system.n_states == 3

# %% [markdown]
# Now go back. Any factorization $H = \mathcal O\,\mathcal C$ with three columns in the middle will do; the
# singular value decomposition gives one. Its first row is $C$, its first column is $B$. And $A$ is what moves
# the rows of $\mathcal O$ up by one, a least-squares problem. That is the theorem of Ho and Kalman (1966), in
# four lines:


# %%
def realize(H, n):
    """(A, B, C) of n states from a Hankel matrix of an impulse response."""
    U, s, Vt = np.linalg.svd(H)
    O, R = U[:, :n] * np.sqrt(s[:n]), np.sqrt(s[:n])[:, None] * Vt[:n]
    return np.linalg.lstsq(O[:-1], O[1:])[0], R[:, :1], O[:1]


again = rz.StateSpace(*realize(H, 3))
print("poles before:", np.sort_complex(system.poles).round(6))
print("poles after: ", np.sort_complex(again.poles).round(6))
assert np.allclose(again.impulse_response(200), system.impulse_response(200), atol=1e-12)
assert np.allclose(rz.ho_kalman(np.r_[0, h], order=3).model.impulse_response(41)[1:, 0, 0], h)

# %% [markdown]
# The matrices are not those that we began with: the state came out in coordinates of its own. Nothing that
# can be measured depends on them. The poles do not, and neither does the response at any lag, those included
# that were never looked at.
#
# ## 2. What noise does to a rank
#
# Measure the response with an error of 0.02 in each sample, and the rank is 20: noise has no structure, and
# fills every direction a little. But only a little. By Weyl's inequality no singular value moves by more than
# the norm of the matrix of errors, so what stands above that level is the system, and what lies below may be
# anything.

# %%
error = 0.02
noisy = rz.hankel(h + error * np.random.default_rng(0).standard_normal(40), 20, 20)
s_clean, s_noisy = (np.linalg.svd(M, compute_uv=False) for M in (H, noisy))
decision = rz.estimate_order(s_noisy, noise=error, blocks=(20, 20))
print(
    f"rank {np.linalg.matrix_rank(noisy)}, but only {decision.order} exceed {decision.threshold:.2f}"
)
assert np.abs(s_noisy - s_clean).max() <= np.linalg.norm(noisy - H, 2)
assert decision.order == 3

# %% tags=["hide-input"]
with plot.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=[1, 1.5])
    left.imshow(noisy, cmap=SIGNED, vmin=-1, vmax=1)
    left.set(xticks=[], yticks=[], xlabel="past", ylabel="future")
    left.set_title("$H$, measured")
    place = np.arange(1, 21)
    exact = np.maximum(s_clean, 1e-17)
    right.semilogy(place, exact, "o", markersize=9, color=COLOURS["baseline"], label="exact")
    right.semilogy(place, s_noisy, "o", markersize=5, color=COLOURS["fading"], label="measured")
    right.axhline(decision.threshold, color=COLOURS["data"], linewidth=1, linestyle="--")
    right.text(20.5, 2 * decision.threshold, "noise reaches no higher", ha="right", va="bottom")
    right.set(xlabel="singular value", xticks=[1, 5, 10, 15, 20], ylim=(1e-18, 1e3))
    right.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
plt.show()

# %% [markdown]
# Cut at three, and the noise in the other seventeen directions goes: the best approximation of rank three in
# the two-norm (Eckart and Young), and the system from it is closer to the truth than the data were.

# %%
from_noise = rz.StateSpace(*realize(noisy, 3))
response = from_noise.impulse_response(41)[1:, 0, 0]
before, after = np.std(rz.hankel(h, 20, 20)[0] - noisy[0]), np.std(response[:20] - h[:20])
print(f"error of the measured response {before:.4f}, of the realized one {after:.4f}")
assert after < before

# %% [markdown]
# ## 3. A signal that nobody excited
#
# Nobody has sent an impulse to the sun. There is one record, 309 years long. (We take the square root: counts
# spread the more the larger they are, and their roots spread evenly.) The first half is for learning, the
# second is put away.

# %%
counts = rz.load_series("sunspots")
roots = rz.IOData(np.sqrt(counts.y), output_names=["root of sunspot number"])
learned, held = roots.split(0.5)
print(f"learned from {learned.length} years, {held.length} put away")

# %% tags=["hide-input"]
year = 1700 + np.arange(roots.length)
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 2.6))
    ax.plot(year, roots.y[:, 0], color=COLOURS["data"], linewidth=1.2)
    ax.axvspan(1700 + learned.length, 2008, color=COLOURS["baseline"], alpha=0.2, linewidth=0)
    ax.set(xlabel="year", ylabel=roots.output_names[0], xlim=(1700, 2008), ylim=(0, None))
    ax.set_title("grey: put away")
plt.show()

# %% [markdown]
# What takes the place of the impulse? The unpredictable part of each year, the *innovation* $e_t$, is the
# input that the signal feeds itself:
#
# $$x_{t+1} = A x_t + K e_t, \qquad y_t = C x_t + e_t, \qquad e_t \text{ white.}$$
#
# And what takes the place of the response? Multiply $y_{t+k} = C A^{k-1} x_{t+1} +$ later innovations
# by $y_t^\top$ and take the mean. Later innovations know nothing of $y_t$, so
#
# $$\Lambda_k = \operatorname{E}[y_{t+k}\, y_t^\top] = C A^{k-1} G, \qquad
# G = \operatorname{E}[x_{t+1}\, y_t^\top], \qquad k \ge 1 .$$
#
# The covariances have the form of an impulse response with $G$ in the place of $B$. Everything above applies:
# the Hankel matrix of $\Lambda_1, \Lambda_2, \dots$ has rank $n$; it is the covariance of the future with the
# past.


# %%
def autocovariances(y, lags):
    """Lambda_0 ... Lambda_lags of one channel; divided by T at every lag, so that they stay a process's."""
    z = y - y.mean()
    return np.array([z[k:] @ z[: len(z) - k] for k in range(lags + 1)]) / len(z)


rows = 10
mean = learned.y.mean()
Lambda = autocovariances(learned.y[:, 0], 2 * rows)

# %% [markdown]
# ## 4. Singular values with a scale
#
# One thing is missing: the level of noise. Singular values of $H$ have the unit of the signal squared, and
# an error in $\Lambda_k$ is large where the signal is. So measure both sides by their own covariances,
#
# $$L_+^{-1} H L_-^{-\top} = U \Sigma V^\top, \qquad L_\pm L_\pm^\top = \operatorname{cov} y_\pm ,$$
#
# and the singular values are *canonical correlations*: the largest correlation that any combination of past
# years has with any combination of future years, the next largest beside it, and so on. They lie between 0
# and 1, and a change of units leaves them alone. For independent pasts and futures they would be of the order
# of what $T$ samples make of nothing, which a permutation of the years shows.

# %%
found = rz.stochastic_realization(Lambda, order=3, rows=rows, cols=rows)

rng = np.random.default_rng(0)
shuffled = [
    rz.stochastic_realization(
        autocovariances(rng.permutation(learned.y[:, 0]), 2 * rows), order=0, rows=rows, cols=rows
    ).singular_values
    for _ in range(100)
]
chance = np.quantile(shuffled, 0.95, axis=0)
print("measured:", found.singular_values.round(2))
print("chance:  ", chance.round(2))

# %% tags=["hide-input"]
with plot.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=[1, 1.5])
    size = Lambda[1:].max()
    left.imshow(rz.hankel(Lambda[1:], rows, rows), cmap=SIGNED, vmin=-size, vmax=size)
    left.set(xticks=[], yticks=[], xlabel="past years", ylabel="future years")
    left.set_title("covariance of future and past")
    place = np.arange(1, rows + 1)
    colours = [COLOURS["fading"]] * 3 + [COLOURS["baseline"]] * (rows - 3)
    right.bar(place, found.singular_values, color=colours)
    right.plot(
        place, chance, "_", markersize=18, color=COLOURS["data"], label="shuffled years, 95 %"
    )
    right.set(xlabel="canonical correlation", xticks=place, ylim=(0, 1))
    right.legend(loc="upper right")
plt.show()

# %% [markdown]
# The stripes on the left are the cycle: the future is like the past of eleven years before. On the right
# three values stand above chance; the others are about what shuffled years have too. If the fourth were real,
# it would add $-\frac12 \log(1 - \sigma_4^2)$, a few hundredths of a nat, to what the state tells of the
# future. We carry three numbers.
#
# ## 5. The realization
#
# One shift gives $A$, $C$ and $G$, as before. What remains is to split a year into what was predicted and
# what was not: the covariance of the state's estimate $P$ solves
#
# $$P = A P A^\top + K R_e K^\top, \qquad R_e = \Lambda_0 - C P C^\top, \qquad
# K = (G - A P C^\top) R_e^{-1},$$
#
# a Riccati equation, whose smallest solution is the Kalman filter. `stochastic_realization` has solved it.

# %%
model = rz.InnovationsModel(
    found.model.A, found.model.B, found.model.C, K=found.model.K, Re=found.model.Re, y_mean=[mean]
)
for pole in model.poles[model.poles.imag >= 0]:
    halves = np.log(0.5) / np.log(abs(pole))
    period = f"turns in {2 * np.pi / np.angle(pole):.1f} years, " if pole.imag else ""
    print(f"|pole| {abs(pole):.3f}: {period}halves in {halves:.1f} years")
assert abs(2 * np.pi / np.angle(model.poles[model.poles.imag > 0][0]) - 11) < 1

# %% tags=["hide-input"]
with plot.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=[1, 1.4])
    plot.poles(model, ax=left).set_title("three poles")
    lag = np.arange(1, 2 * rows + 1)
    right.plot(lag, Lambda[1:], "o", markersize=4, color=COLOURS["data"], label="measured")
    right.plot(
        lag, rz.covariances(model, 2 * rows + 1)[1:, 0, 0], color=COLOURS["fading"], label="model"
    )
    right.axhline(0, color=COLOURS["baseline"], linewidth=1)
    right.set(xlabel="lag, years", ylabel="covariance", xticks=[1, 5, 10, 15, 20])
    right.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
plt.show()

# %% [markdown]
# A pair of poles that turns once in about eleven years, found without having been asked for, and one that
# does not turn: a slow level, high cycles followed by high ones. Yule (1927) fitted two numbers to the same
# series and invented the autoregression for it. Compare, on the years that were put away, one year ahead:

# %%
values = held.y[:, 0]
before = np.r_[learned.y[-1], values[:-1]]
lagged = learned.y[:, 0] - mean
yule = np.linalg.lstsq(np.column_stack([lagged[1:-1], lagged[:-2]]), lagged[2:])[0]
older = np.r_[learned.y[-2:, 0], values[:-2]]
guesses = {
    "the year before": before,
    "two years (Yule)": mean + yule[0] * (before - mean) + yule[1] * (older - mean),
    "three states": model.predict(held)[:, 0],
}
fits = {name: float(rz.fit_percent(values, guess)[0]) for name, guess in guesses.items()}
for name, fit in fits.items():
    print(f"{name:<17} fit {fit:.1f} %")
assert fits["three states"] > fits["two years (Yule)"] > fits["the year before"]

# %% tags=["hide-input"]
plot.fit(held, {"three states": guesses["three states"]})
plt.show()

# %% [markdown]
# ## 6. What is left
#
# If the three numbers carried everything, the innovations would be white. Ask them:

# %%
left_over = rz.innovations(model, held).e
test = rz.whiteness_test(left_over)
print(f"deviation {left_over.std():.2f} of {values.std():.2f}; white: p = {test.p_value:.4f}")

# %% tags=["hide-input"]
plot.autocorrelation(left_over - left_over.mean(), lags=24)
plt.show()

# %% [markdown]
# They are not quite: at 10, 11 and 21 years, one cycle and two, there is more than chance allows. Would more
# states help?

# %% tags=["hide-input"]
print("states    fit %   p of whiteness")
for order in (1, 2, 3, 4):
    other = rz.stochastic_realization(Lambda, order=order, rows=rows, cols=rows).model
    other = rz.InnovationsModel(other.A, other.B, other.C, K=other.K, Re=other.Re, y_mean=[mean])
    p_value = rz.whiteness_test(rz.innovations(other, held).e).p_value
    print(f"{order:>6}{rz.fit_percent(held.y, other.predict(held))[0]:>9.1f}{p_value:>17.1e}")

# %% [markdown]
# Hardly. Is a linear state the right question at all? A scalar Gaussian process with such a state looks the
# same forward and backward in time: its covariances are even in the lag. So the share of years in which it
# rises is one half, and how far that is missed by chance, the model itself can tell.

# %%
model_rises = [
    np.mean(np.diff(model.simulate(e=rng.standard_normal((roots.length, 1))), axis=0) > 0)
    for _ in range(400)
]
rises = np.mean(np.diff(roots.y, axis=0) > 0)
print(f"years that rise: {100 * rises:.1f} %,", end=" ")
print("simulated: {:.1f} to {:.1f} %".format(*100 * np.quantile(model_rises, [0.005, 0.995])))
assert rises < np.quantile(model_rises, 0.005)

# %% [markdown]
# The sun rises fast and falls slowly. No linear Gaussian model does that, with however many states. The
# singular values answer how many numbers a *linear* state needs; what is left over says whether to stop
# there.
#
# On records with inputs, with several outputs, or when the order is not to be chosen by eye, `rz.n4sid` and
# `rz.cva` do the same from the samples instead of their covariances, `rz.pem` refines the result, and
# `rz.identify` tries them all.
#
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: hear the strings.** A record is a sum of cosines that do not decay, each with its own
# amplitude and phase. Its own Hankel matrix has two columns in its factor for each. Find their periods.


# %%
def periods(signal, strings):
    """Periods of so many cosines, in samples, shortest first."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def periods_solution(signal, strings):
    half = len(signal) // 2
    A, _, _ = realize(rz.hankel(signal, half, half), 2 * strings)
    angles = np.angle(np.linalg.eigvals(A))
    return np.sort(2 * np.pi / angles[angles > 0])


def check_periods(answer):
    t = np.arange(80)
    chord = (
        np.cos(2 * np.pi * t / 7.3 + 1) + 0.3 * np.cos(2 * np.pi * t / 6.9) + 2 * np.cos(t / 5 - 2)
    )
    assert np.allclose(answer(chord, 3), [6.9, 7.3, 10 * np.pi], rtol=1e-8)
    rough = chord + 0.001 * np.random.default_rng(1).standard_normal(80)
    assert np.allclose(answer(rough, 3), [6.9, 7.3, 10 * np.pi], rtol=0.01)
    print(
        "two periods apart by a twentieth, told apart in eleven turns: a Fourier transform could not"
    )


check_periods(periods_solution)

# %% [markdown]
# **Exercise 2: the filter from the covariances.** Given $A$, $C$, $G$ and $\Lambda_0$, iterate
# $P \leftarrow A P A^\top + (G - A P C^\top)(\Lambda_0 - C P C^\top)^{-1}(G - A P C^\top)^\top$ from $P = 0$
# until it stands, and return $K$ and $R_e$. Which question does the $k$-th iterate answer?


# %%
def filter_from_covariances(A, C, G, Lambda0):
    """K of shape (n, p) and Re of shape (p, p)."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def filter_from_covariances_solution(A, C, G, Lambda0):
    P, Re, K = np.zeros_like(A), Lambda0, np.zeros_like(G)
    for _ in range(5000):
        Re = Lambda0 - C @ P @ C.T
        K = np.linalg.solve(Re, (G - A @ P @ C.T).T).T
        P = A @ P @ A.T + K @ Re @ K.T
    return K, Re


def check_filter(answer):
    K, Re = answer(model.A, model.C, found.Cbar.T, found.Lambda0)
    assert np.allclose(Re, model.Re, rtol=1e-8)
    assert np.allclose(K, model.K, atol=1e-8)
    print(
        "the k-th iterate is the covariance of the state's estimate from the last k samples alone"
    )


check_filter(filter_from_covariances_solution)

# %% [markdown]
# **Exercise 3: how far ahead?** What the model does not know $k$ years ahead is the sum of the innovations in
# between. Write the variance of its $k$-step prediction error. After how many years is half of the variance
# of the sunspots unknown?


# %%
def error_variance(model, steps):
    """Variance of y[t + steps - 1] - E[y | y up to t - 1] for steps >= 1, one output."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def error_variance_solution(model, steps):
    K, total = model.K, model.Re.copy()
    for _ in range(steps - 1):
        total = total + model.C @ K @ model.Re @ K.T @ model.C.T
        K = model.A @ K
    return float(total[0, 0])


def check_error_variance(answer):
    assert np.isclose(answer(model, 1), model.Re[0, 0])
    assert np.isclose(answer(model, 2000), rz.covariances(model, 1)[0, 0, 0])
    e = np.sqrt(model.Re[0, 0]) * np.random.default_rng(2).standard_normal((40000, 1))
    record = rz.IOData(model.simulate(e=e))
    for steps in (2, 5):
        measured = np.var(record.y - model.predict(record, horizon=steps))
        assert np.isclose(answer(model, steps), measured, rtol=0.05)
    unknown = np.array([answer(model, k) for k in range(1, 40)]) / answer(model, 2000)
    print(f"half of the variance is unknown {1 + int((unknown > 0.5).argmax())} years ahead")


check_error_variance(error_variance_solution)

# %% [markdown]
# ## Sources
#
# - B. L. Ho, R. E. Kalman, *Effective construction of linear state-variable models from input/output
#   functions*, Regelungstechnik 14, 1966, 545–548.
# - S. Y. Kung, *A new identification and model reduction algorithm via singular value decompositions*, 12th
#   Asilomar Conference on Circuits, Systems and Computers, 1978, 705–714. The noisy response.
# - H. Akaike, *Markovian representation of stochastic processes by canonical variables*, SIAM Journal on
#   Control 13, 1975, 162–173. Canonical correlations of past and future.
# - P. Faurre, *Stochastic realization algorithms*, in: System Identification: Advances and Case Studies,
#   Academic Press 1976, 1–25. From covariances to the filter.
# - G. U. Yule, *On a method of investigating periodicities in disturbed series, with special reference to
#   Wolfer's sunspot numbers*, Philosophical Transactions of the Royal Society A 226, 1927, 267–298.
# - P. Van Overschee, B. De Moor, *Subspace Identification for Linear Systems*, Kluwer 1996. The same from
#   samples, and with inputs.
# - The record: yearly sunspot numbers of the Solar Influences Data Analysis Center, as shipped with
#   statsmodels.
