"""The wheel holds the three packages and their data, and nothing else; its metadata says what it needs."""

import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = {"engine", "trainer", "export"}
BUNDLES = {
    "engine/models/reference": {"manifest.json", "rdn.onnx", "lc.onnx", "intervals.json"},
    "engine/models/fast": {"manifest.json", "rdn.onnx", "lc.onnx", "intervals.json"},
    "engine/models/denoiser": {"manifest.json", "rdn.onnx"},
}
EXTRAS = {"cpu", "gpu", "tensorrt", "plans", "live", "train", "export", "dev"}
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel that `python -m build` makes of this tree, opened for reading."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.Path(path)


@pytest.fixture(scope="module")
def names(wheel: zipfile.Path) -> set[str]:
    """Every file of the wheel, by its path inside."""
    return {name for name in wheel.root.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def metadata(names: set[str], wheel: zipfile.Path) -> Message:
    """The METADATA file of the wheel."""
    (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr((wheel / name).read_text(encoding="utf-8"))


def requirements_of(metadata: Message, extra: str) -> set[str]:
    """Distribution names needed with this extra, those always needed included ("" for those alone)."""
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    return {r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})}


def test_only_the_packages(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert len(tops) == len(PACKAGES) + 1


def test_every_module_is_in(names: set[str]) -> None:
    on_disk = {
        path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }
    assert on_disk
    assert {name for name in names if name.endswith(".py")} == on_disk


def test_data_files_are_bundles_weights_example_configurations_the_page_and_typing_markers(
    names: set[str],
) -> None:
    data = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    models = {name for name in data if name.startswith("engine/models/")}
    examples = {name for name in data if re.fullmatch(r"trainer/configs/[a-z-]+\.toml", name)}
    markers = {f"{package}/py.typed" for package in PACKAGES}
    page = {f"engine/live/view/page/{path.name}" for path in (ROOT / "engine/live/view/page").iterdir()}
    assert {
        "engine/live/view/page/index.html",
        "engine/live/view/page/app.js",
        "engine/live/view/page/style.css",
    } <= page
    assert data - models - examples - page == markers | {"engine/tuned/reference.json"}
    files = {f"{bundle}/{file}" for bundle, inside in BUNDLES.items() for file in inside}
    cards = {f"{bundle}.md" for bundle in BUNDLES}
    assert models == files | cards


def test_no_tests_no_docs_no_caches(names: set[str]) -> None:
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"tests", "docs", "benchmarks", "__pycache__", ".venvs"}


def test_licence_is_in(names: set[str], metadata: Message) -> None:
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert metadata["License-Expression"] == "MIT"


def test_extras(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_plain_install_has_no_runtime_and_no_torch(metadata: Message) -> None:
    always = requirements_of(metadata, "")
    assert "numpy" in always
    assert not always & (RUNTIMES | {"torch", "onnx", "tensorrt", "cuda-bindings", "tensorrt-rtx-cu13"})


def test_the_two_runtimes_never_meet(metadata: Message) -> None:
    """onnxruntime and onnxruntime-gpu install the same module: only cpu and gpu may name them."""
    found = {extra: requirements_of(metadata, extra) & RUNTIMES for extra in EXTRAS}
    assert found == {extra: set() for extra in EXTRAS} | {
        "cpu": {"onnxruntime"},
        "gpu": {"onnxruntime-gpu"},
    }


def test_commands(wheel: zipfile.Path, names: set[str]) -> None:
    (name,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    lines = (wheel / name).read_text(encoding="utf-8").split("\n")
    scripts = {line.split(" = ")[0]: line.split(" = ")[1] for line in lines if " = " in line}
    assert scripts == {
        "engine": "engine.cli:main",
        "trainer": "trainer.cli:main",
        "deqmpi-export": "export.cli:main",
    }
