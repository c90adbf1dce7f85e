"""The command `engine intervals`: the intervals of a bundle, calibrated for one system matrix."""

import time
from pathlib import Path

import click

from engine.commands.arguments import parse_levels
from engine.mpi.simulation.scanner import PRESETS
from engine.networks.bundle import load_bundle
from engine.networks.interval_store import store_intervals
from engine.networks.interval_table import Intervals
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import open_method
from engine.reconstruction.reconstructor import Reconstructor
from engine.tuning.emulation import Scan, emulate_scan, scan_of
from engine.tuning.fit_intervals import CalibrationPlan, calibrate_intervals


@click.command(short_help="Calibrate the intervals of a model's images.")
@click.argument("system_matrix", metavar="SYSTEM_MATRIX")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--coverage",
    type=float,
    default=CalibrationPlan.coverage,
    show_default=True,
    help="Share of the true values that the intervals are to hold.",
)
@click.option(
    "--snr",
    "snr_db",
    callback=parse_levels,
    default=",".join(f"{snr:g}" for snr in CalibrationPlan.snr_db),
    show_default=True,
    metavar="DB,DB",
    help="Mean measurement SNRs (Eq. 36) to calibrate at, increasing.",
)
@click.option(
    "--frames", type=int, default=CalibrationPlan.frames, show_default=True, help="Phantoms per SNR."
)
@click.option("--seed", type=int, default=CalibrationPlan.seed, show_default=True, help="Phantoms and noise.")
def intervals_command(
    system_matrix: str,
    bundle: Path,
    coverage: float,
    snr_db: tuple[float, ...],
    frames: int,
    seed: int,
) -> None:
    """Calibrate intervals on emulated data of SYSTEM_MATRIX and store them in the folder BUNDLE.

    SYSTEM_MATRIX is an MDF calibration, or the name of a preset of engine simulate.

    Example: engine intervals system-matrix.mdf my-bundle
    """
    plan = CalibrationPlan(coverage=coverage, snr_db=snr_db, frames=frames, seed=seed)
    model = load_bundle(bundle)
    started = time.perf_counter()
    found = _calibrate(_scan(system_matrix), model.path, plan, Path(system_matrix).name)
    store_intervals(model, found)
    low, high = found.snr_range
    seconds = time.perf_counter() - started
    click.echo(
        f"intervals of {100 * coverage:g} % for frames of {low:.0f} to {high:.0f} dB, from "
        f"{len(snr_db)} x {frames} frames"
    )
    click.echo(f"wrote {bundle} in {seconds:.0f} s")


def _scan(system_matrix: str) -> Scan:
    if system_matrix in PRESETS:
        return emulate_scan(system_matrix)
    from engine.calibration.calibrate import system_matrix_from_mdf

    return scan_of(system_matrix_from_mdf(system_matrix))


def _calibrate(scan: Scan, model: Path, plan: CalibrationPlan, name: str) -> Intervals:
    from rich.console import Console

    solver = open_method(None, scan.operators, MethodSettings(model=model))
    with Console(stderr=True).status("preparing") as status:

        def show(snr: float) -> None:
            status.update(f"{plan.frames} frames at {snr:g} dB")

        return calibrate_intervals(Reconstructor(solver), scan, plan, name, show)
