"""From what a receiver gives to rows of the linear system: spectra, background, noise, bands, SNR.

Spectra have the axes (frames, J periods, C receive channels, K frequency bins).
"""

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from engine.errors import SelectionError

MIN_BACKGROUND_FRAMES = 2
"""Fewest background frames: a standard deviation needs at least two samples."""

FREQUENCY_ROUNDING = 1e-9
"""Relative slack of band limits, so that a bin exactly on a limit is inside whatever its rounding."""


def spectra_of_signals(
    signals: NDArray[Any], conversion: NDArray[np.float64] | None = None
) -> NDArray[np.complex128]:
    """Return the spectra of time signals: the unnormalised forward FFT in double precision.

    Parameters
    ----------
    signals : ndarray of a real type, shape (..., C, V)
        Samples as stored.
    conversion : ndarray of float64, shape (C, 2), optional
        (a, b) of each receive channel: signal = a * stored + b (MDF's dataConversionFactor).

    Returns
    -------
    ndarray of complex128, shape (..., C, V // 2 + 1)
    """
    values = signals.astype(np.float64)
    if conversion is not None:
        values = conversion[:, :1] * values + conversion[:, 1:]
    return np.asarray(scipy.fft.rfft(values, axis=-1, overwrite_x=True), np.complex128)


def converted_spectra(
    spectra: NDArray[Any],
    conversion: NDArray[np.float64] | None,
    n_samples: int,
    bins: NDArray[np.int64],
) -> NDArray[np.complexfloating[Any, Any]]:
    """Return spectra in the unit of the receiver, as if their time signals had been converted.

    Parameters
    ----------
    spectra : ndarray of complex, shape (..., C, K)
        Spectra as stored.
    conversion : ndarray of float64, shape (C, 2) or None
        As for `spectra_of_signals`. The offset b of a signal is V b at the zero frequency and nothing
        elsewhere.
    n_samples : int
        Samples V of a period.
    bins : ndarray of int64, shape (K,)
        Bins of the last axis, 0-based on the full axis.

    Returns
    -------
    ndarray of complex, shape (..., C, K)
        `spectra` itself without a conversion, else complex128.
    """
    if conversion is None:
        return spectra
    converted = np.asarray(conversion[:, :1] * spectra, np.complex128)
    converted[..., bins == 0] += n_samples * conversion[:, 1:]
    return converted


def noise_std(background: NDArray[np.complexfloating[Any, Any]]) -> NDArray[np.float64]:
    """Return the noise level of every row from background frames.

    Parameters
    ----------
    background : ndarray of complex, shape (E, ...)
        Spectra or rows measured without a sample, E >= 2.

    Returns
    -------
    ndarray of float64, shape (...)
        Standard deviation per real component about the mean background: real and imaginary parts are
        pooled, and one degree of freedom per component is spent on the mean. A slow drift of the
        background counts as noise.

    Raises
    ------
    SelectionError
        If there are fewer than two frames.
    """
    n_frames = len(background)
    if n_frames < MIN_BACKGROUND_FRAMES:
        raise SelectionError(
            f"{n_frames} background frames; expected at least {MIN_BACKGROUND_FRAMES} to estimate the noise, "
            "measure or simulate more of them"
        )
    deviation = background - background.mean(axis=0, dtype=np.complex128)
    power = np.sum(deviation.real**2 + deviation.imag**2, axis=0)
    return np.asarray(np.sqrt(power / (2 * (n_frames - 1))), np.float64)


def subtract_background(
    spectra: NDArray[np.complexfloating[Any, Any]], mask: NDArray[np.bool_]
) -> NDArray[np.complex128]:
    """Return the foreground frames minus the mean of the background frames.

    Parameters
    ----------
    spectra : ndarray of complex, shape (N, ...)
        Spectra or rows of all frames.
    mask : ndarray of bool, shape (N,)
        True for background frames.

    Returns
    -------
    ndarray of complex128, shape (O, ...)
        Foreground frames in their order.

    Raises
    ------
    SelectionError
        If there is no background frame.
    """
    if not mask.any():
        raise SelectionError("no background frame to subtract; expected at least one in the file")
    return np.asarray(spectra[~mask] - spectra[mask].mean(axis=0, dtype=np.complex128))


