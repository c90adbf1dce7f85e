"""The command `engine simulate`: a calibration, a phantom measurement and its ground truth."""

from pathlib import Path

import click

from engine.mpi.mdf import write_mdf
from engine.mpi.simulation.scan import (
    ReceiverNoise,
    preset_scanner,
    simulate_calibration,
    simulate_measurement,
    simulate_moving_measurement,
)
from engine.mpi.simulation.scanner import PRESETS
from engine.mpi.simulation.truth import Truth, save_truth


@click.command(short_help="Make a calibration and a measurement of the reference scanner.")
@click.argument("out_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="reference-0.5",
    show_default=True,
    help="Scanner; the number is its selection-field gradient in T/m.",
)
@click.option("--frames", type=click.IntRange(min=1), default=8, show_default=True, help="Phantom images.")
@click.option(
    "--snr", type=float, default=20.0, show_default=True, help="Mean measurement SNR in dB (Eq. 36)."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Phantoms and noise.")
@click.option(
    "--noise-colour",
    type=float,
    default=0.0,
    show_default=True,
    help="Noise falls with frequency to this power; 0 is white.",
)
@click.option(
    "--noise-dof",
    type=click.FloatRange(min=2.0, min_open=True),
    default=None,
    help="Student's t noise with these degrees of freedom instead of Gaussian noise.",
)
@click.option(
    "--drift",
    type=float,
    default=0.0,
    show_default=True,
    help="Relative change of the background over the scan.",
)
@click.option("--moving", is_flag=True, help="One phantom that sways instead of one per frame.")
def simulate(
    out_dir: Path,
    preset: str,
    frames: int,
    snr: float,
    seed: int,
    noise_colour: float,
    noise_dof: float | None,
    drift: float,
    moving: bool,
) -> None:
    """Write OUT_DIR/system-matrix.mdf, measurement.mdf and truth.h5.

    The measurement is made on a grid four times as fine as the calibration's, so no reconstruction
    inverts the operator that made its data.

    Example: engine simulate scan --frames 16 --snr 25
    """
    scanner = preset_scanner(preset)
    noise = ReceiverNoise(noise_colour, noise_dof if noise_dof is not None else float("inf"), drift)
    measure = simulate_moving_measurement if moving else simulate_measurement
    measurement = measure(scanner, frames, snr, seed, noise=noise)
    calibration = simulate_calibration(scanner, seed, noise)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_mdf(out_dir / "system-matrix.mdf", calibration)
    write_mdf(out_dir / "measurement.mdf", measurement.file)
    save_truth(out_dir / "truth.h5", Truth(measurement.truth, measurement.snr_db, scanner.grid))
    click.echo(
        f"{out_dir}: system matrix of {scanner.grid.n_voxels} voxels, {frames} frames at "
        f"{measurement.snr_db.mean():.1f} dB SNR (preset {preset}, seed {seed})"
    )
