"""Benchmark results: complete records and readable tables."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.harness.record import commit, write_record, write_table
from benchmarks.training_curve import PREFIX, draw

ROWS = [{"method": "a", "psnr_mean": 31.234, "paper": None, "n": 4}]


def test_record_names_machine_commit_and_settings(tmp_path: Path) -> None:
    write_record(tmp_path / "x.json", {"seed": 3}, ROWS)
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["rows"] == ROWS
    assert content["config"] == {"seed": 3}
    assert content["machine"]["cores"] >= 1
    assert content["commit"]


def test_table_has_one_line_per_row(tmp_path: Path) -> None:
    write_table(tmp_path / "x.md", "Title", "Some notes.", ROWS)
    lines = (tmp_path / "x.md").read_text().splitlines()
    assert lines[0] == "# Title"
    assert lines[4] == "| a | 31.23 | - | 4 |"
    assert "Some notes." in lines


def test_small_figures_keep_their_digits_in_tables(tmp_path: Path) -> None:
    write_table(tmp_path / "x.md", "Title", "", [{"residual": 1.44e-3, "difference": -0.3, "none": 0.0}])
    assert "| 1.4e-03 | -0.30 | 0.00 |" in (tmp_path / "x.md").read_text().splitlines()


def test_the_commit_is_that_of_the_start_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = iter(["first", "second"])
    monkeypatch.setattr(
        "benchmarks.harness.record._git", lambda *arguments: next(heads) if arguments[0] != "status" else ""
    )
    commit.cache_clear()
    try:
        assert commit() == "first"
        write_record(tmp_path / "x.json", {}, ROWS)
        assert json.loads((tmp_path / "x.json").read_text())["commit"] == "first"
    finally:
        commit.cache_clear()


def test_the_legend_of_the_training_curve_covers_no_curve() -> None:
    log = [{"step": step, "loss": 0.01} for step in range(1, 101)]
    log += [
        {"step": step, "validation_psnr": 33.0}
        | {f"{PREFIX}{snr}dB": 20.0 + 0.5 * snr + 0.01 * step for snr in (15, 25, 35)}
        for step in (0, 50, 100)
    ]
    figure = draw(log)
    figure.draw_without_rendering()  # places everything
    left, right = figure.axes
    (legend,) = (axes.get_legend() for axes in figure.axes if axes.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == ["15 dB SNR", "25 dB SNR", "35 dB SNR"]
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in (left, right))
    assert not box.overlaps(right.xaxis.label.get_window_extent())
    assert box.y0 >= 0  # inside the picture


def test_missing_weights_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("DEQMPI_ICONLAB", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(main, ["realism", "--quick", "--output", str(tmp_path / "out")])
    assert result.exit_code != 0
    assert "DEQMPI_ICONLAB" in result.output
