"""Intact files of a small scan for tests to damage, and what a refusal has to look like."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from engine import calibrate, save_operators, write_mdf
from engine.mpi.grid import Grid
from engine.mpi.simulation.scan import simulate_calibration, simulate_measurement
from engine.mpi.simulation.scanner import FflScanner
from engine.mpi.simulation.truth import Truth, save_truth

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle"


@pytest.fixture(scope="session")
def intact_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of 6 x 5 voxels, its operators and a bundle."""
    folder = tmp_path_factory.mktemp("intact")
    grid = Grid((6, 5, 1), (0.030, 0.025, 0.002))
    # A fifth of the measurement time, so a fifth of the work and of the signal: less noise in return.
    scanner = FflScanner(grid=grid, n_angles=6, period=0.002, noise_voltage=1e-4)
    measured = simulate_measurement(scanner, n_frames=2, snr_db=25.0)
    write_mdf(folder / "system-matrix.mdf", simulate_calibration(scanner))
    write_mdf(folder / "measurement.mdf", measured.file)
    save_truth(folder / "truth.h5", Truth(measured.truth, measured.snr_db, grid))
    save_operators(folder / "operators.h5", calibrate(folder / "system-matrix.mdf"))
    shutil.copytree(BUNDLE, folder / "bundle")
    return folder


@pytest.fixture
def folder(intact_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the intact files, in the current directory."""
    copy = Path(shutil.copytree(intact_files, tmp_path / "scan"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def unchanged(folder: Path) -> Callable[[], AbstractContextManager[None]]:
    """Check that a block neither creates, changes nor removes a file in the folder."""

    def contents() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}

    @contextmanager
    def check() -> Iterator[None]:
        before = contents()
        yield
        assert contents() == before

    return check


@pytest.fixture
def refused(
    unchanged: Callable[[], AbstractContextManager[None]], capfd: pytest.CaptureFixture
) -> Callable[..., str]:
    """Run a command that must refuse its input, and return the line it says."""

    def run(program: click.Command, *arguments: str) -> str:
        with unchanged():
            result = CliRunner().invoke(program, arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert capfd.readouterr() == ("", "")  # nor do the libraries below Python print anything
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: ")
        return line

    return run
