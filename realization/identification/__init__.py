"""Models from measured records."""

from realization.identification.identify import Candidate, Identification, identify
from realization.identification.subspace import SubspaceResult, cva, moesp, n4sid
from realization.identification.validation import fit_percent

__all__ = ["Candidate", "Identification", "SubspaceResult", "cva", "fit_percent", "identify", "moesp", "n4sid"]
