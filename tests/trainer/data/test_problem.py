"""From the [data] table to operators, the matrix that makes data, and images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.calibration.calibrate import CalibrationConfig, system_matrix_from_mdf
from engine.errors import ConfigError, InputError
from engine.mpi.grid import Grid
from engine.mpi.mdf import write_mdf
from engine.mpi.simulation.phantoms import vessel_images
from engine.mpi.simulation.scan import simulate_calibration
from engine.mpi.simulation.scanner import FflScanner
from engine.operators.operators import SPECTRAL_NORM
from trainer.config import DataConfig
from trainer.data.angiography import angiogram_images
from trainer.data.problem import load_images, load_problem, load_scan, make_problem, make_scan

SCANNER = FflScanner(grid=Grid((10, 8, 1), (0.040, 0.032, 0.004)), n_angles=6, noise_voltage=0.01)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mdf") / "calibration.mdf"
    write_mdf(path, simulate_calibration(SCANNER, seed=1))
    return path


def test_data_and_operators_share_one_unit(system_matrix) -> None:
    crime, honest = make_scan(system_matrix, smooth=False), make_scan(system_matrix, smooth=True)
    np.testing.assert_allclose(crime.data_matrix, crime.operators.system_matrix, rtol=1e-6)
    for scan, seen in ((crime, system_matrix), (honest, system_matrix.smoothed())):
        assert np.linalg.norm(scan.operators.system_matrix, 2) == pytest.approx(SPECTRAL_NORM, rel=1e-5)
        scale = scan.operators.scale
        stacked = np.concatenate([seen.rows.real, seen.rows.imag])
        np.testing.assert_allclose(scale * scan.operators.system_matrix, stacked, rtol=0, atol=1e-3)
        raw = np.concatenate([system_matrix.rows.real, system_matrix.rows.imag])
        np.testing.assert_allclose(scale * scan.data_matrix, raw, rtol=0, atol=1e-3)
    # The matrix that makes the data is not the one that inverts them.
    assert np.abs(honest.data_matrix - honest.operators.system_matrix).max() > 0.1


def test_rank_reaches_the_operators(system_matrix) -> None:
    assert make_scan(system_matrix, smooth=True, rank=7).operators.rank == 7


def test_measure_is_the_data_matrix_times_the_images(scan, images, config) -> None:
    problem = make_problem(scan, images[:30], images[30:], config.data, torch.device("cpu"))
    rows = problem.measure(torch.tensor(images[:2]))
    np.testing.assert_allclose(rows, images[:2].reshape(2, -1) @ scan.data_matrix.T, rtol=1e-4, atol=1e-4)
    assert len(problem.train) == 30
    assert problem.validation.shape == (10, 6, 8)


@pytest.mark.parametrize("name", ["training", "validation"])
def test_images_of_another_grid_are_refused(scan, images, config, name: str) -> None:
    sets = {"training": images, "validation": images}
    sets[name] = images.swapaxes(1, 2)
    with pytest.raises(ConfigError, match=rf"{name} images .*\(8, 6\) .*\(6, 8\)"):
        make_problem(scan, *sets.values(), config.data, torch.device("cpu"))


def test_validation_images_without_contrast_are_refused(scan, images, config) -> None:
    with pytest.raises(ConfigError, match=r"validation images .*40 of 40"):
        make_problem(scan, images, np.zeros_like(images), config.data, torch.device("cpu"))


def test_a_calibration_file_is_a_system_matrix(calibration: Path) -> None:
    config = DataConfig(str(calibration), train=5, validation=3)
    problem = load_problem(config, torch.device("cpu"))
    expected = system_matrix_from_mdf(calibration, CalibrationConfig())
    assert problem.operators.n_rows == 2 * len(expected.rows)
    assert problem.operators.image_shape == (8, 10)
    assert problem.operators.layout_shape == (6, 130)
    assert problem.train.images.shape == (5, 8, 10)
    assert problem.validation.shape == (3, 8, 10)
    for image in (*problem.train.images.numpy(), *problem.validation):
        assert (image.min(), image.max()) == (0.0, 1.0)


def test_training_and_validation_images_differ(calibration: Path) -> None:
    problem = load_problem(DataConfig(str(calibration), train=4, validation=4), torch.device("cpu"))
    distance = np.abs(problem.train.images.numpy()[:, None] - problem.validation[None]).max(axis=(2, 3))
    assert distance.min() > 0.05


@pytest.fixture(scope="module")
def angiograms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of four subjects with a bright tube each, in noise of its own."""
    folder = tmp_path_factory.mktemp("mra")
    header = "NDims = 3\nDimSize = 30 24 12\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    for subject in range(1, 5):
        volume = np.random.default_rng(subject).uniform(0, 1, (12, 24, 30))
        volume[5:7, :, 12 + subject : 15 + subject] = 4.0
        content = header.encode() + volume.astype("<f4").tobytes()
        (folder / f"Normal{subject:03}-MRA.mha").write_bytes(content)
    return folder


def test_images_come_from_the_source_that_is_named(angiograms: Path) -> None:
    synthetic = DataConfig("reference-0.5", phantom_seed=3)
    measured = dataclasses.replace(synthetic, angiograms=str(angiograms))
    for split in ("train", "validation", "test"):
        expected = vessel_images(split, 3, SCANNER.grid, 3)
        assert np.array_equal(load_images(synthetic, split, 3, SCANNER.grid), expected)
        expected = angiogram_images(angiograms, split, 3, SCANNER.grid, 3)
        assert np.array_equal(load_images(measured, split, 3, SCANNER.grid), expected)


def test_a_problem_takes_both_sets_from_the_angiograms(calibration: Path, angiograms: Path) -> None:
    config = DataConfig(str(calibration), train=5, validation=3, angiograms=str(angiograms))
    problem = load_problem(config, torch.device("cpu"))
    train = angiogram_images(angiograms, "train", 5, SCANNER.grid, 0)
    validation = angiogram_images(angiograms, "validation", 3, SCANNER.grid, 0)
    assert np.array_equal(problem.train.images.numpy(), train)
    assert np.array_equal(problem.validation, validation)


def test_a_missing_folder_of_angiograms_is_refused(calibration: Path, tmp_path: Path) -> None:
    config = DataConfig(str(calibration), angiograms=str(tmp_path / "none"))
    with pytest.raises(InputError, match="/none "):
        load_problem(config, torch.device("cpu"))


def test_a_name_that_is_neither_preset_nor_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'reference-0\.9'; .*reference-"):
        load_scan(DataConfig("reference-0.9"))


@pytest.mark.slow
def test_the_presets_are_the_reference_scanner() -> None:
    scan = load_scan(DataConfig("reference-0.5"))
    assert scan.operators.layout.shape == (60, 130)
    assert scan.operators.n_voxels == 26 * 13
    again = load_scan(DataConfig("reference-0.5", system_matrix_seed=1))
    assert dataclasses.replace(scan.operators.grid) == again.operators.grid
    assert not np.array_equal(scan.operators.noise_std, again.operators.noise_std)
