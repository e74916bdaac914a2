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
# # An alarm that keeps its promise
#
# **How does one notice that an ocean, a river or a sensor no longer does what it did, and say beforehand
# how often one will be wrong?**
#
# A model predicts the next sample. What it fails to predict, the *innovation*, has a known law as long as
# nothing has changed: it is white, and its size is $R_e$. So a change is seen as a departure from that law,
# at a rate of false alarms that one chooses. This notebook does so with sixty years of ocean temperature,
# breaks a sensor on purpose, shows what happens when the promise rests on a bad model, and ends where the
# two halves of this project meet: a layer of a neural network that keeps the very same samples.
#
# You need means, variances and what a linear recurrence is.

# %%
# %config InlineBackend.figure_format = "retina"
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import chi2

import bmojo
import realization as rz
from realization import plot

COLOURS = plot.COLOURS

# %% [markdown]
# ## 1. Surprise has a law
#
# In innovations form a model of $p$ outputs is
#
# $$x_{t+1} = A x_t + B u_t + K e_t, \qquad y_t = C x_t + D u_t + e_t, \qquad
# e_t \sim \mathcal N(0, R_e) \text{ white.}$$
#
# Measure each innovation by its own covariance, $s_t = e_t^\top R_e^{-1} e_t$. If the model is right, $s_t$
# is a sum of $p$ squared standard normal variables: $\chi^2$ with $p$ degrees of freedom, whatever the
# units and however the outputs move together. A level that it passes with probability $\alpha$ can be read
# from a table.

# %%
mixed = np.array([[4.0, 1.9], [1.9, 1.0]])  # two outputs in different units, moving together
plant = rz.InnovationsModel(
    [[0.9, 0.2], [-0.2, 0.7]],
    np.zeros((2, 0)),
    [[1.0, 0.0], [1.0, 1.0]],
    K=[[0.3, 0.1], [0.0, 0.2]],
    Re=mixed,
)
rng = np.random.default_rng(0)
calm = plant.simulate(e=rng.standard_normal((5000, 2)) @ np.linalg.cholesky(mixed).T)

surprise = rz.innovations(plant, calm).normalized_squared
level = chi2.isf(0.01, df=2)
print(
    f"level of 1 %: {level:.2f}; passed by {100 * np.mean(surprise > level):.2f} % of 5000 samples"
)
assert abs(np.mean(surprise > level) - 0.01) < 5 * np.sqrt(0.01 / 5000)

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 2.8))
    ax.hist(surprise, 60, density=True, color=COLOURS["innovation"], label="measured")
    s = np.linspace(0, 14, 200)
    ax.plot(s, chi2.pdf(s, 2), color=COLOURS["data"], label=r"$\chi^2_2$")
    ax.axvline(level, color=COLOURS["data"], linewidth=1, linestyle="--", label="1 % lie beyond")
    ax.set(xlabel="surprise $s_t$", ylabel="density", xlim=(0, 14))
    ax.legend(loc="upper right")
plt.show()

# %% [markdown]
# ## 2. Sixty years of an ocean
#
# Monthly temperature of the sea off Peru, 1950 to 2010. Take off what each month is on average (of the
# first 31 years alone: the others must not be looked at), and identify a model of the smallest order on
# those years.

# %%
months = rz.load_series("elnino").y.reshape(-1, 12)
anomaly = (months - months[:31].mean(axis=0)).ravel()
record = rz.IOData(anomaly, dt=1 / 12)  # the unit of time is a year
learned, watched = record[: 31 * 12], record[31 * 12 :]

ocean = rz.pem(learned, order=1).model
pole = ocean.poles[0].real
print(f"pole {pole:.3f}: a deviation halves in {np.log(0.5) / np.log(pole):.1f} months")
print(f"innovations: deviation {np.sqrt(ocean.Re[0, 0]):.2f} °C of {anomaly.std():.2f} °C")

# %% [markdown]
# Now watch the years after 1980 and allow one false alarm in two hundred months. Two events of these years
# are in every book, the El Niño of 1982 to 1983 and that of 1997 to 1998 (shaded).

