"""The Python shown in the README and in the quick start runs on a small scan, with the networks that ship."""

import re
from pathlib import Path

import pytest

from engine import write_mdf
from engine.mpi.grid import Grid
from engine.mpi.simulation.scan import simulate_calibration, simulate_measurement
from engine.mpi.simulation.scanner import FflScanner

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": ".",
    "docs/quick-start.md": "scan",
}  # with the folder in which the page expects the files


@pytest.fixture(scope="module")
def scan() -> tuple:
    """A calibration and a measurement of two frames on 8 x 6 voxels."""
    grid = Grid((8, 6, 1), (0.052, 0.026, 0.002))
    # A fifth of the measurement time, so a fifth of the work and of the signal: less noise in return.
    scanner = FflScanner(grid=grid, n_angles=20, period=0.002, noise_voltage=1e-4)
    return simulate_calibration(scanner), simulate_measurement(scanner, n_frames=2, snr_db=25.0).file


@pytest.mark.parametrize("page", PAGES)
def test_documented_python_runs(
    page: str,
    scan: tuple,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / PAGES[page]
    folder.mkdir(exist_ok=True)
    for name, file in zip(("system-matrix.mdf", "measurement.mdf"), scan, strict=True):
        write_mdf(folder / name, file)
    exec(compile("\n".join(blocks), page, "exec"), {})  # noqa: S102 - our own documentation
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(")")[0] for line in lines] == ["(1, 6, 8"] * 2
