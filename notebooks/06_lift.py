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
# # Lift: a realization becomes a layer
#
# **How does a model that was identified from measurements become a layer that can be trained, without losing
# a digit on the way or its stability later?**
#
# By a change of coordinates. A linear model $x_{t+1} = A x_t + B u_t,\ y_t = C x_t + D u_t$ *is* a recurrent
# layer; the matrices could be declared trainable as they stand. The first large gradient step would then push
# a pole across the unit circle, and the layer would explode. So `lift` writes the model in coordinates where
# every value of the parameters is stable, and this notebook looks at what those coordinates are, what they
# cost in digits, and what a layer gets on top of them: the Kalman filter that decides what is surprising.
#
# You need linear algebra (eigenvectors, the Schur form), and one of two fields: either you have met Kalman
# filters, or you have trained a network.

# %%
# %config InlineBackend.figure_format = "retina"
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.linalg import block_diag, schur

import realization as rz
from bmojo import BMojo, BMojoConfig, initialize_from, lift, lift_layer, prediction_loss
from bmojo.bridge.lift.parametrizations import coordinates
from bmojo.eidetic.predictor import Evidence
from realization import plot
from realization.errors import RankError

rng = np.random.default_rng(0)
torch.manual_seed(0)
print("PyTorch", torch.__version__)

# %% [markdown]
# ## 1. The same output
#
# A plant with two lightly damped modes and a slow one, driven by a known input and by noise that it filters
# itself. From 1500 samples, `n4sid` finds a model in *innovations form*: beside $A, B, C, D$ a gain $K$
# and a covariance $R_e$ of what cannot be predicted.


# %%
def rotation(radius, angle):
    c, s = np.cos(angle), np.sin(angle)
    return radius * np.array([[c, -s], [s, c]])


A = block_diag(rotation(0.97, 0.25), rotation(0.93, 1.1), [[0.98]])
plant = rz.InnovationsModel(
    A,
    rng.standard_normal((5, 1)),
    rng.standard_normal((1, 5)),
    K=0.05 * rng.standard_normal((5, 1)),
    Re=[[1.0]],
    dt=0.1,
    y_mean=[20.0],
)
u = rng.standard_normal((2000, 1))
record = rz.IOData(plant.simulate(u, e=rng.standard_normal((2000, 1))), u, dt=0.1)
train, held = record.split(0.75)
model = rz.n4sid(train, order=5).model
print(model)

# %% [markdown]
# `lift` makes a `torch` layer of it. Input (batch, time, channels), output likewise. In float64 the layer's
# output and the model's simulation differ by rounding, whether the sequence comes at once or sample by
# sample.

# %%
layer = lift(model)
drive = torch.from_numpy(held.u.copy())[None]
with torch.no_grad():
    output = layer(drive)[0].numpy()
    state, steps = layer.init_state(1), []
    for sample in drive.unbind(1):
        y, state = layer.step(sample, state)
        steps.append(y[0].numpy())
simulated = model.simulate(held.u)

# %% tags=["hide-input"]
with plot.style():
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(7.5, 4.2), sharex=True, height_ratios=[2, 1], layout="constrained"
    )
    top.plot(held.y[:200], color=plot.COLOURS["data"], linewidth=1, label="measured")
    top.plot(
        simulated[:200],
        color=plot.COLOURS["baseline"],
        linewidth=4,
        label="model, from the input alone",
    )
    top.plot(output[:200], color=plot.COLOURS["fading"], linewidth=1.4, label="layer")
    top.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, 1.22))
    for name, found, colour in (
        ("at once", output, "fading"),
        ("by steps", np.array(steps), "prediction"),
    ):
        error = np.abs(found - simulated)[:200, 0] / np.abs(simulated).max()
        bottom.semilogy(
            np.maximum(error, 1e-18), ".", markersize=4, color=plot.COLOURS[colour], label=name
        )
    bottom.axhline(np.finfo(float).eps, color=plot.COLOURS["baseline"], linestyle="--")
    bottom.set(xlabel="sample", ylabel="difference", ylim=(3e-19, 1e-14))
    bottom.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.95), markerscale=3)
plt.show()

assert np.abs(output - simulated).max() < 1e-12 * np.abs(simulated).max()
assert np.abs(np.array(steps) - simulated).max() < 1e-12 * np.abs(simulated).max()

