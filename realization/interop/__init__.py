r"""To and from other libraries: python-control, SciPy, pyMOR, statsmodels, pandas, xarray, MATLAB files.

This is the one place where axes are turned and where another library's way of writing time is read. What
cannot be carried over is an error by name, never left out. Each library is loaded by the call that needs it;
the extra `interop` installs them all.
"""

from realization.interop.frames import from_frame, from_xarray, to_frame, to_xarray
from realization.interop.matlab import read_mat, read_mat_model, write_mat
from realization.interop.model_reduction import from_pymor, to_pymor
from realization.interop.python_control import from_control, to_control
from realization.interop.scipy_signal import from_scipy, to_scipy
from realization.interop.time_series import to_statsmodels

__all__ = [
    "from_control",
    "from_frame",
    "from_pymor",
    "from_scipy",
    "from_xarray",
    "read_mat",
    "read_mat_model",
    "to_control",
    "to_frame",
    "to_pymor",
    "to_scipy",
    "to_statsmodels",
    "to_xarray",
    "write_mat",
]
