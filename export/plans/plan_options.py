"""The command-line options of TensorRT plans, and the configuration they make."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from engine.networks.axis_ranges import BATCH, REFERENCE_LENGTHS, AxisRange, axis_lengths, axis_ranges
from engine.operators.operators_file import load_operators
from export.plans.plan_config import PlanConfig

FLAVOUR = click.option(
    "--flavour",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="Which TensorRT: for the GPU of this machine, or TensorRT for RTX.  [tensorrt]",
)
COMPUTE_CAPABILITY = click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    metavar="X.Y",
    help="GPU to build for, such as 8.9; may be repeated with tensorrt-rtx.  [the one in this machine]",
)
FP16 = click.option(
    "--fp16", is_flag=True, help="Convolve in half precision; norms and sums stay in single precision."
)


def plan_config(
    flavour: str | None = None,
    compute_capabilities: tuple[str, ...] = (),
    *,
    fp16: bool = False,
    **choices: Any,
) -> PlanConfig:
    """Return the configuration of the given options; what is None keeps its default.

    Raises
    ------
    ConfigError
        If a value is impossible, or has no meaning for the flavour.
    """
    given: dict[str, Any] = {"flavour": flavour, **choices}
    return PlanConfig(
        compute_capabilities=tuple(compute_capabilities),
        precision="fp16" if fp16 else "fp32",
        **{name: value for name, value in given.items() if value is not None},
    )


def plan_ranges(operators: Path | None, more: Mapping[str, AxisRange] | None = None) -> dict[str, AxisRange]:
    """Return the lengths of all axes: of an operators file or the reference scanner, then of `more`.

    Raises
    ------
    OperatorsError
        If the file cannot be read.
    """
    lengths = REFERENCE_LENGTHS if operators is None else axis_lengths(load_operators(operators))
    return axis_ranges(lengths) | dict(more or {})


def parse_axes(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, AxisRange]:
    """Turn NAME=LENGTH or NAME=MIN:OPT:MAX into ranges by axis name."""
    ranges = {}
    for value in values:
        name, separator, text = value.partition("=")
        try:
            lengths = [int(part) for part in text.split(":")]
        except ValueError:
            lengths = []
        if not name or not separator or len(lengths) not in (1, 3):
            raise click.BadParameter(
                f"{value!r}; expected NAME=LENGTH or NAME=MIN:OPT:MAX, such as {BATCH}=1:1:8"
            )
        ranges[name] = AxisRange.fixed(lengths[0]) if len(lengths) == 1 else AxisRange(*lengths)
    return ranges
