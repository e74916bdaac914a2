"""Measured records and benchmark models, by name; downloaded once where they are not at hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError
from realization.signals.data import IOData
from realization.signals.readers import read_csv

if TYPE_CHECKING:
    from realization.systems import StateSpace

__all__ = ["DataSet", "describe_data", "list_data", "load_benchmark_model", "load_data", "load_series"]

FOLDER_VARIABLE = "REALIZATION_DATA"
CACHE_NAME = "realization"
DAISY = (
    "https://raw.githubusercontent.com/robotsorcerer/FARNN/9cfb82f2b42a53a604dba66d0eab23243a9a21ae/data/{}"
)
TANKS = (
    "https://raw.githubusercontent.com/MiladBnit/Uncertainty-quantification-in-neural-state-space-models-applications/"
    "2a565d57ca30bdf126da507c00ad1f1e481ca434/dataBenchmark.csv"
)
MODELS = (
    "https://raw.githubusercontent.com/elizqian/balancing-bayesian-inference/"
    "f49d32bc8e40ea27e4f88f362211a51c6afae000/{}"
)
COLLECTION = "B. De Moor (ed.), DaISy: Database for the Identification of Systems, ESAT/STADIUS, KU Leuven"
REDUCTION = (
    "Y. Chahlaoui, P. Van Dooren, A collection of benchmark examples for model reduction of linear time "
    "invariant dynamical systems, SLICOT Working Note 2002-2"
)

Channels = Mapping[int, str]


@dataclass(frozen=True)
class DataSet:
    """Where a record comes from and which of its columns are what.

    Attributes
    ----------
    name : str
    file : str
        Name of the file in the data folder.
    url : str
    sha256 : str
        Checksum of the file.
    inputs, outputs : mapping from int to str
        Column number (from 0) and name of each channel; empty for a model.
    dt : float or None
        Seconds between samples where they are known; 0.0 for a model in continuous time.
    reference : str
    validation : pair of mappings, optional
        Inputs and outputs of a second record in the same file.

    Examples
    --------
    >>> import realization as rz
    >>> rz.describe_data("powerplant").dt
    1228.8
    """

    name: str
    file: str
    url: str
    sha256: str
    inputs: Channels
    outputs: Channels
    dt: float | None
    reference: str
    validation: tuple[Channels, Channels] | None = None


_SETS = (
    DataSet(
        "dryer",
        "dryer.dat",
        DAISY.format("dryer.dat"),
        "adcb2f5a1d9e174d08dd49f7f037626745b5e69cbda0bc1e8dca2a7c687d4538",
        {0: "heater voltage"},
        {1: "air temperature"},
        0.08,  # not given with the data; the value that the literature uses
        f"L. Ljung, System Identification: Theory for the User, Prentice-Hall 1987; {COLLECTION}",
    ),
    DataSet(
        "robot_arm",
        "robot_arm.dat",
        DAISY.format("robot_arm.dat"),
        "4ee167a8a28ce0da868d1b42f6a2fe0c456ea0e56b60c70915bf6d4a2a933635",
        {0: "reaction torque"},
        {1: "acceleration"},
        None,
        f"H. Van Brussel, J. Swevers, flexible robot arm, KU Leuven (IUAP 50); {COLLECTION}",
    ),
    DataSet(
        "CD_player_arm",
        "CD_player_arm.dat",
        DAISY.format("CD_player_arm.dat"),
        "a2ef4bf51c3102487a0690c7a68d97f3b1966cd07319580011a97fc0af904eaa",
        {0: "actuator force 1", 1: "actuator force 2"},
        {2: "tracking error 1", 3: "tracking error 2"},
        None,
        f"P. Van den Hof, R. Schrama, Automatica 29 (1993) 1523; {COLLECTION}",
    ),
    DataSet(
        "powerplant",
        "powerplant.dat",
        DAISY.format("powerplant.dat"),
        "f0b8fa3edf2c1aa9c18c8a9610eeaeea20a651d1bb7bd059f0fbd3e3e2b0424e",
        # Column 0 is the sample index; 9 to 11 are reconstructed outputs.
        {1: "gas flow", 2: "turbine valves", 3: "spray flow", 4: "gas dampers", 5: "air flow"},
        {6: "steam pressure", 7: "main steam temperature", 8: "reheat steam temperature"},
        1228.8,
        "R. Guidorzi, P. Rossi, 1974; M. Moonen, B. De Moor, L. Vandenberghe, J. Vandewalle, International "
        f"Journal of Control 49 (1989) 219; {COLLECTION}",
    ),
    DataSet(
        "evaporator",
        "evaporator.dat",
        DAISY.format("evaporator.dat"),
        "3a74c747140602e44b9d099c73170656ac56d43d9241cf85ff84822f2d230f13",
        {0: "feed flow", 1: "vapour flow", 2: "cooling flow"},
        {3: "dry matter", 4: "product flow", 5: "product temperature"},
        None,
        f"Y. Zhu, P. Van Overschee, B. De Moor, L. Ljung, SYSID'94, 175; {COLLECTION}",
    ),
    DataSet(
        "steamgen",
        "steamgen.dat",
        DAISY.format("steamgen.dat"),
        "7f1e66031197c9502c7c7583b313b6349b7da678644410f4902d18b743eabc23",
        # Column 0 is time.
        {1: "fuel", 2: "air", 3: "level reference", 4: "load disturbance"},
        {5: "drum pressure", 6: "excess oxygen", 7: "water level", 8: "steam flow"},
        3.0,
        "G. Pellegrinetti, J. Bentsman, IEEE Transactions on Control Systems Technology 4 (1996); "
        f"{COLLECTION}",
    ),
    DataSet(
        "cascaded_tanks",
        "cascaded_tanks.csv",
        TANKS,
        "7416cb2aeb97c0775f2d9fdd4be698024d49608f8b0a8e767755c5ecb2bb023c",
        {0: "pump voltage"},
        {2: "lower tank level"},
        4.0,
        "M. Schoukens, P. Mattsson, T. Wigren, J.-P. Noël, Cascaded tanks benchmark combining soft and hard "
        "nonlinearities, 2016, nonlinearbenchmark.org",
        validation=({1: "pump voltage"}, {3: "lower tank level"}),
    ),
)
_MODELS = (
    DataSet(
        "CDplayer",
        "CDplayer.mat",
        MODELS.format("CDplayer.mat"),
        "1fa167d1b6d7e1a8c332d21debcd28333f1dc20f322fc38ebbb920fdcce35192",
        {},
        {},
        0.0,
        REDUCTION,
    ),
    DataSet(
        "build",
        "build.mat",
        MODELS.format("build.mat"),
        "8a74156b8706f9f2c9d1d5ec31ab40ce5f7ea5ddffaff062f4cf6d99331c219f",
        {},
        {},
        0.0,
        REDUCTION,
    ),
)
DATA_SETS: dict[str, DataSet] = {data_set.name: data_set for data_set in _SETS}
BENCHMARK_MODELS: dict[str, DataSet] = {data_set.name: data_set for data_set in _MODELS}


def list_data() -> tuple[str, ...]:
    """Names of the measured records that `load_data` knows.

    Returns
    -------
    names : tuple of str

    Examples
    --------
    >>> import realization as rz
    >>> "dryer" in rz.list_data()
    True
    """
    return tuple(DATA_SETS)


def describe_data(name: str) -> DataSet:
    """Origin, columns and sampling time of a measured record or benchmark model.

    Parameters
    ----------
    name : str
        One of `list_data()`, or a benchmark model.

    Returns
    -------
    description : DataSet

    Raises
    ------
    DataError
        If there is none of that name.

    Examples
    --------
    >>> import realization as rz
    >>> rz.describe_data("cascaded_tanks").reference.split(",")[0]
    'M. Schoukens'
    """
    return _look_up(name, DATA_SETS | BENCHMARK_MODELS, "describe_data")


def load_data(name: str, *, part: Literal["estimation", "validation"] = "estimation") -> IOData:
    """Load a measured record.

    The file is taken from the folder that the environment variable `REALIZATION_DATA` names, else from the
    user's cache, else downloaded into the cache; its checksum is compared in each case.

    Parameters
    ----------
    name : str
        One of `list_data()`.
    part : {"estimation", "validation"}
        Which record of a set that has two (`cascaded_tanks`); the others have one, to be split.

    Returns
    -------
    data : IOData
        `u` of shape (T, m) and `y` of shape (T, p) in the units of the source, `dt` in seconds where it is
        known.

    Raises
    ------
    DataError
        If there is no set or part of that name, or the file is neither at hand nor to be downloaded, or is
        not the file that it should be.

    Examples
    --------
    >>> import realization as rz
    >>> rz.load_data("dryer")
    IOData(1000 samples, 1 output, 1 input, dt=0.08 s)
    """
    data_set = _look_up(name, DATA_SETS, "load_data")
    if part not in ("estimation", "validation"):
        raise DataError(f"load_data: part={part!r} came; 'estimation' or 'validation' is needed.")
    inputs, outputs = data_set.inputs, data_set.outputs
    if part == "validation":
        if data_set.validation is None:
            raise DataError(f"load_data: {name!r} is one record; split it: data.split(0.5).")
        inputs, outputs = data_set.validation
    raw = read_csv(_fetch(data_set), inputs=list(inputs), outputs=list(outputs))
    columns, results = list(inputs.values()), list(outputs.values())
    return IOData(raw.y, raw.u, data_set.dt, input_names=columns, output_names=results)


def load_benchmark_model(name: str) -> StateSpace:
    """Load a model-reduction benchmark: `CDplayer` (120 states) or `build` (48 states), in continuous time.

    Parameters
    ----------
    name : {"CDplayer", "build"}
        Model of a compact disc player's arm, or of a hospital building.

    Returns
    -------
    model : StateSpace
        With `dt=0.0` and no direct term.

    Raises
    ------
    DataError
        As `load_data`.

    Examples
    --------
    >>> import realization as rz
    >>> rz.load_benchmark_model("build")
    StateSpace(order 48, 1 in, 1 out, continuous time, stable)
    """
    from scipy.io import loadmat

    from realization.systems import StateSpace

    content = loadmat(_fetch(_look_up(name, BENCHMARK_MODELS, "load_benchmark_model")))
    A, B, C = (_dense(content[key]) for key in "ABC")
    return StateSpace(A, B, C, dt=0.0)


def load_series(name: str) -> IOData:
    r"""Load a time series that ships with statsmodels (extra `demo`).

    Parameters
    ----------
    name : {"sunspots", "macro", "elnino", "nile"}
        `sunspots`: yearly sunspot number, 1700 to 2008. `macro`: quarterly growth of the real gross domestic
        product, consumption and investment of the United States, 1959 to 2009, in percent, $100 \log(x_t /
        x_{t-1})$. `elnino`: monthly sea surface temperature of the eastern Pacific, 1950 to 2010, in degrees
        Celsius. `nile`: yearly flow of the Nile at Aswan, 1871 to 1970, in 10⁸ m³.

    Returns
    -------
    data : IOData
        No inputs, `y` of shape (T, p); `dt` is `None`: a step is a year, a quarter, a month.

    Raises
    ------
    DataError
        If there is no series of that name.
    ImportError
        If statsmodels is not installed.

    Examples
    --------
    >>> import realization as rz
    >>> rz.load_series("macro").output_names
    ('realgdp', 'realcons', 'realinv')
    """
    series = {"sunspots": _sunspots, "macro": _macro, "elnino": _elnino, "nile": _nile}
    if name not in series:
        raise DataError(f"load_series: there is no {name!r}; the series are: {', '.join(series)}.")
    try:
        import statsmodels.datasets
    except ImportError as error:
        raise ImportError(
            "load_series: the series ship with statsmodels, which is not installed: "
            "pip install 'realization[demo]'."
        ) from error
    return series[name](statsmodels.datasets)


def _sunspots(datasets: ModuleType) -> IOData:
    return IOData(datasets.sunspots.load_pandas().data["SUNACTIVITY"], output_names=["sunspots"])


def _macro(datasets: ModuleType) -> IOData:
    names = ["realgdp", "realcons", "realinv"]
    levels = datasets.macrodata.load_pandas().data[names].to_numpy(dtype=float)
    return IOData(100 * np.diff(np.log(levels), axis=0), output_names=names)


def _elnino(datasets: ModuleType) -> IOData:
    years = datasets.elnino.load_pandas().data.to_numpy(
        dtype=float
    )  # one row a year: the year, twelve months
    return IOData(years[:, 1:].ravel(), output_names=["sea surface temperature"])


def _nile(datasets: ModuleType) -> IOData:
    return IOData(datasets.nile.load_pandas().data["volume"], output_names=["flow"], output_units=["10⁸ m³"])


def _look_up(name: str, table: Mapping[str, DataSet], caller: str) -> DataSet:
    if name not in table:
        raise DataError(f"{caller}: there is no {name!r}; the names are: {', '.join(table)}.")
    return table[name]


def _dense(matrix) -> NDArray[np.float64]:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=float)


def _fetch(data_set: DataSet) -> Path:
    """The file of a set, its checksum compared: from the named folder, the cache, or the source."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise DataError(f"{FOLDER_VARIABLE} names {folder!r}, which is not a folder.")
    if folder and Path(folder, data_set.file).is_file():
        return _verified(Path(folder, data_set.file), data_set)
    return _download(data_set)


def _verified(path: Path, data_set: DataSet) -> Path:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if found != data_set.sha256:
        raise DataError(
            f"{path} is not the file of {data_set.name!r}: its SHA-256 is {found}, but {data_set.sha256} is "
            f"needed. Get it again from {data_set.url}."
        )
    return path


def _download(data_set: DataSet) -> Path:
    """The file from the user's cache, downloaded into it where it is missing or damaged."""
    import pooch

    cache = Path(pooch.os_cache(CACHE_NAME))
    try:
        found = pooch.retrieve(
            data_set.url, known_hash=f"sha256:{data_set.sha256}", fname=data_set.file, path=cache
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{data_set.name!r} is not at hand and cannot be downloaded ({type(error).__name__}). Get "
            f"{data_set.url}, save it as {data_set.file} in {cache}, or in a folder of yours and let "
            f"{FOLDER_VARIABLE} name that folder."
        ) from None
    return Path(found)
