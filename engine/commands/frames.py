"""Choosing and naming frames on the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

import click

from engine.errors import InputError


@dataclass(frozen=True)
class FrameSelection:
    """Frames as the user wrote them, known before their number is.

    Attributes
    ----------
    text : str
        For messages.
    ranges : tuple of tuple
        (first, last + 1) in the order given; None stands for an open end.
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
