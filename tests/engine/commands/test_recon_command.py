"""`engine recon`: files in, files out, and nothing half done."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from engine.calibration.calibrate import CalibrationConfig, calibrate
from engine.cli import main
from engine.measurement.file_rows import measurement_rows
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.grids import images, reconstruction_grid
from engine.operators.operators_file import load_operators, save_operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.least_squares import LeastSquares

BUNDLE = Path(__file__).parents[2] / "fixtures" / "bundle"

GROUPING = 1e-4
"""Relative to the peak: frames solved in other groups are added up in another order, and a solve that has not
converged amplifies it (1e-6 seen). Different frames differ by a tenth of it and more."""

MASK = np.array([False] * 4 + [True] * 6)


@pytest.fixture(scope="module")
def folder(scan, tmp_path_factory) -> Path:
    """An operators file and a measurement of four images and six background frames."""
    folder = tmp_path_factory.mktemp("scan")
    config = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0)
    save_operators(folder / "operators.h5", calibrate(scan.calibration(), config))
    rng = np.random.default_rng(31)
    concentrations = np.concatenate([rng.uniform(0, 2, (4, 20)), np.zeros((6, 20))])
    write_mdf(folder / "measurement.mdf", scan.measurement(scan.frames(concentrations, rng), MASK))
    return folder


@pytest.fixture
def run(folder, tmp_path):
    """Run `engine recon` on the measurement, with the fixture's bundle unless told otherwise."""

    def invoke(*options: str, model: bool = True):
        arguments = ["recon", str(folder / "measurement.mdf"), str(tmp_path / "out.mdf")]
        arguments += ["--operators", str(folder / "operators.h5")]
        arguments += ["--model", str(BUNDLE)] if model else []
        return CliRunner().invoke(main, [*arguments, *options])

    return invoke


@pytest.fixture(scope="module")
def rows(folder):
    operators = load_operators(folder / "operators.h5")
    return measurement_rows(read_mdf(folder / "measurement.mdf"), operators).rows


def test_images_are_those_of_the_python_interface(run, folder, rows, tmp_path) -> None:
    result = run()
    assert result.exit_code == 0, result.stderr
    written = read_mdf(tmp_path / "out.mdf")
    reconstructor = Reconstructor.load(folder / "operators.h5", settings=MethodSettings(model=BUNDLE))
    expected = [frame.image for frame in reconstructor.reconstruct_frames(rows)]
    np.testing.assert_array_equal(images(written)[:, 0], expected)
    assert reconstruction_grid(written) == reconstructor.operators.grid
    assert result.stdout.startswith("deq: 4 frames, ")
    assert f"wrote {tmp_path / 'out.mdf'}" in result.stdout


def test_file_has_the_documented_datasets(run, scan, tmp_path) -> None:
    assert run().exit_code == 0
    with h5py.File(tmp_path / "out.mdf") as file:
        assert file["/reconstruction/data"].shape == (4, 20, 1)
        np.testing.assert_array_equal(file["/reconstruction/size"], scan.grid.size)


def test_least_squares(run, folder, rows, tmp_path) -> None:
    result = run("--method", "least-squares", model=False)
    assert result.exit_code == 0, result.stderr
    method = Reconstructor(LeastSquares(load_operators(folder / "operators.h5")))
    expected = [method.reconstruct(frame).image for frame in rows]
    np.testing.assert_array_equal(images(read_mdf(tmp_path / "out.mdf"))[:, 0], expected)
    assert "converged" not in result.stdout


def test_frames_are_chosen_in_the_order_given(run, tmp_path) -> None:
    assert run().exit_code == 0
    everything = images(read_mdf(tmp_path / "out.mdf"))
    assert run("--frames", "2,0:2").exit_code == 0
    chosen, expected = images(read_mdf(tmp_path / "out.mdf")), everything[[2, 0, 1]]
    assert chosen.shape == expected.shape
    np.testing.assert_allclose(chosen, expected, rtol=0, atol=GROUPING * expected.max())
    for index, one in enumerate(chosen):
        others = np.abs(everything - one).max(axis=tuple(range(1, everything.ndim)))
        assert np.argmin(others) == (2, 0, 1)[index]
        assert sorted(others)[1] > 1000 * GROUPING * expected.max()


def test_stats_and_picture(run, folder, tmp_path) -> None:
    stats, picture = tmp_path / "stats.json", tmp_path / "out.png"
    result = run("--frames", "1,3", "--stats", str(stats), "--image", str(picture), "--tolerance", "1e-3")
    assert result.exit_code == 0, result.stderr
    record = json.loads(stats.read_text())
    assert record["method"] == "deq"
    assert record["model"] == "test-projections"
    assert record["settings"]["tolerance"] == 1e-3
    operators = load_operators(folder / "operators.h5")
    own = measurement_rows(read_mdf(folder / "measurement.mdf"), operators).background_sigma
    assert own is not None
    assert record["background_sigma"] == own
    assert [frame["frame"] for frame in record["frames"]] == [1, 3]
    for frame in record["frames"]:
        assert frame["iterations"] == len(frame["residuals"]) > 0
        assert frame["converged"] == (min(frame["residuals"]) <= 1e-3)
        assert frame["sigma"] > 0
        assert frame["intensity"] > 0
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--solver", "plain"), {"memory": 0}),
        (("--solver", "anderson"), {"memory": 5}),
        (("--max-iterations", "7"), {"max_iterations": 7}),
        ((), {"memory": 5, "beta": 1.0, "tolerance": 1e-4, "max_iterations": 25}),
    ],
)
def test_solver_options_reach_the_solver(run, tmp_path, options, expected) -> None:
    assert run("--stats", str(tmp_path / "stats.json"), *options).exit_code == 0
    solver = json.loads((tmp_path / "stats.json").read_text())["settings"]
    assert {key: solver[key] for key in expected} == expected


