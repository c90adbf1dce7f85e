"""Magnetic particle imaging data format (MDF), version 2: the content of a file, reading and writing.

Spectra and bins of a file come from `engine.mpi.mdf.spectra`, grids and images from `engine.mpi.mdf.grids`,
new files from `engine.mpi.mdf.new_files`.
"""

from engine.mpi.mdf.checks import check_mdf
from engine.mpi.mdf.model import (
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
from engine.mpi.mdf.reading import read_mdf
from engine.mpi.mdf.values import MdfWarning
from engine.mpi.mdf.writing import write_mdf

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
