"""The command `engine info`: what a file or bundle is, in a few lines."""

from pathlib import Path

import click
import h5py
import numpy as np

from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.mpi.mdf import MdfFile, read_mdf
from engine.mpi.mdf.grids import calibration_grid, images, reconstruction_grid
from engine.mpi.mdf.image_intervals import read_intervals
from engine.mpi.mdf.spectra import background_mask, bins
from engine.mpi.mdf.values import damage_reported
from engine.mpi.simulation import truth
from engine.networks.bundle import load_bundle
from engine.operators.operators import Operators
from engine.operators.operators_file import KIND as OPERATORS_KIND
from engine.operators.operators_file import load_operators


@click.command(short_help="Say what a file or bundle is.")
@click.argument("file", type=click.Path(path_type=Path))
def info(file: Path) -> None:
    """Describe FILE: MDF, operators, ground truth or a bundle folder. Hashes are checked."""
    for line in describe(file):
        click.echo(line)


def describe(path: Path) -> list[str]:
    """Return a few lines on what a file or folder holds.

    Raises
    ------
    InputError
        If it is missing, damaged or nothing of ours.
    """
    if path.is_dir():
        return _describe_bundle(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected an MDF file, operators file or bundle folder")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is not an HDF5 file; expected an MDF file, operators file or bundle folder")
    with damage_reported(str(path)), h5py.File(path, "r") as content:
        kind = content.attrs.get("kind")
    if kind == OPERATORS_KIND:
        return _describe_operators(path)
    if kind == truth.KIND:
        return _describe_truth(path)
    return _describe_mdf(path)


def _describe_bundle(path: Path) -> list[str]:
    bundle = load_bundle(path)
    manifest, intervals = bundle.manifest, bundle.intervals
    settings = {} if manifest.solver is None else manifest.solver.to_dict()
    solver = ", ".join(f"{key} {value:g}" for key, value in settings.items())
    lines = [
        f"bundle {manifest.name}: {manifest.description}",
        f"method: {manifest.method}",
        f"created: {manifest.created}, ONNX opset {manifest.opset}",
        f"solver: {solver or 'none, the network is applied once'}",
    ]
    if intervals is not None:
        low, high = intervals.snr_range
        percent = 100 * intervals.coverage
        lines.append(f"intervals: {percent:g} %, calibrated for frames of {low:.0f} to {high:.0f} dB")
    lines += [
        f"{role}: {n.file}, SHA-256 {n.sha256[:16]}..., verified" for role, n in manifest.networks.items()
    ]
    return lines


def _describe_operators(path: Path) -> list[str]:
    operators = load_operators(path)
    acquisition, s = operators.acquisition, operators.singular_values
    lines, columns = operators.layout.shape
    return [
        f"operators: {operators.n_rows} real rows, {operators.n_voxels} voxels, content hash verified",
        _grid_line(operators.grid),
        f"data layout: {lines} lines x {columns} bins, {operators.layout.n_rows} complex rows in use",
        f"receiver: bandwidth {acquisition.bandwidth:g} Hz, {acquisition.n_samples} samples, "
        f"{acquisition.n_periods} periods, {acquisition.n_channels} channels",
        f"singular values {s[0]:.4g} to {s[-1]:.4g}, start of rank {operators.rank}",
        _form_line(operators),
        f"calibration file SHA-256: {operators.source_sha256 or 'none, made in memory'}",
    ]


def _form_line(operators: Operators) -> str:
    if operators.dense is not None:
        return "system matrix: as it is"
    return (
        f"system matrix: {operators.n_triplets} singular triplets, relative error "
        f"{operators.truncation_error:.3g}, largest dropped singular value {operators.largest_dropped:.3g}"
    )


def _describe_truth(path: Path) -> list[str]:
    content = truth.load_truth(path)
    snr = content.snr_db
    return [
        f"ground truth: {len(content.images)} images, SNR {snr.min():.1f} to {snr.max():.1f} dB",
        _grid_line(content.grid),
    ]


def _describe_mdf(path: Path) -> list[str]:
    file = read_mdf(path)
    if file.reconstruction is not None:
        lines = _reconstruction_lines(path, file)
    elif file.calibration is not None:
        lines = ["MDF calibration", _grid_line(calibration_grid(file)), *_data_lines(file)]
    elif file.measurement is not None:
        lines = ["MDF measurement", *_data_lines(file)]
    else:
        lines = ["MDF file without measurement, calibration or reconstruction"]
    origin = "simulation" if file.experiment.is_simulation else "experiment"
    study = f"{origin}: study {file.study.name!r}, experiment {file.experiment.name!r}"
    return [*lines, f"{study}, scanner {file.scanner.name!r} ({file.scanner.topology})"]


def _reconstruction_lines(path: Path, file: MdfFile) -> list[str]:
    volumes, grid = images(file), reconstruction_grid(file)
    intervals = read_intervals(path, grid)
    return [
        f"MDF reconstruction: {len(volumes)} images, values {np.min(volumes):.4g} to {np.max(volumes):.4g}",
        *([] if intervals is None else [f"with intervals of {100 * intervals.coverage:g} % coverage"]),
        _grid_line(grid),
    ]


def _data_lines(file: MdfFile) -> list[str]:
    measurement, receiver = file.measurement, file.acquisition.receiver
    if measurement is None:
        return []
    n_background = int(np.count_nonzero(background_mask(file)))
    domain = f"spectra of {len(bins(file))} bins" if measurement.is_fourier_transformed else "time signals"
    corrected = "yes" if measurement.is_background_corrected else "no"
    return [
        f"{file.acquisition.num_frames} frames ({n_background} background), "
        f"{file.acquisition.num_periods_per_frame} periods, {receiver.num_channels} channels, {domain}",
        f"receiver: bandwidth {receiver.bandwidth:g} Hz, {receiver.num_sampling_points} samples, "
        f"unit {receiver.unit}; background corrected: {corrected}",
    ]


def _grid_line(grid: Grid) -> str:
    size = " x ".join(str(n) for n in grid.size)
    extent = " x ".join(f"{1e3 * f:g}" for f in grid.field_of_view)
    center = ", ".join(f"{1e3 * c:g}" for c in grid.center)
    return f"grid: {size} voxels, {extent} mm, centre ({center}) mm"