# %%
events = [(1982 + 3 / 12, 1983 + 7 / 12), (1997 + 4 / 12, 1998 + 6 / 12)]
found = rz.detect_changes(ocean, watched, test="sample", false_alarm=0.005)
print("alarms:", ", ".join(f"{1981 + t:.1f}" for t in found.time[found.alarms]))

# %% tags=["hide-input"]
year = 1981 + watched.time
with plot.style():
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 4.2), sharex=True)
    above.plot(year, watched.y[:, 0], color=COLOURS["data"], linewidth=1.2)
    above.set_ylabel("anomaly, °C")
    plot.changes(found, start=1981, ax=below).set_xlabel("year")
    for ax in (above, below):
        for event in events:
            ax.axvspan(*event, color=COLOURS["baseline"], alpha=0.3, linewidth=0)
plt.show()

# %% [markdown]
# Four alarms in thirty years, where chance alone would give about two. Two of them are the onsets of the
# two events: May 1997 in its first month, and 1982 seven months after what is now called its beginning. The
# sea off Peru warmed late that year. Note *how few* alarms there are: during an El Niño it stays warm, and
# once the filter has seen that it is warm it is not surprised any more. Surprise marks the change, not the
# state.
#
# The result says how far it may be trusted:

# %%
print("innovations white:      ", found.whiteness.is_white, f"(p = {found.whiteness.p_value:.3f})")
print("as large as promised:   ", found.calibration.is_calibrated)
print("alarms:                 ", found.measured)

# %% [markdown]
# ## 3. What is kept, and what it rebuilds
#
# The same number decides what is worth remembering. Keep the 24 most surprising months of 360, store the
# first and the last state, and rebuild everything else as its conditional mean: that is a memory of fixed
# size. The same number of months chosen at random does worse.

# %%
kept = rz.select_innovations(ocean, watched, budget=24, rule="top")
rebuilt = rz.reconstruct(ocean, watched, kept)
at_random = [
    rz.reconstruct(
        ocean, watched, rz.select_innovations(ocean, watched, budget=24, rule="random", seed=i)
    )
    for i in range(20)
]
lost = {
    "most surprising": rebuilt.error,
    "random, mean of 20": np.mean([r.error for r in at_random]),
}
total = float((rz.innovations(ocean, watched).normalized_squared).sum())
for name, error in lost.items():
    print(f"{name:<20} {100 * (1 - error / total):5.1f} % of all surprise is remembered")
assert lost["most surprising"] < 0.8 * lost["random, mean of 20"]

# %% tags=["hide-input"]
with plot.style():
    ax = plot.reconstruction(watched, rebuilt.y, kept=kept.index)
    ax.set(xlabel="years after 1981", ylabel="anomaly, °C")
plt.show()

# %% [markdown]
# The 24 months, 7 % of the record, hold the outline of the two events; what lies between them is mostly
# gone.
#
# ## 4. At once, or with certainty
#
# A single sample shows what is large. What is small and lasts has to be added up. Four statistics,
# with $w = R_e^{-1/2} e$:
#
# | test | statistic | sees |
# |---|---|---|
# | `sample` | $s_t$ | a large surprise, at once |
# | `window` | $\sum_{k<W} s_{t-k}$ | anything that makes innovations larger for a while |
# | `glr` | $\max_j \lVert \sum_{k<j} w_{t-k} \rVert^2 / j$ | a shift of the mean, whenever it began |
# | `cusum` | $g_t = (g_{t-1} + \log \frac{p_\kappa(e_t)}{p(e_t)})^+$ | a covariance $\kappa$ times as large |
#
# All are put at the same rate of false alarms, one in a thousand samples. Then the mean of the innovations
# is shifted, by a little or by much: how long until the alarm?

# %%
white = rz.InnovationsModel(
    np.zeros((0, 0)),
    np.zeros((0, 0)),
    np.zeros((1, 0)),
    np.zeros((1, 0)),
    K=np.zeros((0, 1)),
    Re=[[1.0]],
)
tests, shifts, runs, onset = ("sample", "window", "glr", "cusum"), (0.5, 1.0, 2.0, 4.0), 16, 100
reference = rng.standard_normal(1000)
delay = {test: [] for test in tests}
for shift in shifts:
    noise = rng.standard_normal((runs, 500))
    for test in tests:
        waits = []
        for e in noise:
            y = rz.sensor_fault(e, "bias", at=onset, size=shift)
            options = {"test": test, "window": 64 if test == "glr" else 16, "reference": reference}
            wait = rz.detect_changes(white, y, false_alarm=0.001, x0=[], **options).delay(onset)
            waits.append(400 if wait is None else wait)
        delay[test].append(np.mean(waits))

