"""A language model that answers everything from its last hidden state: for tasks of compression."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bmojo.config import BMojoConfig
from bmojo.models.files import write_model
from bmojo.models.generation import LMState
from bmojo.models.language_model import BMojoLM

__all__ = ["PooledLM"]


class PooledLM(nn.Module):
    r"""The hidden state at the last token, plus a position, through a perceptron, to that position's token.

    $$z_t = \mathrm{mlp}(h_T + p_t), \qquad t = 1 \dots T$$

    with fixed sinusoids $p_t$; what the model knows of the sequence has to fit into $h_T$.

    Parameters
    ----------
    vocabulary : int
    layers : sequence of BMojoConfig
    mlp_ratio : float
        As for `BMojoLM`, which encodes.

    References
    ----------
    M. Poli, A. W. Thomas et al., *Mechanistic Design and Scaling of Hybrid Architectures*, ICML 2024 (the
    compression task's decoder).

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig
    >>> from bmojo.training import PooledLM
    >>> model = PooledLM(16, [BMojoConfig(d_model=32, window=8, eidetic=4, state_size=4)])
    >>> model(torch.randint(16, (2, 10))).shape
    torch.Size([2, 10, 16])
    """

    def __init__(self, vocabulary: int, layers: Sequence[BMojoConfig], *, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.encoder = BMojoLM(vocabulary, layers, mlp_ratio=mlp_ratio)
        width = self.encoder.embedding.embedding_dim
        self.options = self.encoder.options | {"pooled": True}
        self.decoder = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.RMSNorm(width), nn.Linear(width, width), nn.GELU()
        )
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary)

    def init_state(self, batch: int, *, eidetic: int | None = None) -> LMState:
        """The encoder's state before the first token."""
        return self.encoder.init_state(batch, eidetic=eidetic)

    def hidden(self, tokens: Tensor, state: LMState | None = None) -> Any:
        """Decoded states (B, T, D), one for each position; with the encoder's new state where one came in."""
        found: Any = self.encoder.hidden(tokens, state)
        encoded, new = (found, None) if state is None else found
        last = encoded[:, -1:] + sinusoids(tokens.shape[1], encoded.shape[-1]).to(encoded)
        decoded = self.norm(self.decoder(last))
        return decoded if state is None else (decoded, new)

    def readout(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of decoded states (..., D)."""
        return self.head(hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) for tokens (B, T)."""
        return self.readout(self.hidden(tokens))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write configuration and weights into a folder."""
        write_model(folder, self.options, self.state_dict())


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions, shape (T, D).

    Parameters
    ----------
    length, width : int
    """
    half = (width + 1) // 2
    angle = torch.arange(length).unsqueeze(1) * torch.exp(-math.log(1e4) * torch.arange(half) / half)
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]