# %% [markdown]
# The dashed line is the spacing of float64 numbers near one; over a memory of fifty samples a few of these
# add up, in the model's own simulation as well. Nothing was lost.
#
# ## 2. Stable for every value
#
# Any square matrix is $A = Z S Z^T$ with an orthogonal $Z$ and $S$ *quasi upper triangular*: real poles and
# 2×2 blocks on the diagonal, anything above, zero below (the real Schur form). The poles of $S$ are those of
# its diagonal blocks, whatever stands above them. So it is enough to keep the blocks inside the unit circle,
#
# $$\tanh\rho, \qquad
# \tanh\rho \begin{pmatrix} \cos\theta & e^{s} \sin\theta \\ -e^{-s}\sin\theta & \cos\theta \end{pmatrix},$$
#
# whose eigenvalues have modulus $|\tanh\rho| < 1$ for every real $\rho, \theta, s$. These, and everything
# above the diagonal, are the trained parameters. Kick both the plain matrix and the parameters at random,
# and look where the poles go:

# %% tags=["hide-input"]
with plot.style():
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.9), layout="constrained", sharey=True)
    lost = 0
    for _ in range(150):
        free = np.linalg.eigvals(model.A + 0.12 * rng.standard_normal(model.A.shape))
        lost += np.abs(free).max() >= 1
        kicked = lift(model)
        with torch.no_grad():
            for parameter in kicked.core.parameters():
                parameter += 0.12 * torch.randn_like(parameter)
        held_in = np.linalg.eigvals(kicked.core.A().detach().numpy())
        assert np.abs(held_in).max() < 1
        for ax, poles in zip(axes, (free, held_in)):
            outside = np.abs(poles) >= 1
            for part, colour in ((poles[~outside], "baseline"), (poles[outside], "eidetic")):
                ax.plot(
                    part.real, part.imag, ".", markersize=3, alpha=0.6, color=plot.COLOURS[colour]
                )
    angle = np.linspace(0, 2 * np.pi, 200)
    for ax, title in zip(axes, (f"A kicked: {lost} of 150 unstable", "parameters kicked: none")):
        ax.plot(np.cos(angle), np.sin(angle), color=plot.COLOURS["data"], linewidth=1)
        ax.plot(model.poles.real, model.poles.imag, "x", color=plot.COLOURS["fading"], markersize=8)
        ax.set(aspect="equal", title=title, xlabel="real part", xlim=(-1.1, 1.4), ylim=(-1.2, 1.2))
    axes[0].set(ylabel="imaginary part")
plt.show()

assert lost > 50

# %% [markdown]
# Crosses are the model's own poles. On the right none can leave, however large the kick: the circle is not
# in the image of the parameters.
#
# ## 3. Three coordinates, and what they cost
#
# The Schur form is one choice of coordinates $x = T z$. Two more are offered:
#
# - **schur**: $T$ orthogonal. Every model has it. A dense triangle has to be multiplied at every step.
# - **modal**: a block for each pole or pair. Sylvester equations $A_{11} X - X A_{22} = -A_{12}$ take away
#   what couples two blocks; where the solution would be large, the two stay together.
# - **diagonal**: eigenvectors. A scan then needs one complex multiplication per pole and sample.

# %% tags=["hide-input"]
ill = np.array([[0.9, 1.0, 0.3], [0.0, 0.9 + 1e-7, 0.4], [0.0, 0.0, -0.5]])
Q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
pictures = {"identified": model.A, "two poles 1e-7 apart": Q @ ill @ Q.T}

with plot.style():
    figure, axes = plt.subplots(2, 4, figsize=(8, 4.1), layout="constrained")
    for row, (name, matrix) in zip(axes, pictures.items()):
        shown = {"as it came": matrix}
        for form in ("schur", "modal", "diagonal"):
            try:
                found = coordinates(matrix, form)
                shown[f"{form}, {found.condition:.2g}"] = found.A
            except RankError:
                shown[f"{form}: refused"] = None
        for ax, (title, form) in zip(row, shown.items()):
            ax.set(xticks=[], yticks=[])
            ax.set_title(title)
            ax.grid(visible=False)
            if form is None:
                ax.axis("off")
                continue
            size = np.log10(np.maximum(np.abs(form), 1e-20))
            ax.imshow(
                np.where(np.abs(form) > 1e-14, size, np.nan), cmap="Greens", vmin=-4, vmax=0.5
            )
        row[0].set_ylabel(name)
