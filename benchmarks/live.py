"""The live service under its clock: measurements played at the scanner's rate and beyond, each frame counted.

Service, player and subscriber are processes of their own that talk over ZeroMQ, as on a scanner's computer;
times are from before a frame is sent until its image is there. What is played is a moving phantom at 25 dB,
and phantoms that change with every frame, of which none can start warm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import markdown_table
from engine.calibration.calibrate import calibrate
from engine.live.loop.counters import Counters
from engine.live.loop.loop_config import LoopConfig
from engine.live.recording.config import RecordingConfig
from engine.live.replay.player import MeasuredFrames, measured_frames
from engine.live.replay.replay import replay
from engine.live.service.live_config import EndpointConfig, LiveConfig, MethodConfig
from engine.live.service.service_process import ServiceProcess
from engine.mpi.mdf import write_mdf
from engine.mpi.simulation.scan import (
    preset_scanner,
    simulate_calibration,
    simulate_measurement,
    simulate_moving_measurement,
)
from engine.operators.operators_file import save_operators

PRESET = "reference-0.5"
SNR_DB = 25.0
RATE = 46.4
"""Frames per second of the scanner."""

OVERLOAD = 4 * RATE
DEADLINE_MS = 43.0
"""Two frames."""

MEGABYTE = 1e6


@dataclass(frozen=True)
class Case:
    """One replay.

    Attributes
    ----------
    name : str
        What is tried.
    settings : mapping
        Of `MethodConfig`.
    loop : mapping
        Of `LoopConfig`.
    rate, seconds : float
        Frames per second, and for how long.
    scene : str
        "moving" or "changing".
    is_recorded : bool
        Whether the service records.
    """

    name: str
    settings: Mapping[str, Any]
    loop: Mapping[str, Any]
    rate: float = RATE
    seconds: float = 60.0
    scene: str = "changing"
    is_recorded: bool = False


FAST = {"model": "fast", "threads": 2}
EVERY = {"policy": "every-frame"}

CASES = (
    Case("fast, two cores", FAST, EVERY),
    Case("fast, one core", {"model": "fast", "threads": 1}, EVERY),
    Case(
        "fast, one core, warm start",
        {"model": "fast", "threads": 1, "warm_start": True},
        EVERY,
        scene="moving",
    ),
    Case("fast, two cores, recorded", FAST, EVERY, is_recorded=True),
    Case("reference, two cores", {"model": "reference", "threads": 2}, EVERY),
    *(
        Case(f"overload: {policy}", FAST, {"policy": policy}, OVERLOAD, 20.0)
        for policy in ("latest", "block-average", "every-frame")
    ),
    *(
        Case(
            f"overload without deadline: {policy}",
            FAST,
            {"policy": policy, "deadline_ms": None},
            OVERLOAD,
            20.0,
        )
        for policy in ("latest", "block-average", "every-frame")
    ),
    Case("soak: four times the rate", FAST, {"policy": "latest"}, OVERLOAD, 600.0),
)

QUICK_SECONDS = 2.0

SETTLE_S = 30
"""After so many seconds the process has all its buffers: growth is counted from there."""


def run(quick: bool, output: Path) -> None:
    """Play every case and write live.json, live.md and live.png."""
    with (
        BenchmarkRun("live", output, {"quick": quick, "snr_db": SNR_DB}) as benchmark,
        TemporaryDirectory() as name,
    ):
        benchmark.expect(len(CASES))
        stage = Stage(Path(name))
        for case in CASES:
            seconds = min(QUICK_SECONDS, case.seconds) if quick else case.seconds
            benchmark.note(case.name)
            key = {"case": case.name, "policy": case.loop["policy"], "wanted_rate": case.rate}
            benchmark.row(key, partial(stage.play, case, seconds))
        rows = benchmark.rows
        blocks = [
            f"Frames of {SNR_DB:g} dB over ZeroMQ into a service with a deadline of {DEADLINE_MS:g} ms. "
            "Times from before the sending of a frame to the receipt of its image. `cut`: images that the "
            "deadline ended; `late`: those that came after it.",
            "## Where every frame went\n\nframes in = images + averaged + dropped + in flight.",
            markdown_table([_account(row) for row in rows]),
            "## From frame to image\n\nMilliseconds, and memory of the service.",
            markdown_table([_times(row) for row in rows]),
            "![Times and accounts](live.png)",
            "## All figures",
        ]
        benchmark.publish("The live service", blocks, {"live.png": _picture(rows)})


class Stage:
    """A simulated scanner's files in a folder, and services that use them.

    Parameters
    ----------
    folder : Path
        For the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "recordings").mkdir()
        scanner = preset_scanner(PRESET)
        calibration = simulate_calibration(scanner)
        write_mdf(folder / "system-matrix.mdf", calibration)
        save_operators(folder / "operators.h5", calibrate(calibration))
        self._scenes: dict[str, MeasuredFrames] = {
            "changing": measured_frames(simulate_measurement(scanner, 32, SNR_DB).file),
            "moving": measured_frames(simulate_moving_measurement(scanner, 46, SNR_DB).file),
        }

    def play(self, case: Case, seconds: float) -> dict[str, Any]:
        """Return the account of one case."""
        memory: list[float] = []
        with ServiceProcess(self._config(case)) as service:

            def sample(_counters: Counters) -> None:
                memory.append(resident_mb(service.process.pid))

            report = replay(
                self._scenes[case.scene],
                service.frames_endpoint,
                service.images_endpoint,
                rate=case.rate,
                seconds=seconds,
                on_second=sample,
            )
        settled = memory[min(SETTLE_S, len(memory) // 2) :]
        return report.to_dict() | {
            "memory_mb": float(np.max(memory)),
            "growth_mb": float(settled[-1] - settled[0]),
        }

    def _config(self, case: Case) -> LiveConfig:
        recording = RecordingConfig(self._folder / "recordings", self._folder / "system-matrix.mdf")
        return LiveConfig(
            MethodConfig(self._folder / "operators.h5", **case.settings),
            LoopConfig(**{"deadline_ms": DEADLINE_MS, **case.loop}),
            EndpointConfig(frames="tcp://127.0.0.1:*", images="tcp://127.0.0.1:*"),
            recording=recording if case.is_recorded else None,
        )


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB, from Linux's /proc; NaN elsewhere."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        return float("nan")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def _account(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("frames_in", "images_out", "averaged", "dropped", "in_flight")
    return (
        {"case": row["case"], "frames/s": f"{row['rate']:.1f}", "s": f"{row['seconds']:.0f}"}
        | {name.replace("_", " "): row[name] for name in names}
        | {"adds up": "yes" if row["is_balanced"] else "NO"}
    )


def _times(row: Mapping[str, Any]) -> dict[str, Any]:
    return (
        {"case": row["case"]}
        | {name.removesuffix("_ms"): f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")}
        | {name: row[name] for name in ("late", "cut")}
        | {"evaluations": f"{row['mean_iterations']:.1f}"}
        | {"MB": f"{row['memory_mb']:.0f}", "grown by MB": f"{row['growth_mb']:+.1f}"}
    )


def _picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    times, account = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))[::-1]
    for name, mark in (("p50_ms", "o"), ("p99_ms", "s"), ("p999_ms", "|")):
        times.plot([row[name] for row in rows], places, mark, color="C0", label=name.removesuffix("_ms"))
    times.axvline(DEADLINE_MS, color="C3", ls="--", label="deadline")
    times.set(xscale="log", xlabel="ms from frame to image")
    times.set_yticks(places, [row["case"] for row in rows])
    ticks = [10, 20, 50, 100, 200, 500, 1000]
    shortest, longest = min(row["p50_ms"] for row in rows), max(row["p999_ms"] for row in rows)
    times.set_xticks([tick for tick in ticks if shortest / 2 < tick < 2 * longest])
    times.xaxis.set_major_formatter("{x:g}")
    times.minorticks_off()
    left = np.zeros(len(rows))
    parts = (("images_out", "C0"), ("averaged", "C2"), ("dropped", "C3"), ("in_flight", "C7"))
    for name, colour in parts:
        share = np.array([100 * row[name] / row["frames_in"] for row in rows])
        account.barh(places, share, left=left, color=colour, label=name.replace("_", " "))
        left += share
    account.set(xlabel="percent of the frames", xlim=(0, 100))
    for axes in (times, account):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
        axes.grid(axis="x", alpha=0.3)
    return figure
