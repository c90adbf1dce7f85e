"""Row selection, from an MDF calibration to a whitened matrix: band, noise, SNR threshold, dense layout."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.calibration.config import CalibrationConfig
from engine.errors import MdfError, SelectionError
from engine.mpi.mdf import MdfFile, Measurement
from engine.mpi.mdf.grids import calibration_grid, calibration_snr, grid_frames
from engine.mpi.mdf.spectra import background_mask, bins, frequencies, spectra
from engine.mpi.preprocess import (
    drive_frequency,
    frequency_band,
    harmonic_bins,
    nearest_harmonic,
    noise_std,
    row_snr,
    subtract_background,
)
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.mpi.system_matrix import SystemMatrix


@dataclass(frozen=True)
class SelectedRows:
    """A system matrix and how its rows came about.

    Attributes
    ----------
    system_matrix : SystemMatrix
        Whitened rows on the grid asked for.
    snr : ndarray of float64, shape (M,)
        Signal-to-noise ratio of each row.
    snr_source : str
        Origin of the SNR, in words.
    harmonic : ndarray of int64, shape (M,), optional
        Harmonic to which each row belongs; None if harmonics were not selected.
    """

    system_matrix: SystemMatrix
    snr: NDArray[np.float64]
    snr_source: str
    harmonic: NDArray[np.int64] | None


def select_rows(file: MdfFile, config: CalibrationConfig) -> SelectedRows:
    """Select and whiten the rows of a system matrix.

    Candidates are the bins in the file that lie in the band asked for; they are the columns of the dense
    layout. Rows are the candidates with an SNR above the threshold. The SNR is the file's
    (`/calibration/snr`, as its producer defines it) or else `engine.mpi.preprocess.row_snr`. The mean
    background is subtracted unless the file says that this was done. A transfer function is not corrected
    for here; the measurement must be in the same state.

    Concentrations are in units of the calibration sample's.

    Parameters
    ----------
    file : MdfFile
        Calibration with at least two background frames.
    config : CalibrationConfig
        Row selection and grid.

    Returns
    -------
    SelectedRows

    Raises
    ------
    MdfError
        If the file is no calibration.
    SelectionError
        If the noise cannot be estimated, harmonics are not defined, a channel does not exist, or no row
        is left.
    """
    measurement = _calibration_measurement(file)
    columns, harmonic = _candidate_columns(file, config)
    channels = _selected_channels(file, config)
    used_bins = bins(file)[columns]
    mask = background_mask(file)
    order = np.concatenate([grid_frames(file), np.flatnonzero(mask)])
    frames, mask = spectra(file, used_bins)[order][:, :, channels], mask[order]
    noise = noise_std(frames[mask])
    is_corrected = measurement.is_background_corrected
    foreground = frames[~mask] if is_corrected else subtract_background(frames, mask)
    snr, snr_source = _snr(file, foreground, noise, channels, columns)
    index = np.flatnonzero(snr > config.snr_threshold)
    if not len(index):
        raise SelectionError(
            f"no row of {snr.size} has an SNR ({snr_source}) above {config.snr_threshold:g}, the largest is "
            f"{snr.max():.3g}; lower the threshold or widen the band"
        )
    noise = noise.reshape(-1)[index]
    if not np.all(noise > 0):
        raise SelectionError(
            f"{np.count_nonzero(noise == 0)} rows have no noise in the background frames; expected positive "
            "noise in every row, use background frames as they were measured"
        )
    system_matrix = SystemMatrix(
        rows=np.asarray(foreground.reshape(len(foreground), -1)[:, index].T / noise[:, None], order="C"),
        grid=calibration_grid(file),
        layout=RowLayout((snr.shape[0] * snr.shape[1], snr.shape[2]), index),
        acquisition=_acquisition(file, channels, used_bins),
        noise_std=noise,
    )
    return SelectedRows(
        _on_grid(system_matrix, config),
        snr.reshape(-1)[index],
        snr_source,
        None if harmonic is None else harmonic[index % len(columns)],
    )


def _calibration_measurement(file: MdfFile) -> Measurement:
    if file.calibration is None or file.measurement is None:
        raise MdfError(
            "the file holds no calibration (/calibration with /measurement); expected a system matrix, use "
            "the file of a calibration scan"
        )
    return file.measurement


def _selected_channels(file: MdfFile, config: CalibrationConfig) -> NDArray[np.int64]:
    present = file.acquisition.receiver.num_channels
    chosen = range(present) if config.channels is None else sorted(config.channels)
    if chosen[0] < 0 or chosen[-1] >= present:
        raise SelectionError(
            f"receive channels {list(chosen)} were asked for; the file has {present}, numbered from 0"
        )
    return np.array(chosen, np.int64)


def _candidate_columns(
    file: MdfFile, config: CalibrationConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Find the stored positions of the bins in the band, by increasing bin, and the harmonic of each.

    Both are int64 of shape (n_columns,); harmonics are None if none were selected.
    """
    frequency = frequencies(file)
    inside = frequency_band(frequency, config.min_frequency, config.max_frequency)
    harmonic = None
    if config.harmonics is not None:
        drive = _drive_frequency(file)
        inside &= harmonic_bins(frequency, drive, config.harmonics, config.harmonic_half_width)
        harmonic = nearest_harmonic(frequency, drive, config.harmonics)
    by_bin = np.argsort(bins(file))  # the list of a file may have any order
    columns = by_bin[inside[by_bin]]
    if not len(columns):
        raise SelectionError(
            f"none of the {len(frequency)} frequency bins in the file ({frequency.min():.6g} to "
            f"{frequency.max():.6g} Hz) lies in the band asked for; change harmonics or frequency limits"
        )
    return columns, None if harmonic is None else harmonic[columns]


def _drive_frequency(file: MdfFile) -> float:
    """Frequency in Hz of the drive channels that are switched on in some period."""
    field = file.acquisition.drivefield
    is_on = np.any(field.strength != 0, axis=0)
    return drive_frequency(field.base_frequency, field.divider[is_on] if is_on.any() else field.divider)


def _snr(
    file: MdfFile,
    foreground: NDArray[np.complexfloating],
    noise: NDArray[np.float64],
    channels: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> tuple[NDArray[np.float64], str]:
    """Find the SNR of all candidates, float64 (J, channels, columns), and say where it comes from."""
    stored = calibration_snr(file)
    if stored is None:
        return row_snr(foreground, noise), "computed from the background frames"
    return stored[:, channels[:, None], columns], "stored in the file"


def _acquisition(file: MdfFile, channels: NDArray[np.int64], used: NDArray[np.int64]) -> Acquisition:
    receiver = file.acquisition.receiver
    return Acquisition(
        bandwidth=receiver.bandwidth,
        n_samples=receiver.num_sampling_points,
        n_periods=file.acquisition.num_periods_per_frame,
        n_channels=receiver.num_channels,
        channels=channels,
        bins=used,
        unit=receiver.unit,
        is_transfer_function_corrected=_calibration_measurement(file).is_transfer_function_corrected,
    )


def _on_grid(system_matrix: SystemMatrix, config: CalibrationConfig) -> SystemMatrix:
    if config.smooth:
        system_matrix = system_matrix.smoothed()
    return system_matrix.upsampled(config.upsample) if config.upsample > 1 else system_matrix
