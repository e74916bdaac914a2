"""Byte-level language on source text, and recall inside it: names that come back from beyond a window."""

from __future__ import annotations

import builtins
import functools
import keyword
import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bmojo.tasks.corpus import Corpus, standard_library
from bmojo.tasks.protocol import Batch, describe, require

__all__ = ["SourceText", "recalled_names"]

NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
# What any program says: known by heart, not recalled.
BY_HEART = frozenset(
    name.encode() for name in (*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "cls")
)


@dataclass(frozen=True)
class SourceText:
    """Pieces of Python's standard library, byte by byte; each byte is predicted from those before.

    Sequences begin anywhere in the files, which lie behind one another with a zero byte in front of each.
    `held_out` draws from other files. In its batches the part `recalled` is names that stood before in
    the sequence, but further back than `window` bytes, and `the rest` is the rest.

    Parameters
    ----------
    length : int
        Bytes of a sequence.
    window : int
        Bytes that a window reaches back.
    part : {"train", "held"}

    Notes
    -----
    Keywords, builtins, `self`, `cls` and names shorter than four letters do not count as recalled: they are
    known by heart.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import SourceText
    >>> task = SourceText(length=512, window=64)
    >>> batch = task.held_out.sample(2, torch.Generator().manual_seed(0))
    >>> batch.tokens.shape, batch.parts["recalled"].shape, bool(batch.mask.all())
    (torch.Size([2, 512]), torch.Size([2, 512]), True)
    """

    length: int = 1024
    window: int = 128
    part: str = "train"

    def __post_init__(self) -> None:
        require("SourceText", self.length >= 2 and self.window >= 1, "length must be at least 2, window 1.")
        require("SourceText", self.part in ("train", "held"), f"part={self.part!r} came; 'train' or 'held'.")

    @property
    def vocabulary(self) -> int:
        """Bytes."""
        return 256

    @property
    def corpus(self) -> Corpus:
        """The files."""
        return standard_library()

    @property
    def chance(self) -> float:
        """Accuracy of the commonest byte."""
        counts = np.bincount(np.frombuffer(_text(self.part), dtype=np.uint8), minlength=256)
        return float(counts.max() / counts.sum())

    @property
    def description(self) -> str:
        """The task in one line, with the corpus' version and digest."""
        return describe("source text", length=self.length, window=self.window, part=self.part) + (
            f", {self.corpus.title}, digest {self.corpus.digest}"
        )

    @property
    def held_out(self) -> SourceText:
        """Files that training does not see."""
        return replace(self, part="held")

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` sequences."""
        text = _text(self.part)
        require(
            "SourceText", len(text) > self.length, f"length={self.length} came; {len(text)} bytes are there."
        )
        starts = torch.randint(len(text) - self.length, (batch,), generator=generator).tolist()
        pieces = [text[start : start + self.length + 1] for start in starts]
        whole = torch.from_numpy(np.frombuffer(b"".join(pieces), dtype=np.uint8).reshape(batch, -1).copy())
        everywhere = torch.ones(batch, self.length, dtype=torch.bool)
        parts = {}
        if self.part == "held":
            found = torch.stack([recalled_names(piece, self.window)[1:] for piece in pieces])
            parts = {"recalled": found, "the rest": ~found}
        return Batch(whole[:, :-1].long(), whole[:, 1:].long(), everywhere, parts)


def recalled_names(text: bytes, window: int) -> Tensor:
    """Which bytes belong to a name that stood before, but further back than a window, bool (len(text),).

    The last time before is what counts: from the last byte of a name's last occurrence to the first byte of
    this one there are at least `window` bytes. A name that begins at the first byte, or ends at the last, may
    be part of a longer one and does not count.

    Parameters
    ----------
    text : bytes
    window : int

    Examples
    --------
    >>> from bmojo.tasks.text import recalled_names
    >>> text = b" alpha = beta; gamma = alpha; alpha "
    >>> bytes(b for b, of in zip(text, recalled_names(text, 10)) if of)
    b'alpha'
    """
    found = torch.zeros(len(text), dtype=torch.bool)
    last: dict[bytes, int] = {}
    for match in NAME.finditer(text):
        name, start, end = match.group(), match.start(), match.end()
        if start == 0 or end == len(text) or len(name) < 4 or name in BY_HEART:
            continue
        if start - last.get(name, start) > window:
            found[start:end] = True
        last[name] = end - 1
    return found


@functools.lru_cache(maxsize=2)
def _text(part: str) -> bytes:
    return standard_library().text(part)
