"""The commands of `deqmpi-export`; imported when one of them is called, because torch takes seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from engine.networks.bundle import load_bundle
from export.bundle import OPERATORS_FILE, export_denoiser, export_run
from export.iconlab import import_iconlab
from export.parity.parity import ParityReport
from export.plans.plan_builder import PlanBuilder
from export.plans.plan_options import COMPUTE_CAPABILITY, FLAVOUR, FP16, plan_config, plan_ranges
from export.plans.plans import build_plans
from export.staging import STEP_FILE
from export.step_file import add_step, require_step_method
from trainer.loop.checkpoint import load_networks


@click.command("export-run")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--system-matrix",
    type=click.Path(path_type=Path),
    metavar="SM.mdf",
    help="Check the whole solve on this MDF calibration and write its operators.h5 into the bundle.",
)
@click.option(
    "--denoiser", is_flag=True, help="Write the pre-trained image prior instead, as a bundle for pp-mpi."
)
@click.option("--name", help="Name of the model.  [that of the run]")
@click.option(
    "--max-iterations", type=int, metavar="N", help="Iterations of a reconstruction.  [those of the run]"
)
@click.option(
    "--step",
    is_flag=True,
    help="Also write step.onnx, with which engine recon keeps everything on a GPU.",
)
@click.option("--tensorrt", is_flag=True, help="Also build TensorRT plans, as deqmpi-export tensorrt does.")
@FLAVOUR
@COMPUTE_CAPABILITY
@FP16
def export_run_command(
    run_dir: Path,
    bundle: Path,
    system_matrix: Path | None,
    name: str | None,
    max_iterations: int | None,
    *,
    denoiser: bool,
    step: bool,
    tensorrt: bool,
    **plan_choices: Any,
) -> None:
    """Write the best networks of the training run RUN_DIR as the folder BUNDLE."""
    # Refused, or found to be impossible here, before the minutes of an export.
    config = plan_config(**plan_choices) if tensorrt else None
    if config is None and any(plan_choices.values()):
        raise click.UsageError("--flavour, --compute-capability and --fp16 need --tensorrt; leave them out")
    if config is not None and step and system_matrix is None:
        raise click.UsageError(
            "--tensorrt with --step needs --system-matrix, which says how many rows there are"
        )
    builder = None if config is None else PlanBuilder.open(config)
    if denoiser:
        if name is not None or max_iterations is not None or step:
            raise click.UsageError(
                "--name, --max-iterations and --step have no meaning with --denoiser; leave them out"
            )
        parity = export_denoiser(run_dir, bundle, system_matrix)
    else:
        if step:
            require_step_method(load_networks(run_dir)[2].method, f"the run {run_dir}")
        parity = export_run(run_dir, bundle, system_matrix, name=name, max_iterations=max_iterations)
    _say(bundle, parity)
    if step:
        _add_step(bundle, bundle)
    if config is not None:
        operators = None if system_matrix is None else bundle / OPERATORS_FILE
        sized = replace(config, ranges=plan_ranges(operators))
        build_plans(load_bundle(bundle), sized, click.echo, builder)


@click.command("import-iconlab")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
def import_iconlab_command(checkpoint: Path, bundle: Path) -> None:
    """Write a checkpoint published by the authors of DEQ-MPI (CHECKPOINT.pth) as the folder BUNDLE.

    deqmpi_psnr*.pth gives a bundle for the method deq, ppmpi_denoiser.pth one for pp-mpi.
    """
    _say(bundle, import_iconlab(checkpoint, bundle))


@click.command("add-step")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
def add_step_command(source: Path, bundle: Path) -> None:
    """Write the bundle SOURCE with step.onnx added as the folder BUNDLE, which may be SOURCE itself.

    With it, engine recon on a GPU keeps operators and iterates there.
    """
    _add_step(source, bundle)


def _add_step(source: Path, bundle: Path) -> None:
    report = add_step(source, bundle)
    click.echo(f"the step and the engine agree: {report}")
    click.echo(f"wrote {bundle / STEP_FILE}")


def _say(bundle: Path, parity: ParityReport) -> None:
    click.echo(f"torch and ONNX Runtime agree: {parity}")
    click.echo(f"wrote {bundle}")
