"""The tuning benchmark: its three files, and that only the full run replaces the weights that ship."""

import json
from pathlib import Path

import pytest

from benchmarks import tuning
from engine.solvers.regularization import MethodWeights, SnrCurve, load_weights
from engine.tuning.result import MethodTuning, Trial, TuningConfig, TuningResult

SNRS = (15.0, 30.0)


def result() -> TuningResult:
    """Two weights of the hybrid, and one of a method that is not in the paper."""

    def trial(method: str, snr: float, weights: dict[str, float], iterations: int, psnr: float) -> Trial:
        return Trial(method, snr, weights, iterations, psnr, 1.0)

    hybrid = [
        trial("admm-hybrid", snr, {"l1": l1, "tv": 0.1}, count, snr + l1 + count / 100)
        for snr in SNRS
        for count in (20, 40)
        for l1 in (0.1, 1.0)
    ]
    cg = [trial("tikhonov", snr, {"lambda": 1.0}, 20, snr) for snr in SNRS]
    constant = SnrCurve.constant(0.1)
    return TuningResult(
        TuningConfig(SNRS, 4),
        {
            "tikhonov": MethodTuning(
                MethodWeights({"lambda": SnrCurve(SNRS, (1.0, 1.0))}, 20),
                tuple(cg),
                (),
                SNRS,
                False,
                tuple(cg),
            ),
            "admm-hybrid": MethodTuning(
                MethodWeights({"l1": SnrCurve(SNRS, (1.0, 1.0)), "tv": constant}, 40),
                (hybrid[3], hybrid[7]),
                (hybrid[0], hybrid[4]),
                SNRS,
                False,
                tuple(hybrid),
            ),
        },
    )


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the tuning itself and for the file that it replaces."""
    path = tmp_path / "shipped.json"
    monkeypatch.setattr(tuning, "tune", lambda *_: result())
    monkeypatch.setattr(tuning, "emulate_scan", lambda *_: None)
    monkeypatch.setattr(tuning, "default_weights_path", lambda: path)
    return path


def test_the_full_run_replaces_the_weights_that_ship(shipped: Path, tmp_path: Path) -> None:
    tuning.run(False, tmp_path)
    assert dict(load_weights(shipped)) == result().weights
    assert json.loads(shipped.read_text())["source"]["system_matrix"] == tuning.PRESET


def test_a_quick_run_leaves_them_alone(shipped: Path, tmp_path: Path) -> None:
    tuning.run(True, tmp_path)
    assert not shipped.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"tuning.json", "tuning.md", "tuning.png"}


def test_the_record_says_what_was_chosen_and_what_is_the_papers(shipped: Path, tmp_path: Path) -> None:
    tuning.run(True, tmp_path)
    rows = json.loads((tmp_path / "tuning.json").read_text())["rows"]
    roles = [row["role"] for row in rows if row["method"] == "admm-hybrid"]
    assert sorted(roles) == ["chosen"] * 2 + ["published"] * 2 + ["tried"] * 4
    assert "| admm-hybrid | 15 | l1 0.1, tv 0.1 | 20 |" in (tmp_path / "tuning.md").read_text()


def test_the_picture_has_one_panel_per_weight_and_one_for_the_iterations() -> None:
    figure = tuning.draw(result())
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel().split(" ")[0] for axes in shown] == ["lambda", "l1", "tv", "iterations"]
    crosses = [line for line in shown[1].get_lines() if line.get_marker() == "x"]
    assert [tuple(line.get_data()[0]) for line in crosses] == [(0.1,), (0.1,)]  # the paper's l1, per SNR
    circles = [line for line in shown[1].get_lines() if line.get_marker() == "o"]
    assert [tuple(line.get_data()[0]) for line in circles] == [(1.0,), (1.0,)]
