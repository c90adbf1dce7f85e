"""The page of the flow lists the modules that a reconstruction passes; the list is that of a traced run."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from engine.calibration.calibrate import calibrate
from engine.mpi.mdf import write_mdf
from engine.mpi.simulation.scan import preset_scanner, simulate_calibration, simulate_measurement
from engine.operators.operators_file import save_operators

PAGE = Path(__file__).parents[2] / "docs" / "flow.md"

TRACED = """
import importlib, json, os, pkgutil, sys, threading
import h5py
import engine
from engine.cli import main

for module in pkgutil.walk_packages(engine.__path__, "engine."):
    importlib.import_module(module.name)  # what runs while a module is imported does not count

root = os.path.dirname(engine.__file__) + os.sep
entered, opened = set(), []

def enter(frame, event, _argument):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(root):
        entered.add(code.co_filename[len(root):])

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and "r" in (arguments[1] or "r"):
        opened.append(arguments[0])

class Watched(h5py.File):
    def __init__(self, name, mode="r", **more):
        if mode == "r":
            opened.append(str(name))
        super().__init__(name, mode, **more)

h5py.File = Watched
sys.addaudithook(watch)
threading.setprofile(enter)
sys.setprofile(enter)
try:
    main(sys.argv[2:])
except SystemExit as end:
    code = end.code
sys.setprofile(None)
with open(sys.argv[1], "w") as out:
    json.dump({"code": code, "modules": sorted(entered), "opened": opened}, out)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dict:
    """What `engine recon` with the shipped model entered and opened, in a process of its own."""
    folder = tmp_path_factory.mktemp("flow")
    scanner = preset_scanner("reference-0.5")
    save_operators(folder / "operators.h5", calibrate(simulate_calibration(scanner)))
    write_mdf(folder / "measurement.mdf", simulate_measurement(scanner, 1, 20.0).file)
    arguments = ["recon", "measurement.mdf", "image.mdf", "--operators", "operators.h5"]
    command = [sys.executable, "-W", "ignore", "-c", TRACED, "trace.json", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return json.loads((folder / "trace.json").read_text())


def test_the_page_lists_the_modules_that_a_reconstruction_passes(run) -> None:
    assert run["code"] == 0
    section = PAGE.read_text(encoding="utf-8").partition("### Modules on the way")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
    listed = []
    for line in block.splitlines():
        room, _, names = line.partition(" ")
        folder = room.removeprefix("engine").lstrip("/")
        listed += [f"{folder}/{name}.py".lstrip("/") for name in names.split()]
    assert sorted(listed) == run["modules"]


def test_every_file_is_read_once(run) -> None:
    files = [Path(name).name for name in run["opened"]]
    ours = Counter(name for name in files if re.fullmatch(r"[^.]+\.(mdf|h5|json|onnx)", name))
    ours.pop("direct_url.json", None)  # of numpy
    names = ("measurement.mdf", "operators.h5", "manifest.json", "rdn.onnx", "lc.onnx", "intervals.json")
    assert ours == dict.fromkeys(names, 1)
