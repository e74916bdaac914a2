"""Filter, likelihood, gradient and smoother: 1e5 samples, order 8, against statsmodels in the same run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from _results import Row, write_results
from _timing import seconds

import realization as rz

LENGTH, ORDER = 100_000, 8


def model_of(outputs: int, rng: np.random.Generator) -> rz.InnovationsModel:
    """Slow modes and a stable predictor: the Kalman gain of independent noises."""
    A = rng.standard_normal((ORDER, ORDER))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    C = rng.standard_normal((outputs, ORDER))
    return rz.innovations_form(A, C, np.eye(ORDER), np.eye(outputs))


def statsmodels_of(model: rz.InnovationsModel, y: np.ndarray):
    """The same model for statsmodels: innovations ride along as states, so noises are independent."""
    from statsmodels.tsa.statespace.mlemodel import MLEModel

    n, p = model.n_states, model.n_outputs
    peer = MLEModel(y, k_states=n + p, k_posdef=p)
    ssm = peer.ssm
    ssm["transition"] = np.block([[model.A, model.K], [np.zeros((p, n + p))]])
    ssm["design"] = np.hstack([model.C, np.eye(p)])
    ssm["selection"] = np.vstack([np.zeros((n, p)), np.eye(p)])
    ssm["state_cov"] = model.Re
    ssm.initialize_stationary()
    return ssm


def complete(model: rz.InnovationsModel, y: np.ndarray, name: str) -> list[Row]:
    """A record without gaps."""
    peer = statsmodels_of(model, y)
    agree(rz.log_likelihood(model, y).value, peer.loglike())
    loglike, passed, smoothed = seconds(peer.loglike, 3), seconds(peer.filter, 3), seconds(peer.smooth, 1)

    def row(
        case: str,
        run: Callable[[], object],
        of: str,
        theirs: float,
        goal: float | None = None,
        repeats: int = 15,
    ) -> Row:
        return Row(
            f"{case}, {name}", seconds(run, repeats), "s", of, theirs, goal=goal, larger_is_better=False
        )

    return [
        row("log-likelihood", lambda: rz.log_likelihood(model, y), "statsmodels loglike", loglike),
        row(
            "log-likelihood and gradient",
            lambda: rz.log_likelihood(model, y, gradient=True),
            "statsmodels loglike, no gradient",
            loglike,
            goal=0.02,
        ),
        row("filter", lambda: rz.kalman_filter(model, y), "statsmodels filter", passed),
        row(
            "filter, square roots",
            lambda: rz.kalman_filter(model, y, form="square_root"),
            "statsmodels filter",
            passed,
        ),
        row("smoother", lambda: rz.kalman_smoother(model, y), "statsmodels smooth", smoothed),
    ]


def incomplete(model: rz.InnovationsModel, y: np.ndarray, name: str) -> list[Row]:
    """The same with a tenth of the outputs missing: no gain ever settles."""
    data, peer = rz.IOData(y, missing=True), statsmodels_of(model, y)
    agree(rz.log_likelihood(model, data).value, peer.loglike())
    theirs = seconds(peer.loglike, 3)
    cases: dict[str, Callable[[], object]] = {
        "filter": lambda: rz.kalman_filter(model, data),
        "log-likelihood and gradient": lambda: rz.log_likelihood(model, data, gradient=True),
    }
    return [
        Row(f"{case}, 10 % missing, {name}", seconds(run, 3), "s", "statsmodels loglike", theirs)
        for case, run in cases.items()
    ]


def agree(here: float, there: float) -> None:
    """Both are to be the same likelihood."""
    assert abs(here - there) < 1e-8 * abs(there), (here, there)


def main() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for outputs in (1, 2):
        model = model_of(outputs, rng)
        y = model.simulate(e=rng.standard_normal((LENGTH, outputs)) @ np.linalg.cholesky(model.Re).T)
        name = f"{LENGTH} samples, order {ORDER}, {outputs} out"
        rows += complete(model, y, name)
        rows += incomplete(model, np.where(rng.random(y.shape) < 0.1, np.nan, y), name)
        if outputs == 2:
            rows.append(tree(model, y[:10_000]))
    write_results("kalman", rows)


def tree(model: rz.InnovationsModel, y: np.ndarray) -> Row:
    """The filter as a tree, against the same filter sample by sample with no gain that settles."""
    gaps = y.copy()
    gaps[-1] = np.nan
    data = rz.IOData(gaps, missing=True)
    one, other = rz.kalman_filter(model, data), rz.kalman_filter(model, data, form="parallel")
    apart = np.abs(one.states - other.states).max() / np.abs(one.states).max()
    assert apart < 1e-10, apart
    ours = seconds(lambda: rz.kalman_filter(model, data, form="parallel"), 3)
    theirs = seconds(lambda: rz.kalman_filter(model, data), 5)
    return Row(f"filter as a tree, {len(y)} samples", ours, "s", "this project, sample by sample", theirs)


if __name__ == "__main__":
    main()
