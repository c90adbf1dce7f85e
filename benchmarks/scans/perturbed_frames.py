"""Emulated frames with noise of another kind, or of another concentration.

Noise of another kind is the Gaussian noise of the frames times a factor per row: the kinds differ by what the
factor depends on. Its mean square is one in every frame, so the power of the noise stays what it was, and
figures of two kinds differ by no other draw than that of the factor.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.mpi.metrics import snr_db
from engine.operators.operators import Operators
from engine.tuning.emulation import Frames, Scan

STREAM = 38
"""Of the random factors; those of phantoms and noise are others."""

IMPULSE_SHARE, IMPULSE_FACTOR = 0.03, 10.0
"""Share of the rows that are hit, and their standard deviation relative to the other rows."""

DEGREES_OF_FREEDOM = 3.0
"""Of the heavy-tailed noise: variance is finite, kurtosis is not."""

Factor = Callable[[np.random.Generator, tuple[int, int], NDArray[np.float64]], NDArray[np.float64]]
"""From a generator, the shape (F, R) and the frequency of each row in Hz to the factors (F, R)."""


def falling_with_frequency(
    _rng: np.random.Generator, shape: tuple[int, int], frequencies: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Noise whose standard deviation falls as 1/f, though the calibration's was white."""
    return np.broadcast_to(1 / frequencies, shape)


def impulses(
    rng: np.random.Generator, shape: tuple[int, int], _frequencies: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Noise that is ten times stronger in 3 % of the rows, others in every frame."""
    return np.where(rng.random(shape) < IMPULSE_SHARE, IMPULSE_FACTOR, 1.0)


def heavy_tails(
    rng: np.random.Generator, shape: tuple[int, int], _frequencies: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Noise of Student's t distribution: Gaussian over the root of a chi-squared variable."""
    return np.asarray(1 / np.sqrt(rng.chisquare(DEGREES_OF_FREEDOM, shape)))


def with_noise_factor(scan: Scan, frames: Frames, factor: Factor, seed: int = 0) -> Frames:
    """Return frames with every value of the noise multiplied by a factor of its own.

    Parameters
    ----------
    scan : Scan
        The frames were measured with.
    frames : Frames
        With Gaussian noise of one level.
    factor : callable
        Gives the factors up to their scale.
    seed : int, optional
        Of the factors.

    Returns
    -------
    Frames
        Same truth, same expected power of the noise in each frame.
    """
    clean = noise_free_rows(scan, frames)
    rng = np.random.default_rng([seed, STREAM])
    factors = factor(rng, frames.rows.shape, row_frequencies(scan.operators))
    factors = factors / np.sqrt(np.mean(factors**2, axis=1, keepdims=True))
    rows = clean + (frames.rows - clean) * factors
    return Frames(frames.truth, rows, frames.noise_std, snr_db(clean, rows))


def with_concentration(scan: Scan, frames: Frames, gain: float) -> Frames:
    """Return frames of `gain` times the tracer with the noise as it was; the SNR changes with the gain."""
    clean = noise_free_rows(scan, frames)
    rows = frames.rows + (gain - 1) * clean
    truth = (gain * frames.truth).astype(np.float32)
    return Frames(truth, rows, frames.noise_std, snr_db(gain * clean, rows))


def noise_free_rows(scan: Scan, frames: Frames) -> NDArray[np.float64]:
    """Return what the frames would be without noise, shape (F, R), in their unit."""
    images = frames.truth.reshape(len(frames.truth), -1).astype(np.float64)
    return np.asarray(images @ scan.measured.real_rows().T / scan.operators.scale)


def row_frequencies(operators: Operators) -> NDArray[np.float64]:
    """Return the frequency in Hz of every real row, shape (R,)."""
    acquisition = operators.acquisition
    column = operators.layout.index % operators.layout.shape[1]
    return np.tile(acquisition.bins[column] * (2 * acquisition.bandwidth / acquisition.n_samples), 2)
