"""Rows of a measurement file: whitened, and those that belong to the operators."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import PairingError
from engine.measurement.frame_rows import bins_in_use, row_places, whiten
from engine.mpi.mdf import MdfFile, Measurement
from engine.mpi.mdf.spectra import acquisition_slots, background_mask, bins, measurement_of, spectra
from engine.mpi.preprocess import MIN_BACKGROUND_FRAMES, noise_std, subtract_background
from engine.mpi.row_layout import Acquisition
from engine.operators.operators import Operators

BANDWIDTH_TOLERANCE = 1e-6
"""Relative difference of bandwidths that still counts as equal: text and single-precision round-off."""

NOTE_NO_BACKGROUND = (
    "background: the file holds no background frames and is not flagged as background-corrected; nothing was "
    "subtracted, so what the scanner receives without a sample appears in the image"
)

NOTE_ALREADY_CORRECTED = (
    "background: the file is flagged as background-corrected; its background frames were not subtracted again"
)


@dataclass(frozen=True)
class MeasurementRows:
    """The foreground frames of a measurement, ready for a reconstructor.

    Attributes
    ----------
    rows : ndarray of float32, shape (F, R)
        Whitened real-stacked rows [Re; Im] of each foreground frame, in the order of acquisition.
    background_sigma : float or None
        Standard deviation per real row of the measurement's own background frames in whitened units: 1 if
        the noise is that of the calibration, None with fewer than two frames.
    notes : tuple of str
        Sentences about the handling of the background that a reader of the result should know.
    """

    rows: NDArray[np.float32]
    background_sigma: float | None
    notes: tuple[str, ...] = ()


def measurement_rows(file: MdfFile, operators: Operators) -> MeasurementRows:
    """Take the rows of the operators out of a measurement.

    Bins are found by their index on the full frequency axis, so the file may hold time signals, all bins or
    any selection that covers the rows. The mean of the background frames is subtracted, unless the file says
    that the background was corrected. Then rows are divided by the noise of the calibration.

    Parameters
    ----------
    file : MdfFile
        Measurement with at least one foreground frame.
    operators : Operators
        Operators of the system matrix to reconstruct with.

    Returns
    -------
    MeasurementRows

    Raises
    ------
    MdfError
        If the file holds no measurement.
    PairingError
        If sampling, periods, channels, unit or transfer-function state differ from the calibration's, or
        a bin in use is missing.
    """
    measurement = measurement_of(file)
    require_same_acquisition(file, operators.acquisition)
    used = bins_in_use(operators, bins(file))
    frames = spectra(file, used)[:, *row_places(operators, used)]
    mask = background_mask(file)
    if measurement.is_background_corrected or not mask.any():
        foreground = frames[~mask]
    else:
        foreground = subtract_background(frames, mask)
    in_order = foreground[np.argsort(acquisition_slots(file)[~mask])]
    return MeasurementRows(
        rows=whiten(in_order, operators).astype(np.float32),
        background_sigma=_background_sigma(frames[mask], operators),
        notes=_notes(measurement, mask),
    )


def whiten_rows(spectra: NDArray[np.complexfloating], operators: Operators) -> NDArray[np.float32]:
    """Take the rows of the operators out of live spectra and divide them by the calibration's noise.

    The background must have been subtracted, or the spectra be differences to start with.

    Parameters
    ----------
    spectra : ndarray of complex, shape (F, J, C, K)
        Unnormalised forward FFT of each period in the unit of the calibration. C counts all receive channels
        of the calibration. K is either the full axis (V // 2 + 1) or the bins `operators.acquisition.bins`.
    operators : Operators
        Operators of the system matrix to reconstruct with.

    Returns
    -------
    ndarray of float32, shape (F, R)
        Whitened real-stacked rows.

    Raises
    ------
    PairingError
        If the shape is another.
    """
    acquisition = operators.acquisition
    n_full = acquisition.n_samples // 2 + 1
    layouts = {n_full: np.arange(n_full), len(acquisition.bins): acquisition.bins}
    expected = (acquisition.n_periods, acquisition.n_channels)
    if spectra.ndim != 4 or spectra.shape[1:3] != expected or spectra.shape[3] not in layouts:
        raise PairingError(
            f"spectra have shape {spectra.shape}; expected (frames, {expected[0]} periods, {expected[1]} "
            f"channels, {n_full} or {len(acquisition.bins)} bins) as in the calibration"
        )
    rows = spectra[:, *row_places(operators, layouts[spectra.shape[3]])]
    return whiten(rows, operators).astype(np.float32)


def require_same_acquisition(file: MdfFile, calibration: Acquisition) -> None:
    """Raise PairingError, which names both values, unless a file was received as the calibration was."""
    receiver, measurement = file.acquisition.receiver, measurement_of(file)
    if not math.isclose(receiver.bandwidth, calibration.bandwidth, rel_tol=BANDWIDTH_TOLERANCE):
        raise _mismatch("bandwidth in Hz", receiver.bandwidth, calibration.bandwidth)
    pairs = {
        "number of samples per period": (receiver.num_sampling_points, calibration.n_samples),
        "number of periods per frame": (file.acquisition.num_periods_per_frame, calibration.n_periods),
        "number of receive channels": (receiver.num_channels, calibration.n_channels),
        "unit of the signal": (receiver.unit, calibration.unit),
        "isTransferFunctionCorrected": (
            measurement.is_transfer_function_corrected,
            calibration.is_transfer_function_corrected,
        ),
    }
    for what, (own, expected) in pairs.items():
        if own != expected:
            raise _mismatch(what, own, expected)


def _mismatch(what: str, own: object, expected: object) -> PairingError:
    return PairingError(
        f"{what}: {own} in the measurement, {expected} in the calibration; use a measurement and operators "
        "of one scanner setting"
    )


def _background_sigma(background: NDArray[np.complexfloating], operators: Operators) -> float | None:
    if len(background) < MIN_BACKGROUND_FRAMES:
        return None
    return float(np.sqrt(np.mean((noise_std(background) / operators.noise_std) ** 2)))


def _notes(measurement: Measurement, mask: NDArray[np.bool_]) -> tuple[str, ...]:
    if measurement.is_background_corrected:
        return (NOTE_ALREADY_CORRECTED,) if mask.any() else ()
    return () if mask.any() else (NOTE_NO_BACKGROUND,)
