"""`engine info` says what each kind of file is."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from engine.calibration.calibrate import CalibrationConfig, calibrate
from engine.cli import main
from engine.mpi.mdf import write_mdf
from engine.mpi.mdf.new_files import new_reconstruction_file
from engine.mpi.simulation.truth import Truth, save_truth
from engine.operators.operators_file import save_operators

FIXTURES = Path(__file__).parents[2] / "fixtures"
BUNDLE = FIXTURES / "bundle"
GRID_LINE = "grid: 5 x 4 x 1 voxels, 10 x 8 x 2 mm, centre (0, 0, 0) mm"


def info(path: Path):
    return CliRunner().invoke(main, ["info", str(path)])


def lines(path: Path) -> list[str]:
    result = info(path)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def test_bundle() -> None:
    found = lines(BUNDLE)
    assert found[0].startswith("bundle test-projections: ReLU")
    assert found[1] == "method: deq"
    assert found[3].startswith("solver: memory 5, beta 1, ")
    assert [line.split(":")[0] for line in found[-2:]] == ["rdn", "lc"]
    assert all(line.endswith(", verified") for line in found[-2:])


def test_bundle_of_a_method_that_does_not_iterate() -> None:
    found = lines(FIXTURES / "image-bundles" / "end-to-end")
    assert found[1] == "method: end-to-end"
    assert found[3] == "solver: none, the network is applied once"
    assert "rdn: rdn.onnx" in found[-1]


def test_calibration_and_operators(scan, tmp_path) -> None:
    calibration = scan.calibration()
    write_mdf(tmp_path / "sm.mdf", calibration)
    found = lines(tmp_path / "sm.mdf")
    assert found[:2] == ["MDF calibration", GRID_LINE]
    assert "32 frames (12 background), 3 periods, 2 channels, spectra of 101 bins" in found
    operators = calibrate(calibration, CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0))
    save_operators(tmp_path / "operators.h5", operators)
    found = lines(tmp_path / "operators.h5")
    assert found[0].startswith(f"operators: {operators.n_rows} real rows, 20 voxels")
    assert GRID_LINE in found


def test_measurement_and_reconstruction(scan, tmp_path) -> None:
    rng = np.random.default_rng(0)
    frames = scan.frames(np.zeros((3, 20)), rng)
    measurement = scan.measurement(frames, np.array([False, False, True]))
    write_mdf(tmp_path / "measurement.mdf", measurement)
    assert lines(tmp_path / "measurement.mdf")[0] == "MDF measurement"
    assert lines(tmp_path / "measurement.mdf")[1].startswith("3 frames (1 background)")
    volumes = np.stack([np.full((1, 4, 5), value) for value in (0.5, 2.0)])
    write_mdf(tmp_path / "image.mdf", new_reconstruction_file(volumes, scan.grid, measurement))
    found = lines(tmp_path / "image.mdf")
    assert found[:2] == ["MDF reconstruction: 2 images, values 0.5 to 2", GRID_LINE]


def test_truth(scan, tmp_path) -> None:
    images = np.zeros((2, 1, 4, 5), np.float32)
    save_truth(tmp_path / "truth.h5", Truth(images, np.array([15.0, 25.0]), scan.grid))
    assert lines(tmp_path / "truth.h5") == ["ground truth: 2 images, SNR 15.0 to 25.0 dB", GRID_LINE]


def change_schema(file: h5py.File) -> None:
    file.attrs["schema"] = 2


def remove_images(file: h5py.File) -> None:
    del file["images"]


def drop_an_snr(file: h5py.File) -> None:
    del file["snr_db"]
    file["snr_db"] = [15.0]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (change_schema, "has schema 2, this version reads schema 1"),
        (remove_images, "cannot be read as a truth file"),
        (drop_an_snr, "images have shape (2, 1, 4, 5); expected (1, 1, 4, 5)"),
    ],
)
def test_truth_of_another_content(scan, tmp_path, damage, text) -> None:
    path = tmp_path / "truth.h5"
    save_truth(path, Truth(np.zeros((2, 1, 4, 5), np.float32), np.array([15.0, 25.0]), scan.grid))
    with h5py.File(path, "r+") as file:
        damage(file)
    result = info(path)
    assert result.exit_code == 2
    assert text in result.stderr


@pytest.mark.parametrize(
    ("content", "text"), [(None, "does not exist"), (b"text", "is not an HDF5 file")], ids=["missing", "text"]
)
def test_other_files(tmp_path, content, text) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    result = info(path)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert text in result.stderr


@pytest.mark.parametrize("kept", [8, 100, 0.5, 0.999])
def test_truncated_files(scan, tmp_path, kept) -> None:
    path = tmp_path / "system-matrix.mdf"
    write_mdf(path, scan.calibration())
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    result = info(path)
    assert result.exit_code == 2
    assert f"Error: {path} cannot be read (" in result.stderr
    assert result.stderr.endswith("expected an intact file; get it again\n")


def test_folder_that_is_no_bundle(tmp_path) -> None:
    result = info(tmp_path)
    assert result.exit_code == 2
    assert "not a model bundle" in result.stderr
