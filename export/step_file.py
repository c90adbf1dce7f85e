"""Add `step.onnx` to a bundle: composed of its networks, checked against the engine, then written."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import onnx

from engine.errors import BundleError
from engine.networks.bundle import MANIFEST, Bundle, Network, load_bundle
from engine.operators.operators_file import load_operators
from export.bundle import OPERATORS_FILE
from export.graphs.step_graph import INPUTS, OUTPUTS, build_step, check_step
from export.parity.learned_blocks import LearnedBlocks
from export.parity.parity_problem import parity_problem, synthetic_operators
from export.parity.step_parity import StepParityReport, measure_step_parity
from export.staging import STEP_FILE, staged_bundle

METHOD = "deq"
"""The method whose iteration the step is."""


def add_step(source: str | os.PathLike[str], bundle_dir: str | os.PathLike[str]) -> StepParityReport:
    """Write a copy of a bundle that has the network "step" too.

    Everything else stays: networks, intervals, operators. The whole solve is checked with the bundle's
    `operators.h5` where it has one, else on a small synthetic problem.

    Parameters
    ----------
    source : path-like
        Bundle of the method deq, or the name of one that ships.
    bundle_dir : path-like
        Folder to write, in an existing folder; it may be `source` itself. A bundle of that name is replaced
        as a whole.

    Returns
    -------
    StepParityReport
        The differences found; the manifest keeps them under training / step_parity.

    Raises
    ------
    BundleError
        If `source` is not a bundle of the method deq, or `bundle_dir` exists and is not a bundle.
    ExportError, ParityError
        If the graph cannot be composed, or does not compute what the engine does. Nothing is written then.
    NonFiniteError
        If a solve of the check is not finite.
    """
    bundle = load_bundle(source)
    require_step_method(bundle.manifest.method, f"the bundle {bundle.path}")
    with staged_bundle(bundle_dir) as folder:
        _copy_files(bundle, folder)
        graph = _compose(bundle)
        report = _check(graph, bundle)
        report.require()
        (folder / STEP_FILE).write_bytes(graph)
        digest = hashlib.sha256(graph).hexdigest()
        axes = {name: shape for name, (_, shape) in INPUTS.items()}
        networks = {**bundle.manifest.networks, "step": Network(STEP_FILE, digest, axes, OUTPUTS)}
        facts = {**bundle.manifest.training, "step_parity": report.to_dict()}
        manifest = replace(bundle.manifest, networks=networks, training=facts)
        text = json.dumps(manifest.to_dict(), indent=2, allow_nan=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        load_bundle(folder)
    return report


def require_step_method(method: str, what: str) -> None:
    """Raise BundleError unless the method is the one that has a step."""
    if method != METHOD:
        raise BundleError(
            f"{what} is of method {method}; expected {METHOD}, the only method with a step network: "
            "leave the step out"
        )


def _copy_files(bundle: Bundle, folder: Path) -> None:
    manifest = bundle.manifest
    names = {network.file for role, network in manifest.networks.items() if role != "step"}
    if manifest.intervals is not None:
        names.add(manifest.intervals.file)
    if (bundle.path / OPERATORS_FILE).is_file():
        names.add(OPERATORS_FILE)
    for name in names:
        shutil.copyfile(bundle.path / name, folder / name)


def _compose(bundle: Bundle) -> bytes:
    rdn, lc = (onnx.load_model_from_string(bundle.networks[role]) for role in ("rdn", "lc"))
    step = build_step(rdn, lc)
    check_step(step)
    content: bytes = step.SerializeToString(deterministic=True)
    return content


def _check(graph: bytes, bundle: Bundle) -> StepParityReport:
    path = bundle.path / OPERATORS_FILE
    problem = parity_problem(load_operators(path) if path.is_file() else synthetic_operators())
    blocks = LearnedBlocks.of_bundle(bundle)
    return measure_step_parity(graph, blocks, problem, bundle.require_solver(), bundle.manifest.dual_start)
