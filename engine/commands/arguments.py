"""Values of options on the command line: frames, levels, threads, weights and files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from engine.errors import ConfigError, InputError
from engine.machine.two_cores import Threads


@dataclass(frozen=True)
class FrameSelection:
    """Frames as the user wrote them, known before their number is.

    Attributes
    ----------
    text : str
        Text of the user, for messages.
    ranges : tuple of tuple
        Ranges (first, last + 1) in the order given; None stands for an open end.
    """

    text: str
    ranges: tuple[tuple[int, int | None], ...]

    def indices(self, n_frames: int) -> list[int]:
        """Return the frames chosen of `n_frames`.

        Raises
        ------
        InputError
            If a frame does not exist, appears twice, or none is left.
        """
        ranges = [range(first, n_frames if end is None else end) for first, end in self.ranges]
        exist = all(frames.stop <= n_frames for frames in ranges)  # before they are listed: 0:10**12 is long
        chosen = [index for frames in ranges for index in frames] if exist else []
        if not chosen or len(set(chosen)) < len(chosen):
            raise InputError(
                f"--frames {self.text}: expected different frames between 0 and {n_frames - 1}, "
                "numbered without the background frames"
            )
        return chosen


def parse_frames(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> FrameSelection | None:
    """Read frame numbers and ranges such as 3, 0:8 (the end not included) or 0,4,7: (a click callback)."""
    if text is None:
        return None
    ranges: list[tuple[int, int | None]] = []
    for part in text.split(","):
        first, colon, end = (piece.strip() for piece in part.partition(":"))
        if not (first or colon) or not all(piece.isdecimal() for piece in (first, end) if piece):
            raise click.BadParameter(f"{text!r}; expected 0-based frames such as 3, 0:8 or 0,4,7:9")
        start = int(first or 0)
        stop = (int(end) if end else None) if colon else start + 1
        ranges.append((start, stop))
    return FrameSelection(text, tuple(ranges))


def frame_list(frames: Sequence[int]) -> str:
    """Name frames in words, runs shortened: "frame 3", "frames 0-4, 7"."""
    runs: list[list[int]] = []
    for index in sorted(frames):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    names = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"frame{'s' if len(frames) > 1 else ''} {', '.join(names)}"


def parse_levels(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """Return the numbers of a text such as "15,25,35"; raise `click.BadParameter` if it is none."""
    try:
        return tuple(float(level) for level in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}; expected numbers in dB such as 15,25,35") from error


def parse_threads(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Threads | None:
    """Read "1", "2" or "auto" (a click callback)."""
    if text is None:
        return None
    return "auto" if text == "auto" else int(text)


def require_distinct_files(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise `click.UsageError` if an output is an input or another output: one of them would be lost."""
    seen = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in seen:
            raise click.UsageError(f"{path} is named twice; every output needs a file of its own")
        seen.add(path.resolve())


def parse_weights(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, float]:
    """Read NAME=VALUE pairs such as tv=0.02 (a click callback)."""
    weights: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value, equals = 0.0, ""
        if not (name and equals):
            raise click.BadParameter(f"{text!r}; expected NAME=VALUE such as tv=0.02")
        if name in weights:
            raise click.BadParameter(f"{name} is given twice; expected each weight once")
        weights[name] = value
    return weights


@contextmanager
def live_extra() -> Iterator[None]:
    """Turn a missing library into a ConfigError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; expected the libraries of the live service; "
            "pip install 'deq-mpi[live]'"
        ) from error
