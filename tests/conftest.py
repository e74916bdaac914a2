"""What every test shares: deterministic Hypothesis, seeded random numbers, measured data, checked shapes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# The oracles say their shapes; each call is checked against them. It must stand before their first import.
install_import_hook("tests.oracles", "beartype.beartype")

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None, max_examples=25)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deterministic"))


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers in every run."""
    return np.random.default_rng(20260)


@pytest.fixture(scope="session")
def measured_data() -> Path:
    """Folder of the measured records; a test that needs it is left out where there is none."""
    folder = os.environ.get("REALIZATION_DATA")
    if not folder:
        pytest.skip("measured data: REALIZATION_DATA names no folder")
    assert Path(folder).is_dir(), f"REALIZATION_DATA names {folder}, which is not a folder"
    return Path(folder)
