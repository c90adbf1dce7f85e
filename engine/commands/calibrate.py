"""The command `engine calibrate`: from a system-matrix file to an operators file."""

import time
from pathlib import Path

import click

from engine.calibration.calibrate import CalibrationConfig, calibrate_with_report
from engine.commands.arguments import require_distinct_files
from engine.operators.operators_file import save_operators


def _parse_harmonics(
    _context: click.Context, _parameter: click.Parameter, text: str
) -> tuple[int, int] | None:
    """Read FIRST:LAST, or "none" (a click callback)."""
    if text.strip().lower() == "none":
        return None
    first, colon, last = text.partition(":")
    try:
        return (int(first), int(last)) if colon else (int(text), int(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}; expected FIRST:LAST such as 2:11, or none") from error


def _parse_channels(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """Read a comma-separated list of channel numbers (a click callback)."""
    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}; expected 0-based numbers such as 0,2") from error


@click.command("calibrate")
@click.argument("system_matrix", type=click.Path(path_type=Path))
@click.argument("operators", type=click.Path(path_type=Path))
@click.option(
    "--snr-threshold",
    type=float,
    default=CalibrationConfig.snr_threshold,
    show_default=True,
    help="Keep rows with a larger SNR.",
)
@click.option(
    "--harmonics",
    callback=_parse_harmonics,
    default="2:11",
    show_default=True,
    metavar="FIRST:LAST|none",
    help="Keep bins around these harmonics of the drive frequency.",
)
@click.option(
    "--harmonic-half-width",
    type=float,
    default=CalibrationConfig.harmonic_half_width,
    show_default=True,
    metavar="HZ",
    help="Frequencies kept on both sides of each harmonic.",
)
@click.option(
    "--min-frequency",
    type=float,
    default=CalibrationConfig.min_frequency,
    metavar="HZ",
    help="Lowest frequency kept.",
)
@click.option("--max-frequency", type=float, metavar="HZ", help="Highest frequency kept.")
@click.option("--channels", callback=_parse_channels, metavar="N,N", help="Receive channels, 0-based.  [all]")
@click.option(
    "--upsample", type=click.IntRange(1, 2), default=1, show_default=True, help="Refinement of the grid."
)
@click.option("--smooth", is_flag=True, help="Use A U D in place of A: for data emulated with A itself.")
@click.option("--rank", type=int, metavar="N", help="Singular values in the least-squares start.  [65 %]")
@click.option(
    "--factors",
    type=click.IntRange(min=1),
    metavar="K",
    help="Keep K singular triplets in place of the system matrix: for large grids.",
)
def calibrate(
    system_matrix: Path,
    operators: Path,
    snr_threshold: float,
    harmonics: tuple[int, int] | None,
    harmonic_half_width: float,
    min_frequency: float,
    max_frequency: float | None,
    channels: tuple[int, ...] | None,
    upsample: int,
    smooth: bool,
    rank: int | None,
    factors: int | None,
) -> None:
    """Turn the MDF calibration SYSTEM_MATRIX into the operators file OPERATORS."""
    require_distinct_files([system_matrix], [operators])
    started = time.perf_counter()
    config = CalibrationConfig(
        snr_threshold=snr_threshold,
        harmonics=harmonics,
        harmonic_half_width=harmonic_half_width,
        min_frequency=min_frequency,
        max_frequency=max_frequency,
        channels=channels,
        upsample=upsample,
        smooth=smooth,
        rank=rank,
        factors=factors,
    )
    result, report = calibrate_with_report(system_matrix, config)
    save_operators(operators, result)
    for line in report:
        click.echo(line)
    click.echo(f"wrote {operators} in {time.perf_counter() - started:.1f} s")
