"""What a B'MOJO layer carries, as transformers' generation moves it around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from bmojo.state import BMojoState

__all__ = ["CACHE", "BMojoCache", "StateLayer"]

# Under which name outputs and arguments carry a cache: it was renamed between releases of transformers.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class StateLayer(CacheLayerMixin):
    """The state of one layer in a cache: constant in size, reordered with beams, never cut back.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig
    >>> from bmojo.hf import StateLayer
    >>> layer, kept = BMojo(BMojoConfig(d_model=16, heads=2, window=4)), StateLayer()
    >>> y = kept.run(layer, torch.randn(2, 10, 16))
    >>> kept.get_seq_length(), y.shape
    (10, torch.Size([2, 10, 16]))
    """

    is_sliding = False
    is_compileable = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.state: BMojoState | None = None
        self.seen = 0  # columns of the input, padding included

    def run(self, layer: Any, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Outputs of `layer` for tokens `u` (B, T, D) after those before them; `mask` (B, T) is of bool."""
        before = layer.init_state(len(u)) if self.state is None else self.state
        options = {} if mask is None else {"mask": mask}
        output, self.state = layer(u, before, **options)
        self.keep(cast(BMojoState, self.state), u.shape[1])
        return output

    def keep(self, state: BMojoState, columns: int) -> None:
        """Take the state after that many further columns."""
        self.state, self.seen, self.is_initialized = state, self.seen + columns, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the layer makes its own state."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Refuse: keys and values are not appended one by one."""
        raise NotImplementedError(
            "StateLayer holds the state of a B'MOJO layer; it takes no keys and values."
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a mask over all tokens would have, and where it begins."""
        return self.seen + int(query_length), 0

    def get_seq_length(self) -> int:
        """Columns seen so far, padding included."""
        return self.seen

    def get_max_length(self) -> int:
        """-1: there is no longest sequence."""
        return -1

    def get_max_cache_shape(self) -> int:
        """The same, by its older name."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: what has been absorbed cannot be taken back."""
        if tokens_to_remove:
            raise NotImplementedError(
                "a B'MOJO state cannot be cut back to an earlier token; keep the state of that time instead."
            )

    def reset(self) -> None:
        """As before the first token."""
        self.state, self.seen, self.is_initialized = None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The sequences (int64, (B',)) that go on."""
        self._apply(lambda state: state.select(beam_idx.to(state.eidetic_index.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """The same."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each sequence that often."""
        if self.state is not None:
            self.reorder_cache(torch.arange(self.state.batch).repeat_interleave(repeats))

    def offload(self) -> None:
        """Nothing: a state is constant in size, and stays where its layer is."""

    def prefetch(self) -> None:
        """Nothing: it never left."""

    def _apply(self, function: Callable[[BMojoState], BMojoState]) -> None:
        if self.state is not None:
            self.state = function(self.state)


class BMojoCache(Cache):
    """States of all layers of a model; its size does not depend on how many tokens were seen.

    Parameters
    ----------
    layers : int
        Number of blocks.

    Examples
    --------
    >>> import torch
    >>> from bmojo.hf import BMojoCache, BMojoForCausalLM, BMojoModelConfig
    >>> model = BMojoForCausalLM(BMojoModelConfig(vocab_size=50, layers={"d_model": 32})).eval()
    >>> cache = BMojoCache(2)
    >>> _ = model(torch.randint(50, (1, 200)), cache=cache)
    >>> early = cache.nbytes
    >>> _ = model(torch.randint(50, (1, 200)), cache=cache)
    >>> cache.get_seq_length(), cache.nbytes == early
    (400, True)
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[StateLayer() for _ in range(layers)])

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        states = [layer.state for layer in self.layers if isinstance(layer, StateLayer)]
        return sum(state.nbytes for state in states if state is not None)
