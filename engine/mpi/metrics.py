"""Figures of merit of data and images: SNR (Eq. 36), pSNR (Eq. 37) and two forms of SSIM (Eq. 38).

All functions work on batches: leading axes are kept, the trailing ones named in each docstring are
consumed, so a single vector or image gives a zero-dimensional array. Computation is in float64.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import InputError

SSIM_C1 = 0.01
"""Constant of the luminance term, relative to the data range (the usual value of SSIM)."""

SSIM_C2 = 0.03
"""Constant of the contrast term, relative to the data range (the usual value of SSIM)."""

SSIM_WINDOW = 7
"""Edge length in pixels of the uniform window of `ssim_windowed`."""


def snr_db(clean: ArrayLike, noisy: ArrayLike) -> NDArray[np.float64]:
    """Return the signal-to-noise ratio of data, Eq. (36).

    Parameters
    ----------
    clean, noisy : array_like, shape (..., R)
        Data without and with noise, real or complex, of one shape.

    Returns
    -------
    ndarray of float64, shape (...)
        20 log10(||clean|| / ||noisy - clean||) in dB; infinite where the two agree exactly.

    Raises
    ------
    InputError
        If the shapes differ or a clean signal is zero.
    """
    clean, noisy = np.asarray(clean), np.asarray(noisy)
    _require_equal_shapes("noisy data", noisy, "clean data", clean, min_axes=1)
    signal = np.linalg.norm(_wide(clean), axis=-1)
    if np.any(signal == 0):
        raise InputError("the clean data are zero, so their SNR is undefined; expected a non-zero signal")
    return _decibel(signal, np.linalg.norm(_wide(noisy) - _wide(clean), axis=-1))


def psnr_db(image: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of images, Eq. (37).

    Parameters
    ----------
    image, truth : array_like, shape (..., Ny, Nx)
        Reconstruction and ground truth in one unit.

    Returns
    -------
    ndarray of float64, shape (...)
        20 log10(sqrt(N) max|truth| / ||image - truth||) in dB, with the peak of each truth on its own;
        infinite where the two agree exactly.

    Raises
    ------
    InputError
        If the shapes differ or a ground truth is zero.
    """
    image, truth = _images(image, truth)
    error = np.sqrt(np.mean((image - truth) ** 2, axis=(-2, -1)))
    return _decibel(_peak(truth), error)


def ssim_global(
    image: ArrayLike, truth: ArrayLike, data_range: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the structural similarity from the statistics of whole images, Eq. (38).

    Parameters
    ----------
    image, truth : array_like, shape (..., Ny, Nx)
        Reconstruction and ground truth in one unit.
    data_range : array_like, optional
        Range L in c1 = (0.01 L)^2 and c2 = (0.03 L)^2, broadcast against the leading axes. The default
        is the peak of each truth, the reference of `psnr_db` too.

    Returns
    -------
    ndarray of float64, shape (...)
        Similarity of at most 1. Variances are those of the population (divided by N).

    Raises
    ------
    InputError
        If the shapes differ, or no data range is given and a ground truth is zero.
    """
    image, truth = _images(image, truth)
    c1, c2 = _constants(truth, data_range)
    axes = (-2, -1)
    mean_x, mean_t = image.mean(axis=axes), truth.mean(axis=axes)
    covariance = np.mean((image - mean_x[..., None, None]) * (truth - mean_t[..., None, None]), axis=axes)
    return _similarity(mean_x, mean_t, image.var(axis=axes), truth.var(axis=axes), covariance, c1, c2)


def ssim_windowed(
    image: ArrayLike, truth: ArrayLike, data_range: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the structural similarity averaged over 7 x 7 uniform windows that lie inside the image.

    This is SSIM as usually computed; the paper prints the global form (`ssim_global`).

    Parameters
    ----------
    image, truth : array_like, shape (..., Ny, Nx)
        Reconstruction and ground truth in one unit, at least 7 pixels along both axes.
    data_range : array_like, optional
        Range L, broadcast against the leading axes, as in `ssim_global`.

    Returns
    -------
    ndarray of float64, shape (...)
        Mean similarity of at most 1. Variances are unbiased (divided by 7 * 7 - 1).

    Raises
    ------
    InputError
        If the shapes differ, an image is smaller than the window, or no data range is given and a
        ground truth is zero.
    """
    image, truth = _images(image, truth)
    if min(image.shape[-2:]) < SSIM_WINDOW:
        raise InputError(
            f"image of {image.shape[-2]} x {image.shape[-1]} pixels is smaller than the {SSIM_WINDOW} x "
            f"{SSIM_WINDOW} window; use ssim_global"
        )
    c1, c2 = (c[..., None, None] for c in _constants(truth, data_range))
    mean_x, mean_t = _window_mean(image), _window_mean(truth)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    variance_x = unbiased * (_window_mean(image**2) - mean_x**2)
    variance_t = unbiased * (_window_mean(truth**2) - mean_t**2)
    covariance = unbiased * (_window_mean(image * truth) - mean_x * mean_t)
    similarity = _similarity(mean_x, mean_t, variance_x, variance_t, covariance, c1, c2)
    return np.asarray(similarity.mean(axis=(-2, -1)))


def _similarity(
    mean_x: NDArray[np.float64],
    mean_t: NDArray[np.float64],
    variance_x: NDArray[np.float64],
    variance_t: NDArray[np.float64],
    covariance: NDArray[np.float64],
    c1: NDArray[np.float64],
    c2: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Evaluate the right-hand side of Eq. (38) for arrays of float64 that broadcast against each other."""
    numerator = (2 * mean_x * mean_t + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_t**2 + c1) * (variance_x + variance_t + c2)
    return np.asarray(numerator / denominator)


def _window_mean(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over every window that lies inside the image, float64 (..., Ny - 6, Nx - 6)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (SSIM_WINDOW, SSIM_WINDOW), axis=(-2, -1))
    return np.asarray(windows.mean(axis=(-2, -1)))


def _constants(
    truth: NDArray[np.float64], data_range: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Constants c1 and c2 of Eq. (38), float64 (...), one per image."""
    span = _peak(truth) if data_range is None else np.asarray(data_range, np.float64)
    if not np.all(span > 0):
        raise InputError(f"SSIM data range is {span}; expected positive values")
    return (SSIM_C1 * span) ** 2, (SSIM_C2 * span) ** 2


def _peak(truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest magnitude of each ground truth, float64 (...)."""
    peak = np.abs(truth).max(axis=(-2, -1))
    if np.any(peak == 0):
        raise InputError("a ground-truth image is zero; expected images with a non-zero peak")
    return np.asarray(peak)


def _decibel(signal: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Level 20 log10(signal / error), float64 in the shape of both; infinite for an error of zero."""
    with np.errstate(divide="ignore"):
        return np.asarray(20 * np.log10(np.divide(signal, error)))


def _images(image: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both images as float64 (..., Ny, Nx), with their shapes checked."""
    x, t = np.asarray(image, np.float64), np.asarray(truth, np.float64)
    _require_equal_shapes("image", x, "ground truth", t, min_axes=2)
    return x, t


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    """Convert an array of any shape to double precision: float64, or complex128 if it is complex."""
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)


def _require_equal_shapes(
    name_a: str, a: NDArray[Any], name_b: str, b: NDArray[Any], *, min_axes: int
) -> None:
    if a.shape != b.shape or a.ndim < min_axes or a.size == 0:
        raise InputError(
            f"{name_a} has shape {a.shape} and {name_b} {b.shape}; expected one non-empty shape with at "
            f"least {min_axes} axes"
        )
