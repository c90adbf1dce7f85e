"""Every method by name: opened, run through the command, and refused when its settings make no sense."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from engine.calibration.calibrate import CalibrationConfig, calibrate
from engine.cli import main
from engine.errors import BundleError, ConfigError
from engine.measurement.file_rows import measurement_rows
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.grids import images
from engine.operators.operators_file import load_operators, save_operators
from engine.reconstruction.method import weights_of
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import METHODS, hand_set, open_method, tunable
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.regularization import MethodWeights, SnrCurve, save_weights

FIXTURES = Path(__file__).parents[2] / "fixtures"
BUNDLES = {"deq": FIXTURES / "bundle"} | {
    method: FIXTURES / "image-bundles" / method for method in ("deq-ball", "end-to-end", "pp-mpi", "unrolled")
}
WITHOUT_A_BUNDLE_THAT_SHIPS = ("deq-ball", "end-to-end", "unrolled")
ITERATIVE = tuple(method for method in METHODS if "max_iterations" in METHODS[method].settings)

LINEAR = 1e-3
"""Relative to the peak: ten times the data through float32 iterations that may stop one step apart."""


@pytest.fixture(scope="module")
def folder(scan, tmp_path_factory) -> Path:
    """An operators file and a measurement of two images and six background frames."""
    folder = tmp_path_factory.mktemp("scan")
    config = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0)
    save_operators(folder / "operators.h5", calibrate(scan.calibration(), config))
    rng = np.random.default_rng(31)
    concentrations = np.concatenate([rng.uniform(0, 2, (2, 20)), np.zeros((6, 20))])
    mask = np.array([False] * 2 + [True] * 6)
    write_mdf(folder / "measurement.mdf", scan.measurement(scan.frames(concentrations, rng), mask))
    return folder


@pytest.fixture(scope="module")
def operators(folder):
    return load_operators(folder / "operators.h5")


@pytest.fixture(scope="module")
def rows(folder, operators):
    return measurement_rows(read_mdf(folder / "measurement.mdf"), operators).rows


def model_options(method: str) -> list[str]:
    return ["--model", str(BUNDLES[method])] if method in BUNDLES else []


def settings_of(method: str, **settings) -> MethodSettings:
    return MethodSettings(model=BUNDLES.get(method), **settings)


@pytest.fixture
def run(folder, tmp_path):
    """Run `engine recon` with a method and its test bundle."""

    def invoke(method: str, *options: str, model: bool = True):
        arguments = ["recon", str(folder / "measurement.mdf"), str(tmp_path / "out.mdf"), "--method", method]
        arguments += ["--operators", str(folder / "operators.h5"), *(model_options(method) if model else [])]
        return CliRunner().invoke(main, [*arguments, *options])

    return invoke


def one_line_error(result, text: str) -> None:
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert text in result.stderr


def test_the_methods_are_those_of_the_paper() -> None:
    assert list(METHODS) == [
        "least-squares",
        "tikhonov",
        "art",
        "admm-l1",
        "admm-tv",
        "admm-hybrid",
        "pp-mpi",
        "unrolled",
        "end-to-end",
        "deq-ball",
        "deq",
    ]
    for method in METHODS.values():
        assert ("weights" in method.settings) == (method.weights is not None)
        assert ("model" in method.settings) == bool(method.networks)
        assert method.title


@pytest.mark.parametrize("method", METHODS)
def test_command_writes_the_images_of_the_python_interface(run, operators, rows, tmp_path, method) -> None:
    result = run(method, "--stats", str(tmp_path / "stats.json"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{method}: 2 frames, ")
    reconstructor = Reconstructor(open_method(method, operators, settings_of(method)))
    expected = [frame.image for frame in reconstructor.reconstruct_frames(rows)]
    written = images(read_mdf(tmp_path / "out.mdf"))[:, 0]
    np.testing.assert_array_equal(written, expected)
    assert written.any()
    assert method == "least-squares" or written.min() >= 0
    record = json.loads((tmp_path / "stats.json").read_text())
    assert record["method"] == method
    assert record["settings"] == dict(reconstructor.solver.settings)
    assert (record["model"] is None) == (method not in BUNDLES)
    for frame in record["frames"]:
        assert frame["iterations"] == len(frame["residuals"])
        assert set(frame["weights"]) == set(METHODS[method].weights.names if METHODS[method].weights else ())


@pytest.mark.parametrize("method", METHODS)
def test_ten_times_the_data_give_ten_times_the_image(operators, rows, method) -> None:
    reconstructor = Reconstructor(open_method(method, operators, settings_of(method)))
    once, tenfold = (reconstructor.reconstruct(factor * rows[0]).image for factor in (1, 10))
    np.testing.assert_allclose(tenfold, 10 * once, atol=LINEAR * tenfold.max())


@pytest.mark.parametrize("method", METHODS)
def test_zero_data_give_a_zero_image(operators, method) -> None:
    found = Reconstructor(open_method(method, operators, settings_of(method)))
    assert not found.reconstruct(np.zeros(operators.n_rows)).image.any()


@pytest.mark.parametrize("method", BUNDLES)
def test_a_bundle_names_its_method(operators, method) -> None:
    assert open_method(None, operators, settings_of(method)).method == method


def test_without_anything_the_shipped_networks_are_used(operators) -> None:
    assert open_method(None, operators).method == "deq"


@pytest.mark.parametrize("method", WITHOUT_A_BUNDLE_THAT_SHIPS)
def test_a_method_whose_networks_do_not_ship_asks_for_them(run, method) -> None:
    result = run(method, model=False)
    one_line_error(result, "--model")
    assert method in result.stderr


@pytest.mark.parametrize("method", BUNDLES)
def test_the_bundle_of_another_method_is_refused(operators, method) -> None:
    other = "unrolled" if method != "unrolled" else "pp-mpi"
    with pytest.raises(BundleError, match=other):
        open_method(method, operators, MethodSettings(model=BUNDLES[other]))


@pytest.mark.parametrize("method", METHODS)
def test_settings_without_a_meaning_are_refused(operators, method) -> None:
    everything = {
        "model": FIXTURES / "bundle",
        "provider": "cpu",
        "solver": "plain",
        "max_iterations": 3,
        "tolerance": 1e-2,
        "weights_file": "weights.json",
        "weights": {"tv": 0.1},
        "row_order": "random",
        "row_weighting": "l2",
    }
    for name in everything.keys() - METHODS[method].settings:
        with pytest.raises(ConfigError, match=f"^{name} .*{method}"):
            open_method(method, operators, MethodSettings(**{name: everything[name]}))


def test_the_methods_that_work_as_installed_stand_before_those_that_need_a_bundle() -> None:
    ready = [name for name, method in METHODS.items() if method.works_as_installed]
    assert set(ready) == METHODS.keys() - set(WITHOUT_A_BUNDLE_THAT_SHIPS)
    others = [name for name in METHODS if name not in ready]
    shown = CliRunner().invoke(main, ["recon", "--help"]).stdout
    installed, _, bundled = "".join(shown.split()).partition("--modelBUNDLE")
    assert installed.endswith(",".join(ready) + ",orwith")
    assert bundled.startswith(",".join(others) + ".")


def test_an_unknown_method(run, operators) -> None:
    with pytest.raises(ConfigError, match=r"'magic'.* least-squares, .*--model BUNDLE unrolled, "):
        open_method("magic", operators)
    one_line_error(run("magic"), "'magic'")


@pytest.mark.parametrize("method", ITERATIVE)
def test_iterations_reach_the_solver(operators, rows, method) -> None:
    settings = settings_of(method, max_iterations=2)
    report = Reconstructor(open_method(method, operators, settings)).reconstruct(rows[0]).report
    assert report.iterations <= 2


@pytest.mark.parametrize("method", ITERATIVE)
def test_zero_iterations_are_refused(run, method) -> None:
    one_line_error(run(method, "--max-iterations", "0"), "max_iterations is 0")


@pytest.mark.parametrize("method", tunable())
def test_weights_reach_the_solver_and_the_report(run, tmp_path, method) -> None:
    name = hand_set(method).names[0]
    stats = tmp_path / "stats.json"
    assert run(method, "--weight", f"{name}=0.123", "--stats", str(stats)).exit_code == 0
    assert {frame["weights"][name] for frame in json.loads(stats.read_text())["frames"]} == {0.123}
    for value in ("-1", "0", "nan", "inf"):
        one_line_error(run(method, "--weight", f"{name}={value}"), f"weight {name} is")
    one_line_error(run(method, "--weight", "delta=1"), f"{method}: unknown weight 'delta'; expected {name}")


@pytest.mark.parametrize("method", tunable())
def test_an_snr_outside_the_tuned_range_is_clamped_and_said(run, tmp_path, method) -> None:
    """All frames lie far below 200 dB, where these weights were 'tuned'."""
    curves = {name: SnrCurve((200.0, 210.0), (0.5, 0.6)) for name in hand_set(method).names}
    file, stats = tmp_path / "weights.json", tmp_path / "stats.json"
    save_weights(file, {method: MethodWeights(curves, 3)}, {})
    result = run(method, "--weights", str(file), "--stats", str(stats))
    assert result.exit_code == 0, result.stderr
    assert "Warning: frames 0-1: an SNR of " in result.stderr
    assert "outside the range that the weights were tuned for" in result.stderr
    for frame in json.loads(stats.read_text())["frames"]:
        assert frame["weights_clamped"] is True
        assert set(frame["weights"].values()) == {0.5}


def test_weights_of_the_settings_are_those_of_a_file(tmp_path) -> None:
    weights = MethodWeights({"l1": SnrCurve((10.0, 30.0), (0.1, 0.2)), "tv": SnrCurve.constant(0.3)}, 7)
    save_weights(tmp_path / "w.json", {"admm-hybrid": weights}, {})
    of_file = MethodSettings(weights_file=tmp_path / "w.json")
    given = MethodSettings(weights=weights.curves, max_iterations=weights.iterations)
    assert (
        weights_of("admm-hybrid", METHODS["admm-hybrid"], given)
        == weights_of("admm-hybrid", METHODS["admm-hybrid"], of_file)
        == weights
    )


def test_a_weights_file_without_the_method(run, tmp_path) -> None:
    save_weights(tmp_path / "w.json", {"art": MethodWeights({"lambda": SnrCurve.constant(1.0)}, 3)}, {})
    result = run("admm-tv", "--weights", str(tmp_path / "w.json"))
    one_line_error(result, "holds no weights of admm-tv, only of art; tune it with engine tune")


def test_row_orders(run, tmp_path) -> None:
    found = {}
    for order in ("sequential", "shuffled", "random"):
        assert run("art", "--row-order", order).exit_code == 0
        found[order] = images(read_mdf(tmp_path / "out.mdf"))
    assert run("art", "--row-weighting", "l2").exit_code == 0
    found["l2"] = images(read_mdf(tmp_path / "out.mdf"))
    different = {image.tobytes() for image in found.values()}
    assert len(different) == len(found)


@pytest.mark.parametrize("threads", [2, "auto"])
def test_a_second_core_is_refused_where_the_networks_run_elsewhere(folder, threads) -> None:
    operators = load_operators(folder / "operators.h5")
    settings = MethodSettings(model=BUNDLES["deq"], provider="cuda", threads=threads)
    with pytest.raises(ConfigError, match=f"threads is {threads} .*cuda"):
        open_method("deq", operators, settings)


@pytest.mark.parametrize("threads", [0, 3, True, 2.0, "two"])
def test_impossible_numbers_of_threads(threads) -> None:
    with pytest.raises(ConfigError, match=r"threads .*1, 2 or auto"):
        MethodSettings(threads=threads)


def test_what_is_switched_off_is_not_a_setting() -> None:
    assert MethodSettings(warm_start=False, tolerance=0.0).given() == ["tolerance"]


@pytest.mark.parametrize("options", [["--threads", "1"], ["--threads", "auto"], ["--warm-start"]])
def test_recon_takes_threads_and_sequences(folder, tmp_path, options) -> None:
    outputs = []
    for extra in ([], options):
        arguments = ["recon", str(folder / "measurement.mdf"), str(tmp_path / "out.mdf")]
        arguments += ["--operators", str(folder / "operators.h5"), "--model", str(BUNDLES["deq"])]
        done = CliRunner().invoke(main, [*arguments, "--max-iterations", "20", *extra])
        assert done.exit_code == 0, done.output
        outputs.append(images(read_mdf(tmp_path / "out.mdf")))
    np.testing.assert_allclose(outputs[1][0], outputs[0][0], rtol=0, atol=1e-4 * np.abs(outputs[0][0]).max())
    assert outputs[1].shape == outputs[0].shape


def test_threads_have_no_meaning_for_other_methods(folder) -> None:
    with pytest.raises(ConfigError, match=r"threads .*admm-l1"):
        open_method("admm-l1", load_operators(folder / "operators.h5"), MethodSettings(threads=2))
