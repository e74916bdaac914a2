"""Lift: an identified realization becomes a layer, with the same output and trainable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bmojo.fading.lti import LTI
from bmojo.fading.protocol import MixerState
from realization.errors import RealizationError, ShapeError, UnstableError
from realization.systems import InnovationsModel, StateSpace

__all__ = ["LiftedModel", "lift"]

Role = Literal["simulator", "predictor", "generator"]


class LiftedModel(nn.Module):
    r"""A linear model as a layer, with its operating point.

    $$x_{t+1} = A x_t + B (u_t - \bar u), \qquad y_t = \bar y + C x_t + D (u_t - \bar u)$$

    `A` is held in real Schur form, stable for every value of the parameters (see `bmojo.fading.LTI`). Made by
    `lift`.

    Parameters
    ----------
    core : LTI
    basis : Tensor, shape (n, n)
        Orthogonal; the model's state is `basis` times the layer's.
    input_mean : Tensor, shape (m,)
    output_mean : Tensor, shape (p,)

    Examples
    --------
    >>> import torch, realization as rz
    >>> from bmojo import lift
    >>> layer = lift(rz.StateSpace([[0.5]], [[1.0]], [[2.0]]))
    >>> layer(torch.ones(1, 3, 1, dtype=torch.float64)).flatten().tolist()
    [0.0, 2.0, 3.0]
    """

    basis: Tensor
    input_mean: Tensor
    output_mean: Tensor

    def __init__(self, core: LTI, basis: Tensor, input_mean: Tensor, output_mean: Tensor) -> None:
        super().__init__()
        self.core = core
        self.register_buffer("basis", basis)
        self.register_buffer("input_mean", input_mean)
        self.register_buffer("output_mean", output_mean)

    def init_state(self, batch: int, x0: ArrayLike | Tensor | None = None) -> MixerState:
        """The state for `batch` sequences: zero, or the model's state `x0` of shape (n,)."""
        if x0 is None:
            return self.core.init_state(batch)
        start = torch.as_tensor(np.array(x0) if not isinstance(x0, Tensor) else x0).to(self.basis)
        if start.shape != (len(self.basis),):
            raise ShapeError(
                f"init_state: x0 has shape {tuple(start.shape)}; it must be ({len(self.basis)},)."
            )
        return ((self.basis.mT @ start).expand(batch, -1),)

    def forward(self, u: Tensor, state: MixerState | None = None) -> Tensor | tuple[Tensor, MixerState]:
        """Outputs (B, T, p) for inputs (B, T, m); with the new state where one came in."""
        start = self.init_state(len(u)) if state is None else state
        y, new_state = self.core(u - self.input_mean, start)
        y = y + self.output_mean
        return y if state is None else (y, new_state)

    if TYPE_CHECKING:

        @overload
        def __call__(self, u: Tensor, state: None = None) -> Tensor: ...
        @overload
        def __call__(self, u: Tensor, state: MixerState) -> tuple[Tensor, MixerState]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run `forward`."""

    def step(self, u_t: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One sample (B, m): the output (B, p) and the state after it."""
        y, state = self(u_t.unsqueeze(1), state)
        return y.squeeze(1), state


def lift(model: StateSpace, *, role: Role = "simulator", dtype: torch.dtype = torch.float64) -> LiftedModel:
    r"""Make a trainable layer of an identified model, with the same output.

    The change of state is orthogonal (the real Schur form), so nothing is lost to conditioning: defective and
    nilpotent models are lifted like any other.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        Discrete-time and stable.
    role : {"simulator", "predictor", "generator"}
        `"simulator"`: from `u` to `y`. For an innovations model also `"predictor"`: from `[u, y]` to
        $\hat y_{t|t-1}$, and `"generator"`: from `[u, e]` to `y`.
    dtype : torch.dtype
        float64 keeps the model's output to rounding.

    Returns
    -------
    layer : LiftedModel
        Input (B, T, columns), output (B, T, p).

    Raises
    ------
    UnstableError
        If the matrix that runs in this role has a pole on or outside the unit circle.
    RealizationError
        If the model is in continuous time, has no input to simulate from, or has no noise model for the role.

    References
    ----------
    G. Golub, C. Van Loan, *Matrix Computations*, 4th ed., Johns Hopkins 2013, section 7.4 (real Schur form).

    Examples
    --------
    >>> import numpy as np, torch, realization as rz
    >>> from bmojo import lift
    >>> model = rz.StateSpace([[0.9, 0.2], [-0.2, 0.9]], [[1.0], [0.0]], [[1.0, 1.0]])
    >>> u = np.random.default_rng(0).standard_normal((50, 1))
    >>> y = lift(model)(torch.from_numpy(u)[None])[0]
    >>> bool(np.abs(y.detach().numpy() - model.simulate(u)).max() < 1e-12)
    True
    """
    system, input_mean, output_mean = _in_role(model, role)
    if system.dt == 0:
        raise RealizationError("lift: the model is in continuous time; discretize it first.")
    if not system.is_stable:
        remedy = (
            "Reduce or refit it." if role == "predictor" else "Its predictor may be stable: role='predictor'."
        )
        raise UnstableError(
            f"lift: the {role} has a pole of modulus {abs(system.poles[0]):.6g}; a layer is stable by "
            f"construction. {remedy}"
        )
    if system.n_states:
        triangular, basis = scipy.linalg.schur(system.A, output="real")[:2]
    else:
        triangular, basis = system.A, np.eye(0)
    matrices = (triangular, basis.T @ system.B, system.C @ basis, system.D)
    core = LTI.from_schur(*(torch.tensor(np.array(matrix), dtype=torch.float64) for matrix in matrices))
    means = (torch.tensor(np.array(mean), dtype=torch.float64) for mean in (input_mean, output_mean))
    return LiftedModel(core, torch.tensor(basis, dtype=torch.float64), *means).to(dtype)


def _in_role(model: StateSpace, role: Role) -> tuple[StateSpace, np.ndarray, np.ndarray]:
    if role not in ("simulator", "predictor", "generator"):
        raise RealizationError(f"lift: role={role!r} came; 'simulator', 'predictor' or 'generator'.")
    if role == "simulator" and model.n_inputs == 0:
        raise RealizationError(
            "lift: the model has no inputs to simulate from; try role='predictor' or 'generator'."
        )
    if not isinstance(model, InnovationsModel):
        if role != "simulator":
            raise RealizationError(
                f"lift: role={role!r} needs an InnovationsModel, a {type(model).__name__} came."
            )
        return model, np.zeros(model.n_inputs), np.zeros(model.n_outputs)
    if role == "simulator":
        return model.deterministic, model.u_mean, model.y_mean
    if role == "predictor":
        return model.predictor, np.concatenate([model.u_mean, model.y_mean]), model.y_mean
    p = model.n_outputs
    driven = StateSpace(
        model.A, np.hstack([model.B, model.K]), model.C, np.hstack([model.D, np.eye(p)]), model.dt
    )
    return driven, np.concatenate([model.u_mean, np.zeros(p)]), model.y_mean
