r"""Where a layer that begins as the identified model looks, among its memories."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bmojo.bridge import lift_layer
from bmojo.explore.study import ALPHA, FadingState, SignalMemory
from realization.filtering.selection import Rule

__all__ = ["attention_shares"]


@torch.no_grad()
def attention_shares(
    study: SignalMemory, state: FadingState, *, rule: Rule = "top", budget: int = 16, window: int = 8
) -> NDArray[np.float64]:
    r"""Attention of each sample to window, fading tokens and eidetic set, shape (T, 3).

    The layer is `lift_layer(model)` with one head that compares outputs as they are: with
    $z = (y - \bar y) / \operatorname{sd}(y)$, and $\hat z_j$ the prediction for the fading token $j$, the
    logits of query $t$ are $z_t^\top z_j$ in the window $(t - w, t]$, $z_t^\top \hat z_j$ for the fading
    tokens in $(t - 2w, t - w]$, and $z_t^\top z_j$ for the set's samples; all share one softmax.

    Parameters
    ----------
    study : SignalMemory
    state : FadingState
        One of the study's.
    rule : {"top", "threshold", "norm", "fifo", "random"}
    budget : int
        Places of the set.
    window : int

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from bmojo.explore import attention_shares, study_memory
    >>> y = np.random.default_rng(0).standard_normal(60).cumsum()
    >>> study = study_memory(rz.IOData(y), order=1)
    >>> shares = attention_shares(study, study.states[-1], budget=4, window=4)
    >>> shares.shape, bool(np.allclose(shares.sum(axis=1), 1))
    ((60, 3), True)
    """
    options: dict[str, Any] = {"rule": rule, "chunk": 1} if budget else {}
    if rule == "threshold" and budget:
        options["false_alarm"] = ALPHA
    width = max(16, 2 * ((study.record.n_outputs + 1) // 2))
    layer = lift_layer(
        state.model, window=window, eidetic=budget, head_dim=width, qk_norm=False, rotary=False,
        short_conv=0, **options,
    )  # fmt: skip
    m, p = state.model.n_inputs, state.model.n_outputs
    weight = torch.zeros(p, m + p, dtype=torch.float64)
    weight[:, m:] = torch.diag(torch.from_numpy(1 / study.record.y.std(axis=0)))
    projection = layer.in_proj.weight
    projection.zero_()
    for first in (0, width):  # queries, keys
        projection[first : first + p] = weight * width**0.25
    if layer.seed is not None:
        layer.seed.zero_()  # the seed of `select_innovations`
    trace = layer.trace(layer.tokens(study.record))
    mass = dict(zip(trace.segments, trace.attention_mass[0, 0].T.numpy()))
    none = np.zeros(study.record.length)
    return np.stack([mass.get(name, none) for name in ("window", "fading", "eidetic")], axis=1)
