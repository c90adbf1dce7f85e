"""A small scanner and few methods in place of the real ones, so that whole benchmarks take a second."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from benchmarks import accuracy, galleries, live, robustness, snr_mismatch, upsampling
from benchmarks.contestants.contestant import Contestant, as_shipped
from benchmarks.contestants.model_shelf import MissingModelError
from benchmarks.scans import perturbed_scans, scans
from engine.calibration.calibrate import system_matrix_from_mdf
from engine.mpi.grid import Grid
from engine.mpi.simulation.scan import simulate_calibration
from engine.mpi.simulation.scanner import PRESETS, FflScanner
from engine.reconstruction.method_settings import MethodSettings
from engine.tuning.emulation import Scan, scan_of


def small_scanner(preset: str) -> FflScanner:
    """Few angles, harmonics and voxels; enough rows for a doubled grid, enough pixels for SSIM's window."""
    return replace(
        PRESETS[preset],
        grid=Grid((10, 8, 1), (0.04, 0.032, 0.002)),
        n_angles=8,
        harmonics=(2, 5),
        bandwidth=1.5e5,
        noise_voltage=0.005,
    )


@cache
def small_scan(preset: str) -> Scan:
    return scan_of(system_matrix_from_mdf(simulate_calibration(small_scanner(preset))))


def few_contestants(*_: object) -> list[Contestant]:
    return [as_shipped("least-squares"), as_shipped("art"), short_deq("deq")]


def short_deq(*arguments: object) -> Contestant:
    """Two evaluations; the name is the last argument."""
    return replace(as_shipped("deq"), name=str(arguments[-1]), settings=MethodSettings(max_iterations=2))


def missing(*_: object) -> Contestant:
    raise MissingModelError("no published weights here")


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scans, and what is compared on them, without any model beside the package."""
    cached = (
        *(scans.reference_scan, scans.frames_of_test_split, upsampling._operators, upsampling._frames),
        *(perturbed_scans.recalibrated, perturbed_scans.not_recalibrated),
        *(perturbed_scans.with_calibration_noise, robustness._trial),
    )
    for function in cached:
        function.cache_clear()
    monkeypatch.setattr(scans, "emulate_scan", small_scan)
    monkeypatch.setattr(upsampling, "preset_scanner", small_scanner)
    monkeypatch.setattr(perturbed_scans, "preset_scanner", small_scanner)
    monkeypatch.setattr(live, "preset_scanner", small_scanner)
    for benchmark in (accuracy, galleries, upsampling):
        monkeypatch.setattr(benchmark, "contestants", few_contestants)
    monkeypatch.setattr(accuracy, "before_equilibrium_training", lambda _: short_deq("deq, pre-trained only"))
    monkeypatch.setattr(accuracy, "trained_alike", lambda _: short_deq("deq-ball, trained alike"))
    monkeypatch.setattr(snr_mismatch, "trained_at", short_deq)
    monkeypatch.setattr(snr_mismatch, "authors_deq", missing)
    yield
    for function in cached:
        function.cache_clear()
