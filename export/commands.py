"""The commands of `deqmpi-export`; imported when one of them is called, because torch takes seconds."""

from pathlib import Path

import click

from export.bundle import export_denoiser, export_run
from export.iconlab import import_iconlab
from export.parity import ParityReport


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
@click.option("--tensorrt", is_flag=True, help="Also build TensorRT plans (not available in this version).")
def export_run_command(
    run_dir: Path, bundle: Path, system_matrix: Path | None, *, denoiser: bool, tensorrt: bool
) -> None:
    """Write the best networks of the training run RUN_DIR as the folder BUNDLE."""
    if tensorrt:
        raise click.UsageError(
            "--tensorrt is not available in this version; export without it: ONNX Runtime runs the bundle"
        )
    export = export_denoiser if denoiser else export_run
    _say(bundle, export(run_dir, bundle, system_matrix))


@click.command("import-iconlab")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
def import_iconlab_command(checkpoint: Path, bundle: Path) -> None:
    """Write a checkpoint published by the authors of DEQ-MPI (CHECKPOINT.pth) as the folder BUNDLE.

    deqmpi_psnr*.pth gives a bundle for the method deq, ppmpi_denoiser.pth one for pp-mpi.
    """
    _say(bundle, import_iconlab(checkpoint, bundle))


def _say(bundle: Path, parity: ParityReport) -> None:
    click.echo(f"torch and ONNX Runtime agree: {parity}")
    click.echo(f"wrote {bundle}")
