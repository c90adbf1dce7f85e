"""Bad input of the engine ends with exit code 2 and one line that says what is wrong, and leaves nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from engine.cli import main as engine

REPOSITORY = Path(__file__).parents[2]

CALIBRATE = ("calibrate", "system-matrix.mdf", "new-operators.h5")
RECON = ("recon", "measurement.mdf", "image.mdf", "--operators", "operators.h5", "--model", "bundle")
RECON_ALL = (*RECON, "--image", "image.png", "--stats", "report.json")
INPUTS = {"system-matrix.mdf": CALIBRATE, "measurement.mdf": RECON_ALL, "operators.h5": RECON_ALL}
"""Each input file, and a command that reads it and has outputs."""

Refused = Callable[..., str]
Edit = Callable[[h5py.File], None]


def edit(path: Path, change: Edit) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def store(file: h5py.File, name: str, value: object) -> None:
    """Replace a dataset by one of another shape."""
    del file[name]
    file[name] = value


# --- files that are damaged or something else -----------------------------------------------------------


@pytest.mark.parametrize("name", INPUTS)
def test_a_text_file(refused: Refused, folder: Path, name: str) -> None:
    (folder / name).write_text("no measurement\n")
    for command in (INPUTS[name], ("info", name)):
        line = refused(engine, *command)
        assert name in line
        assert "HDF5 file" in line
        assert "expected" in line


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("kept", [0.0, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99999])
def test_a_truncated_file(refused: Refused, folder: Path, name: str, kept: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(kept * len(content))])
    for command in (INPUTS[name], ("info", name)):
        line = refused(engine, *command)
        assert name in line
        assert "expected" in line or "run engine calibrate again" in line


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("measurement.mdf", "version"),
        ("measurement.mdf", "study/name"),
        ("measurement.mdf", "acquisition/receiver"),
        ("measurement.mdf", "acquisition/receiver/bandwidth"),
        ("measurement.mdf", "measurement/data"),
        ("measurement.mdf", "measurement/isBackgroundFrame"),
        ("measurement.mdf", "measurement/frequencySelection"),
        ("system-matrix.mdf", "acquisition/drivefield/divider"),
        ("system-matrix.mdf", "measurement/framePermutation"),
        ("system-matrix.mdf", "calibration/size"),
        ("system-matrix.mdf", "calibration/fieldOfView"),
        ("operators.h5", "system_matrix"),
        ("operators.h5", "acquisition/bins"),
    ],
)
def test_a_missing_field(refused: Refused, folder: Path, name: str, dataset: str) -> None:
    edit(folder / name, lambda file: file.__delitem__(dataset))
    line = refused(engine, *INPUTS[name])
    assert dataset in line
    assert "missing" in line or "lacks" in line


@pytest.mark.parametrize("name", ["measurement.mdf", "system-matrix.mdf"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(refused: Refused, folder: Path, name: str, value: float) -> None:
    edit(folder / name, lambda file: file["measurement/data"].__setitem__((1, 0, 0, 3), value))
    line = refused(engine, *INPUTS[name])
    assert f"{name}: /measurement/data is ({value}+0j) at index (1, 0, 0, 3)" in line
    assert "expected finite numbers; remove or repair" in line


def test_operators_that_were_changed(refused: Refused, folder: Path) -> None:
    edit(folder / "operators.h5", lambda file: file["system_matrix"].__setitem__((0, 0), 1.0))
    line = refused(engine, *RECON_ALL)
    assert "operators.h5 does not match its own SHA-256" in line
    assert "run engine calibrate again" in line


def test_a_damaged_truth_file(refused: Refused, folder: Path) -> None:
    edit(folder / "truth.h5", lambda file: (file.__delitem__("images"), file.create_group("images")))
    assert "truth.h5: cannot be read as a truth file" in refused(engine, "info", "truth.h5")


@pytest.mark.parametrize("name", ["absent.mdf", "bundle"])
def test_an_input_that_is_no_file(refused: Refused, name: str) -> None:
    assert f"{name}: there is no such file" in refused(engine, "recon", name, *RECON_ALL[2:])
    assert f"{name}: there is no such file" in refused(engine, "calibrate", name, "new-operators.h5")
    assert f"{name} is not a file" in refused(engine, *RECON[:4], name, *RECON[5:])


# --- files that do not belong together ------------------------------------------------------------------


def without_used_bins(file: h5py.File) -> None:
    """Cut the file to the bins of the 2nd harmonic."""
    store(file, "measurement/data", file["measurement/data"][..., :13])
    store(file, "measurement/frequencySelection", file["measurement/frequencySelection"][:13])


def with_two_channels(file: h5py.File) -> None:
    store(file, "measurement/data", np.repeat(file["measurement/data"][()], 2, axis=2))
    store(file, "acquisition/receiver/numChannels", 2)


def without_last_period(file: h5py.File) -> None:
    store(file, "measurement/data", file["measurement/data"][:, :-1])
    store(file, "acquisition/numPeriodsPerFrame", 5)
    for name in ("gradient", "drivefield/strength", "drivefield/phase"):
        store(file, f"acquisition/{name}", file[f"acquisition/{name}"][:-1])


def with_more_samples(file: h5py.File) -> None:
    store(file, "acquisition/receiver/numSamplingPoints", 4000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_used_bins, "27 of the 30 frequency bins in use are missing from the measurement"),
        (with_two_channels, "receive channels: 2 in the measurement, 1 in the calibration"),
        (without_last_period, "periods per frame: 5 in the measurement, 6 in the calibration"),
        (with_more_samples, "samples per period: 4000 in the measurement, 2000 in the calibration"),
        (
            lambda file: store(file, "acquisition/receiver/bandwidth", 4e5),
            "bandwidth in Hz: 400000.0 in the measurement, 500000.0 in the calibration",
        ),
        (
            lambda file: store(file, "acquisition/receiver/unit", "mV"),
            "unit of the signal: mV in the measurement, V in the calibration",
        ),
    ],
    ids=["bins", "channels", "periods", "samples", "bandwidth", "unit"],
)
def test_a_measurement_of_another_scanner_setting(
    refused: Refused, folder: Path, change: Edit, words: str
) -> None:
    edit(folder / "measurement.mdf", change)
    line = refused(engine, *RECON_ALL)
    assert words in line
    assert "use a measurement and operators of one scanner setting" in line or "store them or calib" in line


def test_files_in_the_wrong_place(refused: Refused) -> None:
    line = refused(engine, "calibrate", "measurement.mdf", "new-operators.h5")
    assert "holds no calibration" in line
    assert "expected a system matrix" in line
    line = refused(engine, *RECON[:4], "measurement.mdf", *RECON[5:])
    assert "measurement.mdf has kind None, expected 'deq-mpi-operators'" in line


# --- bundles --------------------------------------------------------------------------------------------


def change_manifest(folder: Path, **values: object) -> None:
    path = folder / "bundle" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"schema": 7},
            "schema 7; this version reads kind 'deq-mpi-bundle', schema 3; export the model again",
        ),
        ({"kind": "other"}, "kind is 'other', schema 3; this version reads kind 'deq-mpi-bundle'"),
        ({"colour": "red"}, "unknown key 'colour'; expected name, description, method"),
    ],
)
def test_a_bundle_of_another_version(refused: Refused, folder: Path, values: dict, words: str) -> None:
    change_manifest(folder, **values)
    for command in (RECON_ALL, ("info", "bundle")):
        assert words in refused(engine, *command)


@pytest.mark.parametrize("name", ["rdn.onnx", "lc.onnx"])
def test_a_network_that_was_changed(refused: Refused, folder: Path, name: str) -> None:
    path = folder / "bundle" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for command in (RECON_ALL, ("info", "bundle")):
        line = refused(engine, *command)
        assert f"{name} has SHA-256" in line
        assert "manifest.json says" in line
        assert "get the bundle again" in line
    path.unlink()
    assert f"{name} is missing" in refused(engine, *RECON_ALL)


# --- requests that cannot be met ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--snr-threshold", "1e9"), "no row of 180 has an SNR (computed from the background frames) above"),
        (("--min-frequency", "4.9e5"), "none of the 130 frequency bins in the file"),
        (("--harmonics", "20:21"), "none of the 130 frequency bins in the file"),
        (("--channels", "3"), "receive channels [3] were asked for; the file has 1"),
        (("--rank", "31"), "rank 31 for a system matrix of numerical rank 30; expected 1 to 30"),
    ],
)
def test_a_selection_that_leaves_nothing(refused: Refused, options: tuple[str, ...], words: str) -> None:
    assert words in refused(engine, *CALIBRATE, *options)


def test_a_calibration_without_background_frames(refused: Refused, folder: Path) -> None:
    def change(file: h5py.File) -> None:
        store(file, "measurement/data", file["measurement/data"][..., :30])
        store(file, "measurement/isBackgroundFrame", np.zeros(30, np.int8))
        store(file, "measurement/framePermutation", np.arange(1, 31))
        store(file, "acquisition/numFrames", 30)

    edit(folder / "system-matrix.mdf", change)
    assert "0 background frames; expected at least 2" in refused(engine, *CALIBRATE)


@pytest.mark.parametrize(
    "command",
    [
        ("calibrate", "system-matrix.mdf", "absent/operators.h5"),
        ("recon", "measurement.mdf", "absent/image.mdf", *RECON[3:]),
        (*RECON, "--image", "absent/image.png"),
        (*RECON, "--stats", "absent/report.json"),
    ],
)
def test_an_output_in_a_missing_folder(refused: Refused, folder: Path, command: tuple[str, ...]) -> None:
    line = refused(engine, *command)
    assert f"the folder {folder / 'absent'} does not exist; create it first" in line


def test_a_measurement_of_nothing_gives_a_zero_image_and_says_so(folder: Path) -> None:
    edit(folder / "measurement.mdf", lambda file: file["measurement/data"].__setitem__(..., 0))
    result = CliRunner().invoke(engine, RECON_ALL)
    assert result.exit_code == 0, result.output
    assert result.stderr == "Note: frames 0-1 measured zero, so the image is zero\n"
    with h5py.File(folder / "image.mdf") as file:
        image = file["reconstruction/data"][()]
    np.testing.assert_array_equal(image, np.zeros((2, 30, 1)))
    frames = json.loads((folder / "report.json").read_text())["frames"]
    assert [frame["result"] for frame in frames] == ["zero_measurement"] * 2
    assert (folder / "image.png").is_file()


# --- as a user sees it ----------------------------------------------------------------------------------


def test_the_program_itself_ends_with_two_and_one_line(folder: Path, unchanged) -> None:
    path = folder / "measurement.mdf"
    path.write_bytes(path.read_bytes()[:1000])
    command = [sys.executable, "-m", "engine.cli", *RECON_ALL]
    found = {"PYTHONPATH": str(REPOSITORY)}  # also where the package is not installed
    with unchanged():
        done = subprocess.run(command, env=os.environ | found, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: measurement.mdf: not an intact HDF5 file")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
