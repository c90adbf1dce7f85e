"""`engine demo`: the whole path on built-in data."""

from pathlib import Path

import click

from engine.demo import DemoResult, run_demo


@click.command(short_help="Run all of the above on built-in data.")
@click.argument("out_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--frames", type=click.IntRange(min=1), default=16, show_default=True, help="Phantom images.")
@click.option(
    "--snr", type=float, default=20.0, show_default=True, help="Mean measurement SNR in dB (Eq. 36)."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Phantoms and noise.")
def demo(out_dir: Path, frames: int, snr: float, seed: int) -> None:
    """Simulate a scan, calibrate, reconstruct it with the bundle that ships, and measure the images.

    OUT_DIR gets the MDF files in and out, operators.h5, images.png (truth, least-squares start, DEQ-MPI)
    and report.json.

    Example: engine demo demo-output
    """
    result = run_demo(out_dir, frames, snr, seed, click.echo)
    _print_table(result)
    click.echo(f"pictures: {out_dir / 'images.png'}   figures: {out_dir / 'report.json'}")


def _print_table(result: DemoResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result.frames} frames at {result.snr_db:.1f} dB SNR, means")
    for column in ("method", "pSNR / dB", "SSIM / %", "iterations", "converged", "ms / frame"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in result.methods.items():
        iterative = row.iterations > 0
        table.add_row(
            name,
            f"{row.psnr:.2f}",
            f"{100 * row.ssim:.1f}",
            f"{row.iterations:.1f}" if iterative else "-",
            f"{100 * row.converged:.0f} %" if iterative else "-",
            f"{row.milliseconds:.1f}",
        )
    Console().print(table)
