"""The demonstration: every file it promises, and figures that are those of its files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.commands.demo import PRESET, DemoResult, run_demo
from engine.measurement.file_rows import measurement_rows
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf
from engine.mpi.mdf.grids import images, reconstruction_grid
from engine.mpi.metrics import psnr_db, ssim_windowed
from engine.mpi.simulation.scanner import PRESETS, FflScanner
from engine.mpi.simulation.truth import load_truth
from engine.networks.bundle import load_bundle
from engine.operators.operators_file import load_operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.least_squares import LeastSquares

BUNDLE = Path(__file__).parents[2] / "fixtures" / "bundle"
METHODS = ("least-squares", "deq")
FILES = {
    *("system-matrix.mdf", "measurement.mdf", "truth.h5", "operators.h5"),
    *("least-squares.mdf", "deq.mdf", "images.png", "report.json"),
}
GRID = Grid((9, 8, 1), (0.036, 0.032, 0.002))  # SSIM needs 7 pixels


# 72 voxels instead of 338, a fifth of the angles and of the time per angle.
SMALL = replace(PRESETS[PRESET], grid=GRID, n_angles=12, period=0.002, noise_voltage=1e-4)


@contextmanager
def stand_ins(scanner: FflScanner) -> Iterator[None]:
    """Put a scanner in the place of the preset, and the test bundle in the place of the one that ships.

    The figures of the bundle that ships depend on its training; those of the test bundle are fixed.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, PRESET, scanner)
        patch.setattr("engine.reconstruction.method.bundle_that_ships", lambda *_: BUNDLE)
        yield


TOGETHER_TOLERANCE = 1e-4
"""Relative to the peak: frames solved together and one by one, in single precision."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult, list[str]]:
    """Folder, result and announcements of a demonstration with two frames."""
    folder, said = tmp_path_factory.mktemp("demo") / "new" / "folder", []
    with stand_ins(SMALL):
        return folder, run_demo(folder, 2, 20.0, 3, said.append), said


def test_leaves_the_files_of_every_step_and_nothing_else(demo) -> None:
    folder, _, _ = demo
    assert {path.name for path in folder.iterdir()} == FILES
    assert load_truth(folder / "truth.h5").images.shape == (2, *GRID.volume_shape)
    for method in METHODS:
        file = read_mdf(folder / f"{method}.mdf")
        assert images(file).shape == (2, 1, *GRID.volume_shape)
        assert reconstruction_grid(file) == GRID
    assert (folder / "images.png").read_bytes()[:4] == b"\x89PNG"


def test_says_each_stage(demo) -> None:
    _, _, said = demo
    assert said == [
        f"simulating a calibration and 2 frames at 20 dB SNR ({PRESET})",
        "calibrating",
        "reconstructing: least-squares",
        "reconstructing: deq",
    ]


def test_report_has_the_documented_schema(demo) -> None:
    folder, result, _ = demo
    report = json.loads((folder / "report.json").read_text())
    assert report == result.to_dict()
    assert set(report) == {"snr_db", "frames", "methods"}
    assert report["frames"] == 2
    assert report["snr_db"] == pytest.approx(20.0)
    assert list(report["methods"]) == list(METHODS)
    direct, iterative = (report["methods"][method] for method in METHODS)
    assert set(direct) == {"psnr", "ssim", "ms"}
    assert set(iterative) == {"psnr", "ssim", "ms", "iterations", "converged"}
    assert 1 <= iterative["iterations"] <= load_bundle(BUNDLE).manifest.solver.max_iterations
    assert iterative["converged"] in (0.0, 0.5, 1.0)  # a fraction of two frames
    assert direct["ms"] > 0
    assert iterative["ms"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_figures_are_those_of_the_images_in_the_files(demo, method: str) -> None:
    folder, result, _ = demo
    found = images(read_mdf(folder / f"{method}.mdf"))[:, 0, 0]
    truth = load_truth(folder / "truth.h5").images[:, 0]
    figures = result.methods[method]
    assert figures.psnr == pytest.approx(psnr_db(found, truth).mean())
    assert figures.ssim == pytest.approx(ssim_windowed(found, truth).mean())
    assert np.all(psnr_db(found, truth) > psnr_db(np.zeros_like(found), truth))


@pytest.mark.parametrize("method", METHODS)
def test_images_are_those_of_the_files_it_left(demo, method: str) -> None:
    """The scan can be reconstructed again from the folder."""
    folder, result, _ = demo
    operators = load_operators(folder / "operators.h5")
    solver = {
        "least-squares": Reconstructor(LeastSquares(operators)),
        "deq": Reconstructor.load(folder / "operators.h5", settings=MethodSettings(model=BUNDLE)),
    }[method]
    rows = measurement_rows(read_mdf(folder / "measurement.mdf"), operators).rows
    frames = solver.reconstruct_frames(rows)
    found = np.array([frame.image for frame in frames])
    # The demo takes one frame after the other: sums in another order.
    atol = TOGETHER_TOLERANCE * np.abs(found).max()
    np.testing.assert_allclose(images(read_mdf(folder / f"{method}.mdf"))[:, 0], found, rtol=0, atol=atol)
    assert result.methods[method].converged == np.mean([frame.report.converged for frame in frames])
    assert result.methods[method].iterations == np.mean([frame.report.iterations for frame in frames])


def test_command_prints_the_table(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with stand_ins(SMALL):
        result = CliRunner().invoke(main, ["demo", str(out), "--frames", "1", "--snr", "25", "--seed", "1"])
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == FILES
    report = json.loads((out / "report.json").read_text())
    assert "1 frames at 25.0 dB SNR" in result.stdout
    table = [line.split("│")[1:-1] for line in result.stdout.splitlines() if "│" in line]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in table}
    for method in METHODS:
        psnr, ssim, iterations, converged, milliseconds = rows[method]
        figures = report["methods"][method]
        assert psnr == f"{figures['psnr']:.2f}"
        assert ssim == f"{100 * figures['ssim']:.1f}"
        assert iterations == (f"{figures['iterations']:.1f}" if method == "deq" else "-")
        assert converged == (f"{100 * figures['converged']:.0f} %" if method == "deq" else "-")
        assert milliseconds == f"{figures['ms']:.1f}"
    assert f"figures: {out / 'report.json'}" in result.stdout


@pytest.mark.parametrize(("option", "value"), [("--frames", "0"), ("--seed", "-1"), ("--snr", "-10000")])
def test_impossible_options_end_with_two_and_leave_nothing(tmp_path: Path, option: str, value: str) -> None:
    with stand_ins(SMALL):
        result = CliRunner().invoke(main, ["demo", str(tmp_path / "demo"), option, value])
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_on_the_reference_scanner(tmp_path: Path) -> None:
    with stand_ins(PRESETS[PRESET]):
        result = run_demo(tmp_path, 2, 30.0, 0, lambda _: None)
    assert images(read_mdf(tmp_path / "deq.mdf")).shape == (2, 1, 1, 13, 26)
    truth = load_truth(tmp_path / "truth.h5").images[:, 0]
    nothing = psnr_db(np.zeros_like(truth), truth).mean()
    for method in METHODS:
        assert result.methods[method].psnr > nothing + 6  # less than half the error of no image
