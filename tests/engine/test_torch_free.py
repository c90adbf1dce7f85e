"""Engine works without torch, onnx, trainer and export: shown in a process that refuses them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.mpi.mdf import read_mdf, write_mdf
from engine.mpi.mdf.grids import images

REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "safetensors", "trainer", "export"}:
            raise ModuleNotFoundError(f"{name} is refused here", name=name)

sys.meta_path.insert(0, Refuse())
"""

IMPORT_EVERYTHING = """
import importlib, pkgutil, engine

def fail(name):
    raise

for module in pkgutil.walk_packages(engine.__path__, "engine.", onerror=fail):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""

# Slow to load, and not needed to ask for help, read a file or calibrate.
HEAVY = ("matplotlib", "onnxruntime", "rich", "scipy.ndimage", "scipy.optimize", "scipy.signal")


def run_refusing(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that cannot import what engine must not need."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", REFUSE + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def modules_on_disk() -> set[str]:
    """Every module of engine, found by its file (an oracle that does not import anything)."""
    root = Path(engine.__file__).parent
    names = (path.relative_to(root.parent).with_suffix("").parts for path in root.rglob("*.py"))
    dotted = {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names}
    return {name for name in dotted if name != "engine" and not name.endswith(".__main__")}


def test_every_module_imports_without_torch() -> None:
    run = run_refusing(IMPORT_EVERYTHING)
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) == modules_on_disk()


@pytest.mark.parametrize("name", ["torch", "torch.nn", "onnx", "trainer", "export"])
def test_the_refusal_works(name: str) -> None:
    run = run_refusing(f"import {name}")
    assert run.returncode == 1
    assert "is refused here" in run.stderr


def test_a_planted_import_is_found(tmp_path: Path) -> None:
    """The walk over the package fails on a module that imports torch inside a package folder."""
    planted = tmp_path / "engine"
    (planted / "inner").mkdir(parents=True)
    for folder in (planted, planted / "inner"):
        (folder / "__init__.py").touch()
    (planted / "inner" / "planted.py").write_text("import torch\n")
    run = run_refusing(f"sys.path.insert(0, {str(tmp_path)!r})\n" + IMPORT_EVERYTHING)
    assert run.returncode == 1
    assert "torch is refused here" in run.stderr
    assert "planted.py" in run.stderr


def test_help_without_torch() -> None:
    run = run_refusing("from engine.cli import main\nmain(['--help'], prog_name='engine')")
    assert run.returncode == 0, run.stderr
    assert "Usage: engine" in run.stdout


def test_calibrate_and_reconstruct_without_torch(scan, tmp_path: Path) -> None:
    """The two commands that a scanner needs, on files, in a process without torch and onnx."""
    calibration, measurement = tmp_path / "calibration.mdf", tmp_path / "measurement.mdf"
    operators, image = tmp_path / "operators.h5", tmp_path / "image.mdf"
    write_mdf(calibration, scan.calibration())
    spectra = scan.frames(np.eye(20)[:2], np.random.default_rng(1))
    write_mdf(measurement, scan.measurement(spectra))
    bundle = Path(__file__).parents[1] / "fixtures" / "bundle"
    for arguments in (
        ["calibrate", calibration, operators],
        ["recon", measurement, image, "--operators", operators, "--model", bundle],
    ):
        run = run_refusing("from engine.cli import main\nmain()", *map(str, arguments))
        assert run.returncode == 0, run.stderr
    assert images(read_mdf(image)).shape == (2, 1, 1, 4, 5)


@pytest.mark.parametrize("module", ["engine", "engine.cli", "engine.operators.operators", "engine.mpi.grid"])
def test_entry_points_import_lightly(module: str) -> None:
    """Asking for help must not wait for libraries that only one command needs."""
    run = run_refusing(f"import {module}\nprint([name for name in {HEAVY!r} if name in sys.modules])")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
