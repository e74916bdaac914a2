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
# # What the state cannot know
#
# **A state carries everything that the past says about the next sample. What is in the sample that was not in
# the state, how many bits is it, and which of it should one keep?**
#
# The rest is called *innovation*, and it is all that a sample brings. This notebook derives it by a
# factorization that you know, shows that it is white, counts it in bits on sixty years of ocean temperature
# (and compares with a program that compresses files), and then keeps a few dozen of 360 and rebuilds the
# record from them. By the end a memory of fixed size has three parts: a model, a state, and some surprises.
#
# You need the Cholesky factorization, and the density of a normal variable.

# %%
# %config InlineBackend.figure_format = "retina"
import lzma
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
from matplotlib.colors import LinearSegmentedColormap
from scipy.stats import norm

import realization as rz
from realization import plot

COLOURS = plot.COLOURS
SIGNED = LinearSegmentedColormap.from_list(
    "signed", [COLOURS["window"], "white", COLOURS["eidetic"]]
)

# %% [markdown]
# ## 1. A record in coordinates that do not know each other
#
# Let $y = (y_1, \dots, y_T)$ be Gaussian with mean zero and covariance $S$. Factor
#
# $$S = L D L^\top, \qquad L \text{ lower triangular with ones on its diagonal}, \quad D \text{ diagonal},$$
#
# and put $e = L^{-1} y$. Then $\operatorname{cov} e = L^{-1} S L^{-\top} = D$: the $e_t$ are uncorrelated.
# And both ways are causal. The first row says $e_1 = y_1$, and row $t$ of $y = L e$ says
#
# $$y_t = \underbrace{L_{t1} e_1 + \dots + L_{t,t-1} e_{t-1}}_{\text{made of } y_1, \dots, y_{t-1}} +
# \; e_t, \qquad e_t \text{ uncorrelated with all of it.}$$
#
# The first part is the best prediction of $y_t$ from its past, since what is left is orthogonal to that past;
# $e_t = y_t - \operatorname{E}[y_t \mid y_1, \dots, y_{t-1}]$ is the **innovation**. Gram and Schmidt did
# this to vectors; Wold and Kolmogorov to signals. Nothing is lost: $L$ has ones on its diagonal, so it can
# always be inverted, and its determinant is 1.
#
# For $T$ samples that takes $T^3/3$ operations. A state does it in $T$: if the process has a realization, the
# Kalman filter computes the same $e_t$ one by one, and carries $n$ numbers instead of the past.

# %%
process = rz.InnovationsModel(
    [[0.9, 0.3], [-0.3, 0.7]], np.zeros((2, 0)), [[1.0, 0.2]], K=[[0.6], [0.3]], Re=[[1.0]]
)
T = 60
S = scipy.linalg.toeplitz(rz.covariances(process, T)[:, 0, 0])
cholesky = np.linalg.cholesky(S)
L, D = cholesky / np.diag(cholesky), np.diag(cholesky) ** 2

y = cholesky @ np.random.default_rng(0).standard_normal(T)
by_factor = np.linalg.solve(L, y)
by_filter = rz.kalman_filter(process, y).innovations[:, 0]
print(f"largest difference of {T} innovations: {np.abs(by_factor - by_filter).max():.1e}")
print("their variances:", D[:5].round(3), "->", D[-1].round(6))
assert np.allclose(by_factor, by_filter, atol=1e-10)
assert abs(D[-1] - process.Re[0, 0]) < 1e-6

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.9))
    titles = (
        "$S$: all with all",
        "$L$: innovations to samples",
        "$L^{-1}$: samples to innovations",
    )
    for ax, matrix, title in zip(axes, (S / S.max(), L, np.linalg.inv(L)), titles):
        ax.imshow(matrix[:30, :30], cmap=SIGNED, vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=10.5)
plt.show()

