"""The whole flow on a problem of seconds. Read this file first.

    simulate ──> system-matrix.mdf ──> engine calibrate ──> operators.h5
                      └──> trainer.fit ──> run folder ──> export ──> bundle
    measurement.mdf + operators.h5 + bundle ──> engine recon ──> image.mdf, image.png, report.json
    image.mdf + truth.h5 ──> figures of merit

Each step below is a fixture that leaves its files in one folder, followed by tests of what it left. The
networks are far too small and trained far too briefly to be good; the sizes are chosen for speed.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from engine import (
    MethodSettings,
    Reconstructor,
    load_bundle,
    load_operators,
    measurement_rows,
    read_mdf,
    write_mdf,
)
from engine.cli import main as engine_command
from engine.mpi.grid import Grid
from engine.mpi.mdf.grids import images, reconstruction_grid
from engine.mpi.metrics import psnr_db
from engine.mpi.simulation.scan import simulate_calibration, simulate_measurement
from engine.mpi.simulation.scanner import FflScanner
from engine.mpi.simulation.truth import Truth, load_truth, save_truth
from export.bundle import export_run
from export.parity.parity import ParityReport
from trainer.config import load_config
from trainer.fit import fit

GRID = Grid((10, 7, 1), (0.040, 0.028, 0.002))

# A fifth of the reference's measurement time, so a fifth of its work and of its signal: less noise in return.
SCANNER = FflScanner(grid=GRID, n_angles=12, period=0.002, noise_voltage=1e-4)

N_IMAGES = 3

SNR_DB = 25.0

MAX_ITERATIONS = 12

TEN_TIMES_TOLERANCE = 0.01
"""Relative to the peak. Everything is equivariant up to rounding, which an unconverged solve amplifies."""

TRAINING = f"""
name = "tiny"
seed = 1

[data]
system_matrix = "SYSTEM_MATRIX"
train = 64
validation = 6

[model.rdn]
features = 6
growth = 4
blocks = 1
layers = 2

[model.lc]
features = 6

[pretrain.rdn]
steps = 150
batch_size = 16
learning_rate = 5e-3

[pretrain.lc]
steps = 100
batch_size = 16
learning_rate = 5e-3

[solver.forward]
max_iterations = {MAX_ITERATIONS}

[fit]
threads = 1

