"""An identified model as a B'MOJO layer: its state fades, its Kalman filter judges the innovations."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bmojo.bridge.lift.model import in_role, start_of
from bmojo.bridge.lift.parametrizations import MAX_CONDITION, Parametrization, core_of
from bmojo.config import BMojoConfig
from bmojo.eidetic.identified import IdentifiedPredictor
from bmojo.layer import BMojo
from bmojo.state import BMojoState
from realization.errors import RealizationError, ShapeError
from realization.filtering.innovations import chi_squared_quantile
from realization.filtering.kalman import cholesky_of
from realization.signals import IOData
from realization.signals.data import as_data
from realization.systems import InnovationsModel, StateSpace

__all__ = ["LiftedLayer", "lift_layer"]

MIXER = {"schur": "lti", "modal": "lti_modal", "diagonal": "lti_diagonal"}


class LiftedLayer(BMojo):
    r"""A B'MOJO layer that begins as an identified model.

    Tokens are $[u_t - \bar u,\; y_t - \bar y]$. The mixer is the model's predictor: its state is the Kalman
    state $x_{t|t-1}$, its fading token $[0,\; \hat y_{t|t-1} - \bar y]$. The projection of what attention
    reads is zero at first, so that the layer's output is the prediction; training adds to it. With
    `predictor="kalman"` the innovation test is the model's own: $s_t = e_t^\top R_e^{-1} e_t$ by
    `IdentifiedPredictor`, which keeps a filter of its own while the mixer is trained for another purpose.
    Made by `lift_layer`.

    Parameters
    ----------
    config : BMojoConfig
    model : InnovationsModel
    parametrization : {"schur", "modal", "diagonal"}
    max_condition : float

    Examples
    --------
    >>> import realization as rz
    >>> from bmojo import lift_layer
    >>> model = rz.InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[0.5]], Re=[[4.0]], y_mean=[1.0])
    >>> layer = lift_layer(model, window=4, eidetic=2)
    >>> tokens = layer.tokens(rz.IOData([3.0, 1.0, 1.0], [0.0, 0.0, 0.0]))
    >>> tokens[0].tolist(), layer.trace(tokens).scores.tolist()
    ([[0.0, 2.0], [0.0, 0.0], [0.0, 0.0]], [[1.0, 0.25, 0.0]])
    """

    basis: Tensor
    inverse: Tensor
    token_mean: Tensor
    output_mean: Tensor

    def __init__(
        self,
        config: BMojoConfig,
        model: InnovationsModel,
        *,
        parametrization: Parametrization = "schur",
        max_condition: float = MAX_CONDITION,
    ) -> None:
        super().__init__(config)
        self.inputs = m = model.n_inputs
        system, token_mean, output_mean = in_role(model, "predictor")
        C, D = (np.vstack([np.zeros((m, M.shape[1])), M]) for M in (system.C, system.D))
        self.mixer, found = core_of(StateSpace(system.A, system.B, C, D), parametrization, max_condition)
        self.config = replace(config, mixer_options=self.mixer.layout())
        held = {"basis": found.basis, "inverse": found.inverse, "token_mean": token_mean}
        for name, value in (held | {"output_mean": output_mean}).items():
            self.register_buffer(name, torch.tensor(np.array(value), dtype=torch.float64))
        if config.window:
            nn.init.zeros_(self.out_proj.weight)
        if self.filters:
            cholesky_of(model.Re, "lift_layer")  # refuses a singular covariance by name
            core = copy.deepcopy(self.mixer)
            core.C, core.D = (nn.Parameter(M.detach()[m:].clone()) for M in (core.C, core.D))
            self.predictor = IdentifiedPredictor(core, torch.tensor(np.array(model.Re)))
            if config.false_alarm is not None:
                self.threshold = chi_squared_quantile(config.false_alarm, model.n_outputs)

    @property
    def filters(self) -> bool:
        """Whether the innovations are those of the identified Kalman filter."""
        return self.config.eidetic > 0 and self.config.predictor == "kalman"

    def tokens(self, data: IOData | ArrayLike) -> Tensor:
        """Tokens (1, T, m + p) of a record: its inputs and outputs, from the model's operating point.

        Parameters
        ----------
        data : IOData
            One experiment, without gaps.
        """
        record = as_data(data)
        columns = record.y if record.u is None else np.hstack([record.u, record.y])
        came = columns.shape[1] - record.y.shape[1], record.y.shape[1]
        if came != (self.inputs, len(self.output_mean)):
            raise ShapeError(
                f"tokens: a record of {came[0]} inputs and {came[1]} outputs came; the model has "
                f"{self.inputs} inputs and {len(self.output_mean)} outputs."
            )
        return (torch.tensor(np.array(columns)).to(self.token_mean) - self.token_mean).unsqueeze(0)

    def outputs(self, o: Tensor) -> Tensor:
        """What the layer's output (..., m + p) says of the record's outputs, in their units, (..., p)."""
        return o[..., self.inputs :] + self.output_mean

    def init_state(
        self, batch: int, *, eidetic: int | None = None, x0: ArrayLike | Tensor | None = None
    ) -> BMojoState:
        """The state before the first token.

        Parameters
        ----------
        batch : int
        eidetic : int, optional
            As in `BMojo.init_state`.
        x0 : array_like or Tensor, shape (n,), optional
            The model's state at the first sample; zero when left out.
        """
        state = super().init_state(batch, eidetic=eidetic)
        if x0 is None:
            return state
        start = (start_of(self.inverse, x0).expand(batch, -1).clone(),)
        return replace(state, mixer=start, predictor=start if self.filters else state.predictor)


def lift_layer(
    model: InnovationsModel,
    *,
    parametrization: Parametrization = "schur",
    max_condition: float = MAX_CONDITION,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> LiftedLayer:
    r"""Make a B'MOJO layer that begins as an identified model.

    Its output is the model's one-step prediction, its state the Kalman state, its scores the normalized
    innovations squared $e_t^\top R_e^{-1} e_t$ of `realization.innovations`; window, eidetic set and storage
    are there to be trained.

    Parameters
    ----------
    model : InnovationsModel
        Discrete-time, with a stable predictor; with inputs or without.
    parametrization : {"schur", "modal", "diagonal"}
        Of the mixer and of the filter, as for `lift`.
    max_condition : float
        As for `lift`.
    dtype : torch.dtype
    **options
        Of `BMojoConfig`; width, mixer and state size are the model's. One head of 16 and
        `predictor="kalman"`, the identified filter, where nothing else is said.

    Returns
    -------
    layer : LiftedLayer
        Tokens (B, T, m + p) to outputs of the same shape; `.tokens(data)` makes them from a record.

    Raises
    ------
    RealizationError
        If the model has no innovations, or is in continuous time.
    UnstableError
        If its predictor is unstable.
    RankError
        If `Re` is singular, or `"diagonal"` is asked of a defective predictor.
    ValueError
        If options do not fit together.

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024.
    T. Kailath, A. Sayed, B. Hassibi, *Linear Estimation*, Prentice-Hall 2000, chapter 9 (innovations form).

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from bmojo import lift_layer
    >>> model = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.4]], Re=[[2.0]])
    >>> y = np.random.default_rng(0).standard_normal(50)
    >>> layer = lift_layer(model, window=8, eidetic=4)
    >>> scores = layer.trace(layer.tokens(y)).scores[0]
    >>> bool(np.allclose(scores, rz.innovations(model, y, x0=[0.0]).normalized_squared))
    True
    """
    if not isinstance(model, InnovationsModel):
        raise RealizationError(
            f"lift_layer: a {type(model).__name__} came, which does not say what its innovations are; an "
            "InnovationsModel is needed (identify one, or make one by realization.innovations_form). A "
            "model without noise is lifted by bmojo.lift."
        )
    for name in ("d_model", "mixer", "state_size"):
        if name in options:
            raise ValueError(f"lift_layer: {name}={options[name]!r} came; it is the model's.")
    given: dict[str, Any] = {"heads": 1, "d_model": model.n_inputs + model.n_outputs}
    if options.get("window", 1):
        given["head_dim"] = 16
    if options.get("eidetic", 1):
        given["predictor"] = "kalman"
    given |= {"mixer": MIXER.get(parametrization, "lti"), "state_size": max(1, model.n_states)}
    config = BMojoConfig(**(given | options))
    layer = LiftedLayer(config, model, parametrization=parametrization, max_condition=max_condition)
    return layer.to(dtype)
