"""A phantom that sways: truth and signals against an independent shift."""

import numpy as np
import pytest

from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.mpi.simulation.scan import SWAY_VOXELS, simulate_moving_measurement
from engine.mpi.simulation.scanner import FflScanner

SCANNER = FflScanner(
    grid=Grid((12, 6, 1), (0.024, 0.012, 0.002)), n_angles=10, period=0.002, noise_voltage=1e-4
)


def centre_of_difference(image, still):
    """Where `still` has to be moved along x to fit best, by trying shifts of a quarter voxel."""
    x = np.arange(image.shape[1])
    inner = slice(4, -4)
    trials = np.arange(-4, 4.01, 0.25)
    errors = [
        np.sum((np.stack([np.interp(x - by, x, row) for row in still]) - image)[:, inner] ** 2)
        for by in trials
    ]
    return trials[int(np.argmin(errors))]


def test_it_sways_as_a_sine_and_comes_back():
    found = simulate_moving_measurement(SCANNER, 8, 25.0, seed=2)
    images = found.truth[:, 0] / found.truth.max()
    wanted = SWAY_VOXELS * np.sin(2 * np.pi * np.arange(8) / 8)
    moved = [centre_of_difference(image, images[0]) for image in images]
    np.testing.assert_allclose(moved, wanted, atol=0.5)
    np.testing.assert_allclose(images[4], images[0], atol=1e-6)  # sin(pi) is zero up to rounding
    assert found.snr_db.mean() == pytest.approx(25.0)


def test_impossible_requests():
    with pytest.raises(InputError, match="frames is 0"):
        simulate_moving_measurement(SCANNER, 0, 25.0)
