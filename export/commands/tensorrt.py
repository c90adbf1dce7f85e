"""The command `deqmpi-export tensorrt`; in single precision it needs neither torch nor onnx."""

from pathlib import Path
from typing import Any

import click

from engine.networks.axis_ranges import AxisRange
from engine.networks.bundle import load_bundle
from export.plans.plan_config import MAX_OPTIMIZATION_LEVEL
from export.plans.plan_options import COMPUTE_CAPABILITY, FLAVOUR, FP16, parse_axes, plan_config, plan_ranges
from export.plans.plans import build_plans

MEGABYTE = 1 << 20


@click.command("tensorrt")
@click.argument("bundle", type=click.Path(path_type=Path))
@FLAVOUR
@COMPUTE_CAPABILITY
@FP16
@click.option(
    "--operators",
    type=click.Path(path_type=Path),
    metavar="OPERATORS.h5",
    help="Build for the grid and the data layout of these operators.  [the reference scanner]",
)
@click.option(
    "--axis",
    "axes",
    multiple=True,
    callback=parse_axes,
    metavar="NAME=MIN:OPT:MAX",
    help="Lengths of a named axis; may be repeated.  [batch=1:1:64, sizes fixed]",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, MAX_OPTIMIZATION_LEVEL),
    help="Effort of the builder.  [3]",
)
@click.option("--workspace", type=click.IntRange(1), metavar="MB", help="Scratch memory of a layer.  [1024]")
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measured times of kernels, read and written; tensorrt only.  [in the user's cache]",
)
def tensorrt_command(
    bundle: Path, operators: Path | None, axes: dict[str, AxisRange], workspace: int | None, **choices: Any
) -> None:
    """Build a TensorRT plan next to every network of the folder BUNDLE.

    A plan that was built from the same network in the same way is left as it is.
    """
    memory = None if workspace is None else workspace * MEGABYTE
    config = plan_config(workspace_bytes=memory, ranges=plan_ranges(operators, axes), **choices)
    opened = load_bundle(bundle)
    results = build_plans(opened, config, click.echo)
    built = [result.path.name for result in results if result.built]
    if built:
        click.echo(f"wrote {', '.join(built)} in {opened.path}")
