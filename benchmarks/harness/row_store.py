"""Rows of a benchmark on disk as they are measured, so that a run that was cut off goes on where it stopped.

`OUTPUT/.partial/NAME.jsonl` holds one line per row: the benchmark's configuration, the key of the row, the
row, and the commit it was measured at. A row counts again only under the same configuration and key; the key
includes what the row was computed with (weights, hashes of networks). Rows of another commit count too, as
most commits change no figure: each row keeps its commit, and the published page names all of them. Delete the
file, or run with --fresh, to measure everything anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.record import commit
from engine.machine.atomic_write import atomic_path

FOLDER = ".partial"
"""Folder of the unfinished benchmarks, inside the output folder."""

Row = dict[str, Any]


class RowStore:
    """The rows of one configuration of a benchmark.

    Parameters
    ----------
    output : Path
        Output folder of the benchmark; it exists.
    name : str
        Of the benchmark.
    config : mapping
        Settings that all rows share; values that JSON can hold.
    """

    def __init__(self, output: Path, name: str, config: Mapping[str, Any]) -> None:
        self._path = output / FOLDER / f"{name}.jsonl"
        self._config = _canonical(config)
        self._known = {
            _canonical(entry["key"]): {**entry["row"], "commit": entry["commit"]}
            for entry in self._entries()
            if _canonical(entry["config"]) == self._config
        }

    def find(self, key: Mapping[str, Any]) -> Row | None:
        """Return the row measured under this key, with the commit it was measured at, or None."""
        return self._known.get(_canonical(key))

    def add(self, key: Mapping[str, Any], row: Mapping[str, Any]) -> Row:
        """Write down a row; return it as a later `find` would, with the commit of now."""
        entry = {"config": json.loads(self._config), "key": dict(key), "row": dict(row), "commit": commit()}
        line = json.dumps(entry)
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            # Ends also a line that was cut off while it was written.
            file.write(f"\n{line}\n")
        kept = json.loads(line)
        self._known[_canonical(key)] = {**kept["row"], "commit": kept["commit"]}
        return self._known[_canonical(key)]

    def discard(self) -> None:
        """Forget the rows of this configuration; those of others, such as of a quick run, stay."""
        self._known = {}
        others = [entry for entry in self._entries() if _canonical(entry["config"]) != self._config]
        if not others:
            discard_all(self._path.parent.parent, self._path.stem)
            return
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in others), encoding="utf-8")

    def _entries(self) -> list[dict[str, Any]]:
        if not self._path.is_file():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return [entry for entry in map(_parsed, lines) if entry is not None]


def discard_all(output: Path, name: str) -> None:
    """Forget all rows of a benchmark that is not complete."""
    folder = output / FOLDER
    (folder / f"{name}.jsonl").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _parsed(line: str) -> dict[str, Any] | None:
    """Return what a line holds, or None for one that was cut off while it was written."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return entry


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True)
