"""Torch-free magnetic particle imaging reconstruction.

The names below are the public interface. They are imported on first use, so that `import engine` is quick and
needs no library that the caller does not use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.bundle import Bundle, default_bundle_path, load_bundle
    from engine.calibration import calibrate
    from engine.calibration_config import CalibrationConfig
    from engine.errors import DeqMpiError, InputError
    from engine.fixed_point import FixedPointConfig, solve_fixed_point
    from engine.measurement import MeasurementRows, measurement_rows, whiten_rows
    from engine.mpi.grid import Grid
    from engine.mpi.mdf import MdfFile, read_mdf, write_mdf
    from engine.operators import Operators
    from engine.operators_file import load_operators, save_operators
    from engine.reconstructor import LeastSquares, Reconstruction, Reconstructor
    from engine.report import FrameReport
    from engine.solution import Result, Solution, SolveStats

__all__ = [
    "Bundle",
    "CalibrationConfig",
    "DeqMpiError",
    "FixedPointConfig",
    "FrameReport",
    "Grid",
    "InputError",
    "LeastSquares",
    "MdfFile",
    "MeasurementRows",
    "Operators",
    "Reconstruction",
    "Reconstructor",
    "Result",
    "Solution",
    "SolveStats",
    "calibrate",
    "default_bundle_path",
    "load_bundle",
    "load_operators",
    "measurement_rows",
    "read_mdf",
    "save_operators",
    "solve_fixed_point",
    "whiten_rows",
    "write_mdf",
]

_MODULES = {
    "Bundle": "engine.bundle",
    "default_bundle_path": "engine.bundle",
    "load_bundle": "engine.bundle",
    "calibrate": "engine.calibration",
    "CalibrationConfig": "engine.calibration_config",
    "DeqMpiError": "engine.errors",
    "InputError": "engine.errors",
    "FixedPointConfig": "engine.fixed_point",
    "solve_fixed_point": "engine.fixed_point",
    "MeasurementRows": "engine.measurement",
    "measurement_rows": "engine.measurement",
    "whiten_rows": "engine.measurement",
    "Grid": "engine.mpi.grid",
    "MdfFile": "engine.mpi.mdf",
    "read_mdf": "engine.mpi.mdf",
    "write_mdf": "engine.mpi.mdf",
    "Operators": "engine.operators",
    "load_operators": "engine.operators_file",
    "save_operators": "engine.operators_file",
    "LeastSquares": "engine.reconstructor",
    "Reconstruction": "engine.reconstructor",
    "Reconstructor": "engine.reconstructor",
    "FrameReport": "engine.report",
    "Result": "engine.solution",
    "Solution": "engine.solution",
    "SolveStats": "engine.solution",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
