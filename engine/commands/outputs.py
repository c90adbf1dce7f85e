"""Where commands may write."""

from collections.abc import Sequence
from pathlib import Path

import click


def require_distinct_files(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise `click.UsageError` if an output is an input or another output: one of them would be lost."""
    seen = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in seen:
            raise click.UsageError(f"{path} is named twice; every output needs a file of its own")
        seen.add(path.resolve())