# %% [markdown]
# After a few rows the rows repeat, one place further on: the filter has settled, and the columns of $L$ are
# the response to one surprise, $1, CK, CAK, CA^2K, \dots$ That is the *innovations form*
#
# $$x_{t+1} = A x_t + K e_t, \qquad y_t = C x_t + e_t,$$
#
# read either as a machine that makes $y$ from $e$, or, solved for $e_t = y_t - C x_t$, as one that takes $y$
# apart.
#
# ## 2. Sixty years of an ocean
#
# Monthly temperature of the sea off Peru, 1950 to 2010, as it was written down: in hundredths of a degree.
# What each month is on average is taken off (the average of the first 31 years; the rest is put away), and a
# model with one state is estimated.

# %%
months = rz.load_series("elnino").y.reshape(-1, 12)
usual = months[:31].mean(axis=0)
record = rz.IOData((months - usual).ravel(), output_names=["anomaly, °C"])
learned, held = record[: 31 * 12], record[31 * 12 :]
ocean = rz.pem(learned, order=1).model
print(
    f"pole {ocean.poles[0].real:.3f}, gain {(ocean.K @ ocean.C)[0, 0]:.3f}, Re {ocean.Re[0, 0]:.3f}"
)

news = rz.innovations(ocean, held)
back = ocean.simulate(e=news.e, x0=news.x0)
print(f"first state and innovations give the record back to {np.abs(back - held.y).max():.1e} °C")
assert np.allclose(back, held.y, atol=1e-10)

# %% [markdown]
# ## 3. White: nothing in it helps to guess another
#
# Each month resembles the one before. What is left of it hardly does.

# %% tags=["hide-input"]
with plot.style():
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 4.4), sharex=True, sharey=True)
    plot.autocorrelation(held.y - held.y.mean(), ax=above).set(xlabel="", ylabel="of the record")
    above.get_legend().remove()
    above.collections[0].set_color(COLOURS["data"])
    plot.autocorrelation(news.e - news.e.mean(), ax=below).set(
        xlabel="lag, months", ylabel="of the rest"
    )
    below.get_legend().remove()
    for ax in (above, below):
        ax.set_ylim(-0.5, 1)
plt.show()

# %% [markdown]
# The grey band is where one correlation of white noise falls with 95 %. Taken together: if $e$ is white, the
# correlations $\hat\rho_k$ are independent, each with variance $1/T$, so $T \sum_k \hat\rho_k^2$ is a sum of
# squared standard normal variables, $\chi^2$ (Box and Pierce; Hosking for several outputs).

# %%
for name, signal in (("record", held.y), ("rest", news.e)):
    for lags in (20, 2):
        test = rz.whiteness_test(signal, lags=lags)
        print(
            f"{name:<7}{lags:>3} lags: {test.statistic:7.1f}, {lags} expected, p = {test.p_value:.2g}"
        )
assert rz.whiteness_test(held.y).p_value < 1e-12
assert rz.whiteness_test(news.e).p_value > 0.01 > rz.whiteness_test(news.e, lags=2).p_value

# %% [markdown]
# On months that the model never saw. Over twenty lags the test at one percent does not object; over two it
# does. A test of many lags is open to every kind of fault and sharp against none. The picture shows which
# fault it is: a fifth of each surprise comes again the month after, which in the years before 1981 it did
# not. So one number carries *nearly* all that these months know of one another, and the rest of this notebook
# will say what the little that it misses is worth.
#
# ## 4. How many bits is a surprise?
#
# Whoever can predict can compress. A sample that had probability $p$ takes $-\log_2 p$ bits in an arithmetic
# coder, and by the chain rule, for the whole record,
#
# $$-\log_2 p(y_1, \dots, y_T) = \sum_t -\log_2 p(y_t \mid y_1, \dots, y_{t-1}).$$
#
# The conditional density is normal about the prediction, so one sample of resolution $\delta$ costs
#
# $$\ell_t = \tfrac12 \log_2(2\pi R_e) - \log_2 \delta + \frac{s_t}{2 \ln 2}, \qquad
# s_t = \frac{e_t^2}{R_e} .$$
#
# Everything but $s_t$ is a constant: **surprise is code length**. Here $\delta$ is 0.01 °C, and we need no
# approximation: the probability of a reading is the normal mass of its hundredth of a degree. (This is what
# an arithmetic coder would write, to within two bits for the whole record.)


