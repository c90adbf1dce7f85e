"""One run of a benchmark: what is measured is kept at once, shown, and published when complete."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from benchmarks.harness.record import markdown_table, write_page, write_record
from benchmarks.harness.row_store import Row, RowStore

PICTURE_DPI = 110

SHOWN_KEYS = {
    "method": "{}",
    "train_snr_db": "trained at {:g} dB",
    "grid": "{}",
    "phantom": "phantom {}",
    "perturbation": "{}",
    "test_gradient": "{:g} T/m",
    "snr_db": "{:g} dB",
}
"""Parts of a key that the progress display shows, and how."""


class BenchmarkRun:
    """The rows of a benchmark, resumed from where an earlier run was cut off.

    Use it as a context: `row` for every measurement, `leave_out` for everything that cannot be measured here,
    `publish` at the end.

    Parameters
    ----------
    name : str
        Of the benchmark: its files are NAME.json, NAME.md, NAME.png.
    output : Path
        Folder for them; it exists.
    config : mapping
        Settings that all rows share, values that JSON can hold. Rows of other settings do not count.
    """

    def __init__(self, name: str, output: Path, config: Mapping[str, Any]) -> None:
        self.name = name
        self.output = output
        self.config = dict(config)
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self._store = RowStore(output, name, self.config)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(f"{name}:"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True, highlight=False),
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def expect(self, total: int) -> None:
        """Tell the progress bar how many rows there will be."""
        self._progress.update(self._task, total=total)

    def note(self, text: str) -> None:
        """Show what is being done."""
        self._progress.update(self._task, description=text)

    def row(
        self,
        key: Mapping[str, Any],
        measure: Callable[[], Mapping[str, Any]],
        identity: Mapping[str, Any] | None = None,
    ) -> Row:
        """Return the row key | measure() | commit, measured now unless an earlier run did.

        Parameters
        ----------
        key : mapping
            First columns of the row: what tells it from the others.
        measure : callable
            Returns the other columns, values that JSON can hold.
        identity : mapping, optional
            What the row is computed with but does not show, such as weights and hashes of networks: a row
            computed with others is measured again.
        """
        stored_under = {"row": dict(key), "identity": dict(identity or {})}
        shown = {part: form for part, form in SHOWN_KEYS.items() if key.get(part) is not None}
        label = ", ".join(form.format(key[part]) for part, form in shown.items())
        self._progress.update(self._task, description=label)
        found = self._store.find(stored_under)
        row = self._store.add(stored_under, {**key, **measure()}) if found is None else found
        self._progress.advance(self._task)
        figure = f": {row['psnr_mean']:.2f} dB pSNR" if "psnr_mean" in row else ""
        self._progress.console.print(f"{label}{figure}" + ("" if found is None else " (kept)"))
        self.rows.append(row)
        return row

    def leave_out(self, reason: str) -> None:
        """Say, here and in what is published, that something is missing and why."""
        if reason not in self.left_out:
            self.left_out.append(reason)
            self._progress.console.print(f"left out: {reason}", style="yellow")

    def publish(
        self,
        title: str,
        blocks: Sequence[str],
        pictures: Mapping[str, Figure],
        hidden: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the results and forget the partial ones.

        Parameters
        ----------
        title : str
            Of the page.
        blocks : sequence of str
            Markdown above the table of all rows.
        pictures : mapping of str to Figure
            By file name; the first one is usually NAME.png.
        hidden : sequence of str
            Columns that are neither shown nor recorded.
        facts : mapping, optional
            Figures beside the rows, by their key in the record.
        """
        rows = [{key: value for key, value in row.items() if key not in hidden} for row in self.rows]
        for file, figure in pictures.items():
            figure.savefig(self.output / file, dpi=PICTURE_DPI)
        columns = [
            column for column in dict.fromkeys(key for row in rows for key in row) if column != "commit"
        ]
        missing = (
            ["Left out:\n\n" + "\n".join(f"* {reason}" for reason in self.left_out)] if self.left_out else []
        )
        write_page(
            self.output / f"{self.name}.md", title, [*blocks, *missing, markdown_table(rows, columns)], rows
        )
        # Last, as it is what tells a complete benchmark.
        write_record(self.output / f"{self.name}.json", self.config, rows, self.left_out, facts)
        self._store.discard()
