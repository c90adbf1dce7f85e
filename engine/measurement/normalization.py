"""Normalisation of a measurement to the units in which the networks live: peak about 1, known noise level."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import InputError, PairingError
from engine.operators.operators import ROWS_PER_TRIPLET, Operators, can_estimate_noise, rows_for_unknowns

TIKHONOV_PEAK = 0.95
"""Mean peak of the Tikhonov image of reference vessel phantoms of peak 1, 15 to 35 dB (0.92 to 0.97)."""

SIGMA_FLOOR = 1e-4
"""Smallest noise level, relative to the rms of the data (80 dB): keeps epsilon positive without noise."""

EPSILON_RANGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""Range of single precision, in which the networks get epsilon."""

SNR_FLOOR_DB = -20.0
"""Lowest SNR that a measurement is said to have: below it the estimate is the scatter of the noise."""


@dataclass(frozen=True)
class NormalizedMeasurement:
    """One measurement in normalised units, in which A x + n = y with x of peak about 1.

    Attributes
    ----------
    y : ndarray of float32, shape (R,)
        Whitened rows divided by `Operators.scale` and by `intensity`.
    start : ndarray of float32, shape (N,)
        Least-squares start x_LS = V_r (U_r^T y / (s_r + damping)).
    intensity : float
        Concentration of an image value of 1.
    sigma : float or None
        Noise standard deviation per real row, in whitened units (1: the calibration's background noise).
        None if it was not given and the operators have too few rows to estimate it.
    epsilon : float or None
        Bound sigma sqrt(R) on the norm of the noise, in the units of `y`; None without sigma.
    explained : ndarray of float32, shape (K,)
        U^T y: what of the data some image explains, in the coordinates of A = U diag(s) V^T.
    outside : ndarray of float32, shape (R,)
        y - U U^T y: what no image explains.
    remainder : float
        ||y - U U^T y||.
    """

    y: Float32Array
    start: Float32Array
    intensity: float
    sigma: float | None
    epsilon: float | None
    explained: Float32Array
    outside: Float32Array
    remainder: float

    def data_dual(self, size: float) -> Float32Array:
        """Return `size` (y - U U^T y) / sigma, float32 (R,): a data dual d0 to start an equilibrium with.

        Psi_LC lays z0 on the ball around y, so at the fixed point d0 points along y - A x, of which the noise
        that no image explains is the largest part, and its length hardly depends on the noise level. Started
        from zero, d0 grows to it by about epsilon per step. Where y holds more than the noise of sigma, what
        it holds counts.

        Raises
        ------
        PairingError
            If the noise level is not known.
        """
        sigma = self.noise
        if sigma is None:
            raise PairingError("the noise level of the measurement is not known; expected a sigma: give one")
        seen = self.remainder / math.sqrt(self.y.size)
        return self.outside * np.float32(size / max(sigma, seen))

    @property
    def noise(self) -> float | None:
        """Standard deviation of each row of `y`; None without sigma."""
        return None if self.epsilon is None else self.epsilon / math.sqrt(self.y.size)

    @property
    def snr_db(self) -> float | None:
        """SNR of the measurement in dB (Eq. 36), estimated from ||y|| and epsilon; None without sigma."""
        if self.epsilon is None:
            return None
        squared = float(np.linalg.norm(self.explained.astype(np.float64))) ** 2 + self.remainder**2
        ratio = squared / self.epsilon**2 - 1.0
        return 10.0 * math.log10(max(ratio, 10.0 ** (SNR_FLOOR_DB / 10.0)))


def check_rows(rows: NDArray[np.floating], operators: Operators) -> None:
    """Check that whitened rows (R,) belong to the operators and are finite.

    Raises
    ------
    PairingError
        If the shape is not (R,).
    InputError
        If the rows are complex, or a value is NaN or infinite.
    """
    if np.iscomplexobj(rows):
        raise InputError("the measurement is complex; expected real-stacked rows [Re; Im]; use stack_real")
    if rows.shape != (operators.n_rows,):
        raise PairingError(
            f"the measurement has shape {rows.shape}; expected ({operators.n_rows},), one whitened value per "
            "real row of the operators; prepare it with measurement_rows"
        )
    n_bad = rows.size - np.count_nonzero(np.isfinite(rows))
    if n_bad:
        raise InputError(
            f"{n_bad} of {rows.size} measured values are NaN or infinite; expected finite values"
        )


