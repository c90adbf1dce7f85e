"""`engine tune`: from a system matrix to a weights file that a reconstruction uses."""

import hashlib
import json

import numpy as np
import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.mpi.mdf import write_mdf
from engine.mpi.simulation.scanner import PRESETS
from engine.solvers.regularization import load_weights

METHODS = "art,tikhonov"


def engine(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(scan, tmp_path_factory):
    """A calibration, a measurement, and weights tuned for the one on emulated data."""
    path = tmp_path_factory.mktemp("tune")
    write_mdf(path / "system-matrix.mdf", scan.calibration())
    rng = np.random.default_rng(3)
    frames = scan.frames(np.concatenate([np.zeros((3, 20)), rng.uniform(0, 1, (2, 20))]), rng)
    write_mdf(path / "measurement.mdf", scan.measurement(frames, np.arange(5) < 3))
    options = ("--methods", METHODS, "--snr", "20,30", "--frames", 2, "--seed", 5)
    result = engine(
        "tune", path / "system-matrix.mdf", path / "weights.json", *options, "--table", path / "tried.md"
    )
    assert result.exit_code == 0, result.output
    (path / "output.txt").write_text(result.stdout)
    return path


def test_the_weights_say_where_they_come_from(folder) -> None:
    content = json.loads((folder / "weights.json").read_text())
    file = folder / "system-matrix.mdf"
    source = content["source"]
    assert source["system_matrix"] == "system-matrix.mdf"
    assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (source["split"], source["frames"], source["seed"]) == ("validation", 2, 5)
    assert source["snr_db"] == [20.0, 30.0]
    assert set(source["psnr_mean_db"]) == {"tikhonov", "art"}
    weights = load_weights(folder / "weights.json")
    assert set(weights) == {"tikhonov", "art"}
    assert weights["art"].curves["lambda"].snr_db == (20.0, 30.0)


def test_the_table_and_the_summary_show_the_papers_values_beside_the_chosen_ones(folder) -> None:
    table = (folder / "tried.md").read_text()
    assert table.startswith("# Hand-set weights for system-matrix.mdf\n")
    assert "| art | 20 | lambda 1 | 10 |" in table
    weights = load_weights(folder / "weights.json")["art"]
    for snr, value in zip((20, 30), weights.curves["lambda"].values, strict=True):
        assert any(
            line.startswith(f"| {snr} | {weights.iterations} | {value:g} |") and "chosen" in line
            for line in table.splitlines()
        )
    output = (folder / "output.txt").read_text()
    assert "weights.json" in output
    assert "lambda 1" in output


def test_a_reconstruction_uses_the_weights(folder, tmp_path) -> None:
    assert engine("calibrate", folder / "system-matrix.mdf", tmp_path / "operators.h5").exit_code == 0
    images = {}
    for name, options in (("tuned", ("--weights", folder / "weights.json")), ("shipped", ())):
        out, stats = tmp_path / f"{name}.mdf", tmp_path / f"{name}.json"
        result = engine(
            *("recon", folder / "measurement.mdf", out, "--operators", tmp_path / "operators.h5"),
            *("--method", "art", "--stats", stats, *options),
        )
        assert result.exit_code == 0, result.output
        images[name] = json.loads(stats.read_text())["frames"]
    tuned = load_weights(folder / "weights.json")["art"]
    for frame in images["tuned"]:
        assert frame["weights"] == pytest.approx(tuned.at(frame["snr_db"]))
        assert frame["iterations"] <= tuned.iterations
    assert images["tuned"] != images["shipped"]


def test_a_method_that_was_not_tuned_is_one_clear_line(folder, tmp_path) -> None:
    assert engine("calibrate", folder / "system-matrix.mdf", tmp_path / "operators.h5").exit_code == 0
    result = engine(
        *("recon", folder / "measurement.mdf", tmp_path / "out.mdf", "--method", "admm-tv"),
        *("--operators", tmp_path / "operators.h5", "--weights", folder / "weights.json"),
    )
    assert result.exit_code == 2
    assert "holds no weights of admm-tv" in result.stderr


def test_a_preset_stands_for_its_calibration(scan, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("engine.tuning.emulation.simulate_calibration", lambda *_: scan.calibration())
    (preset, *_) = PRESETS
    options = ("--methods", "tikhonov", "--snr", "25", "--frames", 1)
    result = engine("tune", preset, tmp_path / "weights.json", *options)
    assert result.exit_code == 0, result.output
    source = json.loads((tmp_path / "weights.json").read_text())["source"]
    assert source["system_matrix"] == preset
    assert "sha256" not in source


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--methods", "kaczmarz"), "unknown method 'kaczmarz'"),
        (("--methods", "art,deq"), "the method deq has no hand-set weights"),
        (("--snr", "20,loud"), "expected numbers in dB such as 15,25,35"),
        (("--snr", "20,,30"), "expected numbers in dB such as 15,25,35"),
        (("--snr", ""), "expected numbers in dB such as 15,25,35"),
        (("--snr", "20,nan"), "an SNR is nan dB; expected a finite number"),
        (("--frames", "0"), "number of frames is 0; expected at least 1"),
        (("--methods", "art", "--model", "somewhere"), "a model has no meaning for art"),
        (("--model", "nowhere"), "is not a model bundle"),
    ],
)
def test_impossible_options_are_one_clear_line_and_write_nothing(folder, tmp_path, options, words) -> None:
    result = engine("tune", folder / "system-matrix.mdf", tmp_path / "weights.json", *options)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_another_method_is_one_clear_line(folder, tmp_path) -> None:
    from engine.reconstruction.methods import default_bundle_path

    target = tmp_path / "weights.json"
    result = engine("tune", folder / "system-matrix.mdf", target, "--model", default_bundle_path("deq"))
    assert result.exit_code == 2, result.output
    assert "pp-mpi" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_measurement_is_no_system_matrix(folder, tmp_path) -> None:
    result = engine("tune", folder / "measurement.mdf", tmp_path / "weights.json")
    assert result.exit_code == 2
    assert "calibration" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_file_is_one_clear_line(tmp_path) -> None:
    result = engine("tune", tmp_path / "absent.mdf", tmp_path / "weights.json")
    assert result.exit_code == 2
    assert "absent.mdf" in result.stderr


def test_the_system_matrix_is_never_overwritten(folder) -> None:
    file = folder / "system-matrix.mdf"
    before = file.read_bytes()
    result = engine("tune", file, file)
    assert result.exit_code == 2
    assert "is named twice" in result.stderr
    assert file.read_bytes() == before
