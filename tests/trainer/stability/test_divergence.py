"""When a run counts as diverged, and what is left of it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import trainer.fit
from trainer.cli import main
from trainer.config import resolved_toml
from trainer.fit import fit
from trainer.loop.checkpoint import load_state
from trainer.loop.optimisation import Validation
from trainer.models.anderson import BatchSolution
from trainer.stability.divergence import (
    DIVERGED_RESIDUAL,
    MAX_SETBACKS,
    MAX_UNSOLVED,
    PSNR_DROP,
    RESIDUAL_GROWTH,
    DivergedRunError,
    DivergenceWatch,
)


def test_validations_far_below_the_best_in_a_row_are_divergence() -> None:
    watch = DivergenceWatch()
    for _ in range(MAX_SETBACKS - 1):
        watch.validated(30.0 - PSNR_DROP - 0.1, 30.0)
    assert not watch.is_calm
    with pytest.raises(DivergedRunError, match=r"26\.90 dB, .*3 .*30\.00 dB"):
        watch.validated(30.0 - PSNR_DROP - 0.1, 30.0)


def test_a_validation_near_the_best_ends_the_setbacks() -> None:
    watch = DivergenceWatch()
    for _ in range(5):
        for _ in range(MAX_SETBACKS - 1):
            watch.validated(20.0, 30.0)
        watch.validated(30.0 - PSNR_DROP, 30.0)
        assert watch.is_calm


def test_steps_without_fixed_points_in_a_row_are_divergence() -> None:
    watch = DivergenceWatch()
    watch.solved(0.01)
    for _ in range(MAX_UNSOLVED - 1):
        watch.solved(1.01 * DIVERGED_RESIDUAL)
    with pytest.raises(DivergedRunError, match=r"forward solves .*0\.3 .*25 steps .*0\.01"):
        watch.solved(1.01 * DIVERGED_RESIDUAL)


def test_single_steps_without_fixed_points_are_not() -> None:
    watch = DivergenceWatch()
    for _ in range(4):
        watch.solved(0.01)
        for _ in range(MAX_UNSOLVED - 1):
            watch.solved(10.0)


def test_residuals_that_were_large_from_the_start_have_not_grown() -> None:
    watch = DivergenceWatch()
    for _ in range(2 * MAX_UNSOLVED):
        watch.solved(0.9)  # as of one evaluation from zero
    assert watch.is_calm
    watch.solved(0.91 * RESIDUAL_GROWTH)
    assert not watch.is_calm
    watch.begin_phase()
    assert watch == DivergenceWatch()


def test_a_watch_goes_on_from_its_state() -> None:
    watch = DivergenceWatch()
    watch.solved(0.1)
    watch.solved(0.5)
    watch.validated(1.0, 9.0)
    again = DivergenceWatch(**json.loads(json.dumps(watch.as_dict())))
    assert again == watch
    assert (again.setbacks, again.unsolved, again.first_residual) == (1, 1, 0.1)


# --- whole runs -----------------------------------------------------------------------------------------


@pytest.fixture
def longer(config):
    """One stage of 12 steps after the pre-training, with a validation after each."""
    stage = dataclasses.replace(config.fit.stages[0], steps=12)
    return dataclasses.replace(config, fit=dataclasses.replace(config.fit, stages=(stage,), validate_every=1))


@pytest.fixture
def falling_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let validations see 30, 31, 32 dB and then 20 dB for ever."""
    original, seen = Validation.figures, []

    def figures(self, model):
        seen.append(1)
        psnr = 29.0 + len(seen) if len(seen) < 4 else 20.0
        return original(self, model) | {"validation_psnr": psnr}

    monkeypatch.setattr(Validation, "figures", figures)


def test_falling_quality_ends_the_run_and_keeps_what_was_good(
    longer, problem, tmp_path: Path, falling_quality
) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(DivergedRunError) as caught:
        fit(longer, run_dir, problem=problem)
    message = str(caught.value)
    assert message.startswith("stage-1, step 5: the validation diverged: 20.00 dB")
    assert "a new run can start from weights.safetensors" in message
    assert "lower the learning rate" in message
    assert "\n" not in message
    # The checkpoint before the first of the bad validations, with the weights of the best.
    state = load_state(run_dir)
    assert (state.step, state.best_psnr) == (2, 32.0)
    assert (run_dir / "last.safetensors").read_bytes() == (run_dir / "weights.safetensors").read_bytes()


def test_the_command_ends_with_1_and_one_line(
    longer, problem, tmp_path: Path, falling_quality, monkeypatch
) -> None:
    monkeypatch.setattr(trainer.fit, "load_problem", lambda *_: problem)
    (tmp_path / "run.toml").write_text(resolved_toml(longer))
    arguments = ["fit", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert "stage-1, step 5: the validation diverged" in line


def test_solves_that_fail_end_the_run(longer, problem, tmp_path: Path, monkeypatch) -> None:
    original = BatchSolution.summary

    def summary(self, prefix):
        figures = original(self, prefix)
        seen.append(prefix)
        return figures | ({f"{prefix}_residual_mean": 0.8} if seen.count("forward") > 1 else {})

    seen: list[str] = []
    monkeypatch.setattr(BatchSolution, "summary", summary)
    monkeypatch.setattr("trainer.stability.divergence.MAX_UNSOLVED", 4)
    with pytest.raises(DivergedRunError, match=r"stage-1, step 5: .*forward solves .*0\.8 "):
        fit(longer, tmp_path / "run", problem=problem)
    state = load_state(tmp_path / "run")
    assert state.step == 1  # the last before the first of the failed steps
    assert all(torch.isfinite(value).all() for value in state.model.values())
