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

from engine.atomic_write import atomic_path

ROOT = Path(__file__).resolve().parent.parent

SMALLEST_WITH_DECIMALS = 0.05
"""Smaller figures are shown in scientific notation."""


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

    The first answer stands for the whole process: call it before a long run, whose code was loaded then.
    """
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed program and arguments
        ["git", *arguments],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def write_record(path: Path, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write NAME.json: rows with machine, commit, time and configuration."""
    content = {
        "machine": machine(),
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": dict(config),
        "rows": [dict(row) for row in rows],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_table(path: Path, title: str, notes: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write NAME.md: the rows as a Markdown table under a title, notes below."""
    columns = list(rows[0])
    lines = [f"# {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_shown(row[column]) for column in columns) + " |" for row in rows]
    lines += ["", notes, "", f"Commit {commit()[:12]}, {machine()['cpu']}, {machine()['cores']} cores.", ""]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    # Two decimals would show nothing of a solver's residual.
    return f"{value:.1e}" if 0 < abs(value) < SMALLEST_WITH_DECIMALS else f"{value:.2f}"
