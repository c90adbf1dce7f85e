"""`engine simulate`: the files of a scan, the same for the same seed."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf
from engine.mpi.mdf.grids import calibration_grid
from engine.mpi.mdf.spectra import background_mask, spectra
from engine.mpi.simulation.scan import (
    CALIBRATION_BACKGROUND_FRAMES,
    MEASUREMENT_BACKGROUND_FRAMES,
    ReceiverNoise,
    simulate_calibration,
    simulate_measurement,
)
from engine.mpi.simulation.scanner import PRESETS, FflScanner
from engine.mpi.simulation.truth import load_truth

GRID = Grid((6, 5, 1), (0.012, 0.010, 0.002))
SCANNER = FflScanner(grid=GRID, n_angles=4, period=0.001, noise_voltage=1e-4)
FILES = {"system-matrix.mdf", "measurement.mdf", "truth.h5"}


@pytest.fixture(autouse=True)
def _small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets on 30 voxels instead of 338, with a fifteenth of the angles and a tenth of the time."""
    for name, preset in PRESETS.items():
        monkeypatch.setitem(PRESETS, name, replace(SCANNER, gradient=preset.gradient))


def simulate(out: Path, *options: str):
    return CliRunner().invoke(main, ["simulate", str(out), *options])


def values(folder: Path) -> dict[str, np.ndarray]:
    """Everything in the files that a seed determines."""
    found = {name: spectra(read_mdf(folder / name)) for name in ("system-matrix.mdf", "measurement.mdf")}
    truth = load_truth(folder / "truth.h5")
    return found | {"images": truth.images, "snr": truth.snr_db}


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, bool]:
    return {name: np.array_equal(first[name], second[name]) for name in first}


def test_writes_a_calibration_a_measurement_and_the_truth(tmp_path: Path) -> None:
    out = tmp_path / "new" / "scan"  # folders are made
    result = simulate(out, "--frames", "3", "--snr", "17.5", "--seed", "4")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert (
        result.stdout == f"{out}: system matrix of 30 voxels, 3 frames at 17.5 dB SNR (preset reference-0.5, "
        "seed 4)\n"
    )
    assert {path.name for path in out.iterdir()} == FILES

    calibration, measurement = read_mdf(out / "system-matrix.mdf"), read_mdf(out / "measurement.mdf")
    assert calibration_grid(calibration) == GRID
    assert np.count_nonzero(~background_mask(calibration)) == GRID.n_voxels
    assert np.count_nonzero(background_mask(calibration)) == CALIBRATION_BACKGROUND_FRAMES
    assert measurement.calibration is None
    assert np.count_nonzero(~background_mask(measurement)) == 3
    assert np.count_nonzero(background_mask(measurement)) == MEASUREMENT_BACKGROUND_FRAMES
    for file in (calibration, measurement):
        assert file.experiment.is_simulation
        assert file.acquisition.num_periods_per_frame == SCANNER.n_angles

    truth = load_truth(out / "truth.h5")
    assert truth.grid == GRID
    assert truth.images.shape == (3, *GRID.volume_shape)
    assert truth.images.min() >= 0
    assert truth.snr_db.mean() == pytest.approx(17.5)


def test_the_files_are_those_of_the_python_interface(tmp_path: Path) -> None:
    """Every option reaches the simulation."""
    options = ["--preset", "reference-0.6", "--frames", "2", "--snr", "30", "--seed", "9"]
    options += ["--noise-colour", "0.5", "--noise-dof", "4", "--drift", "0.2"]
    result = simulate(tmp_path, *options)
    assert result.exit_code == 0, result.output
    noise = ReceiverNoise(colour=0.5, degrees_of_freedom=4.0, drift=0.2)
    scanner = replace(SCANNER, gradient=0.6)
    measured = simulate_measurement(scanner, 2, 30.0, 9, noise=noise)
    expected = {
        "system-matrix.mdf": spectra(simulate_calibration(scanner, 9, noise)),
        "measurement.mdf": spectra(measured.file),
        "images": measured.truth,
        "snr": measured.snr_db,
    }
    assert all(equal(values(tmp_path), expected).values())


@pytest.mark.parametrize("preset", ["reference-0.5", "reference-0.6"])
def test_the_number_of_a_preset_is_its_gradient(tmp_path: Path, preset: str) -> None:
    assert simulate(tmp_path, "--preset", preset, "--frames", "1").exit_code == 0
    for name in ("system-matrix.mdf", "measurement.mdf"):
        with h5py.File(tmp_path / name) as file:
            gradient = file["acquisition/gradient"][()]
        # The largest slope of the field, along the normal of the line, at every angle.
        np.testing.assert_allclose(np.linalg.norm(gradient[:, 0, :2, :2], 2, axis=(1, 2)), float(preset[-3:]))


def test_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    assert simulate(tmp_path / "default").exit_code == 0
    options = ("--preset", "reference-0.5", "--frames", "8", "--snr", "20", "--seed", "0")
    assert simulate(tmp_path / "explicit", *options, "--noise-colour", "0", "--drift", "0").exit_code == 0
    assert all(equal(values(tmp_path / "default"), values(tmp_path / "explicit")).values())


def test_a_seed_gives_the_same_scan_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("first", "1"), ("again", "1"), ("other", "2")):
        assert simulate(tmp_path / name, "--frames", "2", "--seed", seed).exit_code == 0
    first = values(tmp_path / "first")
    assert all(equal(first, values(tmp_path / "again")).values())
    assert not any(equal(first, values(tmp_path / "other")).values())


def test_more_snr_is_more_tracer_and_not_less_noise(tmp_path: Path) -> None:
    for name, snr in (("low", "10"), ("high", "30")):
        assert simulate(tmp_path / name, "--frames", "2", "--snr", snr).exit_code == 0
    low, high = values(tmp_path / "low"), values(tmp_path / "high")
    np.testing.assert_allclose(high["images"], 10 * low["images"], rtol=1e-5)  # float32
    n_empty = MEASUREMENT_BACKGROUND_FRAMES
    np.testing.assert_array_equal(high["measurement.mdf"][:n_empty], low["measurement.mdf"][:n_empty])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "reference-0.7"), "'reference-0.7' is not one of 'reference-0.5', 'reference-0.6'"),
        (("--frames", "0"), "0 is not in the range x>=1"),
        (("--seed", "-1"), "-1 is not in the range x>=0"),
        (("--noise-dof", "2"), "2.0 is not in the range x>2.0"),
        (("--snr", "nan"), "SNR is nan dB; expected a finite number"),
        (("--snr", "-10000"), "SNR is -10000.0 dB; expected a finite number from -200 to 200"),
        (("--drift", "1e45"), "drift 1e+45 exceed single precision"),
        (("--noise-dof", "nan"), "degrees of freedom of the noise are nan; expected more than 2"),
        (("--noise-colour", "inf"), "colour of the noise is inf; expected a finite number"),
        (("--drift", "nan"), "drift of the background is nan; expected a finite number"),
    ],
)
def test_impossible_options_end_with_two_and_write_nothing(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = simulate(tmp_path / "scan", *options)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "scan").write_text("notes")
    result = simulate(tmp_path / "scan")
    assert result.exit_code == 2
    assert "is a file" in result.stderr
    assert (tmp_path / "scan").read_text() == "notes"
