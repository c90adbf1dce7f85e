"""The models for one SNR each: the committed ones are the defined ones, and differ in their SNR only."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.contestants import specialist_models
from benchmarks.contestants.specialist_models import CONFIGS, MODELS, SPREAD, START, main
from benchmarks.harness import training_runs
from benchmarks.scans.scans import TRAIN_SNRS
from trainer.config import load_config
from trainer.loop.checkpoint import BEST_WEIGHTS, CONFIG_FILE, load_model

COMMITTED = sorted(path.parent.name for path in MODELS.glob(f"*/{CONFIG_FILE}"))


def test_specialists_differ_in_their_snr_only() -> None:
    assert sorted(float(name) for name in CONFIGS) == sorted(TRAIN_SNRS)
    shared = set()
    for name, config in CONFIGS.items():
        assert config.data.snr == (float(name) - SPREAD, float(name) + SPREAD)
        assert config.data.validation_snr == (float(name),)
        data = replace(config.data, snr=(0.0, 0.0), validation_snr=(0.0,))
        shared.add(replace(config, name="any", data=data))
    assert len(shared) == 1


def test_specialists_start_from_both_networks_that_ship() -> None:
    for config in CONFIGS.values():
        assert (config.pretrain.rdn.weights, config.pretrain.lc.weights) == (START, START)
        assert (config.pretrain.rdn.steps, config.pretrain.lc.steps) == (0, 0)
        assert config.model.takes_noise


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_specialists_are_the_defined_ones(name: str) -> None:
    assert load_config(MODELS / name / CONFIG_FILE) == CONFIGS[name]
    load_model(MODELS / name)  # the weights fit


def test_only_missing_specialists_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "25").mkdir()
    (tmp_path / "25" / BEST_WEIGHTS).write_text("")
    calls = []

    def fit(config: object, folder: Path, *, resume: bool, problem: object) -> None:
        calls.append((config, folder, resume, problem))
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("")

    monkeypatch.setattr(specialist_models, "MODELS", tmp_path)
    monkeypatch.setattr(training_runs, "_problem", lambda _: "problem")
    monkeypatch.setattr(training_runs, "fit", fit)
    result = CliRunner().invoke(main, ["25", "45"])
    assert result.exit_code == 0, result.output
    assert calls == [(CONFIGS["45"], tmp_path / "45", False, "problem")]
