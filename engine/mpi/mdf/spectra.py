"""The frames of an MDF file as spectra: bins, frequencies, order and values.

Nothing here corrects anything: background subtraction and transfer functions are left to the caller, whose
decision depends on the flags of `Measurement`. Bins and frames are 0-based.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.mpi.mdf.model import MdfFile, Measurement
from engine.mpi.mdf.values import combined
from engine.mpi.preprocess import converted_spectra, spectra_of_signals


def measurement_of(file: MdfFile) -> Measurement:
    """Return the group /measurement; raise `MdfError` if there is none."""
    if file.measurement is None:
        raise MdfError("the file has no /measurement; expected frames; pass a measurement or a calibration")
    return file.measurement


def bins(file: MdfFile) -> NDArray[np.int64]:
    """Return the stored frequency bins, 0-based on the full rfft axis.

    Parameters
    ----------
    file : MdfFile
        Measurement or calibration.

    Returns
    -------
    ndarray of int64, shape (K,)
        In stored order, which need not be increasing. Time signals have the full axis.

    Raises
    ------
    MdfError
        If the file holds no measurement.
    """
    selection = measurement_of(file).frequency_selection
    if selection is not None:
        return selection - 1
    return np.arange(file.acquisition.receiver.num_sampling_points // 2 + 1, dtype=np.int64)


def frequencies(file: MdfFile) -> NDArray[np.float64]:
    """Return the frequencies of the stored bins in Hz, float64 (K,): bin * 2 bandwidth / V."""
    receiver = file.acquisition.receiver
    spacing = 2.0 * receiver.bandwidth / receiver.num_sampling_points
    return bins(file).astype(np.float64) * spacing


def background_mask(file: MdfFile) -> NDArray[np.bool_]:
    """Return which frames were taken without sample, bool (N,), in stored order."""
    return measurement_of(file).is_background_frame


def acquisition_slots(file: MdfFile) -> NDArray[np.int64]:
    """Return the 0-based place of each stored frame in the order of acquisition, int64 (N,)."""
    measurement = measurement_of(file)
    if measurement.frame_permutation is not None:
        return measurement.frame_permutation - 1
    return np.arange(len(measurement.is_background_frame), dtype=np.int64)


def spectra(file: MdfFile, keep_bins: NDArray[np.int64] | None = None) -> NDArray[np.complexfloating]:
    """Return all frames as spectra in the unit of the receiver.

    The conversion factor is applied when the file has one. Time signals are transformed with the unnormalised
    FFT in double precision.

    Parameters
    ----------
    file : MdfFile
        Measurement or calibration.
    keep_bins : ndarray of int64, shape (K',), optional
        Bins to return, 0-based on the full axis, in this order; by default all stored ones, `bins(file)`.

    Returns
    -------
    ndarray of complex, shape (N, J, C, K) or (N, J, C, K')
        Frames in stored order, background frames included. Complex64 if the file stores that and nothing has
        to be computed, in which case it may be a view of `file`; complex128 otherwise.

    Raises
    ------
    MdfError
        If the file holds no measurement, or does not hold a bin asked for.
    """
    measurement = measurement_of(file)
    data = measurement.data
    frames = np.moveaxis(data, -1, 0) if measurement.is_fast_frame_axis else data
    columns = None if keep_bins is None else _columns(file, keep_bins)
    if not measurement.is_fourier_transformed:
        return _transformed(frames, file, columns)
    stored = bins(file)
    if columns is not None:
        frames, stored = frames[..., columns], stored[columns]
    receiver = file.acquisition.receiver
    return converted_spectra(
        combined(frames), receiver.data_conversion_factor, receiver.num_sampling_points, stored
    )


def _transformed(
    signals: NDArray[Any], file: MdfFile, columns: NDArray[np.int64] | None
) -> NDArray[np.complex128]:
    """Transform time signals (N, J, C, V) to spectra, complex128, keeping some columns of the full axis."""
    receiver = file.acquisition.receiver
    n_kept = receiver.num_sampling_points // 2 + 1 if columns is None else len(columns)
    values = np.empty((*signals.shape[:-1], n_kept), np.complex128)
    # Frame by frame: the full axis of a long measurement is much larger than the bins kept.
    for index, frame in enumerate(signals):
        spectrum = spectra_of_signals(frame, receiver.data_conversion_factor)
        values[index] = spectrum if columns is None else spectrum[..., columns]
    return values


def _columns(file: MdfFile, keep_bins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each bin asked for, int64 (K',), stands on the stored frequency axis."""
    stored = bins(file)
    wanted = np.asarray(keep_bins, np.int64)
    missing = wanted[~np.isin(wanted, stored)]
    if missing.size:
        raise MdfError(
            f"the file lacks {missing.size} of {wanted.size} frequency bins asked for, first {missing[0]} "
            f"(0-based); expected all of them among the {stored.size} stored; select other bins"
        )
    order = np.argsort(stored)
    return order[np.searchsorted(stored, wanted, sorter=order)]


def on_stored_bins(file: MdfFile, values: NDArray[Any]) -> NDArray[Any]:
    """Cut values of any type on the full frequency axis (..., V // 2 + 1) to the stored bins (..., K)."""
    stored = bins(file)
    return values if values.shape[-1] == len(stored) else values[..., stored]


def transfer_function(file: MdfFile) -> NDArray[np.complex128] | None:
    """Return the stored transfer function on the stored bins, complex128 (C, K), or None."""
    function = file.acquisition.receiver.transfer_function
    return None if function is None else on_stored_bins(file, function)
