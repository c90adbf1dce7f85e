"""The benchmark of the fixed points: what counts as flat, and what is published of which models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import stability
from benchmarks.scans.scans import GRADIENTS, TRAIN_SNRS
from engine.errors import InputError
from trainer.stability.stability import Stability

FIGURES = {
    "radius_low": 0.9,
    "radius_median": 0.95,
    "radius_high": 0.99,
    "radius_max": 1.01,
    "share_below_1": 0.75,
    "share_settled": 1.0,
    "residual_median": 1e-6,
    "residual_max": 1e-5,
    **{f"psnr_at_{budget}": 30.0 for budget in stability.EVALUATIONS},
}


def finished_run(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    for file in ("weights.safetensors", "config.toml"):
        (folder / name / file).write_bytes(b"")


def test_a_drop_is_what_is_lost_from_a_budget_on() -> None:
    psnr = {10: 28.0, 25: 31.0, 50: 32.0, 100: 30.5}
    assert stability.drop_after(psnr, 25) == pytest.approx(1.5)
    assert stability.drop_after(psnr, 100) == pytest.approx(1.5)
    assert stability.drop_after({10: 28.0, 25: 30.0}, 25) == 0.0


def test_the_distribution_is_over_the_frames_of_all_batches() -> None:
    radius = np.linspace(0.8, 1.2, 21)
    parts = [
        Stability(part, np.ones(len(part), bool), np.full(len(part), 1e-6)) for part in np.split(radius, [16])
    ]
    figures = stability._distribution(parts)
    assert figures["radius_median"] == pytest.approx(1.0)
    assert figures["radius_low"] == pytest.approx(0.82)
    assert figures["radius_max"] == pytest.approx(1.2)
    assert figures["share_below_1"] == pytest.approx(np.mean(radius < 1.0))


def test_every_setting_is_published_and_an_absent_model_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path / "models", "reference")
    monkeypatch.setattr(stability, "MODELS", tmp_path / "models")

    def measured(name: str, count: int, snr: float, _gradient: float) -> dict[str, Any]:
        return {**FIGURES, "psnr_at_100": 20.0 + snr, "n": count, "radius_low": 0.9 if name else 0.0}

    monkeypatch.setattr(stability, "measure_row", measured)
    stability.run(quick=True, output=tmp_path)
    record = json.loads((tmp_path / "stability.json").read_text())
    assert [(row["test_gradient"], row["snr_db"], row["n"]) for row in record["rows"]] == [
        (gradient, snr, stability.QUICK_FRAMES) for gradient in GRADIENTS for snr in TRAIN_SNRS
    ]
    assert record["left_out"] == ["fast: models/fast holds no weights"]
    page = (tmp_path / "stability.md").read_text()
    assert "| reference | 0.5 | 15 dB | 0.9500 | 0.9900 | 1.0100 | 75 % | 100 % | 1e-06 |" in page
    assert "| reference | 0.5 | 5 dB | 30.00 | 30.00 | 30.00 | 30.00 | 25.00 | 5.00 |" in page
    assert (tmp_path / "stability.png").stat().st_size > 0


def test_without_any_model_there_is_nothing_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, "MODELS", tmp_path / "none")
    with pytest.raises(InputError, match="no finished run"):
        stability.run(quick=True, output=tmp_path)
