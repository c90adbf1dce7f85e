"""Reconstructions with error maps (the paper's Figs. 5 and 6): test phantoms on the gradient not trained for.

galleries.png shows three phantoms at 35 dB, galleries-snr.png one of them at 15, 25 and 35 dB. The phantoms
are those of lower quartile, median and upper quartile of the shipped DEQ-MPI's pSNR at 35 dB.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.contestants.contestant import Contestant, as_shipped, contestants
from benchmarks.contestants.deep_image_prior import TOO_SLOW, untrained
from benchmarks.contestants.model_shelf import ModelShelf
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.quality import effort, image_quality, reconstruct
from benchmarks.pages.image_matrix import Column, comparison, draw_matrix
from benchmarks.scans.scans import SNRS, TRAIN_GRADIENT, frames_of_test_split, reference_scan
from engine.mpi.metrics import psnr_db

GRADIENT = 0.6
HIGH_SNR = 35.0
QUARTILES = (0.25, 0.5, 0.75)

FRAMES = 64
QUICK_FRAMES = 5
"""Frames among which the phantoms are chosen."""

PHANTOM_ERRORS, SNR_ERRORS = 0.1, 0.2
"""Largest error with a colour of its own in each picture, relative to the phantom's peak."""

IMAGE = "image"
"""Column of the kept rows that holds the image; it is not published."""


def run(quick: bool, output: Path) -> None:
    """Reconstruct the phantoms; write galleries.json, galleries.md, galleries.png and galleries-snr.png."""
    count = QUICK_FRAMES if quick else FRAMES
    config = {"quick": quick, "frames": count, "seed": 0, "split": "test"}
    shelf = ModelShelf()
    with BenchmarkRun("galleries", output, config) as benchmark:
        chosen = _representative_phantoms(count)
        median = chosen[len(chosen) // 2]
        settings = [(HIGH_SNR, phantom) for phantom in chosen]
        settings += [(snr, median) for snr in SNRS if snr != HIGH_SNR]
        if quick:
            benchmark.leave_out(TOO_SLOW)
        slow = [] if quick else [untrained()]
        field = {snr: [*contestants(snr, shelf, benchmark.leave_out), *slow] for snr in SNRS}
        benchmark.expect(sum(len(field[snr]) for snr, _ in settings))
        for snr, phantom in settings:
            for contestant in field[snr]:
                _row(benchmark, contestant, count, snr, phantom)
        by_phantom = [(f"phantom {phantom}", HIGH_SNR, phantom) for phantom in chosen]
        by_snr = [(f"{snr:g} dB", snr, median) for snr in SNRS]
        pictures = {
            "galleries.png": _gallery(benchmark.rows, count, by_phantom, PHANTOM_ERRORS),
            "galleries-snr.png": _gallery(benchmark.rows, count, by_snr, SNR_ERRORS),
        }
        blocks = [
            f"Reconstructed on {GRADIENT} T/m, trained at {TRAIN_GRADIENT} T/m. The phantoms are the test "
            "frames of lower quartile, median and upper quartile of the shipped DEQ-MPI's pSNR at "
            f"{HIGH_SNR:g} dB, among the first {count}. Above each image its pSNR. Errors are image - truth, "
            f"shown up to {PHANTOM_ERRORS:g} (Fig. 5) or {SNR_ERRORS:g} (Fig. 6) of the phantom's peak.",
            f"## Three phantoms at {HIGH_SNR:g} dB (Fig. 5)\n\n![Three phantoms](galleries.png)",
            f"## Phantom {median} at 15, 25 and 35 dB (Fig. 6)\n\n![One phantom](galleries-snr.png)",
        ]
        benchmark.publish("Galleries with error maps", blocks, pictures, hidden=[IMAGE])


def _representative_phantoms(count: int) -> list[int]:
    frames = frames_of_test_split(GRADIENT, count, HIGH_SNR)
    images, _ = reconstruct(as_shipped("deq").open(reference_scan(GRADIENT).operators), frames.rows)
    by_quality = np.argsort(psnr_db(images, frames.truth))
    return [int(by_quality[round(share * (count - 1))]) for share in QUARTILES]


def _row(benchmark: BenchmarkRun, contestant: Contestant, count: int, snr: float, phantom: int) -> None:
    def measure() -> dict[str, Any]:
        frames = frames_of_test_split(GRADIENT, count, snr)
        one = slice(phantom, phantom + 1)
        images, done = reconstruct(contestant.open(reference_scan(GRADIENT).operators), frames.rows[one])
        return image_quality(images, frames.truth[one]) | effort(done) | {IMAGE: images[0].tolist()}

    key = {
        "method": contestant.name,
        "snr_db": snr,
        "train_gradient": TRAIN_GRADIENT,
        "test_gradient": GRADIENT,
        "phantom": phantom,
    }
    benchmark.row(key, measure, contestant.identity)


def _gallery(
    rows: Sequence[Mapping[str, Any]],
    count: int,
    panels: Sequence[tuple[str, float, int]],
    error_limit: float,
) -> Figure:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns: list[Column] = []
    for title, snr, phantom in panels:
        found = {row["method"]: row for row in rows if (row["snr_db"], row["phantom"]) == (snr, phantom)}
        truth = frames_of_test_split(GRADIENT, count, snr).truth[phantom]
        images = [_image(found.get(method)) for method in methods]
        captions = [f"{found[method]['psnr_mean']:.1f} dB" if method in found else "" for method in methods]
        columns += comparison(title, truth, images, captions, error_limit)
    height, width = reference_scan(GRADIENT).operators.grid.volume_shape[1:]
    return draw_matrix(columns, ["truth", *methods], height / width)


def _image(row: Mapping[str, Any] | None) -> NDArray[np.float32] | None:
    return None if row is None else np.array(row[IMAGE], np.float32)
