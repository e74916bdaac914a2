"""Models from measured records: subspace methods, autoregressions, and one call that tries them all."""

from realization.identification.all_orders import SubspaceOrders, subspace_orders
from realization.identification.arx import ArxResult, arx
from realization.identification.closed_loop import PredictorSubspaceResult, pbsid, ssarx
from realization.identification.delays import InputDelays, delay_inputs, input_delays
from realization.identification.frequency_domain import FrequencySubspaceResult, frequency_subspace
from realization.identification.identify import identify
from realization.identification.pem import PemResult, pem
from realization.identification.polynomial import PolynomialResult, armax, bj, oe
from realization.identification.regularized_fir import RegularizedFir, regularized_fir
from realization.identification.residuals import ResidualTests, residual_tests
from realization.identification.result import Candidate, Identification
from realization.identification.subspace import SubspaceResult, cva, moesp, n4sid
from realization.identification.uncertainty import FrequencyBands, PoleBands, Uncertainty, uncertainty
from realization.identification.validation import fit_percent
from realization.identification.varx import VarxResult, varx

__all__ = [
    "ArxResult",
    "Candidate",
    "FrequencyBands",
    "FrequencySubspaceResult",
    "Identification",
    "InputDelays",
    "PemResult",
    "PoleBands",
    "PolynomialResult",
    "PredictorSubspaceResult",
    "RegularizedFir",
    "ResidualTests",
    "SubspaceOrders",
    "SubspaceResult",
    "Uncertainty",
    "VarxResult",
    "armax",
    "arx",
    "bj",
    "cva",
    "delay_inputs",
    "fit_percent",
    "frequency_subspace",
    "identify",
    "input_delays",
    "moesp",
    "n4sid",
    "oe",
    "pbsid",
    "pem",
    "regularized_fir",
    "residual_tests",
    "ssarx",
    "subspace_orders",
    "uncertainty",
    "varx",
]
