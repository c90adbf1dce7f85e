"""Benchmarks that were cut off: what is kept counts under the same settings only, and goes when complete."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from benchmarks import __main__ as command
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.harness.record import commit, is_exact, write_record
from benchmarks.harness.row_store import FOLDER, RowStore

CONFIG = {"quick": True, "frames": 4}
KEYS = [{"method": "art", "snr_db": snr} for snr in (15.0, 25.0)]


class CutError(Exception):
    """The machine was switched off."""


def measure_twice(output: Path, fail_at: int | None = None, identity: Mapping[str, Any] | None = None) -> int:
    """Measure and publish two rows, or fail at one; return how many were measured."""
    measured = 0

    def measure() -> dict[str, Any]:
        nonlocal measured
        if measured == fail_at:
            raise CutError
        measured += 1
        return {"psnr_mean": 20.0 + measured}

    with BenchmarkRun("x", output, CONFIG) as run:
        for key in KEYS:
            run.row(key, measure, identity)
        run.leave_out("deq: no model; train one")
        run.publish("X", ["Words."], {"x.png": Figure()})
    return measured


def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    with pytest.raises(CutError):
        measure_twice(tmp_path, fail_at=1)
    assert not (tmp_path / "x.json").exists()
    assert measure_twice(tmp_path) == 1
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [row["psnr_mean"] for row in rows] == [21.0, 21.0]  # the first of either run
    assert [row["snr_db"] for row in rows] == [15.0, 25.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.md", "x.png"]


def test_what_is_left_out_is_published(tmp_path: Path) -> None:
    measure_twice(tmp_path)
    assert "* deq: no model; train one" in (tmp_path / "x.md").read_text().splitlines()
    assert json.loads((tmp_path / "x.json").read_text())["left_out"] == ["deq: no model; train one"]


def test_other_weights_are_measured_again(tmp_path: Path) -> None:
    with pytest.raises(CutError):
        measure_twice(tmp_path, fail_at=1, identity={"weights": 1.0})
    assert measure_twice(tmp_path, identity={"weights": 2.0}) == 2


def test_rows_of_other_settings_do_not_count_and_stay(tmp_path: Path) -> None:
    RowStore(tmp_path, "x", {"quick": False}).add({"row": KEYS[0], "identity": {}}, {"psnr_mean": 1.0})
    assert measure_twice(tmp_path) == 2
    assert RowStore(tmp_path, "x", {"quick": False}).find({"row": KEYS[0], "identity": {}}) is not None


def test_a_line_cut_off_while_it_was_written_is_measured_again(tmp_path: Path) -> None:
    with pytest.raises(CutError):
        measure_twice(tmp_path, fail_at=1)
    file = tmp_path / FOLDER / "x.jsonl"
    file.write_text(file.read_text().rstrip()[:-5])
    with pytest.raises(CutError):
        measure_twice(tmp_path, fail_at=1)
    assert measure_twice(tmp_path) == 1


def test_rows_keep_the_commit_they_were_measured_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.row_store.commit", lambda: "a" * 40)
    with pytest.raises(CutError):
        measure_twice(tmp_path, fail_at=1)
    monkeypatch.setattr("benchmarks.harness.row_store.commit", lambda: "b" * 40 + "+changes")
    measure_twice(tmp_path)
    assert f"Commit {'a' * 12}, {'b' * 12} with changes, " in (tmp_path / "x.md").read_text()


def test_a_failed_row_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(CutError):
        measure_twice(tmp_path, fail_at=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("there", "quick", "is_done"),
    [("a" * 40, True, True), ("b" * 40, True, False), ("a" * 40, False, False)],
)
def test_complete_means_this_commit_and_as_many_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, quick: bool, is_done: bool
) -> None:
    monkeypatch.setattr("benchmarks.harness.record.commit", lambda: there)
    write_record(tmp_path / "x.json", CONFIG, [])
    monkeypatch.setattr(command, "commit", lambda: "a" * 40)
    assert command.is_complete(tmp_path / "x.json", quick) is is_done


def test_a_changed_tree_is_never_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_exact("a" * 40 + "+changes")
    assert not is_exact("unknown")
    monkeypatch.setattr("benchmarks.harness.record.commit", lambda: "a" * 40 + "+changes")
    write_record(tmp_path / "x.json", CONFIG, [])
    monkeypatch.setattr(command, "commit", lambda: "a" * 40 + "+changes")
    assert not command.is_complete(tmp_path / "x.json", quick=True)


def test_committed_results_do_not_change_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("benchmarks.harness.record._git", lambda *arguments: asked.append(arguments) or "")
    commit.cache_clear()
    try:
        commit()
    finally:
        commit.cache_clear()
    assert ":(exclude)benchmarks/results" in asked[1]


def test_all_goes_on_after_a_failure_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the authors' weights one benchmark has nothing to measure; the others still run."""
    monkeypatch.setenv("DEQMPI_ICONLAB", str(tmp_path / "nowhere"))
    monkeypatch.setattr(command, "NAMES", ("realism", "training_curve"))
    arguments = ["all", "--quick", "--output", str(tmp_path)]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 1
    assert "no results of realism" in result.output
    assert (tmp_path / "training_curve.json").exists()
