"""The command line: both forms of the call, what they print, and one line per error."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from engine.calibration.calibrate import calibrate
from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import load_bundle
from engine.operators.operators_file import load_operators
from export.cli import main


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(run_dir, system_matrix, tmp_path_factory):
    """The result of one export with a system matrix, and its folder."""
    bundle = tmp_path_factory.mktemp("exports") / "bundle"
    return run(run_dir, bundle, "--system-matrix", system_matrix), bundle


def test_a_run_becomes_a_bundle(exported):
    result, folder = exported
    assert result.exit_code == 0, result.output
    assert "torch and ONNX Runtime agree: networks within" in result.output
    assert f"wrote {folder}" in result.output
    manifest = load_bundle(folder).manifest
    assert manifest.name == "small run"
    assert manifest.solver.max_iterations == 12
    assert manifest.training["best_validation"]["step"] == 20
    assert manifest.training["config"]["seed"] == 11
    assert len(manifest.training["parity"]["iterations"]) == 3


def test_the_pretrained_image_prior_of_a_run_becomes_a_denoiser(run_dir, tmp_path):
    result = run(run_dir, tmp_path / "denoiser", "--denoiser")
    assert result.exit_code == 0, result.output
    assert f"wrote {tmp_path / 'denoiser'}" in result.output
    manifest = load_bundle(tmp_path / "denoiser").manifest
    assert (manifest.name, manifest.method) == ("small run-denoiser", "pp-mpi")
    assert manifest.solver == FixedPointConfig(memory=0, tolerance=0.0, max_iterations=150)
    assert {entry.name for entry in (tmp_path / "denoiser").iterdir()} == {"manifest.json", "rdn.onnx"}
    assert manifest.training["parity"].keys() == {"rdn", "step", "image", "iterations"}
    assert manifest.training["parity"]["iterations"] == [[150, 150]] * 3
    assert manifest.training["config"]["pretrain"]["rdn"]["noise"] == [0.1, 0.1]
    assert "best_validation" not in manifest.training


def test_no_folder_of_the_training_machine_is_published(exported):
    text = (exported[1] / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text)["training"]["config"]["data"]["system_matrix"] == "system-matrix.mdf"
    assert "/measurements" not in text


def test_the_system_matrix_becomes_operators_beside_the_networks(exported, system_matrix):
    operators = load_operators(exported[1] / "operators.h5")
    expected = calibrate(system_matrix)
    np.testing.assert_array_equal(operators.system_matrix, expected.system_matrix)
    assert operators.source_sha256 == expected.source_sha256


def fails(result, exit_code, words):
    assert result.exit_code == exit_code, result.output
    assert result.output.startswith("Error: ")
    assert len(result.output.splitlines()) == 1
    assert words in result.output


def test_a_missing_run_is_bad_input(tmp_path):
    for options in ([], ["--denoiser"]):
        fails(run(tmp_path / "absent", tmp_path / "bundle", *options), 2, "config.toml")
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_came_from(tmp_path):
    result = run("--debug", tmp_path / "absent", tmp_path / "bundle")
    assert result.exit_code == 2
    assert "Traceback" in result.output
    assert "config.toml" in result.output.splitlines()[-1]


def test_a_folder_that_is_no_bundle_is_bad_input(run_dir, tmp_path):
    target = tmp_path / "results"
    target.mkdir()
    (target / "paper.pdf").write_bytes(b"")
    fails(run(run_dir, target), 2, "is not a bundle")
    assert [entry.name for entry in target.iterdir()] == ["paper.pdf"]


def test_a_missing_system_matrix_is_bad_input(run_dir, tmp_path):
    fails(run(run_dir, tmp_path / "bundle", "--system-matrix", tmp_path / "absent.mdf"), 2, "absent.mdf")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_none_is_bad_input(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"text")
    fails(run("import-iconlab", path, tmp_path / "bundle"), 2, "cannot be read as weights")


@pytest.mark.parametrize("arguments", [["only-one"], ["a", "b", "c"], ["--unknown", "a", "b"]])
def test_wrong_arguments_are_usage_errors(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_both_uses(option):
    result = run(option)
    assert result.exit_code == 0
    assert "RUN_DIR BUNDLE" in result.output
    assert "import-iconlab" in result.output


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_help(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "BUNDLE" in result.output


def test_help_needs_neither_torch_nor_onnx():
    script = (
        "import sys\n"
        "sys.modules.update(torch=None, onnx=None)\n"
        "from export.cli import main\n"
        "main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "RUN_DIR BUNDLE" in done.stdout


def test_without_torch_an_export_says_what_to_install():
    script = (
        "import sys\nsys.modules.update(torch=None)\nfrom export.cli import main\nmain(['run', 'bundle'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: torch is not installed; exporting needs it: pip install 'deq-mpi[export]'\n"


def test_a_run_may_be_exported_with_fewer_iterations_and_another_name(run_dir, tmp_path):
    options = ["--name", "hasty", "--max-iterations", "3"]
    result = CliRunner().invoke(main, [str(run_dir), str(tmp_path / "hasty"), *options])
    assert result.exit_code == 0, result.output
    manifest = load_bundle(tmp_path / "hasty").manifest
    assert manifest.name == "hasty"
    assert manifest.solver.max_iterations == 3


@pytest.mark.parametrize("option", [["--name", "x"], ["--max-iterations", "3"]])
def test_a_denoiser_has_neither_another_name_nor_iterations(run_dir, tmp_path, option):
    result = CliRunner().invoke(main, [str(run_dir), str(tmp_path / "x"), "--denoiser", *option])
    assert result.exit_code == 2
    assert "have no meaning with --denoiser" in result.output
    assert not (tmp_path / "x").exists()
