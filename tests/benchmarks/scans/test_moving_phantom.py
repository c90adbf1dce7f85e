"""Frames of a moving phantom: motion, noise level and what the data are of."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from benchmarks.scans import moving_phantom as module
from benchmarks.scans.moving_phantom import VOXELS_PER_FRAME, moving_phantom
from benchmarks.scans.scans import frames_of_test_split, reference_scan
from engine.tuning.emulation import Frames

NOISELESS = 250.0
"""An SNR in dB, where only rounding is left."""

EXACT = 1e-10
"""Rounding of double precision over some hundred terms, relative to the rms of the data."""

SPLINE = 0.01
"""Voxels by which cubic interpolation and clipping move the centre of a smooth blob."""

COUNT = 5

pytestmark = pytest.mark.usefixtures("small_world")


def clean_rows(truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return A x, one frame at a time, from the complex system matrix."""
    scan = reference_scan(0.5)
    matrix = scan.measured.rows
    found = []
    for image in truth.astype(np.float64):
        signal = sum(value * column for value, column in zip(image.ravel(), matrix.T, strict=True))
        found.append(np.concatenate([np.real(signal), np.imag(signal)]))
    return np.stack(found) / scan.operators.scale


def rms(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.sqrt(np.mean(rows**2, axis=1))
    return found


def test_without_noise_the_rows_are_those_of_the_images() -> None:
    sequence = moving_phantom(0.5, 1, COUNT, NOISELESS)
    assert sequence.truth.dtype == np.float32
    assert sequence.truth.shape == (COUNT, 8, 10)
    assert (sequence.truth >= 0).all()
    expected = clean_rows(sequence.truth)
    assert_allclose(sequence.rows, expected, rtol=0, atol=EXACT * rms(expected).max())


@pytest.mark.parametrize("snr", [15.0, 35.0])
def test_each_frame_has_the_stated_snr_and_noise_of_its_own(snr: float) -> None:
    sequence = moving_phantom(0.5, 5, COUNT, snr)
    clean = clean_rows(sequence.truth)
    noise = sequence.rows - clean
    found = 20 * np.log10(rms(clean) / rms(noise))
    # The rms of R values scatters by a share 1 / sqrt(2 R); four times that in dB.
    n_rows = clean.shape[1]
    assert_allclose(found, snr, atol=4 * 20 / np.log(10) / np.sqrt(2 * n_rows))
    correlations = np.corrcoef(noise)[np.triu_indices(COUNT, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(n_rows)  # each scatters by 1 / sqrt(R)


def test_the_phantom_moves_along_x(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:8, :10]
    blob = np.exp(-((y - 3.0) ** 2 + (x - 4.5) ** 2) / 2).astype(np.float32)

    def blobs(gradient: float, count: int, snr: float) -> Frames:
        return replace(frames_of_test_split(gradient, 1, snr), truth=np.repeat(blob[None], count, axis=0))

    monkeypatch.setattr(module, "frames_of_test_split", blobs)
    truth = moving_phantom(0.5, 9, COUNT, 25.0).truth
    mass = truth.sum(axis=(1, 2))
    centres = (truth * x).sum(axis=(1, 2)) / mass
    assert_allclose(np.diff(centres), VOXELS_PER_FRAME, atol=SPLINE)
    assert_allclose(centres.mean(), 4.5, atol=SPLINE)
    assert_allclose((truth * y).sum(axis=(1, 2)) / mass, 3.0, atol=SPLINE)


def test_the_middle_frame_is_the_phantom_of_that_number() -> None:
    expected = frames_of_test_split(0.5, 15, 25.0).truth[14]
    assert_allclose(moving_phantom(0.5, 14, COUNT, 25.0).truth[COUNT // 2], expected, atol=1e-6)


def test_a_sequence_can_be_made_again() -> None:
    first, again = (moving_phantom(0.5, 1, COUNT, 25.0) for _ in range(2))
    assert_array_equal(first.rows, again.rows)
    assert_array_equal(first.truth, again.truth)
    other = moving_phantom(0.5, 5, COUNT, 25.0)
    assert not np.array_equal(first.truth, other.truth)
    noise = [sequence.rows - clean_rows(sequence.truth) for sequence in (first, other)]
    correlation = np.corrcoef(noise[0][0], noise[1][0])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(noise[0].shape[1])
