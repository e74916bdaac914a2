"""Records: the container, a look at what is in it, readers of files, and measured data sets by name."""

from realization.signals.data import IOData
from realization.signals.datasets import (
    DataSet,
    describe_data,
    list_data,
    load_benchmark_model,
    load_data,
    load_series,
)
from realization.signals.faults import Fault, sensor_fault
from realization.signals.gaps import gap_free
from realization.signals.inspection import DataInspection, Finding, inspect_data
from realization.signals.readers import read_csv
from realization.signals.sampling import RegularRecord, one_hot, regular_record
from realization.signals.tables import read_data

__all__ = [
    "DataInspection",
    "DataSet",
    "Fault",
    "Finding",
    "IOData",
    "RegularRecord",
    "describe_data",
    "gap_free",
    "inspect_data",
    "list_data",
    "load_benchmark_model",
    "load_data",
    "load_series",
    "one_hot",
    "read_csv",
    "read_data",
    "regular_record",
    "sensor_fault",
]
