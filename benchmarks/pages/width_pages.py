"""Text, tables and picture of the study of sizes, and the choice it leads to."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness.record import markdown_table
from benchmarks.scans.scans import SNRS

PICTURE_COLUMN, PICTURE_SNR = "psnr_25", 25.0

SHARE = 0.5
"""A fast model takes less than this share of the time of the reference."""

VOXELS = 26 * 13
"""Of the reference scanner: each of them multiplies with nearly every weight of Psi_RDN."""

Row = Mapping[str, Any]
Shipped = Mapping[str, tuple[str, int]]
"""Network and evaluations of a shipped model, by the model's name."""


def blocks(rows: Sequence[Row], sizes: Sequence[Row], shipped: Shipped, count: int) -> list[str]:
    """Return the Markdown blocks of the page.

    Parameters
    ----------
    rows : sequence of mapping
        One per network and number of evaluations.
    sizes : sequence of mapping
        Timings of networks without training.
    shipped : mapping
        See `Shipped`.
    count : int
        Frames per SNR.

    Returns
    -------
    list of str
    """
    return [
        f"Mean pSNR in dB over {count} frames of the test split per SNR, against the median milliseconds of "
        "`Equilibrium.solve` in the engine: one frame at a time, one thread, an exact number of evaluations, "
        "all networks and numbers in turn in one run. Normalising a frame comes on top and is the same for "
        "all.",
        "## Networks\n\nMilliseconds of one evaluation, with the largest number of them.",
        markdown_table(_networks(rows)),
        "## The choice",
        choice(rows, shipped),
        "Best mean pSNR for the time: every other combination takes longer than one of these that is at "
        "least as good.",
        markdown_table(_front(rows, shipped)),
        "![pSNR against milliseconds by network and evaluations](width_study.png)",
        "Rings: the models that ship.",
        "## Milliseconds by size, without training\n\nPsi_RDN with random weights alone, one image; in "
        "brackets 10⁹ multiplications per second. The runtime works on blocks of channels, of 8 or 16 with "
        "the vector instructions of this kind of processor: a width that does not fill its last block pays "
        "for it in full.",
        markdown_table(rdn_sizes(sizes)),
        "Psi_LC with random weights alone, one measurement.",
        markdown_table(_lc_sizes(sizes)),
        "## All figures\n\n`ms`: of a solve; `rdn_ms`, `lc_ms`, `rest_ms`: of one evaluation. `untrained`: "
        "`ms` of one call.",
    ]


def _networks(rows: Sequence[Row]) -> list[dict[str, Any]]:
    longest = {row["method"]: row for row in sorted(rows, key=lambda row: row["evaluations"])}
    return [
        {
            "network": name,
            "parameters": row["parameters"],
            "RDN features x blocks x layers": f"{row['features']} x {row['blocks']} x {row['layers']}",
            "LC features": row["lc_features"],
            "RDN / ms": f"{row['rdn_ms']:.3f}",
            "LC / ms": f"{row['lc_ms']:.3f}",
            "rest / ms": f"{row['rest_ms']:.3f}",
        }
        for name, row in longest.items()
    ]


def choice(rows: Sequence[Row], shipped: Shipped) -> str:
    """State which network and number of evaluations is the best at less than half the reference's time.

    Parameters
    ----------
    rows : sequence of mapping
        With method, evaluations, ms and psnr_mean.
    shipped : mapping
        See `Shipped`.
    """
    reference = _of(rows, shipped.get("reference"))
    if reference is None:
        return "The model that ships as `reference` was not among the networks: no choice can be stated."
    limit = SHARE * reference["ms"]
    candidates = [row for row in rows if row["ms"] < limit]
    rule = "`fast`: the best mean pSNR at 15, 25 and 35 dB in less than half the time of `reference` "
    rule += f"({reference['ms']:.1f} ms, {reference['psnr_mean']:.2f} dB). "
    if not candidates:
        return rule + "Nothing is that fast."
    best = max(candidates, key=lambda row: row["psnr_mean"])
    found = (
        f"That is **{_name(best)}**: {best['ms']:.1f} ms, {best['psnr_mean']:.2f} dB, "
        f"{reference['psnr_mean'] - best['psnr_mean']:.2f} dB less than `reference`."
    )
    fast = _of(rows, shipped.get("fast"))
    if fast is None:
        return rule + found
    is_it = _name(fast) == _name(best)
    ships = f" What ships as `fast` is {_name(fast)}: {fast['ms']:.1f} ms, {fast['psnr_mean']:.2f} dB."
    return rule + found + (" It ships as `fast`." if is_it else ships)