plt.show()

assert coordinates(pictures["two poles 1e-7 apart"], "modal").groups == [2, 1]

# %% [markdown]
# White is exactly zero; the number is the condition of $T$. In the second row two poles nearly coincide:
# their eigenvectors are nearly parallel. The modal form keeps the two in one block, and the diagonal form is
# refused:

# %%
near = rz.StateSpace(pictures["two poles 1e-7 apart"], np.ones((3, 1)), np.ones((1, 3)))
try:
    lift(near, parametrization="diagonal")
except RankError as error:
    print(error)

# %% [markdown]
# Why refuse? A change of state of condition $\kappa$ turns rounding of $\varepsilon = 2 \cdot 10^{-16}$ into
# an error of about $\kappa\,\varepsilon$. Let the gap between two poles shrink, and *force* each form (a
# large `max_condition` permits it):

# %% tags=["hide-input"]
gaps, v = np.logspace(0, -10, 41), rng.standard_normal((400, 1))
errors = {form: [] for form in ("schur", "modal", "diagonal")}
conditions = []
for gap in gaps:
    pair = np.array([[0.8, 1.0], [0.0, 0.8 - 0.5 * gap]])
    turned = rotation(1.0, 0.7) @ pair @ rotation(1.0, 0.7).T
    close = rz.StateSpace(turned, [[1.0], [0.5]], [[1.0, -2.0]])
    conditions.append(coordinates(turned, "diagonal", 1e20).condition)
    wanted = close.simulate(v)
    for form, found in errors.items():
        with torch.no_grad():
            limit = 1e20 if form == "diagonal" else 3e3
            y = lift(close, parametrization=form, max_condition=limit)(torch.from_numpy(v)[None])[
                0
            ].numpy()
        found.append(np.abs(y - wanted).max() / np.abs(wanted).max())

with plot.style():
    figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for form, colour, width in (
        ("diagonal", "eidetic", 1.6),
        ("schur", "window", 3.2),
        ("modal", "fading", 1.4),
    ):
        ax.loglog(
            gaps,
            np.maximum(errors[form], 1e-17),
            color=plot.COLOURS[colour],
            linewidth=width,
            label=form,
        )
    ax.loglog(
        gaps, np.finfo(float).eps * np.array(conditions), linestyle="--",
        color=plot.COLOURS["baseline"], label="condition times $\\varepsilon$",
    )  # fmt: skip
    refused = gaps[np.argmax(np.array(conditions) > 3e3)]
    ax.axvspan(gaps[-1], refused, color=plot.COLOURS["eidetic"], alpha=0.08)
    ax.text(refused / 2, 3e-7, "diagonal refused", ha="left", color=plot.COLOURS["eidetic"])
    ax.axhline(1e-12, color=plot.COLOURS["data"], linewidth=0.8)
    ax.set(xlabel="gap between the two poles", ylabel="error of the layer", ylim=(1e-17, 1e-4))
    ax.invert_xaxis()
    ax.legend(loc="upper left")
plt.show()

assert max(errors["schur"] + errors["modal"]) < 1e-12
assert errors["diagonal"][-1] > 1e-12

# %% [markdown]
# The line at $10^{-12}$ is what a lifted model promises. The Schur form does not notice the gap. The modal
# form loses digits with the diagonal one for as long as it parts the two poles; at a condition of 3000 it
# puts them into one block and is exact again. The diagonal form has no such way out, and is refused (shaded)
# before it loses too many.
#
# ## 4. A layer with the model's own sense of surprise
#
# An innovations model brings its Kalman filter: $\hat x_{t+1} = A \hat x_t + B u_t + K e_t$ with the
# innovation $e_t = y_t - C \hat x_t - D u_t$, and the score
#
# $$s_t = e_t^\top R_e^{-1} e_t ,$$
#
# which for a right model is $\chi^2$ distributed. `lift_layer` makes a B'MOJO layer of all that. Tokens are
# $[u_t, y_t]$; the fading state is the Kalman state, and the eidetic set keeps the tokens of highest score.
# Give the record three events that the model cannot know of:

# %%
y = held.y.copy()
events = {120: 6.0, 260: -5.0, 400: 7.0}
for at, size in events.items():
    y[at] += size
