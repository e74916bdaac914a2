"""Which innovations are kept: a streaming choice of at most `budget` samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from bmojo_kernels import innovation_topk
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, ShapeError
from realization.filtering.innovations import Innovations, innovations
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["Rule", "Selection", "select_innovations"]

Array = NDArray[np.float64]
Rule = Literal["top", "threshold", "fifo", "random", "norm", "oracle"]


@dataclass(frozen=True, eq=False)
class Selection:
    """Samples of a record that were kept.

    Attributes
    ----------
    index : ndarray of int, shape (m,)
        Positions of the kept samples, ascending; `m` is at most the budget.
    times : ndarray, shape (m,)
        The same in seconds (in steps where the record names no step).
    scores : ndarray, shape (T,)
        What each sample was judged by.
    e : ndarray, shape (T, p)
        Innovations of the whole record.
    kept : ndarray of bool, shape (T,)
    x0 : ndarray, shape (n,)
        State at the first sample.
    rule : str
    budget, window, chunk : int
        As they were asked for.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import select_innovations
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> chosen = select_innovations(model, [0.1, 4.0, 2.0, 1.0], budget=1, x0=[0.0])
    >>> chosen.index, chosen.kept, chosen.history[:, 0]
    (array([1]), array([False,  True, False, False]), array([-1,  0,  1,  1]))
    """

    index: NDArray[np.int64]
    times: Array
    scores: Array
    e: Array
    kept: NDArray[np.bool_]
    x0: Array
    rule: Rule
    budget: int
    window: int
    chunk: int
    _eligible: _Scores

    @property
    def history(self) -> NDArray[np.int64]:
        """Set eligible at the start of each chunk, shape (chunks, budget), `-1` for an empty place."""
        return self._eligible.sets(self.budget, self.window, self.chunk)


@dataclass(frozen=True, eq=False)
class _Scores:
    """Scores with the rule that judges them: enough to run the kernel again at any chunking."""

    values: Array
    rule: Rule
    threshold: float | None
    seed: int

    def sets(self, budget: int, window: int, chunk: int) -> NDArray[np.int64]:
        index = innovation_topk(
            self.values[None],
            budget=budget,
            window=window,
            chunk=chunk,
            rule=self.rule,
            threshold=self.threshold,
            seed=self.seed,
        )
        return np.asarray(index)[0].astype(np.int64)

    def final(self, budget: int) -> NDArray[np.int64]:
        """The set once every sample has been seen: one chunk as long as the record, then one more sample."""
        length = len(self.values)
        padded = _Scores(np.append(self.values, -np.inf), self.rule, self.threshold, self.seed)
        last = padded.sets(budget, length, length)[1]
        return last[last >= 0]


def select_innovations(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    *,
    budget: int = 64,
    rule: Rule = "top",
    alpha: float = 0.01,
    x0: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    seed: int = 0,
    window: int = 1,
    chunk: int = 1,
) -> Selection:
    r"""Keep the samples that the model could not predict.

    $$s_t = e_t^\top R_e^{-1} e_t = -2 \log p(y_t \mid y_{<t}) + \text{const}$$

    The choice is causal and streaming: a sample enters when it is seen, and what leaves never comes back.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
    budget : int
        Most samples that are kept at a time.
    rule : {"top", "threshold", "fifo", "random", "norm", "oracle"}
        `top` keeps the largest $s_t$ so far (ties to the older); `threshold` keeps $s_t$ above the
        $\chi^2_p$ quantile at false-alarm rate `alpha`, and the oldest leaves when there are too many.
        Controls: `fifo` the latest samples, `random` any, `norm` the largest $\|y_t - \bar y\|^2$, `oracle`
        the largest of the `scores` given.
    alpha : float
        False-alarm rate of `threshold`; the other rules do not use it.
    x0 : array_like, shape (n,), optional
        State at the first sample; estimated from the record when left out.
    scores : array_like, shape (T,), optional
        Scores for `oracle`, which needs them; the other rules refuse them.
    seed : int
        Seed of `random`.
    window, chunk : int
        Chunking of `history`: sets change every `chunk` samples, and a sample is eligible once it has left
        the last `window` samples. `index` is the set after the last sample, whatever the chunking.

    Returns
    -------
    Selection

    Raises
    ------
    DataError
        If an option is out of range, or scores are missing, unasked for or not finite.
    ShapeError
        If the record's columns are not the model's, or `scores` has another length.

    References
    ----------
    L. Zancato et al., B'MOJO: Hybrid state space realizations of foundation models with eidetic and fading
    memory, NeurIPS 2024, section 4.2.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import select_innovations
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> y = np.array([0.1, 0.0, 3.0, 1.5, 0.7, -2.0, -1.0])
    >>> select_innovations(model, y, budget=2, x0=[0.0]).index
    array([2, 5])
    """
    record = model._record(data)
    if rule not in get_args(Rule):
        raise DataError(
            f"select_innovations: rule={rule!r} came; one of {', '.join(get_args(Rule))} is needed."
        )
    check_whole("select_innovations", budget=(budget, 0), window=(window, 1), chunk=(chunk, 1))
    if not 1 <= chunk <= window:
        raise DataError(
            f"select_innovations: chunk={chunk}, window={window} came; 1 <= chunk <= window is needed."
        )
    found = innovations(model, record, x0=x0)
    values = _scores(found, record, model, rule, scores)
    limit = found.threshold(alpha) if rule == "threshold" else None
    eligible = _Scores(values, rule, limit, seed)
    index = eligible.final(budget)
    kept = np.zeros(record.length, dtype=bool)
    kept[index] = True
    return Selection(
        index=index,
        times=record.time[index],
        scores=values,
        e=found.e,
        kept=kept,
        x0=found.x0,
        rule=rule,
        budget=budget,
        window=window,
        chunk=chunk,
        _eligible=eligible,
    )


def _scores(
    found: Innovations, record: IOData, model: InnovationsModel, rule: Rule, scores: ArrayLike | None
) -> Array:
    if rule != "oracle":
        if scores is not None:
            raise DataError(f"select_innovations: rule={rule!r} does not use scores; rule='oracle' does.")
        if rule == "norm":
            return ((record.y - model.y_mean) ** 2).sum(axis=1)
        return found.normalized_squared
    if scores is None:
        raise DataError("select_innovations: rule='oracle' needs scores of shape (T,).")
    values = np.asarray(scores, dtype=float)
    if values.shape != (record.length,):
        raise ShapeError(
            f"select_innovations: scores has shape {values.shape}; ({record.length},) is needed."
        )
    if not np.isfinite(values).all():
        raise DataError("select_innovations: scores has values that are NaN or infinite.")
    return values
