"""Models from measured records: subspace methods, autoregressions, and one call that tries them all."""

from realization.identification.arx import ArxResult, arx
from realization.identification.identify import identify
from realization.identification.result import Candidate, Identification
from realization.identification.subspace import SubspaceResult, cva, moesp, n4sid
from realization.identification.validation import fit_percent

__all__ = [
    "ArxResult",
    "Candidate",
    "Identification",
    "SubspaceResult",
    "arx",
    "cva",
    "fit_percent",
    "identify",
    "moesp",
    "n4sid",
]