# %% tags=["hide-input"]
look = {
    "sample": ("innovation", "-"),
    "window": ("window", "--"),
    "glr": ("eidetic", "-"),
    "cusum": ("fading", "-."),
}
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 3))
    for test, (colour, dashes) in look.items():
        ax.loglog(
            shifts,
            np.maximum(delay[test], 0.5),
            dashes,
            marker="o",
            color=COLOURS[colour],
            label=test,
        )
    ax.set(xlabel="shift of the mean, deviations", ylabel="mean delay, samples")
    ax.set_xticks(shifts, [f"{s:g}" for s in shifts])
    ax.minorticks_off()
    ax.set_yticks([1, 10, 100, 400], ["1", "10", "100", "none in 400"])
    ax.legend(loc="lower left")
plt.show()

assert delay["glr"][1] < 0.5 * delay["sample"][1]

# %% [markdown]
# The generalized likelihood ratio wins for a shift, because a shift is what it asks for. There is no best
# test, only a best test for a question.
#
# ## 5. A filter believes its sensor
#
# A sensor that begins to read too high by $b$ adds a step to $y$, and the innovations answer with the step
# response of the prediction error, $e = (I - C (zI - A + KC)^{-1} K)\, y$. Its last value is
# $(I - C (I - A + KC)^{-1} K)\, b$: the more the filter believes its sensor, the sooner the fault looks like
# truth. Here is that signature for a slow and a fast filter of the same plant.

# %%
slow, fast = (
    rz.InnovationsModel([[0.98]], np.zeros((1, 0)), [[1.0]], K=[[k]]) for k in (0.05, 0.6)
)


def signature(model, T=60, at=10):
    """What a bias of 1 adds to the innovations."""
    quiet = np.zeros(T)
    broken = rz.sensor_fault(quiet, "bias", at=at, size=1.0)
    return rz.innovations(model, broken, x0=[0.0]).e[:, 0]


for model in (slow, fast):
    left = 1 - 1 / (1 - 0.98 + model.K[0, 0]) * model.K[0, 0]
    assert abs(signature(model, 2000)[-1] - left) < 1e-9

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(7, 2.6))
    ax.plot(signature(slow), color=COLOURS["fading"], label="believes its model, K = 0.05")
    ax.plot(
        signature(fast), "--", color=COLOURS["innovation"], label="believes its sensor, K = 0.6"
    )
    ax.set(xlabel="sample", ylabel="innovation", ylim=(-0.05, 1.1))
    ax.legend(loc="upper right")
plt.show()

# %% [markdown]
# So a bias has to be caught within the memory of the predictor. A drift renews itself and is caught sooner
# or later:

# %%
e = 0.3 * np.random.default_rng(5).standard_normal(1600)
y = slow.simulate(e=e)
machine = rz.InnovationsModel(slow.A, slow.B, slow.C, K=slow.K, Re=[[0.09]])
for kind, size in (("bias", 1.2), ("drift", 0.03), ("gain", 0.8), ("frozen", None)):
    broken = rz.sensor_fault(y[800:], kind, at=400, size=size)
    waits = {
        test: rz.detect_changes(
            machine, broken, test=test, false_alarm=0.001, reference=y[:800]
        ).delay(400)
        for test in tests
    }
    print(f"{kind:<8}", "  ".join(f"{test}: {wait!s:>4}" for test, wait in waits.items()))

# %% [markdown]
# A frozen sensor is the hard one without an input: it shows *less* surprise than it should, and these tests
# look for more. A sum over a window can look for both:

# %%
broken = rz.sensor_fault(y[800:], "frozen", at=400)
both = rz.detect_changes(
    machine, broken, test="window", two_sided=True, false_alarm=0.001, reference=y[:800]
)
print(f"levels {both.lower:.1f} and {both.threshold:.1f}: found after {both.delay(400)} samples")
assert both.delay(400) < 16

