"""How long a frame takes: every method, backend and batch in one run, against eager PyTorch and the machine.

Whole frames are timed, from whitened rows to the image, after a warm-up, in turns, on frames of 15, 25 and
35 dB of the test split. The same run measures what a core of the machine can do, so that the figures can be
read as ratios.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants.latency_contestants import (
    BATCH,
    TOLERANCE,
    Timed,
    baselines,
    best_eager,
    eager_solves,
    equilibria,
)
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.footprint import allocated, growth, start_up
from benchmarks.harness.latency_clock import Times, time_in_turn
from benchmarks.harness.roofline import Rates, Stage, evaluation_stages, measure_rates
from benchmarks.pages.latency_pages import blocks, picture
from benchmarks.pages.latency_stages import stage_times
from benchmarks.scans.moving_phantom import PHANTOMS, moving_phantom
from benchmarks.scans.scans import SNRS, TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.mpi.metrics import psnr_db
from engine.networks.bundle import load_bundle, shipped_bundle_path
from engine.operators.operators import Operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import open_method
from engine.reconstruction.reconstructor import Reconstructor

FRAMES_PER_SNR = 64
QUICK_FRAMES_PER_SNR = 2

CALLS = 2000
QUICK_CALLS = 6

BASELINE_CALLS = 100
"""Of the methods that take longer and have no target; 99.9 % of them mean little."""

BATCH_CALLS = 12

STAGE_FRAMES = 100

SOAK_FRAMES = 100_000
SOAK_EVALUATIONS = 2
"""What is kept from frame to frame does not depend on how long one is iterated."""

MOVING_FRAMES = 24
SETTLING = 4
"""First frames of a sequence, which are not counted."""

Row = dict[str, Any]


def run(quick: bool, output: Path) -> None:
    """Measure everything and write latency.json, latency.md and latency.png."""
    calls = QUICK_CALLS if quick else CALLS
    per_snr = QUICK_FRAMES_PER_SNR if quick else FRAMES_PER_SNR
    config = {
        "quick": quick,
        "calls": calls,
        "frames": per_snr * len(SNRS),
        "snrs_db": list(SNRS),
        "tolerance": TOLERANCE,
        "seed": 0,
        "split": "test",
    }
    operators = reference_scan(TRAIN_GRADIENT).operators
    bundle = load_bundle(shipped_bundle_path("reference"))
    rows, truth = _frames(per_snr, operators)
    with BenchmarkRun("latency", output, config) as benchmark:
        rates = measure_rates(operators)
        stages = evaluation_stages(bundle, operators)
        eager = best_eager(list(eager_solves(operators)), rows[: 3 if quick else 30])
        benchmark.note(f"best eager PyTorch: {eager.name}")
        solves = list(equilibria(operators))
        field = [(one, calls) for one in [*solves, eager] if one.batch == 1]
        field += [(one, min(calls, BATCH_CALLS)) for one in solves if one.batch > 1]
        field += [(one, min(calls, BASELINE_CALLS)) for one in baselines(operators)]
        found: list[Row] = []
        for number in sorted({count for _, count in field}, reverse=True):
            together = [one for one, count in field if count == number]
            times = time_in_turn(together, rows, number, benchmark.note)
            found += [_row(one, own, truth, operators) for one, own in zip(together, times, strict=True)]
        found += _moving(operators, quick)
        found += [_not_run(name) for name in ("onnxruntime-cuda", "tensorrt")]
        benchmark.rows.extend(found)
        facts = {
            "roofline": _roofline(rates, stages),
            "stages_ms": _stages(rows, operators, quick),
            "start_up": start_up(operators, shipped_bundle_path("reference")),
            "memory": _memory(rows, operators, quick),
        }
        facts["ratios"] = ratios(found, facts, eager.name)
        benchmark.publish(
            "Latency",
            blocks(found, facts, eager.name),
            {"latency.png": picture(found, facts)},
            facts=facts,
        )


def _frames(per_snr: int, operators: Operators) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
    """Return whitened rows (F, R) and truth (F, N); the SNRs follow each other in turn."""
    each = [frames_of_test_split(TRAIN_GRADIENT, per_snr, snr) for snr in SNRS]
    rows = np.stack([frames.rows for frames in each], axis=1).reshape(-1, operators.n_rows)
    truth = np.stack([frames.truth for frames in each], axis=1).reshape(len(rows), -1)
    return rows * operators.scale, truth


def _row(contestant: Timed, times: Times, truth: NDArray[np.float32], operators: Operators) -> Row:
    figures = times.figures()
    seen = sorted(times.images)
    images = np.stack([times.images[frame] for frame in seen])
    nx, ny, _ = operators.grid.size
    psnr = psnr_db(images.reshape(-1, ny, nx), truth[seen].reshape(-1, ny, nx))
    return {
        "name": contestant.name,
        "backend": contestant.backend,
        "threads": contestant.threads,
        "batch": contestant.batch,
        **figures,
        "ms_per_frame": figures["p50_ms"] / contestant.batch,
        "psnr": float(psnr.mean()),
    }


def _not_run(backend: str) -> Row:
    unknown = dict.fromkeys(("p50_ms", "p99_ms", "p999_ms", "psnr"))
    return {
        "name": f"deq, 25 evaluations, {backend}",
        "backend": backend,
        "batch": 1,
        "iterations": 25,
        **unknown,
        "note": "not run: no GPU",
    }


def _moving(operators: Operators, quick: bool) -> list[Row]:
    """Frames of a moving phantom: alone, alone with as few evaluations, and each from the one before."""
    count = SETTLING + 2 if quick else MOVING_FRAMES
    warm_evaluations = 10
    ways = {
        "moving phantom, cold": MethodSettings(tolerance=0.0),
        "moving phantom, cold, as short": MethodSettings(tolerance=0.0, max_iterations=warm_evaluations),
        "moving phantom, warm": MethodSettings(tolerance=0.0, warm_start=True),
    }
    found = []
    for name, settings in ways.items():
        psnr: list[float] = []
        evaluations: list[float] = []
        elapsed: list[float] = []
        by_snr: dict[str, float] = {}
        for snr in SNRS:
            start = len(psnr)
            for phantom in PHANTOMS[:1] if quick else PHANTOMS:
                reconstructor = Reconstructor(open_method("deq", operators, settings))
                scene = moving_phantom(TRAIN_GRADIENT, phantom, count, snr)
                done = [reconstructor.reconstruct(frame * operators.scale) for frame in scene.rows]
                images = np.stack([frame.image[0] for frame in done])[SETTLING:]
                psnr += psnr_db(images, scene.truth[SETTLING:]).tolist()
                evaluations += [frame.report.iterations for frame in done[SETTLING:]]
                elapsed += [frame.report.milliseconds for frame in done[SETTLING:]]
            by_snr[f"psnr_{snr:g}"] = float(np.mean(psnr[start:]))
        times = Times(elapsed, evaluations)
        found.append(
            {
                "name": name,
                "backend": "onnxruntime-cpu",
                "threads": 1,
                "batch": 1,
                **times.figures(),
                "ms_per_frame": float(np.median(elapsed)),
                "psnr": float(np.mean(psnr)),
                **by_snr,
            }
        )
    return found


def _roofline(rates: Rates, stages: Mapping[str, Stage]) -> dict[str, Any]:
    """Return the rates of one core and the least time of 25 evaluations, on one core and on two."""
    one = 25e3 * sum(stage.seconds(rates) for stage in stages.values())
    overlapped = 25e3 * Stage(
        sum(stage.flops for stage in stages.values()), sum(stage.read_bytes for stage in stages.values())
    ).seconds(rates)
    return {
        "flops_per_s": rates.flops_per_s,
        "bytes_per_s": rates.bytes_per_s,
        "least_ms": one,
        "least_ms_overlapped": overlapped,
        "least_ms_two_cores": one / 2,
        "flops_per_evaluation": sum(stage.flops for stage in stages.values()),
        "bytes_per_evaluation": sum(stage.read_bytes for stage in stages.values()),
        "stages_ms": {name: 25e3 * stage.seconds(rates) for name, stage in stages.items()},
    }


def _stages(rows: NDArray[np.floating], operators: Operators, quick: bool) -> Mapping[str, float]:
    bundle = load_bundle(shipped_bundle_path("reference"))
    config = replace(bundle.require_solver(), tolerance=0.0, max_iterations=25)
    return stage_times(bundle, operators, rows[: 3 if quick else STAGE_FRAMES], config)


def _memory(rows: NDArray[np.floating], operators: Operators, quick: bool) -> dict[str, Any]:
    settings = MethodSettings(tolerance=0.0, max_iterations=SOAK_EVALUATIONS)
    short = Reconstructor(open_method("deq", operators, settings))
    longer = replace(settings, max_iterations=25)
    whole = Reconstructor(open_method("deq", operators, longer))
    soak = growth(lambda number: short.reconstruct(rows[number % len(rows)]), 300 if quick else SOAK_FRAMES)
    return {
        "frame": allocated(lambda: whole.reconstruct(rows[0]), 20),
        "frame_with_2_evaluations": allocated(lambda: short.reconstruct(rows[0]), 20),
        "soak": {"evaluations": SOAK_EVALUATIONS, **soak},
    }


def ratios(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], eager_name: str) -> dict[str, float]:
    """Return the figures that the project set itself as targets, as ratios of one run."""
    by_name = {row["name"]: row for row in rows if row.get("p50_ms") is not None}
    eager, one, two = (
        by_name[name] for name in (eager_name, "deq, 25 evaluations, 1 core", "deq, 25 evaluations, 2 cores")
    )
    early = [by_name[f"deq, to tolerance, {cores}"] for cores in ("1 core", "2 cores")]
    batches, singles = (
        [by_name[f"deq, {what}, {cores}"]["p50_ms"] for cores in ("1 core", "2 cores")]
        for what in (f"batch of {BATCH}", f"{BATCH} single frames")
    )
    cold, short, warm = (by_name[f"moving phantom, {how}"] for how in ("cold", "cold, as short", "warm"))
    roofline, start = facts["roofline"], facts["start_up"]
    return {
        "eager_over_25_evaluations_1_core": eager["p50_ms"] / one["p50_ms"],
        "eager_over_25_evaluations_2_cores": eager["p50_ms"] / two["p50_ms"],
        "eager_over_tolerance_1_core": eager["p50_ms"] / early[0]["p50_ms"],
        "eager_over_tolerance_2_cores": eager["p50_ms"] / early[1]["p50_ms"],
        "psnr_lost_by_tolerance_db": one["psnr"] - early[0]["psnr"],
        "psnr_lost_against_eager_db": eager["psnr"] - one["psnr"],
        "over_roofline_1_core": one["p50_ms"] / roofline["least_ms"],
        "over_roofline_2_cores": two["p50_ms"] / roofline["least_ms_two_cores"],
        "p99_over_p50_1_core": one["p99_ms"] / one["p50_ms"],
        "p99_over_p50_2_cores": two["p99_ms"] / two["p50_ms"],
        "warm_over_cold_evaluations": warm["iterations"] / cold["iterations"],
        "psnr_lost_by_warm_db": cold["psnr"] - warm["psnr"],
        "psnr_lost_by_cold_as_short_db": cold["psnr"] - short["psnr"],
        "batch_throughput_1_core": singles[0] / batches[0],
        "batch_throughput_2_cores": singles[1] / batches[1],
        "batch_on_2_cores_over_frames_on_1": singles[0] / batches[1],
        "start_up_seconds": start["seconds"],
        "resident_mb": start["resident_mb"],
        "growth_mb_per_100000_frames": facts["memory"]["soak"]["growth_mb"]
        * 1e5
        / facts["memory"]["soak"]["frames"],
    }
