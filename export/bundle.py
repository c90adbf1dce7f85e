"""From trained networks to a bundle folder: graphs, manifest, parity check, and only then its name."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from engine.calibration.calibrate import calibrate
from engine.errors import ConfigError, InputError
from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import CONVENTIONS, MANIFEST, Manifest, Network, load_bundle
from engine.operators.operators import Operators
from engine.operators.operators_file import save_operators
from engine.reconstruction.methods import METHODS, method_named
from export.errors import ExportError
from export.graphs.onnx_graphs import (
    LC_INTERFACE,
    OPSET,
    GraphInterface,
    export_lc,
    export_rdn,
    rdn_interface,
)
from export.parity.learned_blocks import LearnedBlocks
from export.parity.parity import ParityReport, measure_parity
from export.parity.parity_problem import parity_problem, synthetic_operators
from export.staging import check_replaceable, staged_bundle
from trainer.config import TrainConfig
from trainer.loop.checkpoint import PRETRAINED_WEIGHTS, load_networks
from trainer.stability.stability import METHOD

RDN_FILE = "rdn.onnx"
LC_FILE = "lc.onnx"
OPERATORS_FILE = "operators.h5"

SOLVERS: Mapping[str, FixedPointConfig] = MappingProxyType(
    {
        "deq": FixedPointConfig(),
        "deq-ball": FixedPointConfig(),
        "pp-mpi": FixedPointConfig(memory=0, tolerance=0.0, max_iterations=150),
    }
)
"""Solver settings of the methods that have usual ones; 150 iterations are the paper's for PP-MPI."""

METRICS_FILE = "metrics.jsonl"
"""Records of a run. Not imported from the trainer's journal, which needs TensorBoard."""


def export_networks(
    rdn: nn.Module,
    lc: nn.Module | None,
    bundle_dir: str | os.PathLike[str],
    name: str,
    description: str = "",
    training: Mapping[str, Any] | None = None,
    *,
    method: str = "deq",
    solver: FixedPointConfig | None = None,
    dual_start: float = 0.0,
    operators: Operators | None = None,
) -> ParityReport:
    """Write the networks of a method as a bundle, after checking that the graphs reproduce them.

    Parameters
    ----------
    rdn : nn.Module
        Image prior, (B, 1, H, W) to the same shape.
    lc : nn.Module or None
        Data consistency, called as `trainer.networks.consistency.LearnedConsistency.forward`; only the method
        deq has one.
    bundle_dir : path-like
        Folder to write, in an existing folder. A bundle of that name is replaced as a whole.
    name, description : str
        What the model is, for people.
    training : mapping, optional
        Facts about the weights that JSON can hold.
    method : str, optional
        What the networks were trained for, one of `engine.reconstruction.methods.METHODS` that has networks.
    solver : FixedPointConfig, optional
        Settings the model was tuned for, the default of its reconstructions; by default the usual ones of
        the method. An unrolled model needs them, for the number of iterations it was trained for.
    dual_start : float, optional
        Size of the first data dual of an equilibrium method.
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
        If the networks or settings are not those of the method, or a graph breaks its interface or does not
        reproduce its network. Nothing is written then.
    NonFiniteError
        If a weight or a solve is not finite.
    """
    _require_networks(method, lc)
    solver = _solver(method, solver)
    with staged_bundle(bundle_dir) as folder:
        export_rdn(rdn, folder / RDN_FILE)
        networks = {"rdn": _network(folder / RDN_FILE, rdn_interface(rdn))}
        if lc is not None:
            export_lc(lc, folder / LC_FILE)
            networks["lc"] = _network(folder / LC_FILE, LC_INTERFACE)
        manifest = Manifest(
            name=name,
            description=description,
            method=method,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            opset=OPSET,
            networks=networks,
            conventions=CONVENTIONS,
            solver=solver,
            dual_start=dual_start,
            training=dict(training or {}),
        )
        _write_manifest(folder, manifest)
        report = _check(LearnedBlocks.of_networks(rdn, lc), folder, operators)
        facts = {**manifest.training, "parity": report.to_dict()}
        _write_manifest(folder, replace(manifest, training=facts))
        if operators is not None:
            save_operators(folder / OPERATORS_FILE, operators)
    return report