disturbed = rz.IOData(y, held.u, dt=0.1)

mojo = lift_layer(model, window=16, eidetic=6).eval()
trace = mojo.trace(mojo.tokens(disturbed))
scores = trace.scores[0].numpy()
judged = rz.innovations(model, disturbed, x0=np.zeros(5))
print(
    f"largest difference to realization.innovations: {np.abs(scores - judged.normalized_squared).max():.1e}"
)
assert np.allclose(scores, judged.normalized_squared, rtol=1e-11, atol=1e-10)

# %% tags=["hide-input"]
kept = trace.eidetic_index[0, -1].numpy()
kept = kept[kept >= 0]
with plot.style():
    figure, ax = plt.subplots(figsize=(7.5, 3), layout="constrained")
    ax.vlines(np.arange(len(scores)), 0, scores, color=plot.COLOURS["innovation"], linewidth=1)
    ax.plot(
        kept,
        scores[kept],
        "o",
        color=plot.COLOURS["eidetic"],
        markersize=5,
        label="kept at the end",
    )
    ax.axhline(judged.threshold(0.001), color=plot.COLOURS["baseline"], linestyle="--")
    ax.text(
        len(scores) + 4,
        judged.threshold(0.001),
        "1 in 1000",
        va="center",
        color=plot.COLOURS["baseline"],
    )
    for at in events:
        ax.annotate("event", (at, scores[at]), xytext=(6, -3), textcoords="offset points")
    ax.set(xlabel="sample", ylabel="score $s_t$", xlim=(-5, len(scores) + 5), ylim=(0, None))
    ax.legend(loc="upper left")
plt.show()

assert set(events) <= set(kept.tolist())

# %% [markdown]
# All three events are in the set. The other places went to the largest of the ordinary scores: a budget of
# six is filled by whatever was least expected, with no threshold to tune.
#
# Before training the layer's output *is* the model's prediction of each sample, as the projection behind
# attention starts at zero:

# %%
predicted = mojo.outputs(trace.output)[0].numpy()
assert np.allclose(predicted, model.predict(disturbed, x0=np.zeros(5)), rtol=1e-11)
print("one-step fit:", rz.fit_percent(held.y, model.predict(held)).round(1), "%")

# %% [markdown]
# ## 5. Training goes on identifying
#
# The predictor learns from its own *code length* $\tfrac12 \operatorname{mean}(s_t + \log\det R_e)$, the
# negative logarithm of a Gaussian likelihood. That is the prediction-error method of system identification,
# carried out by whatever optimizer trains the network. Identify on 200 samples only, lift, and let the layer
# watch 600:

# %%
early = rz.n4sid(train[:200], order=5).model
learner = lift_layer(early, window=8, eidetic=2)
watched, tested = (learner.tokens(part) for part in (train[200:800], held))
optimizer, lengths, unseen = torch.optim.Adam(learner.predictor.parameters(), lr=4e-4), [], []
for _ in range(80):
    with torch.no_grad():
        unseen.append(float(learner.predictor(Evidence(tested))[1]))
    optimizer.zero_grad()
    learner(
        watched
    ).mean().backward()  # any loss will do: the predictor's own is attached to the output
    optimizer.step()
    lengths.append(float(prediction_loss(learner)))


def code_length(of):
    bits = rz.innovations(of, held, x0=np.zeros(5)).code_length.mean()
    return bits * np.log(2) - 0.5 * np.log(2 * np.pi)


# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
    ax.plot(lengths, color=plot.COLOURS["baseline"])
    ax.plot(unseen, color=plot.COLOURS["fading"])
    ax.text(81, lengths[-1], "watched", va="bottom", color=plot.COLOURS["baseline"])
    ax.text(81, unseen[-1], "held out", va="top", color=plot.COLOURS["fading"])
    ax.axhline(code_length(model), color=plot.COLOURS["data"], linestyle="--", linewidth=1)
    ax.text(
        79, code_length(model) - 1e-3, "held out, identified on 1500 samples", va="top", ha="right"
    )
    ax.set(xlabel="step of Adam", ylabel="code length, nats", xlim=(0, 80))
    ax.set_ylim(bottom=code_length(model) - 0.02)
plt.show()

print(
    f"held out: {unseen[0]:.3f} to {unseen[-1]:.3f}; identified on 1500 samples {code_length(model):.3f}"
)
assert np.isclose(unseen[0], code_length(early), rtol=1e-9)
assert unseen[-1] < unseen[0]