def normalize(
    rows: NDArray[np.floating], operators: Operators, sigma: float | None = None
) -> NormalizedMeasurement | None:
    """Estimate intensity and noise of one measurement, and scale it by them.

    The intensity is the peak of the Tikhonov image V diag(s / (1 + s^2)) U^T y over `TIKHONOV_PEAK`. The
    noise is estimated from the residual y - U U^T y that no image explains, which also holds model errors:
    sigma^2 = ||y - U U^T y||^2 / (R - K), at least `SIGMA_FLOOR` of the rms of y. Both scale with y. Dense
    operators have K = N triplets; with fewer the residual also holds the data that the dropped ones explain.

    Parameters
    ----------
    rows : ndarray of float, shape (R,)
        Whitened real-stacked rows.
    operators : Operators
        Operators that the rows belong to.
    sigma : float, optional
        Noise standard deviation per real row in whitened units, instead of the estimate.

    Returns
    -------
    NormalizedMeasurement or None
        None if no image explains any part of the measurement (it is zero).

    Raises
    ------
    PairingError, InputError
        See `check_rows`; also InputError if `sigma` is not positive, or its epsilon beyond single precision.
    """
    rows = np.asarray(rows)
    check_rows(rows, operators)
    if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma is {sigma}; expected a positive noise level in whitened units")
    peak = float(np.abs(rows).max())
    if peak == 0.0:
        return None
    # Scaled to order 1 first, so that no unit of the raw signal can overflow or underflow single precision.
    unit = np.divide(rows, peak, dtype=np.float64).astype(np.float32)
    coefficients = operators.left_singular @ unit
    image_peak = _tikhonov_peak(coefficients, operators)
    if image_peak == 0.0:
        return None
    gain = TIKHONOV_PEAK / image_peak
    scale = peak / gain  # whitened rows per unit of y
    # The residual itself, not ||y||^2 - ||U^T y||^2: that difference loses its digits at a high SNR.
    outside = unit - coefficients @ operators.left_singular
    remainder = float(np.linalg.norm(outside.astype(np.float64)))
    if sigma is None and can_estimate_noise(operators):
        sigma = peak * _estimate_sigma(unit, remainder, operators)
    epsilon = None if sigma is None else sigma * math.sqrt(operators.n_rows) / scale
    if epsilon is not None and not EPSILON_RANGE[0] <= epsilon <= EPSILON_RANGE[1]:
        raise InputError(
            f"sigma is {sigma:.3g} for whitened data of peak {peak:.3g}; expected a noise level that single "
            "precision can hold beside them; leave sigma out to have it estimated"
        )
    start = operators.start_matrix @ coefficients[: operators.rank]
    return NormalizedMeasurement(
        y=unit * np.float32(gain),
        start=start * np.float32(gain),
        intensity=scale / operators.scale,
        sigma=sigma,
        epsilon=epsilon,
        explained=coefficients * np.float32(gain),
        outside=outside * np.float32(gain),
        remainder=remainder * gain,
    )


def noise_bound(measurement: NormalizedMeasurement, operators: Operators) -> float:
    """Return epsilon, or raise PairingError if the noise level is not known."""
    if measurement.epsilon is None:
        raise PairingError(
            f"the operators have {rows_for_unknowns(operators)}; estimating the noise level needs at least "
            f"{ROWS_PER_TRIPLET * operators.n_triplets} rows; give sigma"
        )
    return measurement.epsilon


def _tikhonov_peak(coefficients: Float32Array, operators: Operators) -> float:
    s = operators.singular_values
    image = operators.right_singular @ (s / (1.0 + s**2) * coefficients).astype(np.float32)
    peak = float(image.max())
    # An image without any positive value has no peak; its size still gives the scale of the problem.
    return peak if peak > 0 else float(np.abs(image).max())


def _estimate_sigma(unit: Float32Array, remainder: float, operators: Operators) -> float:
    sigma = remainder / math.sqrt(operators.n_rows - operators.n_triplets)
    floor = SIGMA_FLOOR * np.linalg.norm(unit.astype(np.float64)) / math.sqrt(operators.n_rows)
    return max(sigma, float(floor))
