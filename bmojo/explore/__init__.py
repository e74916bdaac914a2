"""The explorer: one page on which a signal's memories can be moved by hand. `bmojo explore` writes it."""

from bmojo.explore.attention import attention_shares
from bmojo.explore.page import explorer_page
from bmojo.explore.study import RULES, FadingState, Remembered, SignalMemory, study_memory

__all__ = [
    "RULES",
    "FadingState",
    "Remembered",
    "SignalMemory",
    "attention_shares",
    "explorer_page",
    "study_memory",
]