def export_run(
    run_dir: str | os.PathLike[str],
    bundle_dir: str | os.PathLike[str],
    system_matrix: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    max_iterations: int | None = None,
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
    name : str, optional
        Of the model; by default that of the run.
    max_iterations : int, optional
        Iterations of a reconstruction; by default those of the run.

    Returns
    -------
    ParityReport

    Raises
    ------
    InputError
        If `run_dir` is not the folder of a run with validated weights of the configured architecture, or
        the system matrix cannot be used.
    ConfigError
        If the method does not iterate, or the number of iterations is not positive.
    BundleError, ExportError, ParityError, NonFiniteError
        See `export_networks`.
    """
    check_replaceable(Path(os.path.realpath(bundle_dir)))  # before the seconds of calibration
    rdn, lc, config = load_networks(Path(run_dir))
    method = METHODS[config.method]
    solver = config.reconstruction if method.iterates else None
    if max_iterations is not None:
        if solver is None:
            raise ConfigError(
                f"max_iterations is {max_iterations}; expected none: method {config.method} does not iterate"
            )
        solver = replace(solver, max_iterations=max_iterations)
    operators = None if system_matrix is None else calibrate(system_matrix)
    return export_networks(
        rdn,
        lc,
        bundle_dir,
        name=name or config.name,
        description="Trained with this project's trainer.",
        training=_training_facts(Path(run_dir), config),
        method=config.method,
        solver=solver,
        dual_start=config.solver.dual_start if method.is_equilibrium else 0.0,
        operators=operators,
    )


def export_denoiser(
    run_dir: str | os.PathLike[str],
    bundle_dir: str | os.PathLike[str],
    system_matrix: str | os.PathLike[str] | None = None,
) -> ParityReport:
    """Write the image prior of a run as it was after pre-training, a denoiser, as a bundle for PP-MPI.

    Parameters
    ----------
    run_dir : path-like
        Folder that `trainer fit` wrote, of any method.
    bundle_dir, system_matrix : path-like
        See `export_run`.

    Returns
    -------
    ParityReport

    Raises
    ------
    InputError
        If `run_dir` is not the folder of a run that has finished pre-training its image prior, or the system
        matrix cannot be used.
    BundleError, ExportError, ParityError, NonFiniteError
        See `export_networks`.
    """
    check_replaceable(Path(os.path.realpath(bundle_dir)))
    rdn, _, config = load_networks(Path(run_dir), PRETRAINED_WEIGHTS)
    pretraining = config.pretrain.rdn
    if pretraining.steps == 0 and pretraining.weights is None:
        raise InputError(
            f"the run {run_dir} did not pre-train its image prior; expected a run with pretrain.rdn.steps or "
            "pretrain.rdn.weights: export another run"
        )
    operators = None if system_matrix is None else calibrate(system_matrix)
    return export_networks(
        rdn,
        None,
        bundle_dir,
        name=f"{config.name}-denoiser",
        description="Image denoiser pre-trained with this project's trainer.",
        training={"config": _without_folders(asdict(config))},
        method="pp-mpi",
        operators=operators,
    )


def _require_networks(method: str, lc: nn.Module | None) -> None:
    networks = method_named(method).networks
    if not networks:
        raise ExportError(f"method is {method!r}, which has no networks; expected one that has: name another")
    if (lc is not None) != ("lc" in networks):
        raise ExportError(
            f"{'no' if lc is None else 'a'} data consistency was given for method {method}; expected the "
            f"networks {', '.join(networks)}: export them as the method they were trained for"
        )


def _solver(method: str, given: FixedPointConfig | None) -> FixedPointConfig | None:
    if not METHODS[method].iterates:
        if given is not None:
            raise ExportError(f"method {method} was given solver settings; expected none: leave them out")
        return None
    if given is None and method not in SOLVERS:
        raise ExportError(
            f"no solver settings were given for method {method}; expected the number of iterations that the "
            "network was trained for: give solver"
        )
    return given or SOLVERS[method]


def _check(networks: LearnedBlocks, folder: Path, operators: Operators | None) -> ParityReport:
    bundle = load_bundle(folder)
    problem = parity_problem(operators or synthetic_operators())
    graphs, manifest = LearnedBlocks.of_bundle(bundle), bundle.manifest
    report = measure_parity(networks, graphs, problem, manifest.method, manifest.solver, manifest.dual_start)
    report.require()
    return report


def _network(path: Path, interface: GraphInterface) -> Network:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Network(path.name, digest, dict(interface.inputs), {"z": interface.output})


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(manifest.to_dict(), indent=2, allow_nan=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _training_facts(run_dir: Path, config: TrainConfig) -> dict[str, Any]:
    best = _best_validation(run_dir)
    facts = {"config": _without_folders(asdict(config)), "best_validation": best}
    stability = _stability(config, best or {})
    return {**facts, "stability": stability} if stability else facts


def _stability(config: TrainConfig, best: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the best validation says of the spectral radius, empty if it was not measured."""
    prefix = "validation_spectral_radius_"
    figures = {key.removeprefix(prefix): value for key, value in best.items() if key.startswith(prefix)}
    if not figures:
        return {}
    levels, frames = config.data.validation_snr, config.fit.spectral_frames
    snr = sorted({levels[frame % len(levels)] for frame in range(frames)})
    return {"spectral_radius": figures, "frames": frames, "snr_db": snr, "measured": METHOD}


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
