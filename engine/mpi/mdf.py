"""Magnetic particle imaging data format (MDF), version 2: the content of a file, reading and writing.

Spectra, bins, grids and images of a file come from `engine.mpi.mdf_access`, new files from
`engine.mpi.mdf_factory`.
"""

from engine.mpi.mdf_checks import check_mdf
from engine.mpi.mdf_model import (
    MDF_VERSION,
    Acquisition,
    Calibration,
    DriveField,
    Experiment,
    MdfFile,
    Measurement,
    Receiver,
    Reconstruction,
    Scanner,
    Study,
    Tracer,
)
from engine.mpi.mdf_reading import read_mdf
from engine.mpi.mdf_values import MdfWarning
from engine.mpi.mdf_writing import write_mdf

__all__ = [
    "MDF_VERSION",
    "Acquisition",
    "Calibration",
    "DriveField",
    "Experiment",
    "MdfFile",
    "MdfWarning",
    "Measurement",
    "Receiver",
    "Reconstruction",
    "Scanner",
    "Study",
    "Tracer",
    "check_mdf",
    "read_mdf",
    "write_mdf",
]
