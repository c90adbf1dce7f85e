"""Rows of raw frames: the complex ones of the operators, with nothing subtracted yet."""

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError, PairingError
from engine.measurement.raw_frame import RawFrame
from engine.mpi.preprocess import converted_spectra, spectra_of_signals, stack_real
from engine.operators.operators import Operators

Places = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


class FrameRows:
    """Rows of some operators, taken out of raw frames and whitened.

    Parameters
    ----------
    operators : Operators
        Operators that the frames belong to.
    conversion : ndarray of float64, shape (C, 2), optional
        (a, b) of each receive channel: signal = a * raw + b, as MDF's dataConversionFactor.

    Raises
    ------
    PairingError
        If the conversion is one of another number of channels.
    """

    def __init__(self, operators: Operators, conversion: NDArray[np.float64] | None = None) -> None:
        n_channels = operators.acquisition.n_channels
        if conversion is not None and len(conversion) != n_channels:
            raise PairingError(
                f"the conversion has {len(conversion)} receive channels; expected {n_channels} as in the "
                "calibration; correct it"
            )
        self._operators = operators
        self._conversion = conversion
        self._places: dict[bytes, Places] = {}

    def require_frame(self, frame: RawFrame) -> None:
        """Check that a frame can belong to the calibration.

        Raises
        ------
        PairingError
            If the number of periods, channels, samples or bins is another, or a bin in use is missing.
        InputError
            If a channel in use holds NaN or infinity.
        """
        acquisition, shape = self._operators.acquisition, frame.data.shape
        if len(shape) != 3 or shape[:2] != (acquisition.n_periods, acquisition.n_channels):
            raise PairingError(
                f"the frame has shape {shape}; expected {acquisition.n_periods} periods and "
                f"{acquisition.n_channels} channels as in the calibration; use operators of this sequence"
            )
        if not np.iscomplexobj(frame.data):
            if shape[2] != acquisition.n_samples:
                raise PairingError(
                    f"the frame has {shape[2]} samples per period; expected {acquisition.n_samples} as in "
                    "the calibration; use operators of this sequence"
                )
        else:
            self._places_of(self._bins_of(frame))
        bad = not_finite_channels(frame)
        bad = bad[np.isin(bad, acquisition.channels)]
        if len(bad):
            raise InputError(
                f"receive channels {bad.tolist()} hold NaN or infinity; expected finite values; check them"
            )

    def spectra(self, frame: RawFrame) -> NDArray[np.complex128]:
        """Return a frame as spectra (J, C, K) in the unit of the receiver; time signals get the full axis."""
        if not np.iscomplexobj(frame.data):
            return spectra_of_signals(frame.data, self._conversion)
        n_samples = self._operators.acquisition.n_samples
        found = converted_spectra(frame.data, self._conversion, n_samples, self._bins_of(frame))
        return found.astype(np.complex128, copy=False)

    def rows(self, frame: RawFrame, spectra: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """Return the rows (M,) of the spectra (J, C, K) of a frame of this layout."""
        return spectra[self._places_of(self._bins_of(frame))]

    def _bins_of(self, frame: RawFrame) -> NDArray[np.int64]:
        acquisition = self._operators.acquisition
        n_full = acquisition.n_samples // 2 + 1
        n_bins = frame.data.shape[-1]
        if not np.iscomplexobj(frame.data):
            return np.arange(n_full)
        if frame.bins is not None:
            if frame.bins.shape != (n_bins,) or (n_bins and frame.bins[-1] >= n_full):
                raise PairingError(
                    f"the frame names {frame.bins.size} bins up to {frame.bins.max(initial=0)} for {n_bins} "
                    f"columns; expected one bin below {n_full} per column; correct the bins"
                )
            return frame.bins
        for bins in (np.arange(n_full), acquisition.bins):
            if len(bins) == n_bins:
                return bins
        raise PairingError(
            f"the frame has {n_bins} bins; expected {n_full} or {len(acquisition.bins)} as in the "
            "calibration, or a list of bins"
        )

    def _places_of(self, bins: NDArray[np.int64]) -> Places:
        key = bins.tobytes()
        if key not in self._places:
            self._places.clear()  # one layout at a time: a stream keeps its own
            self._places[key] = row_places(self._operators, bins)
        return self._places[key]


def not_finite_channels(frame: RawFrame) -> NDArray[np.int64]:
    """Return the receive channels of a frame with NaN or infinity: int64 (n,), 0-based, increasing."""
    return np.flatnonzero(~np.isfinite(frame.data).all(axis=(0, 2)))


def saturated_channels(frame: RawFrame, limit: float | None) -> NDArray[np.int64]:
    """Return the receive channels of a frame of time signals that reached a limit, 0-based.

    Parameters
    ----------
    frame : RawFrame
        Spectra do not show saturation: none is found in them.
    limit : float or None
        Largest |raw value| that the receiver can give; None for the ends of an integer type, and for no
        check of floating-point values.

    Returns
    -------
    ndarray of int64, shape (n,)
        Channels in increasing order.
    """
    data = frame.data
    if np.iscomplexobj(data):
        return np.empty(0, np.int64)
    if limit is not None:
        reached = np.abs(data.astype(np.float64)) >= limit
    elif np.issubdtype(data.dtype, np.signedinteger):
        ends = np.iinfo(data.dtype.name)
        reached = (data == ends.min) | (data == ends.max)
    else:
        return np.empty(0, np.int64)
    return np.flatnonzero(reached.any(axis=(0, 2)))


def bins_in_use(operators: Operators, stored_bins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bins that the rows of some operators need, increasing; shape (K',).

    Parameters
    ----------
    operators : Operators
        Operators whose rows are wanted.
    stored_bins : ndarray of int64, shape (K,)
        Bins that are there, 0-based on the full axis.

    Raises
    ------
    PairingError
        If one is missing.
    """
    used = np.unique(_row_bins(operators))
    missing = np.setdiff1d(used, stored_bins)
    if len(missing):
        acquisition = operators.acquisition
        spacing = 2 * acquisition.bandwidth / acquisition.n_samples
        raise PairingError(
            f"{len(missing)} of the {len(used)} frequency bins in use are missing from the measurement, the "
            f"first at {missing[0] * spacing:.6g} Hz; store them or calibrate with a narrower band"
        )
    return used


def _row_bins(operators: Operators) -> NDArray[np.int64]:
    """Bin of each row on the full frequency axis, shape (M,)."""
    return operators.acquisition.bins[operators.layout.index % operators.layout.shape[1]]


def row_places(
    operators: Operators, stored_bins: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return where each complex row stands in the spectra (J, C, K) of a frame.

    Parameters
    ----------
    operators : Operators
        Operators whose rows are wanted.
    stored_bins : ndarray of int64, shape (K,)
        Bins of the last axis, 0-based on the full axis; all bins in use among them.

    Returns
    -------
    period, channel, column : ndarray of int64, shape (M,)
        Index of each row along the three axes.

    Raises
    ------
    PairingError
        If a bin in use is missing.
    """
    bins_in_use(operators, stored_bins)
    used = _row_bins(operators)
    channels = operators.acquisition.channels
    period, channel = np.divmod(operators.layout.index // operators.layout.shape[1], len(channels))
    order = np.argsort(stored_bins)
    return period, channels[channel], order[np.searchsorted(stored_bins, used, sorter=order)]


def whiten(rows: NDArray[np.complexfloating], operators: Operators) -> NDArray[np.floating]:
    """Divide complex rows (..., M) by the noise of the calibration and stack them as real ones (..., R)."""
    return stack_real(rows / operators.noise_std)
