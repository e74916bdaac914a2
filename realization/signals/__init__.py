"""Records: the container, readers of files, and measured data sets by name."""

from realization.signals.data import IOData
from realization.signals.datasets import (
    DataSet,
    describe_data,
    list_data,
    load_benchmark_model,
    load_data,
    load_series,
)
from realization.signals.readers import read_csv

__all__ = [
    "DataSet",
    "IOData",
    "describe_data",
    "list_data",
    "load_benchmark_model",
    "load_data",
    "load_series",
    "read_csv",
]