# %%
def bits(readings, prediction, deviation, resolution=0.01):
    """Bits per reading, each rounded to `resolution`, under normal densities about a prediction."""
    edges = (readings - prediction)[..., None] + resolution * np.array([-0.5, 0.5])
    return -np.log2(np.diff(norm.cdf(edges / deviation), axis=-1)[..., 0])


readings, usual_held = months[31:].ravel(), np.tile(usual, len(months) - 31)
predicted = usual_held + ocean.predict(held)[:, 0]
deviation = np.sqrt(ocean.Re[0, 0])
one_by_one = bits(readings, predicted, deviation)

packed = np.round(100 * readings).astype("<i2").tobytes()
squeezed = lzma.compress(packed, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
lengths = {
    "two bytes each": 16.0,
    "lzma": 8 * len(squeezed) / len(readings),
    "normal, one mean": bits(readings, months[:31].mean(), months[:31].std()).mean(),
    "normal, twelve means": bits(readings, usual_held, (months[:31] - usual).std()).mean(),
    "one state": one_by_one.mean(),
}
for name, length in lengths.items():
    print(f"{name:<21}{length:6.2f} bits a month")

formula = news.code_length - np.log2(0.01)
assert np.allclose(one_by_one.mean(), formula.mean(), atol=1e-3)
assert lengths["one state"] < lengths["normal, twelve means"] < lengths["lzma"]

# %% [markdown]
# The compressor looks for strings that have occurred before, and among 360 readings of a noisy instrument
# hardly any string occurs twice. A model that knows the twelve months is shorter, and one number that is
# carried from month to month takes more than a bit and a half off *each* month. What remains is the spread of
# the innovations, four tenths of a degree either way. And the fifth of a surprise that comes again, had it
# been known, would have been worth $-\frac12 \log_2(1 - 0.2^2) = 0.03$ bits.
#
# Which months are expensive?

# %% tags=["hide-input"]
year = 1981 + np.arange(held.length) / 12
with plot.style():
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 4), sharex=True)
    above.plot(year, held.y[:, 0], color=COLOURS["data"], linewidth=1.2)
    above.set_ylabel("anomaly, °C")
    below.vlines(year, 0, one_by_one, color=COLOURS["innovation"], linewidth=1.3)
    below.axhline(one_by_one.mean(), color=COLOURS["data"], linewidth=1, linestyle="--")
    below.set(xlabel="year", ylabel="bits", xlim=(1981, 2011))
plt.show()

# %% [markdown]
# Not the warm ones. Once the sea is warm the state knows it, and another warm month is cheap; the price is
# paid when it *becomes* warm.
#
# ## 5. What deserves a place
#
# Now suppose there is room for $m$ samples, and for the first state. Keep the innovations of a set $M$, and
# put zero, their mean, for the others. The record comes back with innovations that are wrong by $e_t$
# outside $M$, so what was forgotten, measured in code length, is
#
# $$\sum_{t \notin M} s_t,$$
#
# least when $M$ holds the $m$ largest $s_t$. This can be done as the record runs: keep the $m$ largest so
# far, and let the smallest go when a larger one comes. It is never regretted, since a sample that is smaller
# than $m$ others is not among the $m$ largest of the whole. The same budget spent otherwise:

