"""One model against models for one SNR each: paired differences, what is tested where, what is missing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import sem

from benchmarks import noise_levels
from benchmarks.contestants.contestant import Contestant, as_shipped
from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf
from benchmarks.contestants.run_contestants import from_run
from benchmarks.noise_levels import ahead_of, beside_the_reference, verdict
from engine.reconstruction.method_settings import MethodSettings


def row(kind: str, snr: float, train: float | None, psnr: float, ahead: float = 0.0) -> dict[str, Any]:
    row = {"kind": kind, "snr_db": snr, "train_snr_db": train, "psnr_mean": psnr}
    return row if kind == "reference" else row | {"ahead_db": ahead, "ahead_error_db": 0.05}


def one_step(name: str) -> Contestant:
    """Any networks will do: what is tested is the benchmark."""
    return replace(as_shipped("deq"), name=name, settings=MethodSettings(max_iterations=1))


def test_a_lead_is_the_mean_of_the_differences_of_pairs() -> None:
    rng = np.random.default_rng(0)
    psnr = rng.normal(30, 3, 20)
    reference = psnr + rng.normal(0.3, 0.1, 20)
    found = ahead_of(psnr, reference)
    assert found["ahead_db"] == pytest.approx(np.mean(reference) - np.mean(psnr))
    assert found["ahead_error_db"] == pytest.approx(sem(reference - psnr))
    assert ahead_of(psnr[:1], reference[:1])["ahead_error_db"] is None


def test_a_line_holds_the_models_trained_at_its_snr() -> None:
    rows = [
        row("reference", 15.0, None, 32.0),
        row("reference", 25.0, None, 36.0),
        row("specialist", 15.0, 15.0, 32.1, -0.1),
        row("specialist", 25.0, 15.0, 30.0, 6.0),
        row("unconditioned", 25.0, 25.0, 35.0, 1.0),
    ]
    assert beside_the_reference(rows) == [
        {"SNR": "15 dB", "reference": "32.00", "specialist": "32.10 (-0.10 ± 0.05)", "unconditioned": "-"},
        {"SNR": "25 dB", "reference": "36.00", "specialist": "-", "unconditioned": "35.00 (+1.00 ± 0.05)"},
    ]


def test_the_verdict_counts_clear_differences_from_matched_specialists_only() -> None:
    rows = [
        row("specialist", 5.0, 5.0, 26.0, -0.3),
        row("specialist", 15.0, 15.0, 32.0, 0.2),
        row("specialist", 25.0, 25.0, 36.0, 0.09),
        row("specialist", 25.0, 45.0, 30.0, 5.0),
        row("unconditioned", 35.0, 35.0, 30.0, 5.0),
    ]
    assert verdict(rows) == (
        "The reference is behind the specialist at 5 dB (0.30 dB); ahead of the specialist at 15 dB "
        "(0.20 dB); within 2 standard errors of the specialist at 25 dB."
    )
    assert "No specialist" in verdict(rows[-1:])


@pytest.mark.usefixtures("small_world")
def test_models_are_tested_up_to_20_db_from_their_training_and_missing_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_run(name: str, folder: Path, _remedy: str, _shelf: ModelShelf) -> Contestant:
        if folder.name == "45":
            raise MissingModelError("no run 45")
        return one_step(name)

    def trained_at(_method: str, _snr: float, _shelf: ModelShelf, name: str) -> Contestant:
        return one_step(name)

    monkeypatch.setattr(noise_levels, "FRAMES", 2)
    monkeypatch.setattr(noise_levels, "as_shipped", one_step)
    monkeypatch.setattr(noise_levels, "from_run", of_run)
    monkeypatch.setattr(noise_levels, "trained_at", trained_at)
    noise_levels.run(quick=False, output=tmp_path)
    record = json.loads((tmp_path / "noise_levels.json").read_text())
    assert record["left_out"] == ["no run 45"]
    assert (tmp_path / "noise_levels.png").stat().st_size > 0
    tested: dict[str, list[float]] = {}
    for entry in record["rows"]:
        tested.setdefault(entry["method"], []).append(entry["snr_db"])
        assert "psnr_each" not in entry
        if entry["kind"] != "reference":
            assert entry["ahead_db"] == 0.0  # the same networks on the same frames
    everywhere = [5.0, 15.0, 25.0, 35.0, 45.0]
    assert tested["reference"] == everywhere
    assert tested["specialist-5"] == [5.0, 15.0, 25.0]
    assert tested["specialist-25"] == tested["unconditioned-25"] == everywhere
    assert tested["unconditioned-45"] == [25.0, 35.0, 45.0]
    assert "specialist-45" not in tested


def test_a_run_that_is_not_there_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(MissingModelError, match="holds no finished run; train it"):
        from_run("any", tmp_path / "nothing", "train it", ModelShelf(tmp_path))
