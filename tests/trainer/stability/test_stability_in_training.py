"""Stability where a run uses it: in its validations and its loss."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigError
from trainer.config import StageConfig, TrainConfig
from trainer.data.problem import Problem
from trainer.fit import fit


def validations(run_dir: Path) -> list[dict[str, float]]:
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if "validation_psnr" in record]


def short(config: TrainConfig, frames: int, weight: float) -> TrainConfig:
    """One step from the pre-trained networks."""
    stage = StageConfig(
        steps=1, batch_size=4, jacobian_weight=weight, jacobian_target=0.1, jacobian_samples=2
    )
    return replace(config, fit=replace(config.fit, stages=(stage,), spectral_frames=frames))


def test_validations_state_the_radius_of_as_many_frames_as_asked(
    config: TrainConfig, problem: Problem, tmp_path: Path
) -> None:
    fit(short(config, 4, 0.0), tmp_path / "some", problem=problem)
    fit(short(config, 0, 0.0), tmp_path / "none", problem=problem)
    for record in validations(tmp_path / "some"):
        median = record["validation_spectral_radius_median"]
        assert 0 < median <= record["validation_spectral_radius_max"]
        assert record["validation_spectral_radius_share_below_1"] * 4 in range(5)
    assert not any("radius" in key for record in validations(tmp_path / "none") for key in record)


def test_the_penalty_enters_the_loss(config: TrainConfig, problem: Problem, tmp_path: Path) -> None:
    runs = [fit(short(config, 0, w), tmp_path / str(w), problem=problem) for w in (0.0, 10.0)]
    plain, penalised = (torch.cat([p.flatten() for p in run.parameters()]) for run in runs)
    assert bool(torch.isfinite(penalised).all())
    assert not torch.equal(plain, penalised)


def test_methods_without_a_fixed_point_have_no_penalty(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="jacobian_weight"):
        replace(short(config, 0, 1.0), method="unrolled")
