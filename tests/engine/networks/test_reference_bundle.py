"""The shipped bundles: on frames of the reference scanner, and the denoiser on noisy phantoms."""

from dataclasses import replace

import numpy as np
import pytest

from engine.calibration.calibrate import calibrate
from engine.measurement.file_rows import measurement_rows
from engine.mpi.grid import Grid
from engine.mpi.mdf import MdfFile
from engine.mpi.metrics import psnr_db
from engine.mpi.simulation.phantoms import vessel_images
from engine.mpi.simulation.scan import (
    SimulatedMeasurement,
    preset_scanner,
    simulate_calibration,
    simulate_measurement,
)
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.operators.operators import Operators
from engine.reconstruction.methods import default_bundle_path
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.least_squares import LeastSquares

SNR_DB = 20.0

GAIN_OVER_START = 8.0
"""dB of pSNR that the networks must add to the least-squares start on average; 17 are typical."""

DENOISER_NOISE = 0.1
"""Standard deviation for images of peak 1 that the denoiser was trained at."""

DENOISER_GAIN = 10.0
"""dB of pSNR that the denoiser must gain on average: 11.2 here, 9.2 by the network of the equilibrium."""

EQUIVARIANCE = 0.01
"""Relative error allowed between the image of 10 y and 10 times the image of y. Rounding 10 y to single
precision starts a difference of 1e-7 that an unconverged solve amplifies, to 1e-5 in a typical frame."""


@pytest.fixture(scope="module")
def operators() -> Operators:
    return calibrate(simulate_calibration(preset_scanner("reference-0.5"), seed=1))


@pytest.fixture(scope="module")
def measured() -> SimulatedMeasurement:
    return simulate_measurement(preset_scanner("reference-0.5"), 6, SNR_DB, seed=1)


@pytest.fixture(scope="module")
def reconstructor(operators: Operators) -> Reconstructor:
    bundle = load_bundle(None)
    return Reconstructor(
        Equilibrium(
            operators,
            OnnxPrior(bundle),
            OnnxConsistency(bundle),
            bundle.manifest.solver,
            bundle.manifest.dual_start,
        )
    )


def images(method: Reconstructor, file: MdfFile) -> np.ndarray:
    rows = measurement_rows(file, method.operators).rows
    return np.stack([frame.image[0] for frame in method.reconstruct_frames(rows)])


def test_networks_gain_over_the_least_squares_start(reconstructor, operators, measured) -> None:
    truth = measured.truth[:, 0]
    start, found = (
        images(method, measured.file) for method in (Reconstructor(LeastSquares(operators)), reconstructor)
    )
    assert found.shape == truth.shape
    assert psnr_db(found, truth).mean() > psnr_db(start, truth).mean() + GAIN_OVER_START


def test_ten_times_the_measurement_gives_ten_times_the_image(reconstructor, measured) -> None:
    file = measured.file
    louder = replace(file, measurement=replace(file.measurement, data=np.float32(10) * file.measurement.data))
    once, ten = images(reconstructor, file), images(reconstructor, louder)
    error = np.linalg.norm(ten - 10 * once, axis=(1, 2)) / np.linalg.norm(10 * once, axis=(1, 2))
    assert error.max() < EQUIVARIANCE


def test_denoiser_removes_the_noise_it_was_trained_at() -> None:
    grid = Grid((26, 13, 1), (0.052, 0.026, 0.002))
    truth = vessel_images("test", 48, grid, seed=0)
    noise = DENOISER_NOISE * np.random.default_rng(0).standard_normal(truth.shape)
    noisy = (truth + noise).astype(np.float32)
    denoise = OnnxPrior(load_bundle(default_bundle_path("pp-mpi")))
    unused = np.zeros((len(truth), 1, 1, 1), np.float32)
    gain = psnr_db(denoise(noisy[:, None], unused)[:, 0], truth) - psnr_db(noisy, truth)
    assert gain.mean() > DENOISER_GAIN
