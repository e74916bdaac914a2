"""Lift: an identified realization becomes a layer, with the same output and trainable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bmojo.bridge.lift.parametrizations import MAX_CONDITION, Parametrization, core_of
from bmojo.fading.lti import LTI
from bmojo.fading.protocol import MixerState
from realization.errors import RealizationError, ShapeError, UnstableError
from realization.systems import InnovationsModel, StateSpace

__all__ = ["LiftedModel", "lift"]

Role = Literal["simulator", "predictor", "generator"]


class LiftedModel(nn.Module):
    r"""A linear model as a layer, with its operating point.

    $$x_{t+1} = A x_t + B (u_t - \bar u), \qquad y_t = \bar y + C x_t + D (u_t - \bar u)$$

    `A` is stable for every value of the parameters (see `bmojo.fading.LTI`, `ModalLTI`, `DiagonalLTI`). Made
    by `lift`.

    Parameters
    ----------
    core : LTI
    basis, inverse : Tensor, shape (n, n)
        The model's state is `basis` times the layer's.
    input_mean : Tensor, shape (m,)
    output_mean : Tensor, shape (p,)
    delayed : int
        Input columns, the last ones, that never act on the output at once: those of `y` in a predictor, which
        would otherwise learn to pass on what it has to predict.

    Examples
    --------
    >>> import torch, realization as rz
    >>> from bmojo import lift
    >>> layer = lift(rz.StateSpace([[0.5]], [[1.0]], [[2.0]]))
    >>> layer(torch.ones(1, 3, 1, dtype=torch.float64)).flatten().tolist()
    [0.0, 2.0, 3.0]
    """

    basis: Tensor
    inverse: Tensor
    input_mean: Tensor
    output_mean: Tensor

    def __init__(
        self,
        core: LTI,
        basis: Tensor,
        inverse: Tensor,
        input_mean: Tensor,
        output_mean: Tensor,
        *,
        delayed: int = 0,
    ) -> None:
        super().__init__()
        self.core, self.delayed = core, delayed
        self.register_buffer("basis", basis)
        self.register_buffer("inverse", inverse)
        self.register_buffer("input_mean", input_mean)
        self.register_buffer("output_mean", output_mean)

    def init_state(self, batch: int, x0: ArrayLike | Tensor | None = None) -> MixerState:
        """The state for `batch` sequences: zero, or the model's state `x0` of shape (n,)."""
        if x0 is None:
            return self.core.init_state(batch)
        return (start_of(self.inverse, x0).expand(batch, -1),)

    def forward(self, u: Tensor, state: MixerState | None = None) -> Tensor | tuple[Tensor, MixerState]:
        """Outputs (B, T, p) for inputs (B, T, m); with the new state where one came in."""
        start = self.init_state(len(u)) if state is None else state
        inputs = u - self.input_mean
        y, new_state = self.core(inputs, start)
        if self.delayed:
            y = y - inputs[..., -self.delayed :] @ self.core.D[:, -self.delayed :].to(y.dtype).mT
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


def start_of(inverse: Tensor, x0: ArrayLike | Tensor) -> Tensor:
    """The layer's state (n,) for the model's.

    Parameters
    ----------
    inverse : Tensor, shape (n, n)
    x0 : array_like or Tensor, shape (n,)
    """
    start = torch.as_tensor(x0 if isinstance(x0, Tensor) else np.array(x0)).to(inverse)
    if start.shape != (len(inverse),):
        raise ShapeError(f"init_state: x0 has shape {tuple(start.shape)}; it must be ({len(inverse)},).")
    return inverse @ start


def lift(
    model: StateSpace,
    *,
    role: Role = "simulator",
    parametrization: Parametrization = "schur",
    max_condition: float = MAX_CONDITION,
    dtype: torch.dtype = torch.float64,
) -> LiftedModel:
    r"""Make a trainable layer of an identified model, with the same output.

    Every parametrization is stable for every value of its parameters. They differ in the change of state:

    - `"schur"`: orthogonal, so nothing is lost to conditioning; defective and nilpotent models are lifted
      like any other. A pass costs $n^2 \log_2 T$ a token.
    - `"modal"`: a block for each pole or pair; poles that no well-conditioned change of state can part share
      one. A pass costs the blocks' squares.
    - `"diagonal"`: real poles and complex pairs, refused where the model is defective or nearly so. A pass
      costs `n` a token, whatever its length.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        Discrete-time and stable.
    role : {"simulator", "predictor", "generator"}
        `"simulator"`: from `u` to `y`. For an innovations model also `"predictor"`: from `[u, y]` to
        $\hat y_{t|t-1}$, and `"generator"`: from `[u, e]` to `y`.
    parametrization : {"schur", "modal", "diagonal"}
    max_condition : float
        Of the change of state for the last two, at least 1; as many digits are lost as it has.
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
    RankError
        If its eigenvectors are worse conditioned than `max_condition` and `"diagonal"` was asked for.
    RealizationError
        If the model is in continuous time, has no input to simulate from, or has no noise model for the role.

    References
    ----------
    G. Golub, C. Van Loan, *Matrix Computations*, 4th ed., Johns Hopkins 2013, sections 7.4 (real Schur form)
    and 7.6 (invariant subspaces, block diagonal form).

    Examples
    --------
    >>> import numpy as np, torch, realization as rz
    >>> from bmojo import lift
    >>> model = rz.StateSpace([[0.9, 0.2], [-0.2, 0.9]], [[1.0], [0.0]], [[1.0, 1.0]])
    >>> u = np.random.default_rng(0).standard_normal((50, 1))
    >>> for parametrization in ("schur", "modal", "diagonal"):
    ...     y = lift(model, parametrization=parametrization)(torch.from_numpy(u)[None])[0]
    ...     print(bool(np.abs(y.detach().numpy() - model.simulate(u)).max() < 1e-12))
    True
    True
    True
    """
    system, input_mean, output_mean = in_role(model, role)
    core, found = core_of(system, parametrization, max_condition)
    buffers = (found.basis, found.inverse, input_mean, output_mean)
    held = (torch.tensor(np.array(x), dtype=torch.float64) for x in buffers)
    delayed = model.n_outputs if role == "predictor" else 0
    return LiftedModel(core, *held, delayed=delayed).to(dtype)


def in_role(model: StateSpace, role: Role) -> tuple[StateSpace, np.ndarray, np.ndarray]:
    """The stable system that runs in a role, and the means of its input and output."""
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
    return system, input_mean, output_mean


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
