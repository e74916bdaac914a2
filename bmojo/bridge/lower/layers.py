"""Lower: a layer becomes the linear realization that it is along an input."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, overload

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bmojo.bridge.lift.model import LiftedModel
from bmojo.bridge.lower.mixers import LOWERINGS, matrices_of
from bmojo.bridge.lower.time_varying import TimeVaryingRealization
from bmojo.fading.lti import LTI
from bmojo.fading.protocol import MixerState
from bmojo.layer import BMojo
from bmojo.models.language_model import BMojoLM
from bmojo.state import BMojoState
from realization.errors import RealizationError, ShapeError
from realization.systems import StateSpace

__all__ = ["lower"]


@overload
def lower(layer: nn.Module, u: None = None, *, dt: float | None = None) -> StateSpace: ...
@overload
def lower(  # pyright: ignore[reportOverlappingOverload]
    layer: BMojoLM, u: Tensor | ArrayLike, *, state: Any = None, dt: float | None = None
) -> list[TimeVaryingRealization | None]: ...
@overload
def lower(
    layer: nn.Module,
    u: Tensor | ArrayLike,
    *,
    state: BMojoState | MixerState | None = None,
    dt: float | None = None,
) -> TimeVaryingRealization: ...
@torch.no_grad()
def lower(layer: nn.Module, u: Any = None, *, state: Any = None, dt: float | None = None) -> Any:
    r"""The realization that a layer's mixer is along an input; of a time-invariant one also the model.

    With all that depends on the tokens frozen as it was along `u`, each mixer is linear in the values that it
    takes up. With $x_t$ for the state before token $t$ (heads apart, one column for each value channel),
    $x_{t+1} = A_t x_t + B_t u_t$ and a read-out $c_t$:

    - `lti`: $A$, $B$, and $y_t = C x_t + D u_t$, read before the write;
    - `mamba`: $A_t = \operatorname{diag} e^{-\Delta_t e^{A}}$ and $B_t = \Delta_t b_t$ of every channel,
      $c_t$ common;
    - `mamba2`: $A_t = e^{-\Delta_t e^{A}} I$, $B_t = \Delta_t b_t$, $c_t$;
    - `gated_deltanet`: $A_t = \gamma_t (I - \beta_t k_t k_t^\top)$, $B_t = \beta_t k_t$,
      $c_t = q_t / \sqrt K$;
    - `gated_kalmanet`: $A_t = \gamma_t I$, $B_t = \beta_t^2 k_t$, $c_t = q_t + \alpha_t (\xi_t - q_t)$.

    A state that is read after the write, $y_t = c_t^\top x_{t+1} + d\, u_t$, has $C_t = c_t^\top A_t$ and
    $D_t = c_t^\top B_t + d$. For `gated_kalmanet` $\xi_t$ is the solution of
    $(H_t + \lambda_t I)\,\xi_t = q_t$ as the layer's own iteration finds it: the Gramian $H_t$ depends on
    keys alone, so that it is part of the frozen read-out.

    What enters, `inputs`, are the values after projection, short convolution and SiLU (of `lti` the tokens);
    gate, norm and output projection are the `output_map`. Nothing is approximated:
    `output_map(simulate())` is the mixer's output, to rounding in float64.

    Parameters
    ----------
    layer : BMojo, BMojoLM, LiftedModel, or a mixer of `bmojo.fading`
        Of a model each layer is lowered along what reaches it. The layer is not changed; all is computed in
        float64 on the CPU.
    u : array_like or Tensor, shape (T, D) or (1, T, D), optional
        Tokens; numbers (T,) or (1, T) of int64 for a `BMojoLM`. Left out for a time-invariant layer, whose
        model needs no input.
    state : BMojoState or tuple of Tensor, optional
        Of a batch of one, before the first token; of a `BMojoLM` its own.
    dt : float, optional
        Seconds between two tokens; steps where left out.

    Returns
    -------
    realization : TimeVaryingRealization, or StateSpace where `u` is left out
        Of a `BMojoLM` a list, `None` for layers without a mixer. The model of what was lifted has the state
        that the first one had; the operating point stays with the layer (`input_mean`, `output_mean`).

    Raises
    ------
    RealizationError
        If the layer has no mixer, its mixer is not known (`register_lowering`), or it depends on the input
        and none came.
    ShapeError
        If several sequences came.

    References
    ----------
    P. Dewilde, A.-J. van der Veen, *Time-Varying Systems and Computations*, Kluwer 1998, chapter 3.

    T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024, section 3 (recurrences as structured matrices).

    Examples
    --------
    >>> import torch, realization as rz
    >>> from bmojo import BMojo, BMojoConfig, lift, lower
    >>> layer = BMojo(BMojoConfig(d_model=8, heads=2, window=4, mixer="gated_deltanet", state_size=3))
    >>> lower(layer, torch.randn(20, 8))
    TimeVaryingRealization(gated_deltanet, 20 steps, 2 groups of 4 copies of 3 states, dense)

    What was lifted comes back:

    >>> model = rz.StateSpace([[0.5, 1.0], [0.0, -0.2]], [[0.0], [1.0]], [[1.0, 0.0]])
    >>> lower(lift(model)).A.round(12)
    array([[ 0.5,  1. ],
           [ 0. , -0.2]])
    """
    if u is None:
        return _model_of(layer, dt)
    if isinstance(layer, BMojoLM):
        return _layers_of(layer, u, state, dt)
    mixer: Any = layer.mixer if isinstance(layer, BMojo) else layer
    if mixer is None:
        raise RealizationError("lower: the layer has mixer='none', and so no state; lower another one.")
    lowering = next((found for kind, found in LOWERINGS.items() if isinstance(mixer, kind)), None)
    if lowering is None:
        raise RealizationError(
            f"lower: a {type(mixer).__name__} came, whose matrices are not known; tell them by "
            "bmojo.bridge.register_lowering."
        )
    tokens = torch.as_tensor(u, device="cpu").double()
    tokens = tokens[0] if tokens.ndim == 3 and len(tokens) == 1 else tokens
    if tokens.ndim != 2 or not len(tokens):
        raise ShapeError(
            f"lower: u of shape {tuple(tokens.shape)} came; one sequence (T >= 1, D) is needed. Lower "
            "several one after the other."
        )
    mixer = copy.deepcopy(mixer).double().cpu()
    if state is None:
        before: MixerState = mixer.init_state(1)
    else:
        before = state.mixer if isinstance(state, BMojoState) else state
    before = tuple(part.detach().double().cpu() for part in before)
    if any(len(part) != 1 for part in before):
        raise ShapeError(f"lower: a state of {len(before[0])} sequences came with one sequence.")
    return replace(lowering(mixer, tokens, before), dt=dt)


def _model_of(layer: nn.Module, dt: float | None) -> StateSpace:
    core: Any = layer.mixer if isinstance(layer, BMojo) else layer
    inner = core.core if isinstance(core, LiftedModel) else core
    if not isinstance(inner, LTI):
        raise RealizationError(
            f"lower: a {type(inner).__name__} came without u. Only a time-invariant layer has one model; "
            "give tokens along which to lower it."
        )
    A, B, C, D = matrices_of(copy.deepcopy(inner).double())
    lifted: Any = layer if isinstance(getattr(layer, "basis", None), Tensor) else core
    if isinstance(getattr(lifted, "basis", None), Tensor):
        basis, inverse = (x.detach().double().cpu().numpy() for x in (lifted.basis, lifted.inverse))
        A, B, C = basis @ A @ inverse, basis @ B, C @ inverse
    return StateSpace(A, B, C, D, dt)


def _layers_of(
    model: BMojoLM, tokens: Any, state: Any, dt: float | None
) -> list[TimeVaryingRealization | None]:
    numbers = torch.as_tensor(tokens, device=model.embedding.weight.device)
    numbers = numbers if numbers.ndim == 2 else numbers.unsqueeze(0)
    if len(numbers) != 1:
        raise ShapeError(f"lower: {len(numbers)} sequences came; lower one after the other.")
    whole, model = model, copy.deepcopy(model).double().cpu().eval()
    x, found = model.embedding(numbers.cpu()), []
    for i, block in enumerate(model._blocks()):
        block.layer.storage = whole._blocks()[i].layer.storage  # a copy has none
        u = block.norm(x)
        before = None if state is None else state[i]
        found.append(None if block.layer.mixer is None else lower(block.layer, u, state=before, dt=dt))
        x = block(x, before)[0]
    return found