# %%
budgets = [0, 6, 12, 24, 48, 96, 180, 360]
RULES: dict[str, Literal["top", "norm", "fifo"]] = {
    "most surprising": "top",
    "most extreme": "norm",
    "latest": "fifo",
}
total = news.normalized_squared.sum()
kept_share = {
    name: 1 - rz.reconstruction_curve(ocean, held, budgets, rule=rule).error / total
    for name, rule in RULES.items()
}
kept_share["random"] = np.mean(
    [
        1 - rz.reconstruction_curve(ocean, held, budgets, rule="random", seed=seed).error / total
        for seed in range(10)
    ],
    axis=0,
)
print("share of all surprise that is remembered, %")
print(f"{'kept':<17}" + "".join(f"{m:>6}" for m in budgets))
for name, share in kept_share.items():
    print(f"{name:<17}" + "".join(f"{100 * value:>6.1f}" for value in share))

for name, share in kept_share.items():
    assert np.all(kept_share["most surprising"] >= share - 1e-9), name
    assert share[-1] > 1 - 1e-9

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 3.2))
    looks = zip(
        kept_share.items(),
        (("eidetic", "-"), ("weights", "-."), ("window", "--"), ("baseline", "-")),
    )
    for (name, share), (meaning, dashes) in looks:
        ax.plot(
            budgets,
            100 * share,
            dashes,
            marker="o",
            markersize=4,
            color=COLOURS[meaning],
            label=name,
        )
    ax.set(xlabel="samples kept, of 360", ylabel="surprise remembered, %", ylim=(0, 102))
    ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# The most extreme months are a worse choice than the most surprising ones: they stand beside one another in
# the middle of an El Niño, and tell the same thing many times.
#
# ## 6. The record, remembered
#
# Rebuild it from the model, the first and the last state, and 36 months of 360. The last state costs one more
# number, and corrects what is wrong near the end: the innovations in between are no longer zero but the most
# likely ones that lead there.

# %%
kept = rz.select_innovations(ocean, held, budget=36)
with_them = rz.reconstruct(ocean, held, kept)
without = rz.reconstruct(ocean, held, rz.select_innovations(ocean, held, budget=0))
print(f"numbers stored: {with_them.floats}, of {held.length}")
assert np.allclose(with_them.e[kept.index], news.e[kept.index])

# %% tags=["hide-input"]
with plot.style():
    ax = plot.reconstruction(held, with_them.y, kept=kept.index, without=without.y)
    ax.set(xlabel="months from January 1981", ylabel="anomaly, °C")
plt.show()

# %% [markdown]
# The kept months are not samples of the curve but its *causes*: each starts a course that the model then
# completes by itself. That is the division of labour of the layers in this project. What all records have in
# common is in the weights (here the model), what recently happened is in the state, and what neither could
# know is stored, if it is among the most surprising. `bmojo` scores tokens by the same rule; [an alarm that
# keeps its promise](13_change_detection.ipynb) makes a test of it.
#
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: the least error there is.** $\det L = 1$, so $\det S = \prod_t D_t$, and the variance of the
# innovations is the geometric mean of the eigenvalues of $S$; for long records those are values of the
# spectrum (Szegő; Kolmogorov):
# $R_e = \exp \frac{1}{2\pi} \int_{-\pi}^{\pi} \log \Phi(\omega)\, d\omega$. Compute $R_e$ from covariances
# alone, without filter or state.


# %%
def least_error(Lambda):
    """Variance of the innovations, from Lambda_0, Lambda_1, ... that have died out."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def least_error_solution(Lambda):
    both = np.concatenate([Lambda, Lambda[:0:-1]])  # lags 0 to N - 1, then -(N - 1) to -1
    return float(np.exp(np.mean(np.log(np.fft.fft(both).real))))


def check_least_error(answer):
    for model in (process, ocean):
        assert np.isclose(answer(rz.covariances(model, 600)[:, 0, 0]), model.Re[0, 0], rtol=1e-9)
    print(
        "an average of the logarithm of the spectrum: where the spectrum has a hole, nothing is new"
    )


check_least_error(least_error_solution)

# %% [markdown]
# **Exercise 2: the price of a wrong model.** A process $y_{t+1} = a\, y_t + e_{t+1}$ with innovations of
# variance 1 is coded with the model $y_{t+1} = b\, y_t + \dots$, and its best $R_e$. How many bits per sample
# does the wrong pole cost?


# %%
def price(a, b):
    """Bits per sample more than with the right model."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def price_solution(a, b):
    # e of the wrong model is e + (a - b) y, and y has variance 1 / (1 - a^2).
    return 0.5 * np.log2(1 + (a - b) ** 2 / (1 - a**2))


