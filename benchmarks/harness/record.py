"""Results on disk: what was measured, on which machine, at which commit, with which settings."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.machine.atomic_write import atomic_path

ROOT = Path(__file__).resolve().parents[2]

RESULTS = "benchmarks/results"
"""The committed results, relative to the repository."""

SMALLEST_WITH_DECIMALS = 0.05
"""Smaller figures are shown in scientific notation."""

COMMIT_LETTERS = 12
"""Letters of a commit that are shown."""


def machine() -> dict[str, Any]:
    """Describe the machine in figures that matter to a benchmark."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.system(),
    }


@cache
def commit() -> str:
    """Return the commit the code comes from, with "+changes" if the tree differs from it.

    Results themselves do not count as changes: a set of benchmarks writes them one by one. The first answer
    stands for the whole process: call it before a long run, whose code was loaded then.
    """
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){RESULTS}")
        return head + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def is_exact(name: str) -> bool:
    """Whether a commit as `commit` returns it identifies the code."""
    return name != "unknown" and not name.endswith("+changes")


def _git(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed program and arguments
        ["git", *arguments],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def write_record(
    path: Path,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    left_out: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write NAME.json: rows with machine, commit, time and configuration, what is missing, other facts."""
    content = {
        "machine": machine(),
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": dict(config),
        "left_out": list(left_out),
        **(facts or {}),
        "rows": [dict(row) for row in rows],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_table(path: Path, title: str, notes: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write NAME.md: the rows as a Markdown table under a title, notes below."""
    write_page(path, title, [markdown_table(rows), notes], rows)


def write_page(path: Path, title: str, blocks: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write NAME.md: blocks of Markdown under a title; commits and machine below.

    The commits are those of the rows that name one (key "commit"), else that of this process.
    """
    commits = dict.fromkeys(row.get("commit", commit()) for row in rows) or {commit(): None}
    named = ", ".join(name[:COMMIT_LETTERS] + ("" if is_exact(name) else " with changes") for name in commits)
    origin = f"Commit {named}, {machine()['cpu']}, {machine()['cores']} cores."
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join([f"# {title}", *blocks, origin]) + "\n", encoding="utf-8")


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Return rows as a Markdown table, by default with the columns of the first one."""
    columns = list(rows[0]) if columns is None else columns
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_shown(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    # Two decimals would show nothing of a solver's residual.
    return f"{value:.1e}" if 0 < abs(value) < SMALLEST_WITH_DECIMALS else f"{value:.2f}"
