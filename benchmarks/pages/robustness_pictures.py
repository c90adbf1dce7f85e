"""The pictures of the robustness report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.pages.image_matrix import Column, draw_matrix
from benchmarks.pages.robustness_pages import EMPTY, PICTURE_SNR, TRAINING
from benchmarks.scans.scans import SNRS, TRAIN_GRADIENT, reference_scan
from benchmarks.scans.unlike_phantoms import UNLIKE_PHANTOMS

IMAGE = "image"
"""Column of the kept rows that holds an image; it is not published."""

LINEAR_TO = 1.0
"""dB up to which the axis of losses is linear, logarithmic beyond."""

TICKS = (-10, -3, -1, 0, 1, 3, 10)
"""Losses in dB that the axis names."""

SPREAD = 0.5
"""Share of a line's height over which the methods' dots are spread."""

TOP = 1.2
"""Value of the brightest colour; phantoms have a peak of 1."""

EMPTY_GAIN = 10.0
"""Factor on the shown images of the empty frame, which would be black."""

Row = Mapping[str, Any]


def losses(rows: Sequence[Row]) -> Figure:
    """Draw the loss of every method in every perturbation: one panel per SNR, one line per perturbation."""
    chosen = [row for row in rows if row.get("loss_db") is not None]
    lines = list(dict.fromkeys((row["group"], row["perturbation"]) for row in chosen))
    lines.sort(key=lambda line: _mismatch(line[1]) if line[0] == TRAINING else -np.inf)
    groups, names = zip(*lines, strict=True)
    methods = list(dict.fromkeys(row["method"] for row in chosen))
    figure = Figure(figsize=(12, 1.6 + 0.3 * len(names)), layout="constrained")
    for axes, snr in zip(figure.subplots(1, len(SNRS), sharex=True, sharey=True), SNRS, strict=True):
        for number, method in enumerate(methods):
            own = [row for row in chosen if (row["method"], row["snr_db"]) == (method, snr)]
            shift = SPREAD * (number / max(len(methods) - 1, 1) - 0.5)
            axes.errorbar(
                [row["loss_db"] for row in own],
                [names.index(row["perturbation"]) + shift for row in own],
                xerr=[row["loss_error_db"] or 0.0 for row in own],
                fmt="o", ms=4.5, lw=1.2, color=f"C{number}", label=method,
            )  # fmt: skip
        for place in range(1, len(names)):
            if groups[place] != groups[place - 1]:
                axes.axhline(place - 0.5, color="0.8", lw=0.8)
        axes.axvline(0, color="0.5", lw=0.8)
        axes.set_xscale("symlog", linthresh=LINEAR_TO)
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
        axes.set(title=f"{snr:g} dB", xlabel="loss of pSNR in dB")
        axes.grid(axis="x", alpha=0.3)
    first = figure.axes[0]
    first.set_yticks(range(len(names)), names, fontsize=8)
    first.set_ylim(len(names) - 0.5, -0.5)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _mismatch(perturbation: str) -> float:
    """Return the dB in "trained -20 dB"."""
    return float(perturbation.split()[1])


def gallery(rows: Sequence[Row], methods: Sequence[str]) -> Figure:
    """Draw the phantoms unlike the training set and the empty frame beside what each method makes of them."""
    grid = reference_scan(TRAIN_GRADIENT).operators.grid
    truths = [draw(grid) for draw in UNLIKE_PHANTOMS.values()]
    truths.append(np.zeros_like(truths[0]))
    phantoms = [*UNLIKE_PHANTOMS, EMPTY]
    columns = [Column("truth", truths, [""] * len(truths), (0.0, TOP))]
    for method in methods:
        found = {
            row["phantom"]: row
            for row in rows
            if IMAGE in row and (row["method"], row["snr_db"]) == (method, PICTURE_SNR)
        }
        images = [
            (EMPTY_GAIN if phantom == EMPTY else 1.0) * np.array(found[phantom][IMAGE], np.float32)
            for phantom in phantoms
        ]
        captions = [
            f"{found[phantom]['psnr_mean']:.1f} dB"
            if phantom != EMPTY
            else f"peak {found[phantom]['peak_mean']:.2f}"
            for phantom in phantoms
        ]
        columns.append(Column(method, images, captions, (0.0, TOP)))
    labels = [*UNLIKE_PHANTOMS, f"{EMPTY}, shown x{EMPTY_GAIN:g}"]
    return draw_matrix(columns, labels, grid.field_of_view[1] / grid.field_of_view[0])