def test_the_bundle_says_how_to_solve(folder, tmp_path) -> None:
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["solver"]["max_iterations"] = 7
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    for settings, expected in (
        (MethodSettings(model=bundle), 7),
        (MethodSettings(model=bundle, max_iterations=3), 3),
    ):
        reconstructor = Reconstructor.load(folder / "operators.h5", settings=settings)
        assert reconstructor.solver.settings["max_iterations"] == expected


def test_sigma_reaches_the_report(run, tmp_path) -> None:
    assert run("--sigma", "1.25", "--stats", str(tmp_path / "stats.json")).exit_code == 0
    record = json.loads((tmp_path / "stats.json").read_text())
    assert {frame["sigma"] for frame in record["frames"]} == {1.25}


def test_frames_that_did_not_converge_are_named(run) -> None:
    result = run("--max-iterations", "1", "--tolerance", "1e-9", "--frames", "0,2:4")
    assert result.exit_code == 0
    assert "Warning: frames 0, 2-3 did not converge in 1 iterations" in result.stderr
    assert "3 frames, 0 converged" in result.stdout


def test_zero_frames_are_named(scan, folder, tmp_path) -> None:
    zeros = np.zeros((3, 3, 2, 101), complex)
    write_mdf(tmp_path / "zero.mdf", scan.measurement(zeros, np.array([False, True, True])))
    out = tmp_path / "out.mdf"
    arguments = ["recon", str(tmp_path / "zero.mdf"), str(out), "--operators", str(folder / "operators.h5")]
    result = CliRunner().invoke(main, [*arguments, "--model", str(BUNDLE)])
    assert result.exit_code == 0, result.stderr
    assert "frame 0 measured zero" in result.stderr
    assert not images(read_mdf(out)).any()


def test_a_failing_output_leaves_nothing_behind(run, tmp_path) -> None:
    """The picture's suffix is refused after the images were written to their temporary name."""
    (tmp_path / "out.mdf").write_bytes(b"old")
    result = run("--image", str(tmp_path / "out.xyz"), "--stats", str(tmp_path / "stats.json"))
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert (tmp_path / "out.mdf").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mdf"]


def one_line_error(result, code: int, text: str) -> None:
    assert result.exit_code == code
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert text in result.stderr
    assert result.stdout == ""


def test_input_errors_are_one_line(run, folder, tmp_path) -> None:
    one_line_error(run("--model", str(tmp_path / "absent"), model=False), 2, "not a model bundle")
    one_line_error(run("--max-iterations", "0"), 2, "max_iterations is 0")
    one_line_error(run("--frames", "9"), 2, "between 0 and 3")
    one_line_error(run("--sigma", "-1"), 2, "sigma is -1.0")
    one_line_error(run("--stats", str(tmp_path / "absent" / "x.json")), 2, "does not exist")
    assert list(tmp_path.iterdir()) == []


def test_tampered_bundle_is_refused(run, tmp_path) -> None:
    broken = Path(shutil.copytree(BUNDLE, tmp_path / "broken"))
    (broken / "lc.onnx").write_bytes((broken / "lc.onnx").read_bytes() + b"\0")
    one_line_error(run("--model", str(broken), model=False), 2, "lc.onnx has SHA-256")


def test_provider_that_is_not_here(run, monkeypatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    one_line_error(run("--provider", "cuda"), 2, "provider cuda is not in this build")


def test_wrong_files_are_refused(folder, tmp_path) -> None:
    operators, measurement = str(folder / "operators.h5"), str(folder / "measurement.mdf")
    out = str(tmp_path / "out.mdf")
    common = ["--method", "least-squares", "--operators"]
    swapped = CliRunner().invoke(main, ["recon", operators, out, *common, measurement])
    one_line_error(swapped, 2, "measurement.mdf")
    missing = CliRunner().invoke(main, ["recon", str(tmp_path / "absent.mdf"), out, *common, operators])
    one_line_error(missing, 2, "absent.mdf")
    other_scanner = CliRunner().invoke(main, ["recon", operators, out, *common, operators])
    assert other_scanner.exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--solver", "newton"),
        ("--unknown",),
        ("--weight", "tv"),
        ("--weight", "tv=x"),
        ("--weight", "tv=1", "--weight", "tv=2"),
        ("--frames", "x"),
    ],
)
def test_usage_errors_end_with_two(run, options) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_inputs_are_never_overwritten(folder, tmp_path) -> None:
    measurement, operators = str(folder / "measurement.mdf"), str(folder / "operators.h5")
    common = ["--operators", operators, "--model", str(BUNDLE)]
    for out, extra in (
        (measurement, []),
        (operators, []),
        (str(tmp_path / "out.mdf"), ["--stats", str(tmp_path / "out.mdf")]),
    ):
        result = CliRunner().invoke(main, ["recon", measurement, out, *common, *extra])
        assert result.exit_code == 2
        assert "is named twice" in result.stderr
