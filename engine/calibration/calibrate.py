"""Calibration: from a system-matrix file to the operators of the solvers. Seconds of work, no torch."""

import hashlib
import os
from pathlib import Path

import numpy as np

from engine.calibration.config import CalibrationConfig
from engine.calibration.row_selection import SelectedRows, select_rows
from engine.mpi.mdf import MdfFile, read_mdf
from engine.mpi.system_matrix import SystemMatrix
from engine.operators.factorisation import make_factored_operators, make_operators
from engine.operators.operators import Operators, can_estimate_noise, rows_for_unknowns

__all__ = [
    "CalibrationConfig",
    "calibrate",
    "calibrate_with_report",
    "make_factored_operators",
    "make_operators",
    "system_matrix_from_mdf",
]

Source = str | os.PathLike[str] | MdfFile
"""A file, or the content of one."""


def calibrate(source: Source, config: CalibrationConfig | None = None) -> Operators:
    """Make the operators of a system-matrix file.

    Parameters
    ----------
    source : path or MdfFile
        MDF calibration with at least two background frames.
    config : CalibrationConfig, optional
        Row selection, grid, rank and number of factors.

    Returns
    -------
    Operators
        With the SHA-256 of the file, if it is one.

    Raises
    ------
    MdfError
        If the source is no MDF calibration.
    SelectionError
        If the noise cannot be estimated, the selection is impossible or leaves no row, or the rank or the
        number of factors is impossible.
    """
    return calibrate_with_report(source, config)[0]


def calibrate_with_report(
    source: Source, config: CalibrationConfig | None = None
) -> tuple[Operators, tuple[str, ...]]:
    """Make operators as `calibrate` does, and say in a few lines what was selected."""
    config = config or CalibrationConfig()
    selected = select_rows(_content(source), config)
    if config.factors is None:
        operators = make_operators(selected.system_matrix, config.rank, _sha256(source))
    else:
        operators = make_factored_operators(
            selected.system_matrix, config.factors, config.rank, _sha256(source)
        )
    return operators, _report(selected, operators, config)


def system_matrix_from_mdf(source: Source, config: CalibrationConfig | None = None) -> SystemMatrix:
    """Read the whitened system matrix of a calibration.

    Parameters
    ----------
    source : path or MdfFile
        MDF calibration with at least two background frames.
    config : CalibrationConfig, optional
        Row selection and grid; rank and factors are not used.

    Returns
    -------
    SystemMatrix

    Raises
    ------
    MdfError, SelectionError
        As `calibrate`.
    """
    return select_rows(_content(source), config or CalibrationConfig()).system_matrix


def _content(source: Source) -> MdfFile:
    return source if isinstance(source, MdfFile) else read_mdf(Path(source))


def _sha256(source: Source) -> str:
    if isinstance(source, MdfFile):
        return ""
    with Path(source).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _report(selected: SelectedRows, operators: Operators, config: CalibrationConfig) -> tuple[str, ...]:
    lines, bins = operators.layout.shape
    sizes = " x ".join(str(n) for n in operators.grid.size)
    s = operators.singular_values
    report = [
        f"grid: {sizes} voxels",
        f"rows: {operators.layout.n_rows} of {lines * bins} ({lines} lines x {bins} bins) have an SNR above "
        f"{config.snr_threshold:g}; SNR {selected.snr_source}",
    ]
    if selected.harmonic is not None:
        counts = zip(*np.unique(selected.harmonic, return_counts=True), strict=True)
        report.append("rows per harmonic: " + ", ".join(f"{k}: {count}" for k, count in counts))
    # An upsampled matrix is singular; its smallest singular values are rounding.
    condition = s[0] / s[-1] if s[-1] > s[0] * len(s) * np.finfo(np.float64).eps else np.inf
    report.append(
        f"singular values: condition number {condition:.3g}, {s[0] / s[operators.rank - 1]:.3g} for the "
        f"{operators.rank} of {len(s)} in the least-squares start"
    )
    if operators.dense is None:
        report.append(
            f"factors: {operators.n_triplets} singular triplets in place of the system matrix; relative "
            f"error {operators.truncation_error:.3g} (Frobenius norm), largest dropped singular value "
            f"{operators.largest_dropped:.3g} of {s[0]:.3g}"
        )
    if not can_estimate_noise(operators):
        report.append(
            f"note: {rows_for_unknowns(operators)} are too few to estimate the noise level of a measurement; "
            "it has to be given to the reconstruction"
        )
    return tuple(report)
