"""`engine intervals`, and what `engine recon` makes of a bundle that has intervals."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from engine.cli import main
from engine.errors import BundleError, PairingError
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.grids import images, reconstruction_grid
from engine.mpi.mdf.image_intervals import read_intervals
from engine.networks.bundle import load_bundle
from engine.networks.interval_store import store_intervals
from engine.operators.operators_file import load_operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import open_method
from engine.reconstruction.reconstructor import Reconstructor

FIXTURE = Path(__file__).parents[2] / "fixtures" / "bundle"

OPTIONS = ("--coverage", "0.8", "--snr", "15,25", "--frames", "24", "--seed", "3")
"""Two noise levels and few frames: seconds."""


def engine(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(scan, tmp_path_factory) -> Path:
    """A calibration, its operators, two frames and a zero frame, and a bundle with intervals."""
    path = tmp_path_factory.mktemp("intervals")
    write_mdf(path / "system-matrix.mdf", scan.calibration())
    assert engine("calibrate", path / "system-matrix.mdf", path / "operators.h5").exit_code == 0
    rng = np.random.default_rng(3)
    frames = scan.frames(np.concatenate([np.zeros((3, 20)), rng.uniform(0, 1, (3, 20))]), rng)
    frames[-1] = frames[:3].mean(axis=0)  # the background itself, so that nothing is left of it
    write_mdf(path / "measurement.mdf", scan.measurement(frames, np.arange(6) < 3))
    shutil.copytree(FIXTURE, path / "bundle")
    result = engine("intervals", path / "system-matrix.mdf", path / "bundle", *OPTIONS)
    assert result.exit_code == 0, result.output
    (path / "output.txt").write_text(result.stdout)
    return path


@pytest.fixture
def recon(folder, tmp_path):
    """Run `engine recon` on the measurement, by default with the bundle that has intervals."""

    def run(*options: object, model: Path = folder / "bundle"):
        files = (folder / "measurement.mdf", tmp_path / "out.mdf", "--operators", folder / "operators.h5")
        return engine("recon", *files, "--model", model, *options)

    return run


def bounds_of(path: Path):
    return read_intervals(path, reconstruction_grid(read_mdf(path)))


def test_the_bundle_says_what_its_intervals_are(folder) -> None:
    bundle = load_bundle(folder / "bundle")
    intervals = bundle.intervals
    assert intervals is not None
    assert (intervals.method, intervals.coverage) == ("deq", 0.8)
    assert intervals.settings["max_iterations"] == bundle.require_solver().max_iterations
    assert intervals.source == {
        "system_matrix": "system-matrix.mdf",
        "split": "validation",
        "frames": 24,
        "seed": 3,
        "snr_db": [15.0, 25.0],
    }
    assert intervals.snr_db == pytest.approx([15, 25], abs=5)
    low, high = intervals.snr_range
    line = f"intervals: 80 %, calibrated for frames of {low:.0f} to {high:.0f} dB"
    assert line in engine("info", folder / "bundle").stdout.splitlines()
    assert (
        f"intervals of 80 % for frames of {low:.0f} to {high:.0f} dB" in (folder / "output.txt").read_text()
    )
    # Everything else is as it was.
    before, after = (json.loads((path / "manifest.json").read_text()) for path in (FIXTURE, bundle.path))
    assert after.pop("intervals")["file"] == "intervals.json"
    assert after == before


def test_calibrating_again_replaces_the_intervals(folder, tmp_path) -> None:
    bundle = Path(shutil.copytree(folder / "bundle", tmp_path / "bundle"))
    old = load_bundle(bundle).intervals
    assert old is not None
    changed = store_intervals(load_bundle(bundle), old.from_dict(old.to_dict() | {"coverage": 0.7}))
    found = changed.intervals
    assert found is not None
    assert found.coverage == 0.7
    assert {path.name for path in bundle.iterdir()} == {
        "manifest.json",
        "rdn.onnx",
        "lc.onnx",
        "intervals.json",
    }


def test_images_get_their_bounds(recon, folder, tmp_path) -> None:
    result = recon("--frames", "0,1", "--stats", tmp_path / "stats.json", "--image", tmp_path / "out.png")
    assert result.exit_code == 0, result.stderr
    assert "80 % intervals" in result.stdout
    assert "with intervals of 80 % coverage" in engine("info", tmp_path / "out.mdf").stdout
    bounds, written = bounds_of(tmp_path / "out.mdf"), images(read_mdf(tmp_path / "out.mdf"))[:, 0]
    assert bounds is not None
    assert bounds.coverage == 0.8
    assert np.all((bounds.low >= 0) & (bounds.low <= written) & (written <= bounds.high))
    assert (bounds.high - bounds.low).max() > 0
    frames = json.loads((tmp_path / "stats.json").read_text())["frames"]
    assert [frame["interval_coverage"] for frame in frames] == [0.8, 0.8]
    intervals = load_bundle(folder / "bundle").intervals
    assert intervals is not None
    for frame, image, low, high in zip(frames, written, bounds.low, bounds.high, strict=True):
        first, last = intervals.snr_range
        assert frame["interval_clamped"] == (not first <= frame["snr_db"] <= last)
        expected = intervals.of_image(image / frame["intensity"], frame["snr_db"], frame["intensity"])
        np.testing.assert_allclose(low, expected.low, rtol=1e-5, atol=1e-6 * image.max())
        np.testing.assert_allclose(high, expected.high, rtol=1e-5)


def test_the_picture_has_a_panel_of_widths(recon, tmp_path) -> None:
    shapes = []
    for option in ("--intervals", "--no-intervals"):
        assert recon("--frames", "0", option, "--image", tmp_path / "out.png").exit_code == 0
        shapes.append(imread(tmp_path / "out.png").shape)
    assert shapes[0][0] == shapes[1][0]
    assert shapes[0][1] == pytest.approx(2 * shapes[1][1], abs=1)


def test_python_gives_the_same_bounds(recon, folder, tmp_path) -> None:
    assert recon("--frames", "0,1").exit_code == 0
    reconstructor = Reconstructor.load(
        folder / "operators.h5", settings=MethodSettings(model=folder / "bundle")
    )
    assert reconstructor.intervals is not None
    rows = np.random.default_rng(1).normal(size=reconstructor.operators.n_rows)
    frame = reconstructor.reconstruct(rows)
    assert frame.interval is not None
    assert frame.interval.coverage == frame.report.interval_coverage == 0.8
    zero = reconstructor.reconstruct(np.zeros_like(rows))
    assert zero.interval is None
    assert zero.report.interval_coverage is None


def test_a_frame_without_a_signal_has_no_bounds(recon, tmp_path) -> None:
    result = recon()
    assert result.exit_code == 0, result.stderr
    bounds = bounds_of(tmp_path / "out.mdf")
    assert bounds is not None
    missing = np.isnan(bounds.low).all(axis=(1, 2, 3))
    assert missing.tolist() == [False, False, True]
    np.testing.assert_array_equal(np.isnan(bounds.high), np.isnan(bounds.low))


def test_bounds_can_be_left_out(recon, tmp_path) -> None:
    assert recon("--no-intervals").exit_code == 0
    with h5py.File(tmp_path / "out.mdf") as file:
        assert not [name for name in file["reconstruction"] if name.startswith("_")]


def test_asking_a_bundle_without_intervals_for_them_is_an_error(recon, tmp_path) -> None:
    result = recon("--intervals", model=FIXTURE)
    assert result.exit_code == 2
    assert "has no intervals; calibrate them: engine intervals SYSTEM_MATRIX" in result.stderr
    assert not (tmp_path / "out.mdf").exists()
    result = recon(model=FIXTURE)  # not asked: nothing to say
    assert (result.exit_code, result.stderr) == (0, recon("--no-intervals").stderr)
    assert bounds_of(tmp_path / "out.mdf") is None


def test_other_settings_have_no_intervals(recon, folder, tmp_path) -> None:
    result = recon("--tolerance", "0.01")
    assert result.exit_code == 0
    assert "Note: no intervals are written, since the images are made with tolerance 0.01 " in result.stderr
    assert bounds_of(tmp_path / "out.mdf") is None
    result = recon("--tolerance", "0.01", "--intervals")
    assert result.exit_code == 2
    assert "made with tolerance 0.01 (calibrated 0.0001); expected the settings" in result.stderr
    settings = MethodSettings(model=folder / "bundle", tolerance=0.01)
    assert Reconstructor.load(folder / "operators.h5", settings=settings).intervals is None


def test_a_method_without_a_model_has_no_intervals(folder) -> None:
    with pytest.raises(PairingError, match="least-squares"):
        Reconstructor.load(folder / "operators.h5", "least-squares").require_intervals()


def test_intervals_of_another_method_or_setting_are_refused(folder) -> None:
    intervals = load_bundle(folder / "bundle").intervals
    solver = open_method("least-squares", load_operators(folder / "operators.h5"))
    with pytest.raises(PairingError, match=r"least-squares .*deq"):
        Reconstructor(solver, intervals)
    other = load_bundle(FIXTURE.parent / "image-bundles" / "end-to-end")
    with pytest.raises(BundleError, match=r"end-to-end; .*deq"):
        store_intervals(other, intervals)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda folder: (folder / "intervals.json").unlink(), "intervals.json is missing"),
        (lambda folder: (folder / "intervals.json").write_text("{}"), "intervals.json has SHA-256"),
    ],
)
def test_damaged_intervals_are_found(folder, tmp_path, change, text) -> None:
    bundle = Path(shutil.copytree(folder / "bundle", tmp_path / "bundle"))
    change(bundle)
    with pytest.raises(BundleError, match=text):
        load_bundle(bundle)


def test_errors_leave_the_bundle_as_it_was(folder, tmp_path) -> None:
    bundle = Path(shutil.copytree(FIXTURE, tmp_path / "bundle"))
    before = (bundle / "manifest.json").read_bytes()
    result = engine("intervals", folder / "system-matrix.mdf", bundle, "--frames", "8")
    assert result.exit_code == 2
    assert "8 frames per SNR; expected at least 9 for a coverage of 0.9" in result.stderr
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / "intervals.json").exists()
