"""From logits to the next token: greedy, or drawn after temperature, top-k and top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Sampler"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    r"""How the next token is chosen.

    $$p_i \propto e^{\ell_i / \tau} \quad \text{for the } k \text{ largest logits, and of these the fewest}$$

    whose probabilities together reach $P$.

    Parameters
    ----------
    temperature : float
        $\tau$; 0 takes the largest logit.
    top_k : int, optional
        $k$; all when left out.
    top_p : float, optional
        $P$ in (0, 1]; the token that crosses it is among them. Equal probabilities at the edge stay together.

    Raises
    ------
    ValueError
        If a number is out of range, or one is set that has no effect at temperature 0.

    Examples
    --------
    >>> import torch
    >>> from bmojo.models import Sampler
    >>> logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    >>> Sampler(temperature=1.0, top_p=0.6).probabilities(logits)
    tensor([[0.6250, 0.3750, 0.0000]])
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} came; it must be at least 0, and finite.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} came; it must be at least 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} came; it must lie in (0, 1].")
        if self.greedy and (self.top_k is not None or self.top_p is not None):
            raise ValueError(
                f"top_k={self.top_k}, top_p={self.top_p} came with temperature=0, which takes the largest "
                "logit; set a temperature, such as 1.0."
            )

    @property
    def greedy(self) -> bool:
        """Whether the largest logit is taken."""
        return self.temperature == 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """Those of the next token, (B, V), for logits (B, V); all on the largest where it is greedy."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.greedy:
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        p = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            falling = p.sort(dim=-1, descending=True).values
            before = falling.cumsum(-1) - falling
            last = (before < self.top_p).sum(-1, keepdim=True) - 1
            p = p.masked_fill(p < falling.gather(-1, last), 0.0)
            p = p / p.sum(-1, keepdim=True)
        return p

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The next token (B,) for logits (B, V)."""
        if self.greedy:
            return logits.argmax(-1)
        return torch.multinomial(self.probabilities(logits), 1, generator=generator).squeeze(-1)