# %% [markdown]
# ## 6. A start from data
#
# The other way about: a network that has no model yet. `initialize_from` identifies one *inside* it, from
# the hidden tokens that reach the mixer to what the layers behind it need, and the mixer starts there. A net
# of a tokenizer, one linear mixer and a read-out shall simulate the plant from its input; the two runs
# differ in the mixer's start and in the learning rate, for each the better one.


# %%
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokenizer = torch.nn.Sequential(
            torch.nn.Linear(1, 16), torch.nn.SiLU(), torch.nn.Linear(16, 16)
        )
        self.layer = BMojo(
            BMojoConfig(d_model=16, heads=1, window=0, eidetic=0, mixer="lti", state_size=8)
        )
        self.readout = torch.nn.Linear(16, 1)

    def forward(self, u):
        x = self.tokenizer(u)
        return self.readout(x + self.layer(x))


def standard(x):
    return torch.tensor((x - train.y.mean()) / train.y.std() if x is not record.u else x).float()


inputs, outputs = standard(record.u).reshape(10, 200, 1), standard(record.y).reshape(10, 200, 1)
curves = {}
for name in ("random start", "identified start"):
    torch.manual_seed(1)
    net = Net()
    if name == "identified start":
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = net.tokenizer(inputs[:7])
            behind = torch.linalg.pinv(net.readout.weight).mT
            initialize_from(net.layer, x, (outputs[:7] - net.readout(x)) @ behind)
    rate = 5e-3 if name == "random start" else 1e-3  # what is nearly right takes small steps
    optimizer, curves[name] = torch.optim.Adam(net.parameters(), lr=rate), []
    for _ in range(120):
        with torch.no_grad():
            curves[name].append(float((net(inputs[7:]) - outputs[7:])[:, 50:].square().mean()))
        optimizer.zero_grad()
        (net(inputs[:7]) - outputs[:7])[:, 50:].square().mean().backward()
        optimizer.step()

# %% tags=["hide-input"]
with plot.style():
    figure, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
    for name, colour in (("random start", "baseline"), ("identified start", "fading")):
        ax.semilogy(curves[name], color=plot.COLOURS[colour])
        side = "bottom" if name == "random start" else "top"
        ax.text(121, curves[name][-1], name, va=side, color=plot.COLOURS[colour])
    ax.set(xlabel="step", ylabel="held-out error, variances", xlim=(0, 120))
plt.show()

assert curves["identified start"][0] < curves["random start"][20]
assert min(curves["identified start"][:30]) < min(curves["random start"])

# %% [markdown]
# The identified start begins where the random one has not arrived at the end. After that training has nothing
# to add here, since the plant is linear, and learns the noise of seven short records. One seed of one plant
# proves little; the page on the bridge has the counts over seeds, and where such a start does *not* help.
#
# ## Exercises
#
# Write your function, then run its `check_...`; the solution is folded away under each.
#
# **Exercise 1: a stable block.** Write the 2×2 block of section 2 as a function of three real numbers, and
# find $\rho, \theta, s$ of a given stable block with complex poles and equal diagonal entries.


# %%
def block_of(rho, theta, s):
    """The 2×2 block."""
    ...


def numbers_of(block):
    """rho, theta, s of a block."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def block_of_solution(rho, theta, s):
    c, d = np.cos(theta), np.sin(theta)
    return np.tanh(rho) * np.array([[c, np.exp(s) * d], [-np.exp(-s) * d, c]])


def numbers_of_solution(block):
    (a, b), (c, _) = block
    sine = np.sign(b) * np.sqrt(-b * c)  # tanh(rho) sin(theta): the two stretches cancel
    return np.arctanh(np.hypot(a, sine)), np.arctan2(sine, a), 0.5 * np.log(-b / c)


def check_block(block_of, numbers_of):
    for seed in range(50):
        numbers = 3 * np.random.default_rng(seed).standard_normal(3)
        assert np.abs(np.linalg.eigvals(block_of(*numbers))).max() < 1
    T, _ = schur(rotation(0.9, 0.5) @ np.diag([1.0, 2.0]) / 2, output="real")
    assert np.allclose(block_of(*numbers_of(T)), T)
    print("stable for every value, and there and back")


check_block(block_of_solution, numbers_of_solution)

# %% [markdown]
# **Exercise 2: the price of a gap.** For $A = \begin{pmatrix} a & 1 \\ 0 & a + g \end{pmatrix}$ find the two
# unit eigenvectors and with them the condition number of the eigenvector matrix as a function of $g$. For
# which gap is it 3000, where the diagonal form is refused?


# %%
def condition_of_gap(g):
    """Condition number (2-norm) of the two unit eigenvectors, in closed form."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def condition_of_gap_solution(g):
    # Eigenvectors (1, 0) and (1, g) / sqrt(1 + g^2); their inner product is c, and the singular values of the
    # two as columns are sqrt(1 + c) and sqrt(1 - c). Written without cancellation: 1 - c = g^2 / (r (r + 1)).
    r = np.sqrt(1 + g**2)
    return np.sqrt((1 + 1 / r) * r * (r + 1)) / abs(g)