def _of(rows: Sequence[Row], model: tuple[str, int] | None) -> Row | None:
    return next((row for row in rows if (row["method"], row["evaluations"]) == model), None)


def _name(row: Row) -> str:
    return f"{row['method']} with {row['evaluations']} evaluations"


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other beats in both time and mean pSNR, the fastest first.

    Parameters
    ----------
    rows : sequence of mapping
        With ms and psnr_mean.
    """
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["ms"], -row["psnr_mean"])):
        if not kept or row["psnr_mean"] > kept[-1]["psnr_mean"]:
            kept.append(row)
    return kept


def _front(rows: Sequence[Row], shipped: Shipped) -> list[dict[str, Any]]:
    names = {model: name for name, model in shipped.items()}
    return [
        {
            "network": row["method"],
            "evaluations": row["evaluations"],
            "ms": f"{row['ms']:.1f}",
            **{f"{snr:g} dB": f"{row[f'psnr_{snr:g}']:.2f}" for snr in SNRS},
            "mean": f"{row['psnr_mean']:.2f}",
            "ships as": names.get((row["method"], row["evaluations"]), ""),
        }
        for row in front(rows)
    ]


def rdn_sizes(sizes: Sequence[Row]) -> list[dict[str, str]]:
    """Return the times of Psi_RDN: one line per depth, one column per width.

    Parameters
    ----------
    sizes : sequence of mapping
        With network, features, blocks, layers, parameters and ms.
    """
    lines: dict[str, dict[str, str]] = {}
    for row in sizes:
        if row["network"] == "rdn":
            rate = VOXELS * row["parameters"] / row["ms"] / 1e6
            depth = f"{row['blocks']} x {row['layers']}"
            lines.setdefault(depth, {})[f"{row['features']} features"] = f"{row['ms']:.2f} ({rate:.0f})"
    return [{"blocks x layers": depth, **cells} for depth, cells in lines.items()]


def _lc_sizes(sizes: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {"features": row["features"], "ms": f"{row['ms']:.3f}", "parameters": row["parameters"]}
        for row in sizes
        if row["network"] == "lc"
    ]


def picture(rows: Sequence[Row], shipped: Shipped) -> Figure:
    """Draw pSNR at 25 dB over milliseconds: a line per network, a dot per number of evaluations.

    Parameters
    ----------
    rows, shipped
        As for `blocks`.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        course = [row for row in rows if row["method"] == name]
        size = f"{course[0]['features']} x {course[0]['blocks']} x {course[0]['layers']}"
        line = [row["ms"] for row in course], [row[PICTURE_COLUMN] for row in course]
        axes.plot(*line, "o-", color=f"C{index}", ms=4, label=f"{name} ({size})")
        for row in course:
            axes.annotate(
                f"{row['evaluations']}", (row["ms"], row[PICTURE_COLUMN]), (0, -11),
                textcoords="offset points", fontsize=7, ha="center", color=f"C{index}",
            )  # fmt: skip
    for name, model in shipped.items():
        marked = _of(rows, model)
        if marked is not None:
            place = (marked["ms"], marked[PICTURE_COLUMN])
            axes.plot(*place, "o", color="k", ms=11, mfc="none")
            axes.annotate(name, place, (8, 8), textcoords="offset points")
    axes.set(
        xscale="log",
        xlabel="milliseconds per solve, one thread",
        ylabel=f"mean pSNR in dB, data of {PICTURE_SNR:g} dB",
        title="numbers: evaluations of the map",
    )
    axes.grid(alpha=0.3, which="both")
    axes.margins(y=0.1)
    axes.legend(frameon=False, loc="best")
    return figure
