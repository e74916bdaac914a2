r"""Small systems with letters in them: exact, for derivations and as an oracle of the numbers.

The names are those of the numeric library, and mean the same: `rz.symbolic.controllability_gramian` of a
`SymbolicSystem` is the formula that `rz.controllability_gramian` computes. SymPy is loaded when
`rz.symbolic` is first used, not by `import realization`. Meant for a handful of states.
"""

from realization.symbolic.analysis import (
    characteristic_polynomial,
    controllability_gramian,
    hankel_matrix,
    is_stable,
    markov_parameters,
    minimal_order,
    nilpotency_index,
    observability_gramian,
    transfer_function,
)
from realization.symbolic.forms import block_companion, companion, from_transfer_function, shift_form
from realization.symbolic.stochastic import SymbolicInnovations, arma11_innovations, innovations_form
from realization.symbolic.system import SymbolicSystem

__all__ = [
    "SymbolicInnovations",
    "SymbolicSystem",
    "arma11_innovations",
    "block_companion",
    "characteristic_polynomial",
    "companion",
    "controllability_gramian",
    "from_transfer_function",
    "hankel_matrix",
    "innovations_form",
    "is_stable",
    "markov_parameters",
    "minimal_order",
    "nilpotency_index",
    "observability_gramian",
    "shift_form",
    "transfer_function",
]
