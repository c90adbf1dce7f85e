"""The text and the tables of the robustness report."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.record import markdown_table
from benchmarks.scans.perturbations import GROUPS
from benchmarks.scans.scans import SNRS, TRAIN_GRADIENT
from benchmarks.scans.unlike_phantoms import UNLIKE_PHANTOMS

CONCENTRATION = "concentration at the same SNR"
TRAINING = "SNR of the training"
PHANTOMS = "other phantoms"
"""Groups of rows beside those of `benchmarks.scans.perturbations.GROUPS`."""

TRAINING_METHOD = "deq, trained at one SNR"

EMPTY = "empty"
"""The phantom without tracer."""

PICTURE_SNR = 25.0
"""dB of the first table and of the pictures of the other phantoms."""

LEADER, RIVALS = "deq", ("pp-mpi", "admm-hybrid")

Row = Mapping[str, Any]


def blocks(rows: Sequence[Row], methods: Sequence[str], count: int, repetitions: int) -> list[str]:
    """Return the Markdown blocks of the page.

    Parameters
    ----------
    rows : sequence of mapping
        Of the benchmark.
    methods : sequence of str
        In the order of the tables' columns.
    count, repetitions : int
        Frames of each figure, and measurements of each of the other phantoms.

    Returns
    -------
    list of str
    """
    intro = (
        f"Mean pSNR in dB over {count} frames of the test split, in brackets the loss in dB against the same "
        f"method on the same phantoms unperturbed, then windowed SSIM in %. `{LEADER} over`: how far "
        f"{LEADER} is ahead in pSNR. All methods have the weights and networks that ship, made for "
        f"{TRAIN_GRADIENT} T/m. Losses are means of pairs; their standard errors are in the last table."
    )
    found = [
        intro,
        f"## Losses at {PICTURE_SNR:g} dB",
        "Loss of pSNR in dB, and the lead that is left.",
        _summary(rows, methods),
        "![Loss of pSNR](robustness.png)",
        "## Unperturbed",
        _table(rows, methods, "none"),
    ]
    for group in GROUPS:
        found += [_heading(group.name), group.text, _table(rows, methods, group.name)]
    found += [_heading(CONCENTRATION), _concentration_text(), _concentration_table(rows, methods)]
    found += [_heading(TRAINING), _training_text(), _training_table(rows)]
    found += [_heading(PHANTOMS), _phantom_text(repetitions), _phantom_table(rows, methods)]
    found += [
        "![Truth and reconstructions of the other phantoms](robustness-phantoms.png)",
        "## An empty field of view",
        "Noise alone, of the level that test frames of this SNR have. Root mean square and mean peak of the "
        "image; 1 is the mean peak of the test phantoms, so these are relative to what a user sees at that "
        "noise.",
        _empty_table(rows, methods),
        "## All figures",
    ]
    return found


def _heading(name: str) -> str:
    return f"## {name[0].upper()}{name[1:]}"


def _summary(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """Return one line per perturbation with the loss of every method at one SNR."""
    by_change: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["snr_db"] == PICTURE_SNR and row["method"] in methods and "psnr_mean" in row:
            by_change.setdefault(row.get("perturbation", ""), {})[row["method"]] = row
    lines = [
        {"perturbation": name}
        | {method: f"{by_method[method].get('loss_db', 0.0):.1f}" for method in methods}
        | _leads(by_method)
        for name, by_method in by_change.items()
        if name
    ]
    return markdown_table(lines)


def _table(rows: Sequence[Row], methods: Sequence[str], group: str) -> str:
    """Return one line per perturbation and SNR, one column per method, and the lead of DEQ-MPI."""
    chosen = [row for row in rows if row["group"] == group and row["method"] in methods]
    lines = []
    for name in dict.fromkeys(row["perturbation"] for row in chosen):
        for snr in SNRS:
            by_method = {
                row["method"]: row for row in chosen if (row["perturbation"], row["snr_db"]) == (name, snr)
            }
            lines.append(
                {"perturbation": name, "SNR": f"{snr:g} dB"}
                | {method: _quality(by_method[method]) for method in methods}
                | _leads(by_method)
            )
    return markdown_table(lines)


def _quality(row: Row) -> str:
    loss = f" ({row['loss_db']:.1f})" if "loss_db" in row else ""
    return f"{row['psnr_mean']:.1f}{loss}, {row['ssim_windowed_mean']:.1f}"


def _leads(by_method: Mapping[str, Row]) -> dict[str, str]:
    return {
        f"{LEADER} over {rival}": f"{by_method[LEADER]['psnr_mean'] - by_method[rival]['psnr_mean']:+.1f}"
        for rival in RIVALS
        if LEADER in by_method and rival in by_method
    }


def _concentration_text() -> str:
    return (
        "Signal and noise scaled together. The images must scale with them and change in nothing else: "
        "largest difference from the scaled image, relative to its peak. What is left is rounding in "
        "single precision, as far as the iterations amplify it."
    )


def _concentration_table(rows: Sequence[Row], methods: Sequence[str]) -> str:
    largest: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["group"] == CONCENTRATION:
            line = largest.setdefault(row["perturbation"], dict.fromkeys(methods, 0.0))
            line[row["method"]] = max(line[row["method"]], row["largest_difference"])
    return markdown_table(
        [
            {"perturbation": name} | {method: f"{value:.1e}" for method, value in line.items()}
            for name, line in largest.items()
        ]
    )


def _training_text() -> str:
    return (
        "Networks trained at one SNR (`models/ablation`) on data of another; in brackets the loss against "
        "the networks trained at the SNR of the data. Last, the shipped networks, trained on a range of "
        "SNRs."
    )


def _training_table(rows: Sequence[Row]) -> str:
    lines = []
    for snr in SNRS:
        line = {"SNR of the data": f"{snr:g} dB"}
        models = [row for row in rows if row["group"] == TRAINING and row["snr_db"] == snr]
        for row in sorted(models, key=lambda row: float(row["train_snr_db"])):
            line[f"trained at {row['train_snr_db']:g} dB"] = _quality(row)
        shipped = [
            row for row in rows if (row["group"], row["method"], row["snr_db"]) == ("none", LEADER, snr)
        ]
        line |= {f"{LEADER}, as shipped": _quality(row) for row in shipped}
        lines.append(line)
    columns = list(dict.fromkeys(column for line in lines for column in line))
    trained = [column for column in columns if column.startswith("trained")]
    trained.sort(key=lambda column: float(column.split()[2]))
    others = [column for column in columns if column not in trained]
    return markdown_table(lines, [others[0], *trained, *others[1:]])


def _phantom_text(repetitions: int) -> str:
    return (
        "Single voxels, bars of 2, 3 and 4 mm, letters and filled discs, with sharp borders and no "
        f"tissue: {repetitions} measurements of each at its own SNR. pSNR in dB, windowed SSIM in %. The "
        f"pictures show the first measurement at {PICTURE_SNR:g} dB."
    )


def _phantom_table(rows: Sequence[Row], methods: Sequence[str]) -> str:
    lines = []
    for phantom in UNLIKE_PHANTOMS:
        for snr in SNRS:
            by_method = _of_phantom(rows, phantom, snr)
            lines.append(
                {"phantom": phantom, "SNR": f"{snr:g} dB"}
                | {method: _quality(by_method[method]) for method in methods}
                | _leads(by_method)
            )
    return markdown_table(lines)


def _empty_table(rows: Sequence[Row], methods: Sequence[str]) -> str:
    lines = []
    for snr in SNRS:
        found = _of_phantom(rows, EMPTY, snr)
        lines.append(
            {"noise of": f"{snr:g} dB"}
            | {method: f"{found[method]['rms']:.3f}, {found[method]['peak_mean']:.2f}" for method in methods}
        )
    return markdown_table(lines)


def _of_phantom(rows: Sequence[Row], phantom: str, snr: float) -> dict[str, Row]:
    return {row["method"]: row for row in rows if (row.get("phantom"), row["snr_db"]) == (phantom, snr)}
