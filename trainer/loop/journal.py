"""What a run says while it trains: a progress bar, metrics.jsonl and TensorBoard."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from engine.machine.atomic_write import atomic_path

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

PARTS = ("data", "forward", "backward")
"""Parts of a step whose shares of its time are recorded; the rest is the exchange between processes, the
optimiser and the records themselves."""


@dataclass
class _Tally:
    """Sums over the steps since the last printed line."""

    steps: int = 0
    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0
    parts: Counter[str] = field(default_factory=Counter)

    def add(self, loss: float, images: int, seconds: float, parts: Mapping[str, float]) -> None:
        self.steps += 1
        self.loss += loss
        self.images += images
        self.seconds += seconds
        self.parts.update(parts)

    def line(self) -> str:
        shares = {part: self.parts[part] / self.seconds for part in PARTS}
        shares["rest"] = 1.0 - sum(shares.values())
        shown = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
        return f"mean loss {self.loss / self.steps:.5f}, {self.images / self.seconds:.0f} images/s ({shown})"


class RunLog(Protocol):
    """What takes note of a run; the methods are explained at `Journal`."""

    def begin(self, phase: str, steps: int, done: int) -> None: ...  # noqa: D102

    def step(  # noqa: D102
        self,
        total: int,
        phase: str,
        images: int,
        figures: Mapping[str, float],
        seconds: Mapping[str, float],
    ) -> None: ...

    def checkpoint(self, total: int, phase: str) -> None: ...  # noqa: D102

    def validation(self, total: int, phase: str, figures: Mapping[str, float]) -> None: ...  # noqa: D102


class Silence:
    """The log of the processes that leave it to the main one; use as a context manager, too."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind."""

    def begin(self, phase: str, steps: int, done: int) -> None:
        """Say nothing."""

    def step(
        self,
        total: int,
        phase: str,
        images: int,
        figures: Mapping[str, float],
        seconds: Mapping[str, float],
    ) -> None:
        """Say nothing."""

    def checkpoint(self, total: int, phase: str) -> None:
        """Say nothing."""

    def validation(self, total: int, phase: str, figures: Mapping[str, float]) -> None:
        """Say nothing."""


class Journal:
    """Records of one run; use as a context manager.

    Parameters
    ----------
    run_dir : Path
    total : int
        Steps already done: records of later steps, left by a run that crashed, are removed.
    """

    def __init__(self, run_dir: Path, total: int) -> None:
        path = run_dir / METRICS_FILE
        _truncate(path, total)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / TENSORBOARD_FOLDER), purge_step=total + 1)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._clock = time.perf_counter()
        self._tally = _Tally()

    def __enter__(self) -> "Journal":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._board.close()
        self._file.close()

    def begin(self, phase: str, steps: int, done: int) -> None:
        """Start the progress bar of a phase."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(phase, total=steps, completed=done, note="")
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave what happened until now out of the next step's speed."""
        self._clock = time.perf_counter()

    def step(
        self,
        total: int,
        phase: str,
        images: int,
        figures: Mapping[str, float],
        seconds: Mapping[str, float],
    ) -> None:
        """Record one optimisation step.

        Parameters
        ----------
        total : int
            Steps done, with this one.
        phase : str
        images : int
            Images it used, over all processes.
        figures : mapping
            What to record, the "loss" among it.
        seconds : mapping
            Time that its `PARTS` took in this process.
        """
        now = time.perf_counter()
        duration = max(now - self._clock, 1e-9)
        speed = images / duration
        self._clock = now
        self._tally.add(figures["loss"], images, duration, seconds)
        shares = {f"share_{part}": seconds.get(part, 0.0) / duration for part in PARTS}
        self._record(total, phase, {**figures, "images_per_second": speed, **shares}, curves=phase)
        if self._task is not None:
            note = f"loss {figures['loss']:.4f}  {speed:.0f} images/s"
            self._progress.update(self._task, advance=1, note=note)

    def checkpoint(self, total: int, phase: str) -> None:
        """Print the mean loss and speed since the last such line."""
        self._print(f"{phase} step {total}: {self._tally.line()}")
        self._tally = _Tally()
        self.restart_clock()

    def validation(self, total: int, phase: str, figures: Mapping[str, float]) -> None:
        """Record a validation and print its main figures on a line of their own."""
        # One curve over all stages, which begins with the pre-trained start.
        self._record(total, phase, figures, curves="validation")
        shown = "  ".join(
            f"{name.removeprefix('validation_')} {value:.4g}" for name, value in figures.items()
        )
        self._print(f"{phase} step {total}: {shown}")
        self.restart_clock()

    def _print(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, soft_wrap=True)

    def _record(self, total: int, phase: str, figures: Mapping[str, float], curves: str) -> None:
        self._file.write(json.dumps({"step": total, "phase": phase, **figures}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(f"{curves}/{name}", value, total)


def _truncate(path: Path, total: int) -> None:
    """Drop records after step `total`, and a last line cut off by a crash."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= total:
                kept.append(line + "\n")
        except ValueError:
            break
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
