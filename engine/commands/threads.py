"""Reading a number of threads from the command line."""

import click

from engine.machine.two_cores import Threads


def parse_threads(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Threads | None:
    """Read "1", "2" or "auto" (a click callback)."""
    if text is None:
        return None
    return "auto" if text == "auto" else int(text)
