"""Emulated measurements: their noise, and that no split shares phantoms or noise with another."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.tuning.emulation import INTENSITY, emulate_frames, scan_of

SAMPLING = 0.1
"""Relative scatter of a standard deviation of 4 x 120 numbers, 1 / sqrt(2 * 480) = 3.2 %, three times."""

LEVEL = 0.9
"""dB of the same scatter."""

SPLITS = ("test", "validation", "train")


@pytest.fixture(scope="module")
def emulated(small_system_matrix):
    return scan_of(small_system_matrix)


def test_data_come_from_the_measured_matrix_and_not_from_the_smoothed_one(emulated) -> None:
    frames = emulate_frames(emulated, 4, 200.0)  # noise far below the difference of the two matrices
    images = frames.truth.reshape(4, -1).astype(np.float64)
    measured = images @ emulated.measured.real_rows().T
    assert_allclose(frames.rows * emulated.operators.scale, measured, atol=1e-6 * np.abs(measured).max())
    smooth = images @ emulated.operators.system_matrix.T
    assert np.linalg.norm(smooth - frames.rows) > 1e-3 * np.linalg.norm(frames.rows)


@pytest.mark.parametrize("split", SPLITS)
def test_one_noise_level_gives_the_asked_mean_snr(emulated, split) -> None:
    frames = emulate_frames(emulated, 4, 22.0, split=split)
    clean = frames.truth.reshape(4, -1) @ emulated.measured.real_rows().T / emulated.operators.scale
    assert_allclose(np.std(frames.rows - clean), frames.noise_std, rtol=SAMPLING)
    assert abs(frames.snr_db.mean() - 22.0) < LEVEL
    assert np.ptp(frames.snr_db) > 1.0  # bright frames are clearer than dark ones


def test_another_snr_changes_the_noise_level_and_nothing_else(emulated) -> None:
    high, low = (emulate_frames(emulated, 3, snr, seed=4) for snr in (40.0, 20.0))
    assert_array_equal(high.truth, low.truth)
    assert_allclose(low.noise_std, 10 * high.noise_std)


def test_splits_share_neither_phantoms_nor_noise(emulated) -> None:
    made = {split: emulate_frames(emulated, 4, 20.0, split=split) for split in SPLITS}
    noise = {
        split: frames.rows
        - frames.truth.reshape(4, -1) @ emulated.measured.real_rows().T / emulated.operators.scale
        for split, frames in made.items()
    }
    for first, second in (SPLITS[:2], SPLITS[1:], SPLITS[::2]):
        shapes = [
            made[split].truth / made[split].truth.max(axis=(1, 2), keepdims=True) for split in (first, second)
        ]
        assert not any(np.allclose(one, other) for one in shapes[0] for other in shapes[1])
        correlation = np.corrcoef(noise[first].ravel(), noise[second].ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(noise[first].size)  # five standard deviations of chance


def test_peaks_are_those_of_the_paper(emulated) -> None:
    peaks = emulate_frames(emulated, 4, 20.0, split="validation").truth.max(axis=(1, 2))
    assert peaks.min() >= INTENSITY[0]
    assert peaks.max() <= INTENSITY[1]
    assert np.ptp(peaks) > 0.2


@pytest.mark.parametrize(
    ("count", "snr", "words"),
    [
        (0, 20.0, "frames is 0"),
        (2, float("nan"), "SNR is nan"),
        (2, float("-inf"), "SNR is -inf"),
    ],
)
def test_impossible_requests_are_one_clear_line(emulated, count, snr, words) -> None:
    with pytest.raises(InputError, match=words):
        emulate_frames(emulated, count, snr)


def test_volumes_have_no_phantoms(make_system_matrix) -> None:
    volume = make_system_matrix(Grid((3, 3, 2), (0.006, 0.006, 0.004)), 40, (6, 12), 2)
    with pytest.raises(InputError, match="Nz = 1"):
        emulate_frames(scan_of(volume), 2, 20.0)
