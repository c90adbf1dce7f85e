"""The page and the picture of the latency benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contestants.paper import TABLE_III
from benchmarks.harness.record import markdown_table
from benchmarks.pages.latency_stages import STAGES

FRAME_MS = 21.54
"""A frame of the scanner: the deadline of a live reconstruction."""

TARGETS: Sequence[tuple[str, str, str]] = (
    ("25 evaluations, against eager PyTorch", "eager_over_25_evaluations_2_cores", ">= 4"),
    ("the same on one core", "eager_over_25_evaluations_1_core", ""),
    ("to tolerance, against eager PyTorch", "eager_over_tolerance_2_cores", ">= 10"),
    ("the same on one core", "eager_over_tolerance_1_core", ""),
    ("dB lost by stopping there", "psnr_lost_by_tolerance_db", "<= 0.1"),
    ("25 evaluations over the least time, one core", "over_roofline_1_core", "<= 2"),
    ("the same on two cores", "over_roofline_2_cores", "<= 2"),
    ("p99 / p50, one core", "p99_over_p50_1_core", "<= 1.5"),
    ("p99 / p50, two cores", "p99_over_p50_2_cores", "<= 1.5"),
    ("evaluations of warm over cold frames", "warm_over_cold_evaluations", "<= 0.4"),
    ("dB lost by warm frames", "psnr_lost_by_warm_db", "<= 0.05"),
    ("dB lost by cold frames as short", "psnr_lost_by_cold_as_short_db", ""),
    ("batch of 64 against single frames, one core each", "batch_throughput_1_core", ">= 2"),
    ("the same, two cores each", "batch_throughput_2_cores", ">= 2"),
    ("batch on two cores against frames on one", "batch_on_2_cores_over_frames_on_1", ""),
    ("seconds from start to ready", "start_up_seconds", "< 1"),
    ("resident MB then", "resident_mb", "< 300"),
    ("MB grown in 100,000 frames", "growth_mb_per_100000_frames", "0"),
)
"""What a line says, its ratio, and what was wanted."""


def blocks(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], eager: str) -> list[str]:
    """Return the Markdown above the table of all rows."""
    roofline, stages, memory = (facts[key] for key in ("roofline", "stages_ms", "memory"))
    lines = [{"line": line, "seen": facts["ratios"][key], "wanted": wanted} for line, key, wanted in TARGETS]
    least = roofline["stages_ms"]
    table = [
        {"stage": stage, "ms": stages[stage], "share": stages[stage] / sum(stages.values())}
        | ({"least_ms": least[stage]} if stage in least else {"least_ms": None})
        for stage in STAGES
    ]
    rates = f"{roofline['flops_per_s'] / 1e9:.0f} GFLOP/s and {roofline['bytes_per_s'] / 1e9:.1f} GB/s"
    work = (
        f"{roofline['flops_per_evaluation'] / 1e6:.1f} MFLOP and "
        f"{roofline['bytes_per_evaluation'] / 1e6:.1f} MB"
    )
    held, short = (memory[key]["peak_bytes"] / 1e3 for key in ("frame", "frame_with_2_evaluations"))
    soak = memory["soak"]
    return [
        "Whole frames from whitened rows to the image, of 15, 25 and 35 dB in turn; `n` calls of each way, "
        "in blocks that take turns (batches of 64 are solved as two of 32). Times depend on the machine "
        "and on what else it does; the ratios are of one run. How to read this page: "
        "[deployment](../../docs/deployment.md#reading-the-latency-report).",
        markdown_table(lines),
        f"Eager PyTorch: the fastest of one and two threads, NCHW and NHWC ({eager}).",
        "![Time of a frame](latency.png)",
        "## Where the time goes\n\nOne core, 25 evaluations, median milliseconds of a frame. `least_ms`: "
        f"what {rates} of this core allow for the counted {work} of an evaluation: "
        f"{roofline['least_ms']:.1f} ms, as the stages follow each other; "
        f"{roofline['least_ms_overlapped']:.1f} ms if arithmetic and memory could overlap completely.",
        markdown_table(table),
        f"A frame allocates at most {held:.0f} kB at a time, with 25 evaluations or with 2 ({short:.0f} kB): "
        "its result and what normalising takes, nothing in the loop. After "
        f"{soak['frames']} frames the process is {soak['growth_mb']:+.1f} MB larger.",
        "## Iterations and milliseconds (Table III)\n\nThe paper's times are of a Tesla V100.",
        markdown_table(_table_iii(rows)),
        "## All figures",
    ]


def _table_iii(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    named = {"deq": "deq, 25 evaluations, 1 core"}
    by_name = {row["name"]: row for row in rows if row.get("p50_ms") is not None}
    table = []
    for method, paper in TABLE_III.items():
        row = by_name.get(named.get(method, method), {})
        table.append(
            {
                "method": method,
                "iterations": row.get("iterations"),
                "ms": row.get("p50_ms"),
                "paper_iterations": paper.iterations,
                "paper_ms": paper.milliseconds,
            }
        )
    return table


def picture(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Figure:
    """Draw times of a frame, their place beside quality (Fig. 10), and the stages."""
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplot_mosaic([["times", "times"], ["quality", "stages"]], height_ratios=(1.4, 1))
    timed = [row for row in rows if row.get("p50_ms") is not None]
    _times(axes["times"], timed)
    _quality(axes["quality"], [row for row in timed if not row["name"].startswith("moving")])
    _stages(axes["stages"], facts)
    return figure


def _times(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    ordered = sorted(rows, key=lambda row: float(row["ms_per_frame"]), reverse=True)
    places = np.arange(len(ordered))
    for place, row in zip(places, ordered, strict=True):
        share = 1.0 / row["batch"]
        axes.barh(place, row["ms_per_frame"], color=_color(row))
        axes.plot(
            [row["p50_ms"] * share, row["p99_ms"] * share], [place, place], "|-", color="black", linewidth=1
        )
    axes.axvline(FRAME_MS, color="tab:red", linestyle="--", label=f"one frame of the scanner, {FRAME_MS} ms")
    axes.set_yticks(places, [row["name"] for row in ordered], fontsize=8)
    axes.set(xscale="log", xlabel="milliseconds per frame: median (bar) and 99th percentile (tick)")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(loc="upper right", fontsize=8)


def _color(row: Mapping[str, Any]) -> str:
    if row["backend"] == "torch-eager":
        return "tab:orange"
    if row["name"].startswith(("deq", "fast", "moving")):
        return "tab:blue"
    return "tab:green" if row["backend"] == "onnxruntime-cpu" else "tab:gray"


def _quality(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        axes.plot(row["ms_per_frame"], row["psnr"], "o", color=_color(row))
        if not row["name"].startswith(("deq", "fast", "eager")):  # these share one height: see the legend
            place = (row["ms_per_frame"], row["psnr"])
            axes.annotate(row["name"], place, fontsize=7, xytext=(4, -9), textcoords="offset points")
    axes.plot([], [], "o", color="tab:blue", label="deq alone, in batches, to tolerance; fast")
    axes.plot([], [], "o", color="tab:orange", label="deq in eager PyTorch")
    axes.set(xscale="log", xlabel="milliseconds per frame", ylabel="mean pSNR in dB")
    axes.set_title("quality against time (Fig. 10)")
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")


def _stages(axes: Axes, facts: Mapping[str, Any]) -> None:
    stages, least = facts["stages_ms"], facts["roofline"]["stages_ms"]
    places = np.arange(len(STAGES))
    axes.bar(places - 0.2, [stages[stage] for stage in STAGES], 0.4, label="measured")
    axes.bar(places + 0.2, [least.get(stage, 0.0) for stage in STAGES], 0.4, label="least time of this core")
    axes.set_xticks(places, STAGES, fontsize=8)
    axes.set(ylabel="milliseconds of 25 evaluations", title="one frame on one core")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8)
