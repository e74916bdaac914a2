"""Realization theory for measured signals."""

from realization.realize import HankelRealization, era, hankel, ho_kalman, markov_parameters
from realization.signals import (
    DataSet,
    IOData,
    describe_data,
    list_data,
    load_benchmark_model,
    load_data,
    load_series,
    read_csv,
)
from realization.systems import InnovationsModel, StateSpace, load_model, save_model

__all__ = [
    "DataSet",
    "HankelRealization",
    "IOData",
    "InnovationsModel",
    "StateSpace",
    "describe_data",
    "era",
    "hankel",
    "ho_kalman",
    "list_data",
    "load_benchmark_model",
    "load_data",
    "load_model",
    "load_series",
    "markov_parameters",
    "read_csv",
    "save_model",
]
