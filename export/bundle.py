"""From trained networks to a bundle folder: graphs, manifest, parity check, and only then its name."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from engine.bundle import MANIFEST, Conventions, Manifest, Network, load_bundle
from engine.calibration import calibrate
from engine.errors import InputError
from engine.fixed_point import FixedPointConfig
from engine.operators import Operators
from engine.operators_file import save_operators
from engine.sessions import OnnxConsistency, OnnxPrior
from export.onnx_graphs import LC_INTERFACE, OPSET, RDN_INTERFACE, GraphInterface, export_lc, export_rdn
from export.parity import ParityReport, measure_parity
from export.parity_problem import parity_problem, synthetic_operators
from export.staging import check_replaceable, staged_bundle
from trainer.checkpoint import load_networks
from trainer.config import TrainConfig

RDN_FILE = "rdn.onnx"
LC_FILE = "lc.onnx"
OPERATORS_FILE = "operators.h5"

METRICS_FILE = "metrics.jsonl"
"""Records of a run. Not imported from the trainer's journal, which needs TensorBoard."""


def export_networks(
    rdn: nn.Module,
    lc: nn.Module,
    bundle_dir: str | os.PathLike[str],
    name: str,
    description: str = "",
    training: Mapping[str, Any] | None = None,
    *,
    method: str = "deq",
    solver: FixedPointConfig | None = None,
    operators: Operators | None = None,
) -> ParityReport:
    """Write two networks as a bundle, after checking that the graphs reproduce them.

    Parameters
    ----------
    rdn : nn.Module
        Image prior, (B, 1, H, W) to the same shape.
    lc : nn.Module
        Data consistency, called as `trainer.consistency.LearnedConsistency.forward`.
    bundle_dir : path-like
        Folder to write, in an existing folder. A bundle of that name is replaced as a whole.
    name, description : str
        What the model is, for people.
    training : mapping, optional
        Facts about the weights that JSON can hold.
    solver : FixedPointConfig, optional
        Settings the model was tuned for; the default of its reconstructions.
    operators : Operators, optional
        Operators to check the whole solve with; they are written into the folder as `operators.h5`.
        By default a small synthetic problem is used and nothing is written.

    Returns
    -------
    ParityReport
        The differences found; the manifest keeps them under training / parity.

    Raises
    ------
    BundleError
        If `bundle_dir` exists and is not a bundle.
    ExportError, ParityError
        If a graph breaks its interface or does not reproduce its network. Nothing is written then.
    NonFiniteError
        If a weight or a solve is not finite.
    """
    solver = solver or FixedPointConfig()
    with staged_bundle(bundle_dir) as folder:
        export_rdn(rdn, folder / RDN_FILE)
        export_lc(lc, folder / LC_FILE)
        manifest = Manifest(
            name=name,
            description=description,
            method=method,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            opset=OPSET,
            networks={
                "rdn": _network(folder / RDN_FILE, RDN_INTERFACE),
                "lc": _network(folder / LC_FILE, LC_INTERFACE),
            },
            conventions=Conventions(),
            solver=solver,
            training=dict(training or {}),
        )
        _write_manifest(folder, manifest)
        report = _check(rdn, lc, folder, solver, operators)
        facts = {**manifest.training, "parity": report.to_dict()}
        _write_manifest(folder, replace(manifest, training=facts))
        if operators is not None:
            save_operators(folder / OPERATORS_FILE, operators)
    return report


def export_run(
    run_dir: str | os.PathLike[str],
    bundle_dir: str | os.PathLike[str],
    system_matrix: str | os.PathLike[str] | None = None,
) -> ParityReport:
    """Write the best networks of a training run as a bundle.

    Parameters
    ----------
    run_dir : path-like
        Folder that `trainer fit` wrote.
    bundle_dir : path-like
        Folder to write; see `export_networks`.
    system_matrix : path-like, optional
        MDF calibration to check the whole solve on. Its operators, calibrated with the default settings,
        are written into the bundle folder.

    Returns
    -------
    ParityReport

    Raises
    ------
    InputError
        If `run_dir` is not the folder of a run with validated weights of the configured architecture, or
        the system matrix cannot be used.
    BundleError, ExportError, ParityError, NonFiniteError
        See `export_networks`.
    """
    check_replaceable(Path(os.path.realpath(bundle_dir)))  # before the seconds of calibration
    rdn, lc, config = load_networks(Path(run_dir))
    operators = None if system_matrix is None else calibrate(system_matrix)
    return export_networks(
        rdn,
        lc,
        bundle_dir,
        name=config.name,
        description="Trained with this project's trainer.",
        training=_training_facts(Path(run_dir), config),
        solver=config.solver.forward,
        operators=operators,
    )


def _check(
    rdn: nn.Module, lc: nn.Module, folder: Path, solver: FixedPointConfig, operators: Operators | None
) -> ParityReport:
    bundle = load_bundle(folder)
    problem = parity_problem(operators or synthetic_operators())
    report = measure_parity(rdn, lc, OnnxPrior(bundle), OnnxConsistency(bundle), problem, solver)
    report.require()
    return report


def _network(path: Path, interface: GraphInterface) -> Network:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Network(path.name, digest, dict(interface.inputs), {"z": interface.output})


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(manifest.to_dict(), indent=2, allow_nan=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _training_facts(run_dir: Path, config: TrainConfig) -> dict[str, Any]:
    return {"config": _without_folders(asdict(config)), "best_validation": _best_validation(run_dir)}


def _best_validation(run_dir: Path) -> dict[str, Any] | None:
    """Return the record of the validation whose weights the run kept, if there was one."""
    path = run_dir / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    try:
        records = [record for record in map(json.loads, lines) if "validation_psnr" in record]
    except ValueError as error:
        raise InputError(
            f"{path} holds a line that is no JSON record ({error}); expected the log of a run: if the run "
            "was cut off, resume it, or remove the line"
        ) from error
    return max(records, key=lambda record: record["validation_psnr"], default=None)


def _without_folders(value: Any) -> Any:
    """Cut absolute paths to their last name: a bundle travels, the folders of the training machine do not."""
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
