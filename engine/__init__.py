"""Torch-free magnetic particle imaging reconstruction.

The names below are the public interface. They are imported on first use, so that `import engine` is quick and
needs no library that the caller does not use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.calibration.calibrate import calibrate
    from engine.calibration.config import CalibrationConfig
    from engine.errors import DeqMpiError, InputError
    from engine.fixed_point.solution import Result, Solution, SolveStats
    from engine.fixed_point.solve import FixedPointConfig, solve_fixed_point
    from engine.live.loop.counters import Counters
    from engine.live.loop.live_image import LiveImage, LiveReport
    from engine.live.loop.live_reconstructor import LiveReconstructor
    from engine.live.loop.loop_config import LoopConfig
    from engine.measurement.file_rows import MeasurementRows, measurement_rows, whiten_rows
    from engine.measurement.raw_frame import RawFrame
    from engine.mpi.grid import Grid
    from engine.mpi.mdf import MdfFile, read_mdf, write_mdf
    from engine.networks.bundle import Bundle, load_bundle
    from engine.operators.operators import Operators
    from engine.operators.operators_file import load_operators, save_operators
    from engine.reconstruction.method_settings import MethodSettings
    from engine.reconstruction.methods import default_bundle_path, open_method
    from engine.reconstruction.reconstructor import Reconstruction, Reconstructor
    from engine.reconstruction.report import FrameReport
    from engine.solvers.regularization import MethodWeights, SnrCurve, load_weights, save_weights

__all__ = [
    "Bundle",
    "CalibrationConfig",
    "Counters",
    "DeqMpiError",
    "FixedPointConfig",
    "FrameReport",
    "Grid",
    "InputError",
    "LiveImage",
    "LiveReconstructor",
    "LiveReport",
    "LoopConfig",
    "MdfFile",
    "MeasurementRows",
    "MethodSettings",
    "MethodWeights",
    "Operators",
    "RawFrame",
    "Reconstruction",
    "Reconstructor",
    "Result",
    "SnrCurve",
    "Solution",
    "SolveStats",
    "calibrate",
    "default_bundle_path",
    "load_bundle",
    "load_operators",
    "load_weights",
    "measurement_rows",
    "open_method",
    "read_mdf",
    "save_operators",
    "save_weights",
    "solve_fixed_point",
    "whiten_rows",
    "write_mdf",
]

_MODULES = {
    "Bundle": "engine.networks.bundle",
    "default_bundle_path": "engine.reconstruction.methods",
    "load_bundle": "engine.networks.bundle",
    "calibrate": "engine.calibration.calibrate",
    "CalibrationConfig": "engine.calibration.config",
    "DeqMpiError": "engine.errors",
    "InputError": "engine.errors",
    "FixedPointConfig": "engine.fixed_point.solve",
    "solve_fixed_point": "engine.fixed_point.solve",
    "Counters": "engine.live.loop.counters",
    "LiveImage": "engine.live.loop.live_image",
    "LiveReport": "engine.live.loop.live_image",
    "LiveReconstructor": "engine.live.loop.live_reconstructor",
    "LoopConfig": "engine.live.loop.loop_config",
    "RawFrame": "engine.measurement.raw_frame",
    "MeasurementRows": "engine.measurement.file_rows",
    "measurement_rows": "engine.measurement.file_rows",
    "whiten_rows": "engine.measurement.file_rows",
    "MethodSettings": "engine.reconstruction.method_settings",
    "open_method": "engine.reconstruction.methods",
    "Grid": "engine.mpi.grid",
    "MdfFile": "engine.mpi.mdf",
    "read_mdf": "engine.mpi.mdf",
    "write_mdf": "engine.mpi.mdf",
    "Operators": "engine.operators.operators",
    "load_operators": "engine.operators.operators_file",
    "save_operators": "engine.operators.operators_file",
    "Reconstruction": "engine.reconstruction.reconstructor",
    "Reconstructor": "engine.reconstruction.reconstructor",
    "FrameReport": "engine.reconstruction.report",
    "Result": "engine.fixed_point.solution",
    "Solution": "engine.fixed_point.solution",
    "SolveStats": "engine.fixed_point.solution",
    "MethodWeights": "engine.solvers.regularization",
    "SnrCurve": "engine.solvers.regularization",
    "load_weights": "engine.solvers.regularization",
    "save_weights": "engine.solvers.regularization",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