def row_snr(
    foreground: NDArray[np.complexfloating[Any, Any]], noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the signal-to-noise ratio of every row of a system matrix.

    It is the root mean square over the grid points of the signal's magnitude, divided by the standard
    deviation sqrt(2) `noise` of the complex noise. The noise of the calibration itself counts as signal,
    so a row without any signal has an SNR of about 1.

    Parameters
    ----------
    foreground : ndarray of complex, shape (O, J, C, K)
        Background-corrected system matrix.
    noise : ndarray of float64, shape (J, C, K)
        Standard deviation per real component, as from `noise_std`.

    Returns
    -------
    ndarray of float64, shape (J, C, K)
        Infinite where only the noise is zero, zero where signal and noise are.
    """
    # Squared in double precision: in single, a signal below 1e-23 of its unit would vanish.
    squares = (np.square(part, dtype=np.float64) for part in (foreground.real, foreground.imag))
    power = np.mean(sum(squares), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.sqrt(power) / (np.sqrt(2) * noise)
    return np.asarray(np.nan_to_num(snr, nan=0.0, posinf=np.inf))


def drive_frequency(base_frequency: float, divider: NDArray[np.integer[Any]]) -> float:
    """Return the frequency of the drive field in Hz, of which the signal has harmonics.

    Parameters
    ----------
    base_frequency : float
        Base frequency of the scanner in Hz.
    divider : ndarray of int, shape (D, F)
        Dividers of the base frequency of all drive channels.

    Returns
    -------
    float

    Raises
    ------
    SelectionError
        If the drive channels have several frequencies: their mixing products are no harmonics of one.
    """
    distinct = np.unique(divider)
    if len(distinct) != 1:
        frequencies = ", ".join(f"{base_frequency / d:.6g}" for d in distinct)
        raise SelectionError(
            f"the drive field has several frequencies ({frequencies} Hz), so harmonics are not defined; "
            "select the band by minimum and maximum frequency and set harmonics to none"
        )
    return float(base_frequency / distinct[0])


def frequency_band(
    frequencies: NDArray[np.float64], minimum: float, maximum: float | None
) -> NDArray[np.bool_]:
    """Return which bins lie between two frequencies in Hz, limits included: bool (K,)."""
    slack = FREQUENCY_ROUNDING * np.abs(frequencies).max(initial=0.0)
    inside = frequencies >= minimum - slack
    if maximum is not None:
        inside &= frequencies <= maximum + slack
    return np.asarray(inside)


def harmonic_bins(
    frequencies: NDArray[np.float64], drive: float, harmonics: tuple[int, int], half_width: float
) -> NDArray[np.bool_]:
    """Return which bins lie around the harmonics of the drive frequency.

    Parameters
    ----------
    frequencies : ndarray of float64, shape (K,)
        Frequencies of the bins in Hz.
    drive : float
        Drive frequency in Hz.
    harmonics : tuple of int
        First and last harmonic.
    half_width : float
        Width in Hz on both sides of each harmonic, limits included.

    Returns
    -------
    ndarray of bool, shape (K,)
    """
    nearest = nearest_harmonic(frequencies, drive, harmonics)
    slack = FREQUENCY_ROUNDING * np.abs(frequencies).max(initial=0.0)
    return np.asarray(np.abs(frequencies - nearest * drive) <= half_width + slack)


def nearest_harmonic(
    frequencies: NDArray[np.float64], drive: float, harmonics: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the harmonic between first and last that is closest to each frequency: int64 (K,)."""
    return np.clip(np.rint(frequencies / drive), *harmonics).astype(np.int64)


def stack_real(rows: NDArray[np.complexfloating[Any, Any]]) -> NDArray[np.floating[Any]]:
    """Stack complex rows (..., M) as real ones (..., 2M) of the same precision, real parts first."""
    return np.concatenate([rows.real, rows.imag], axis=-1)