[[fit.stages]]
gradient = "implicit"
steps = 5
batch_size = 8
"""


def engine(*arguments: object) -> str:
    """Run an engine command that must succeed, and return what it printed."""
    result = CliRunner().invoke(engine_command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flow")


# --- 1. A scanner measures its system matrix and some phantoms ------------------------------------------


@pytest.fixture(scope="module")
def scan(folder: Path) -> Path:
    """`engine simulate` writes these three files; it knows the reference scanner only, which takes longer."""
    measured = simulate_measurement(SCANNER, N_IMAGES, SNR_DB)
    write_mdf(folder / "system-matrix.mdf", simulate_calibration(SCANNER))
    write_mdf(folder / "measurement.mdf", measured.file)
    save_truth(folder / "truth.h5", Truth(measured.truth, measured.snr_db, GRID))
    return folder


def test_the_scan_is_two_mdf_files(scan: Path) -> None:
    n_angles, n_bins = SCANNER.n_angles, len(SCANNER.bins)
    with h5py.File(scan / "system-matrix.mdf") as file:
        assert file["version"].asstr()[()] == "2.1.0"
        n_empty = np.count_nonzero(file["measurement/isBackgroundFrame"])
        # One frame per voxel, then frames without sample; frames are the fastest axis.
        assert file["measurement/data"].shape == (n_angles, 1, n_bins, GRID.n_voxels + n_empty)
        np.testing.assert_array_equal(file["calibration/size"], GRID.size)
    with h5py.File(scan / "measurement.mdf") as file:
        n_empty = np.count_nonzero(file["measurement/isBackgroundFrame"])
        assert file["measurement/data"].shape == (n_empty + N_IMAGES, n_angles, 1, n_bins)


def test_the_phantoms_were_measured_at_the_snr_asked_for(scan: Path) -> None:
    truth = load_truth(scan / "truth.h5")
    assert truth.images.shape == (N_IMAGES, *GRID.volume_shape)
    assert truth.snr_db.mean() == pytest.approx(SNR_DB)


# --- 2. The system matrix becomes operators -------------------------------------------------------------


@pytest.fixture(scope="module")
def operators(scan: Path) -> Path:
    engine("calibrate", scan / "system-matrix.mdf", scan / "operators.h5")
    return scan / "operators.h5"


def test_operators_hold_the_normalised_system_matrix(operators: Path) -> None:
    loaded = load_operators(operators)
    A = loaded.system_matrix
    assert A.shape == (loaded.n_rows, GRID.n_voxels)
    assert np.linalg.norm(A, 2) == pytest.approx(25.0, rel=1e-5)
    inverse = np.linalg.inv(np.eye(GRID.n_voxels) + A.astype(np.float64).T @ A)
    np.testing.assert_allclose(loaded.inverse, inverse, atol=1e-5)


# --- 3. Two networks are trained on the same system matrix ----------------------------------------------


@pytest.fixture(scope="module")
def run_folder(scan: Path) -> Path:
    config = scan / "training.toml"
    config.write_text(TRAINING.replace("SYSTEM_MATRIX", str(scan / "system-matrix.mdf")))
    fit(load_config(config), scan / "run")
    return scan / "run"


def test_training_learns_and_is_on_record(run_folder: Path) -> None:
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    assert Counter(record["phase"] for record in steps) == {
        "pretrain-rdn": 150,
        "pretrain-lc": 100,
        "stage-1": 5,
    }
    denoising = [record["loss"] for record in steps if record["phase"] == "pretrain-rdn"]
    assert np.mean(denoising[-10:]) < 0.75 * np.mean(denoising[:10])
    validated = [record["validation_psnr"] for record in records if "validation_psnr" in record]
    assert len(validated) == 2  # the fixed point before and after its training
    assert (run_folder / "weights.safetensors").is_file()


# --- 4. The trained networks become a bundle, which needs no torch --------------------------------------


@pytest.fixture(scope="module")
def parity(run_folder: Path) -> ParityReport:
    """Export; this fails unless the graphs compute what the torch networks do."""
    return export_run(run_folder, run_folder.parent / "bundle")


@pytest.fixture(scope="module")
def bundle(parity: ParityReport, folder: Path) -> Path:
    return folder / "bundle"


def test_the_bundle_describes_its_networks_and_their_training(bundle: Path, parity: ParityReport) -> None:
    assert {path.name for path in bundle.iterdir()} == {"manifest.json", "rdn.onnx", "lc.onnx"}
    manifest = load_bundle(bundle).manifest
    assert manifest.name == "tiny"
    assert manifest.solver.max_iterations == MAX_ITERATIONS
    assert manifest.training["config"]["seed"] == 1
    assert manifest.training["parity"] == parity.to_dict()


# --- 5. The measurement becomes images ------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(scan: Path, operators: Path, bundle: Path) -> Path:
    """The reconstructions by both methods, a picture and a report."""
    measurement, common = scan / "measurement.mdf", ("--operators", operators)
    engine("recon", measurement, scan / "least-squares.mdf", *common, "--method", "least-squares")
    pictures = ("--image", scan / "image.png", "--stats", scan / "report.json")
    said = engine("recon", measurement, scan / "image.mdf", *common, "--model", bundle, *pictures)
    assert said.startswith(f"deq: {N_IMAGES} frames, ")
    return scan


def test_images_are_mdf_on_the_grid_of_the_calibration(outputs: Path) -> None:
    file = read_mdf(outputs / "image.mdf")
    assert images(file).shape == (N_IMAGES, 1, *GRID.volume_shape)
    assert reconstruction_grid(file) == GRID
    with h5py.File(outputs / "image.mdf") as content:  # as another program sees it
        assert content["reconstruction/data"].shape == (N_IMAGES, GRID.n_voxels, 1)
        np.testing.assert_array_equal(content["reconstruction/size"], GRID.size)
        np.testing.assert_allclose(content["reconstruction/fieldOfView"], GRID.field_of_view)
        assert content["reconstruction/data"][()].min() >= 0


def test_the_command_gives_the_images_of_the_python_interface(outputs: Path, bundle: Path) -> None:
    reconstructor = Reconstructor.load(outputs / "operators.h5", settings=MethodSettings(model=bundle))
    rows = measurement_rows(read_mdf(outputs / "measurement.mdf"), reconstructor.operators).rows
    frames = reconstructor.reconstruct_frames(rows)
    np.testing.assert_array_equal(images(read_mdf(outputs / "image.mdf"))[:, 0], [f.image for f in frames])


def test_the_picture_shows_something(outputs: Path) -> None:
    pixels = imread(outputs / "image.png")
    assert pixels.ndim == 3
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 100  # colours


def test_the_report_accounts_for_every_frame(outputs: Path, operators: Path) -> None:
    report = json.loads((outputs / "report.json").read_text())
    assert (report["kind"], report["schema"], report["method"]) == ("deq-mpi-report", 3, "deq")
    assert report["model"] == "tiny"
    assert report["operators"] == str(operators)
    tolerance = report["settings"]["tolerance"]
    assert [frame["frame"] for frame in report["frames"]] == list(range(N_IMAGES))
    for frame in report["frames"]:
        assert 1 <= frame["iterations"] == len(frame["residuals"]) <= MAX_ITERATIONS
        assert frame["converged"] == (min(frame["residuals"]) <= tolerance)
        assert frame["result"] == ("converged" if frame["converged"] else "max_iterations")
        # Noise in multiples of the calibration's: the same receiver, and a little model error.
        assert 0.9 < frame["sigma"] < 1.3
        assert frame["intensity"] > 0
        assert frame["residual_over_epsilon"] < 2


# --- 6. The images are compared with the truth ----------------------------------------------------------


@pytest.mark.parametrize("name", ["least-squares.mdf", "image.mdf"])
def test_images_show_their_phantoms(outputs: Path, name: str) -> None:
    found = images(read_mdf(outputs / name))[:, 0, 0]
    truth = load_truth(outputs / "truth.h5").images[:, 0]
    figure = psnr_db(found, truth)
    assert np.all(figure > psnr_db(np.zeros_like(found), truth) + 6)  # less than half the error of no image
    for wrong in (truth[:, ::-1], truth[:, :, ::-1], np.roll(truth, 1, axis=0)):
        assert np.all(figure > psnr_db(found, wrong))


def test_ten_times_the_signal_is_ten_times_the_tracer(outputs: Path, operators: Path, bundle: Path) -> None:
    scaled = Path(shutil.copy(outputs / "measurement.mdf", outputs / "ten-times.mdf"))
    with h5py.File(scaled, "r+") as file:
        file["measurement/data"][...] = 10 * file["measurement/data"][()]  # background frames included
    arguments = ("--operators", operators, "--model", bundle, "--stats", outputs / "ten-times.json")
    engine("recon", scaled, outputs / "ten-times-image.mdf", *arguments)
    once = images(read_mdf(outputs / "image.mdf"))
    ten = images(read_mdf(outputs / "ten-times-image.mdf"))
    np.testing.assert_allclose(ten, 10 * once, rtol=0, atol=10 * TEN_TIMES_TOLERANCE * once.max())
    sigma, scaled_sigma = (
        np.array([frame["sigma"] for frame in json.loads((outputs / name).read_text())["frames"]])
        for name in ("report.json", "ten-times.json")
    )
    np.testing.assert_allclose(scaled_sigma, 10 * sigma, rtol=TEN_TIMES_TOLERANCE)