# %% [markdown]
# Where an input moves the plant, the prediction moves too, and a sensor that stands still is
# found at once (measured for a hair dryer on the page on innovations in the documentation).
#
# ## 6. When the promise rests on a bad model
#
# The level was computed for white innovations of covariance $R_e$. A model that was fitted too closely
# breaks both halves of that. Give the ocean eight states instead of one: on the years that were learned it
# predicts better. On those that were not, innovations are larger than promised and not white, and the
# result says so by a warning:

# %%
bold = rz.n4sid(learned, order=8, block_rows=20).model
print(
    f"deviation promised: {np.sqrt(bold.Re[0, 0]):.3f} instead of {np.sqrt(ocean.Re[0, 0]):.3f} °C"
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rz.detect_changes(bold, watched, test="window", false_alarm=0.005)
print(caught[-1].message)
assert issubclass(caught[-1].category, rz.CalibrationWarning)

# %% [markdown]
# The remedy is the smaller model. Where none helps, because the noise itself is not Gaussian, take the
# level from a *reference*: a record without changes that the model has not seen. Here a plant with heavy
# tails (Student's $t$ with three degrees of freedom, of the right variance): at the level of one in a
# thousand, chance rings many times as often. The level that the reference passes once in a thousand samples
# holds on new data.

# %%
tails = [slow.simulate(e=rng.standard_t(3, 20000) / np.sqrt(3)) for _ in range(2)]
options = {"test": "sample", "false_alarm": 0.001, "reference": tails[0]}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", rz.CalibrationWarning)
    promised = rz.detect_changes(slow, tails[1], **options)
measured = rz.detect_changes(slow, tails[1], **options, calibrate=True)
for name, result in (("chi-squared", promised), ("reference", measured)):
    print(
        f"{name:<12} level {result.threshold:5.1f}: {len(result.alarms):4} alarms in 20 000, 20 allowed"
    )
assert len(promised.alarms) > 100
assert 5 <= len(measured.alarms) <= 50

# %% [markdown]
# ## 7. The same samples in a layer
#
# A B'MOJO layer keeps tokens by the same rule: those that could not be predicted. `lift_layer` turns the
# model of the ocean into such a layer, with the Kalman filter as its predictor and $R_e$ as its metric.
# Nothing is trained here. The sets that it holds, month after month, are the ones that `select_innovations`
# holds, to the last place:

# %%
window, budget = 12, 8
layer = bmojo.lift_layer(ocean, window=window, chunk=6, eidetic=budget)
trace = layer.trace(layer.tokens(record))
signal = rz.select_innovations(ocean, record, budget=budget, window=window, chunk=6, x0=[0.0])
assert trace.eidetic_index[0].tolist() == signal.history.tolist()
print("kept in the end:", ", ".join(f"{1950 + t:.1f}" for t in signal.times))

# %% tags=["hide-input"]
with plot.style():
    ax = bmojo.plot.eidetic_raster(trace, chunk=6, window=window)
    ticks = np.arange(0, 61, 10) * 12
    ax.set_xticks(ticks, 1950 + ticks // 12)
    ax.set_yticks(ticks, 1950 + ticks // 12)
    ax.set(xlabel="year", ylabel="month that is kept")
plt.show()

# %% [markdown]
# Each line is one month and its stay: it enters on the diagonal, when the window of a year leaves it
# behind, and goes when eight months are more surprising. 1997 entered thirteen years before the record
# ends, and is still there: for a window of twelve months and a state that halves every five, that is for
# ever.
#
# ## Exercises
#
# **Exercise 1: one false alarm in ten years.** A machine has `p` sensors and is sampled once a second.
# Which level must $s_t$ pass, so that chance alone gives one alarm in `years` years?


# %%
def level_for(p, years):
    """Level of the surprise of p outputs at one sample a second."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def level_for_solution(p, years):
    return chi2.isf(1 / (years * 365.25 * 86400), df=p)


def check_level(answer):
    for p, years in ((1, 10), (6, 1)):
        assert np.isclose(chi2.sf(answer(p, years), p) * years * 365.25 * 86400, 1)
    print(
        f"one sensor: {answer(1, 10):.1f}, ten: {answer(10, 10):.1f}; few noises are Gaussian that far out"
    )


check_level(level_for_solution)

# %% [markdown]
# **Exercise 2: the Nile.** The yearly flow at Aswan fell at the end of the nineteenth century, before the
# dam (Cobb 1978 places it between 1898 and 1899). Take a model without states, with mean and variance of
# the first 26 years, and let `glr` with a window of 8 and a rate of 1 % watch the rest. Return the year of
# the first alarm.


# %%
def year_of_alarm(flow):
    """Year of the first alarm; `flow` is yearly, from 1871 on."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def year_of_alarm_solution(flow):
    known, rest = flow[:26], flow[26:]
    model = rz.InnovationsModel(
        np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((1, 0)), np.zeros((1, 0)),
        K=np.zeros((0, 1)), Re=[[known.var(ddof=1)]], y_mean=[known.mean()],
    )  # fmt: skip
    with (
        warnings.catch_warnings()
    ):  # the record holds a change: of course its innovations are not white
        warnings.simplefilter("ignore", rz.CalibrationWarning)
        found = rz.detect_changes(model, rest, test="glr", window=8, false_alarm=0.01)
    return 1871 + 26 + int(found.onsets[0])


def check_nile(answer):
    flow = rz.load_series("nile").y[:, 0]
    year = answer(flow)
    assert 1899 <= year <= 1903
    print(f"alarm in {year}: a fifth less water, noticed after {year - 1898} years of it")


check_nile(year_of_alarm_solution)

# %% [markdown]
# **Exercise 3: Page's sum.** Write the cumulative sum that begins anew after each alarm, for given steps
# $z_t$ and level $h$, and return where it alarms. Then see that $z_t = \log \frac{p_\kappa(e_t)}{p(e_t)}$
# has a negative mean while nothing has changed and a positive one after the covariance has grown: that is
# why it waits at zero.


# %%
def page(steps, level):
    """Indices at which the cumulative sum passes the level; it restarts at zero after each."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def page_solution(steps, level):
    alarms, g = [], 0.0
    for t, z in enumerate(steps):
        g = max(0.0, g + z)
        if g > level:
            alarms.append(t)
            g = 0.0
    return np.array(alarms, dtype=int)


def check_page(answer):
    kappa, e = 2.0, np.random.default_rng(1).standard_normal(20000)
    e[10000:] *= np.sqrt(kappa)
    z = 0.5 * (1 - 1 / kappa) * e**2 - 0.5 * np.log(kappa)
    assert z[:10000].mean() < 0 < z[10000:].mean()
    reference = e[:10000]
    found = rz.detect_changes(
        white, e, test="cusum", false_alarm=0.01, increase=kappa, x0=[], reference=reference
    )
    assert np.array_equal(answer(z, found.threshold), found.alarms)
    print(
        f"{(found.alarms < 10000).sum()} alarms in 10 000 samples before the change, "
        f"{(found.alarms >= 10000).sum()} after it"
    )


check_page(page_solution)

# %% [markdown]
# ## Sources
#
# - R. K. Mehra, J. Peschon, *An innovations approach to fault detection and diagnosis in dynamic systems*,
#   Automatica 7, 1971, 637–640.
# - M. Basseville, I. V. Nikiforov, *Detection of Abrupt Changes: Theory and Application*, Prentice-Hall
#   1993. The four tests, mean run lengths.
# - E. S. Page, *Continuous inspection schemes*, Biometrika 41, 1954, 100–115. The cumulative sum.
# - K. E. Trenberth, *The definition of El Niño*, Bulletin of the American Meteorological Society 78, 1997,
#   2771–2777. Dates of the events.
# - G. W. Cobb, *The problem of the Nile: conditional solution to a changepoint problem*, Biometrika 65,
#   1978, 243–251.
# - L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
#   Memory*, NeurIPS 2024, [arXiv 2407.06324](https://arxiv.org/abs/2407.06324).
# - Series: statsmodels (`elnino`, `nile`).