def check_gap(answer):
    for g in (1.0, 1e-2, 1e-5):
        _, V = np.linalg.eig([[0.5, 1.0], [0.0, 0.5 + g]])
        assert np.isclose(answer(g), np.linalg.cond(V), rtol=1e-4)
    assert np.isclose(answer(2 / 3000), 3000, rtol=1e-3)
    print("2 / g for small gaps: at 7e-4 the diagonal form ends")


check_gap(condition_of_gap_solution)

# %% [markdown]
# **Exercise 3: one metric, two ways.** A layer learns logarithms of variances, one per channel; a model has
# a full covariance $R_e$. Find a unit lower triangular $M$ and variances $r$ with
# $e^\top R_e^{-1} e = \sum_i (M e)_i^2 / r_i$ for every $e$, and say why $\log\det R_e = \sum_i \log r_i$.


# %%
def mixed(Re):
    """M and r."""
    ...


# %% tags=["hide-cell"] jupyter={"source_hidden": true}
def mixed_solution(Re):
    L = np.linalg.cholesky(Re)
    deviation = np.diag(L)
    return np.linalg.inv(
        L / deviation
    ), deviation**2  # R_e = (L/d) diag(d^2) (L/d)^T, and det M = 1


def check_mixed(answer):
    G = np.random.default_rng(4).standard_normal((3, 3))
    Re = G @ G.T + np.eye(3)
    M, r = answer(Re)
    assert np.allclose(np.triu(M), np.eye(3))
    e = np.array([1.0, -2.0, 0.5])
    assert np.isclose(e @ np.linalg.solve(Re, e), ((M @ e) ** 2 / r).sum())
    assert np.isclose(np.linalg.slogdet(Re)[1], np.log(r).sum())
    found = lift_layer(
        rz.InnovationsModel(
            np.zeros((1, 1)), np.zeros((1, 0)), np.zeros((3, 1)), K=np.zeros((1, 3)), Re=Re
        )
    ).predictor
    assert np.allclose(found.mixing.detach().numpy(), np.tril(M, -1))
    print("the same code length, and the gradient flows to R_e")


check_mixed(mixed_solution)

# %% [markdown]
# ## Sources
#
# - G. H. Golub, C. F. Van Loan, *Matrix Computations*, 4th ed., Johns Hopkins 2013, sections 7.4 (real Schur
#   form) and 7.6 (block diagonal form by Sylvester equations).
# - C. A. Bavely, G. W. Stewart, *An algorithm for computing reducing subspaces by block diagonalization*,
#   SIAM J. Numer. Anal. 16, 1979, 359–367; J. W. Demmel, *The condition number of equivalence
#   transformations that block diagonalize matrix pencils*, SIAM J. Numer. Anal. 20, 1983, 599–610.
# - T. Kailath, *An innovations approach to least-squares estimation, part I*, IEEE Trans. Autom. Control 13,
#   1968, 646–655.
# - L. Ljung, *System Identification*, 2nd ed., Prentice Hall 1999, chapter 7 (prediction error and
#   likelihood).
# - A. Orvieto et al., *Resurrecting recurrent neural networks for long sequences*, ICML 2023, [arXiv
#   2303.06349](https://arxiv.org/abs/2303.06349). Diagonal recurrences kept stable by their
#   parametrization.
# - L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
#   Memory*, NeurIPS 2024, [arXiv 2407.06324](https://arxiv.org/abs/2407.06324).