def check_price(answer):
    a, rng = 0.9, np.random.default_rng(1)
    signal = rz.InnovationsModel([[a]], np.zeros((1, 0)), [[1.0]], K=[[a]]).simulate(
        e=rng.standard_normal((100_000, 1))
    )

    def length(pole):
        model = rz.InnovationsModel([[pole]], np.zeros((1, 0)), [[1.0]], K=[[pole]])
        Re = np.atleast_2d(np.var(rz.innovations(model, signal).e))
        fitted = rz.InnovationsModel(model.A, model.B, model.C, K=model.K, Re=Re)
        return rz.innovations(fitted, signal).code_length.mean()

    for b in (0.9, 0.6, 0.0):
        assert np.isclose(answer(a, b), length(b) - length(a), atol=0.02)
    print(
        f"forgetting that a sample has a past costs {answer(a, 0.0):.2f} bits each, at a pole of {a}"
    )


check_price(price_solution)

# %% [markdown]
# **Exercise 3: what chance would concentrate.** Even where the innovations are exactly normal, some are
# larger than others. What share of the sum of all $s_t$ do the largest hold, if the share $q$ of the samples
# is kept? Is the ocean more concentrated than that?


# %%
def share_of_largest(q):
    """Share of the sum of squares that the share q of largest squares of normal variables holds."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def share_of_largest_solution(q):
    z = norm.isf(q / 2)  # E[s; |e| > z] by parts
    return q + 2 * z * norm.pdf(z)


def check_share(answer):
    s = np.sort(np.random.default_rng(2).standard_normal(200_000) ** 2)[::-1]
    for q in (0.01, 0.1, 0.5):
        assert np.isclose(answer(q), s[: int(q * len(s))].sum() / s.sum(), atol=0.01)
    ours = np.sort(news.normalized_squared)[::-1]
    measured = ours[:36].sum() / ours.sum()
    print(
        f"a tenth of the samples: {100 * answer(0.1):.0f} % by chance, {100 * measured:.0f} % in the ocean"
    )
    assert measured > answer(0.1)


check_share(share_of_largest_solution)

# %% [markdown]
# ## Sources
#
# - H. Wold, *A Study in the Analysis of Stationary Time Series*, Almqvist & Wiksell 1938; A. N. Kolmogorov,
#   *Interpolation and extrapolation of stationary random sequences*, Izvestiya AN SSSR 5, 1941, 3–14. The
#   innovations, and the formula of exercise 1.
# - T. Kailath, *An innovations approach to least-squares estimation, part I*, IEEE Transactions on Automatic
#   Control 13, 1968, 646–655.
# - G. E. P. Box, D. A. Pierce, *Distribution of residual autocorrelations*, Journal of the American
#   Statistical Association 65, 1970, 1509–1526; J. R. M. Hosking, *The multivariate portmanteau statistic*,
#   the same 75, 1980, 602–608.
# - J. Rissanen, *Modeling by shortest data description*, Automatica 14, 1978, 465–471. Code length.
# - J. Ziv, A. Lempel, *A universal algorithm for sequential data compression*, IEEE Transactions on
#   Information Theory 23, 1977, 337–343.
# - L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
#   Memory*, NeurIPS 2024, [arXiv 2407.06324](https://arxiv.org/abs/2407.06324). Storing what could not be
#   predicted.
# - The record: sea surface temperature off Peru (El Niño regions 1 and 2), National Oceanic and Atmospheric
#   Administration, as shipped with statsmodels.
