"""A valid call of every public function of `realization` and `bmojo_kernels`, and why some have none.

The tests change one argument of each call at a time; a name that is neither here nor excepted fails them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import realization as rz

__all__ = ["EXCEPTED", "Call", "kernel_calls", "model_of", "realization_calls", "record_of"]


@dataclass(frozen=True)
class Call:
    """A function with arguments that it takes; `changed` gives the same call with one of them replaced."""

    function: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        return self.function(**self.arguments)

    def changed(self, name: str, value: Any) -> Call:
        return Call(self.function, self.arguments | {name: value})


RESULT = "a frozen result that the functions fill; it takes nothing from outside"
ERROR = "an error or a warning"
MODULE = "a module; its own names are looked at where they take numbers"
NAMES = "takes names of data sets and files, no numbers; see test_files.py and test_datasets.py"
EXCEPTED: dict[str, str] = {
    **dict.fromkeys(
        [
            "ArxResult", "BalancedTruncation", "Calibration", "Candidate", "CanonicalForm",
            "ChangeDetection", "DareSolution", "DataInspection", "DataSet", "ExactRealization",
            "FalseAlarms", "FaurreSet", "Finding", "FrequencyBands", "FrequencyLimitedTruncation",
            "FrequencySubspaceResult", "GramianFactors", "Gramians", "HankelRealization", "HankelSvd",
            "HinfNorm", "Identification", "Innovations", "InputDelays", "Invariants",
            "KalmanDecomposition", "KalmanResult", "LikelihoodGradient", "LoewnerRealization",
            "LogLikelihood", "MemoryCurve", "OkidResult", "OrderEstimate", "PemResult", "PoleBands",
            "PolynomialResult", "PositiveRealTest", "PredictorSubspaceResult", "Reconstruction",
            "ReconstructionCurve", "RegularRecord", "RegularizedFir", "ResidualTests",
            "RiccatiTruncation", "Selection", "Similarity", "SmootherResult", "StableAntistable",
            "StochasticBalancing", "StochasticRealization", "StochasticTruncation", "SubspaceOrders",
            "SubspaceResult", "Uncertainty", "VarxResult", "WhitenessTest", "WindowMemory",
        ],
        RESULT,
    ),
    **dict.fromkeys(
        [
            "CalibrationWarning", "ConvergenceError", "ConvergenceWarning", "DataError",
            "ExcitationError", "ExcitationWarning", "OrderWarning", "PositiveRealWarning", "RankError",
            "RealizationError", "RealizationWarning", "ShapeError", "StabilityWarning", "UnstableError",
        ],
        ERROR,
    ),
    **dict.fromkeys(["interop", "plot", "stream", "symbolic", "distributed"], MODULE),
    **dict.fromkeys(
        [
            "describe_data", "list_data", "load_benchmark_model", "load_data", "load_model",
            "load_series", "read_csv", "read_data", "save_model",
        ],
        NAMES,
    ),
    "RULES": "a tuple of names",
    "backend_for": "takes names of operations, devices and dtypes",
}  # fmt: skip


def model_of(outputs: int = 2, inputs: int = 1) -> rz.InnovationsModel:
    """A stable innovations model of order 2 that is minimal and has a strictly stable predictor."""
    B, C = np.array([[1.0, 0.2], [0.5, -1.0]])[:, :inputs], np.array([[1.0, 0.2], [0.0, 1.0]])[:outputs]
    return rz.InnovationsModel(
        [[0.8, 0.3], [-0.3, 0.5]],
        B,
        C,
        np.full((outputs, inputs), 0.3),
        K=np.array([[0.4, 0.1], [0.0, 0.3]])[:, :outputs],
        Re=np.array([[1.0, 0.3], [0.3, 0.5]])[:outputs, :outputs],
        u_mean=np.full(inputs, 2.0),
        y_mean=np.array([-5.0, 3.0])[:outputs],
    )


def record_of(model: rz.InnovationsModel, length: int = 240) -> rz.IOData:
    """A record that the model made."""
    rng = np.random.default_rng(7)
    u = 2.0 + rng.standard_normal((length, model.n_inputs))
    e = rng.standard_normal((length, model.n_outputs)) @ np.linalg.cholesky(model.Re).T
    return rz.IOData(model.simulate(u, e=e), u if model.n_inputs else None)


def realization_calls() -> dict[str, Call]:
    """Name to a call that succeeds."""
    model, square, noise = model_of(), model_of(1, 1), model_of(2, 0)
    data, single = record_of(model), record_of(square)
    series = record_of(model_of(1, 0))
    return {
        name: Call(getattr(rz, name), arguments)
        for group in (
            _systems(square),
            _realizations(model, noise),
            _filters(model, data),
            _estimators(data, single, series),
            _signals(data),
        )
        for name, arguments in group.items()
    }


def _systems(model: rz.InnovationsModel) -> dict[str, dict[str, Any]]:
    system = rz.StateSpace(model.A, model.B, model.C, model.D)
    passive = rz.StateSpace(0.5 * model.A, model.B, 0.1 * model.C, [[2.0]])
    contraction = rz.StateSpace(0.5 * model.A, 0.2 * model.B, 0.2 * model.C)
    one = {
        key: {"model": system}
        for key in [
            "controllability_gramian",
            "controllability_indices",
            "gramian_factors",
            "h2_norm",
            "hankel_norm",
            "hankel_singular_values",
            "hinf_norm",
            "invariants",
            "kalman_decomposition",
            "minimal",
            "observability_gramian",
            "observability_indices",
            "stable_antistable_split",
            "zeros",
        ]
    }
    reduced = {
        key: {"model": system, "order": 1}
        for key in ["balanced_truncation", "singular_perturbation", "lqg_balanced_truncation"]
    }
    return {
        **one,
        **reduced,
        "StateSpace": {"A": model.A, "B": model.B, "C": model.C, "D": model.D, "dt": 0.1},
        "InnovationsModel": {
            name: getattr(model, name) for name in ("A", "B", "C", "D", "K", "Re", "u_mean", "y_mean")
        }
        | {"dt": 0.1},
        "are_similar": {"a": system, "b": system},
        "balanced_stochastic_truncation": {"model": passive, "order": 1},
        "bounded_real_truncation": {"model": contraction, "order": 1},
        "canonical_form": {"model": system, "form": "controllable"},
        "controllability_matrix": {"model": system, "count": 3},
        "delay_inputs": {"model": system, "delays": 2},
        "frequency_limited_gramians": {"model": system, "band": (0.1, 1.0)},
        "frequency_limited_truncation": {"model": system, "order": 1, "band": (0.1, 1.0)},
        "markov_parameters": {"model": system, "count": 4},
        "memory_curve": {"model": system, "lags": 8},
        "observability_matrix": {"model": system, "count": 3},
        "positive_real_truncation": {"model": passive, "order": 1},
        "similarity": {"a": system, "b": system},
        "time_limited_gramians": {"model": system, "duration": 10.0},
    }


def _realizations(model: rz.InnovationsModel, process: rz.InnovationsModel) -> dict[str, dict[str, Any]]:
    h = model.impulse_response(24)
    covariances = rz.covariances(process, 24)
    omega = np.linspace(0.1, 3.0, 16)
    response = np.array(model.frequency_response(omega))
    Cbar = rz.faurre_set(process).Cbar
    noise = {"Q": np.eye(2), "R": np.eye(2), "S": np.full((2, 2), 0.1)}
    return {
        "HankelOperator": {"h": h, "rows": 6, "cols": 6},
        "backward_innovations_model": {"model": process},
        "canonical_correlations": {"model": process},
        "covariances": {"model": process, "count": 5},
        "dare": {"A": model.A, "C": model.C, **noise},
        "era": {"h": h, "order": 2},
        "era_dc": {"h": h, "order": 2},
        "estimate_order": {"singular_values": np.array([3.0, 1.0, 1e-3, 9e-4, 8e-4, 7e-4])},
        "exact_realization": {"h": [0, 1, 2, 4, 8, 16]},
        "faurre_set": {"model": process},
        "frequency_subspace": {"omega": omega, "response": response, "order": 2},
        "hankel": {"h": h, "rows": 4, "cols": 4},
        "hankel_svd": {"h": h, "rank": 2},
        "ho_kalman": {"h": h, "order": 2},
        "innovations_form": {"A": model.A, "C": model.C, **noise},
        "loewner": {"omega": omega, "response": response, "order": 2},
        "mutual_information": {"model": process},
        "positive_real_test": {"A": model.A, "C": model.C, "Cbar": Cbar, "Lambda0": covariances[0]},
        "spectral_factor": {"A": model.A, "C": model.C, "Cbar": Cbar, "Lambda0": covariances[0]},
        "stochastic_realization": {"covariances": covariances, "order": 2},
        "stochastically_balanced": {"model": process},
        "window_memory": {"model": process, "length": 6},
    }


def _filters(model: rz.InnovationsModel, data: rz.IOData) -> dict[str, dict[str, Any]]:
    both: dict[str, Any] = {"model": model, "data": data}
    found = rz.innovations(model, data)
    start = both | {"x0": np.zeros(2)}
    return {
        "chi_squared_calibration": {"found": found, "alpha": np.array([0.2, 0.1]), "level": 0.99},
        "detect_changes": start | {"false_alarm": 0.01, "window": 8},
        "innovations": start,
        "kalman_filter": start | {"P0": np.eye(2)},
        "kalman_smoother": start | {"P0": np.eye(2)},
        "log_likelihood": start | {"P0": np.eye(2)},
        "reconstruct": both | {"selection": rz.select_innovations(model, data, budget=8)},
        "reconstruction_curve": both | {"budgets": [4, 8]},
        "residual_tests": both | {"lags": 10},
        "select_innovations": start | {"budget": 8, "window": 2, "chunk": 2},
        "uncertainty": both,
        "whiteness_test": {"e": found.e, "lags": 10, "u": data.inputs},
    }


def _estimators(data: rz.IOData, single: rz.IOData, series: rz.IOData) -> dict[str, dict[str, Any]]:
    subspace = {key: {"data": data, "order": 2} for key in ["cva", "moesp", "n4sid", "pbsid", "ssarx"]}
    return {
        **subspace,
        "armax": {"data": single, "na": 2, "nb": 2, "nc": 1},
        "arx": {"data": data, "na": 2, "nb": 2, "nk": 1},
        "bj": {"data": single, "nb": 1, "nc": 1, "nd": 1, "nf": 1},
        "identify": {"data": single, "order": 2, "progress": False},
        "input_delays": {"data": single, "max_delay": 4},
        "oe": {"data": single, "nb": 1, "nf": 2},
        "okid": {"data": data, "order": 2, "lags": 6},
        "pem": {"data": single, "order": 2, "iterations": 10},
        "regularized_fir": {"data": single, "length": 12},
        "subspace_orders": {"data": series, "orders": [1, 2]},
        "varx": {"data": data, "lags": 4, "order": 2},
    }


def _signals(data: rz.IOData) -> dict[str, dict[str, Any]]:
    time = 0.1 * np.arange(data.length)
    y = np.array(data.y)
    return {
        "IOData": {"y": y, "u": np.array(data.inputs), "dt": 0.1},
        "fit_percent": {"y": y, "y_hat": y + 0.1},
        "gap_free": {"data": data},
        "stream_file": {"source": data, "block_rows": 4, "chunk": 50, "progress": False},
        "inspect_data": {"data": data},
        "one_hot": {"codes": np.array([0, 1, 2, 1])},
        "regular_record": {"time": time, "y": y, "u": np.array(data.inputs)},
        "sensor_fault": {"data": data, "kind": "bias", "at": 50, "size": 1.0},
    }


def kernel_calls() -> dict[str, Call]:
    """Name to a call that succeeds, on float64 (tensors where only tensors are taken)."""
    import bmojo_kernels as bk
    import torch

    made = torch.Generator().manual_seed(3)

    def r(*shape: int) -> torch.Tensor:
        return 0.5 * torch.randn(shape, generator=made, dtype=torch.float64)

    B, T, H, K, V, d, N, w = 2, 12, 2, 4, 3, 4, 3, 4
    heads = {"q": r(B, T, H, K), "k": r(B, T, H, K), "v": r(B, T, H, V)}
    attention = {name: r(B, T, H, K) for name in "qkv"}
    step = {name: r(B, H, K) for name in "qk"} | {"v": r(B, H, V)}
    scan = {"u": r(B, T, d), "delta": r(B, T, d).abs(), "A": -r(d, N).abs()}
    arguments: dict[str, dict[str, Any]] = {
        "KeptSet": {
            "index": np.array([[0, 2, -1]]), "priority": np.array([[3.0, 2.0, -np.inf]]), "position": 4
        },
        "causal_conv1d": {"x": r(B, T, d), "weight": r(d, 3), "bias": r(d), "initial_state": r(B, 2, d)},
        "causal_conv1d_step": {"x": r(B, d), "weight": r(d, 3), "bias": r(d), "state": r(B, 2, d)},
        "gated_delta_scan": heads | {
            "log_decay": -r(B, T, H).abs(), "beta": torch.sigmoid(r(B, T, H)), "h0": r(B, H, V, K)
        },
        "gated_delta_step": step | {
            "log_decay": -r(B, H).abs(), "beta": torch.sigmoid(r(B, H)), "state": r(B, H, V, K)
        },
        "gated_kalman_scan": heads | {"log_decay": -r(B, T, H).abs(), "alpha": torch.sigmoid(r(B, T, H))},
        "gated_kalman_step": step | {
            "log_decay": -r(B, H).abs(), "state": (torch.zeros(B, H, K, K).double(), r(B, H, V, K)),
            "alpha": torch.sigmoid(r(B, H)),
        },
        "innovation_topk": {"scores": np.abs(r(B, T).numpy()), "budget": 3, "window": 2, "chunk": 2},
        "linear_scan": {
            "a": r(B, T, d).numpy(), "b": r(B, T, d).numpy(), "h0": r(B, d).numpy()
        },
        "linear_step": {"a": r(B, d).numpy(), "b": r(B, d).numpy(), "state": r(B, d).numpy()},
        "lti_scan": {
            "A": r(3, 3).numpy(), "B": r(3, 2).numpy(), "u": r(T, 2).numpy(), "x0": np.ones(3)
        },
        "memory_attention": attention | {"window": w},
        "memory_attention_step": {
            "q": r(B, H, K), "k": r(B, w, H, K), "v": r(B, w, H, K), "window": w, "position": 5
        },
        "selection_priority": {"scores": np.abs(r(B, T).numpy()), "rule": "top"},
        "selective_scan": scan | {"B": r(B, T, N), "C": r(B, T, N), "D": r(d), "z": r(B, T, d)},
        "selective_step": {
            "u": r(B, d), "delta": r(B, d).abs(), "A": -r(d, N).abs(), "B": r(B, N), "C": r(B, N),
            "state": r(B, d, N), "D": r(d),
        },
        "ssd_scan": {
            "x": r(B, T, H, K), "log_decay": -r(B, T, H).abs(), "B": r(B, T, N), "C": r(B, T, N),
            "D": r(H),
        },
        "ssd_step": {
            "x": r(B, H, K), "log_decay": -r(B, H).abs(), "B": r(B, N), "C": r(B, N),
            "state": r(B, H, K, N), "D": r(H),
        },
    }  # fmt: skip
    return {name: Call(getattr(bk, name), taken) for name, taken in arguments.items()}
