"""The explorer: a page on which the memories of a signal or a trained model can be moved by hand.

`bmojo explore` writes it.
"""

from bmojo.explore.altered import altered_model
from bmojo.explore.attention import attention_shares
from bmojo.explore.page import explorer_page
from bmojo.explore.study import RULES, FadingState, Remembered, SignalMemory, study_memory
from bmojo.explore.tokens import Setting, StateMemory, TokenMemory, TokenRun, study_tokens

__all__ = [
    "RULES",
    "FadingState",
    "Remembered",
    "Setting",
    "SignalMemory",
    "StateMemory",
    "TokenMemory",
    "TokenRun",
    "altered_model",
    "attention_shares",
    "explorer_page",
    "study_memory",
    "study_tokens",
]
