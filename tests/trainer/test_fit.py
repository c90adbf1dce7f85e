"""Whole runs on a tiny problem: resume, interruption, failure and what is left in the run folder."""

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import trainer.loop.optimisation
import trainer.loop.phases
from engine.errors import ConfigError, InputError, NonFiniteError
from trainer.config import FitConfig, TrainConfig, load_config
from trainer.data.problem import Problem
from trainer.fit import fit
from trainer.loop.checkpoint import load_networks, load_state
from trainer.loop.interruption import InterruptedRunError
from trainer.loop.optimisation import Optimisation

N_STEPS = 2 + 2 + 3 + 3

TIMES = ("images_per_second", "share_")
"""What two equal runs differ in."""

FLOAT32 = 1e-6
"""Relative; TensorBoard keeps single precision."""


@pytest.fixture(scope="module")
def straight(config: TrainConfig, problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    fit(config, run_dir, problem=problem)
    return run_dir


def records(run_dir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k != "images_per_second" and not k.startswith("share_")}
        for line in lines
    ]


def assert_same_end(a: Path, b: Path) -> None:
    """The two runs hold bit for bit the same state and the same records."""
    one, two = load_state(a), load_state(b)
    assert (one.phase, one.step, one.total, one.best_psnr) == (two.phase, two.step, two.total, two.best_psnr)
    assert torch.equal(one.generator, two.generator)
    assert one.model.keys() == two.model.keys()
    for key in one.model:
        assert torch.equal(one.model[key], two.model[key]), key
    for name in ("weights", "last", "pretrained"):
        assert (a / f"{name}.safetensors").read_bytes() == (b / f"{name}.safetensors").read_bytes(), name
    assert records(a) == records(b)


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch):
    """Send SIGINT to this process during the given step of the run, counted from 1."""

    def install(number: int) -> None:
        original, calls = Optimisation._optimise, []

        def optimise(self, phase, optimizer):
            calls.append(phase.name)
            if len(calls) == number:
                signal.raise_signal(signal.SIGINT)
            return original(self, phase, optimizer)

        monkeypatch.setattr(Optimisation, "_optimise", optimise)

    yield install
    monkeypatch.undo()


def test_a_run_leaves_what_the_contract_names(straight: Path, config: TrainConfig) -> None:
    names = {path.name for path in straight.iterdir()}
    assert names == {
        "config.toml", "weights.safetensors", "last.safetensors", "pretrained.safetensors",
        "state.pt", "metrics.jsonl", "tensorboard",
    }  # fmt: skip
    assert load_config(straight / "config.toml") == config
    state = load_state(straight)
    assert (state.phase, state.step, state.total) == (4, 0, N_STEPS)


def test_every_step_and_validation_is_recorded(straight: Path) -> None:
    steps = [r for r in records(straight) if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, N_STEPS + 1))
    assert [r["phase"] for r in steps] == ["pretrain-rdn"] * 2 + ["pretrain-lc"] * 2 + ["stage-1"] * 3 + [
        "stage-2"
    ] * 3
    assert all("forward_residual_median" in r for r in steps[4:])
    assert ["backward_iterations" in r for r in steps[4:]] == [False] * 3 + [True] * 3
    validations = [r for r in records(straight) if "validation_psnr" in r]
    # Before the first stage, then every 2 steps and at the end of each stage.
    assert [r["step"] for r in validations] == [4, 6, 7, 9, 10]
    for r in validations:
        mean = (r["validation_psnr_at_20dB"] + r["validation_psnr_at_30dB"]) / 2
        assert r["validation_psnr"] == pytest.approx(mean)
    assert load_state(straight).best_psnr == max(r["validation_psnr"] for r in validations)


def test_every_step_says_where_its_time_went(straight: Path) -> None:
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == N_STEPS
    for line in steps:
        shares = [line[f"share_{part}"] for part in ("data", "forward", "backward")]
        assert min(shares) > 0.0
        assert sum(shares) < 1.0  # the optimiser takes some, too
        assert line["images_per_second"] > 0.0
    assert len(curve(straight, "stage-1/share_forward")) == 3


def curve(run_dir: Path, name: str) -> list[tuple[int, float]]:
    """Read a curve as TensorBoard does."""
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(name)]


def test_tensorboard_shows_the_records(straight: Path) -> None:
    losses = [(r["step"], r["loss"]) for r in records(straight) if r["phase"] == "stage-2" and "loss" in r]
    np.testing.assert_allclose(curve(straight, "stage-2/loss"), losses, rtol=FLOAT32)
    checks = [(r["step"], r["validation_psnr"]) for r in records(straight) if "validation_psnr" in r]
    np.testing.assert_allclose(curve(straight, "validation/validation_psnr"), checks, rtol=FLOAT32)


def test_learning_rate_falls_along_a_half_cosine(straight: Path) -> None:
    rates = [r["learning_rate"] for r in records(straight) if r["phase"] == "stage-1" and "loss" in r]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.25e-3])


def test_training_changes_both_networks(straight: Path) -> None:
    before, after = load_file(straight / "pretrained.safetensors"), load_file(straight / "last.safetensors")
    changed = {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"rdn", "lc"}


def test_the_same_seed_gives_the_same_run(straight: Path, config, problem, tmp_path: Path) -> None:
    torch.rand(7)  # the global generator must not matter
    fit(config, tmp_path / "again", problem=problem)
    assert_same_end(straight, tmp_path / "again")


def test_another_seed_gives_another_run(straight: Path, config, problem, tmp_path: Path) -> None:
    fit(dataclasses.replace(config, seed=4), tmp_path / "other", problem=problem)
    first, other = load_state(straight).model, load_state(tmp_path / "other").model
    assert not torch.equal(first["rdn.entry.weight"], other["rdn.entry.weight"])


@pytest.mark.parametrize("number", [1, 4, 6, 7, 9], ids=lambda n: f"step{n}")
def test_interrupted_and_resumed_is_the_same_as_straight_on(
    straight: Path, config, problem, tmp_path: Path, interrupt_after, monkeypatch, number: int
) -> None:
    run_dir = tmp_path / "run"
    interrupt_after(number)
    with pytest.raises(InterruptedRunError, match="--resume") as caught:
        fit(config, run_dir, problem=problem)
    assert caught.value.exit_code == 130
    assert "\n" not in str(caught.value)
    assert load_state(run_dir).total == number  # the step under way was finished
    monkeypatch.undo()
    fit(config, run_dir, resume=True, problem=problem)
    assert_same_end(straight, run_dir)


def test_a_crash_between_checkpoints_is_resumed_from_the_last_one(
    straight: Path, config, problem, tmp_path: Path, monkeypatch
) -> None:
    run_dir, original, calls = tmp_path / "run", Optimisation._optimise, []

    def optimise(self, phase, optimizer):
        calls.append(phase)
        if len(calls) == 8:
            raise KeyboardInterrupt  # as a second Ctrl-C, or a kill
        return original(self, phase, optimizer)

    longer = dataclasses.replace(config, fit=dataclasses.replace(config.fit, validate_every=3))
    reference = tmp_path / "reference"
    fit(longer, reference, problem=problem)
    monkeypatch.setattr(Optimisation, "_optimise", optimise)
    calls.append("shift")  # fails in step 7, two steps after the checkpoint of phase 2
    with pytest.raises(KeyboardInterrupt):
        fit(longer, run_dir, problem=problem)
    assert load_state(run_dir).total == 4
    assert records(run_dir)[-1]["step"] == 6
    monkeypatch.undo()
    fit(longer, run_dir, resume=True, problem=problem)
    assert_same_end(reference, run_dir)
    assert curve(run_dir, "stage-1/loss") == curve(reference, "stage-1/loss")  # no step twice


def test_resuming_a_finished_run_changes_nothing(straight: Path, config, problem, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    fit(config, run_dir, problem=problem)
    fit(config, run_dir, resume=True, problem=problem)
    assert_same_end(straight, run_dir)


def test_signal_handler_is_put_back(config, problem, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    fit(config, tmp_path / "run", problem=problem)
    assert signal.getsignal(signal.SIGINT) is before


def test_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(
    config, problem, tmp_path: Path, monkeypatch
) -> None:
    original, calls = trainer.loop.phases.add_noise, []

    def poisoned(clean, snr, generator):
        calls.append(1)
        return original(clean, snr, generator) * (torch.nan if len(calls) == 4 else 1.0)

    monkeypatch.setattr(trainer.loop.phases, "add_noise", poisoned)
    with pytest.raises(NonFiniteError, match=r"stage-2, step 1: .*NaN.*checkpoint"):
        fit(config, tmp_path / "run", problem=problem)
    state = load_state(tmp_path / "run")
    assert state.total == 7
    assert all(torch.isfinite(value).all() for value in state.model.values())


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_non_finite_pretraining_loss_is_named(config, problem, tmp_path: Path, monkeypatch, factor) -> None:
    original = trainer.loop.phases.denoising_loss
    monkeypatch.setattr(trainer.loop.phases, "denoising_loss", lambda *args: original(*args) * factor)
    with pytest.raises(NonFiniteError, match=f"pretrain-rdn, step 1: .*loss .*{factor}"):
        fit(config, tmp_path / "run", problem=problem)


def test_non_finite_gradient_is_named(config, problem, tmp_path: Path, monkeypatch) -> None:
    original = trainer.loop.phases.denoising_loss

    def steep(rdn, *args):
        loss = original(rdn, *args)
        # sqrt has an infinite slope at 0, where its value is finite.
        return loss + torch.sqrt(0.0 * rdn.entry.bias.square().sum())

    monkeypatch.setattr(trainer.loop.phases, "denoising_loss", steep)
    with pytest.raises(NonFiniteError, match=r"gradient norm .*nan"):
        fit(config, tmp_path / "run", problem=problem)


def test_a_run_that_fails_in_its_first_step_can_be_resumed(
    straight: Path, config, problem, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(trainer.loop.phases, "denoising_loss", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(NonFiniteError, match="pretrain-rdn, step 1"):
        fit(config, tmp_path / "run", problem=problem)
    monkeypatch.undo()
    fit(config, tmp_path / "run", resume=True, problem=problem)
    assert_same_end(straight, tmp_path / "run")


def test_the_gradient_is_clipped_to_its_bound(config, problem, tmp_path: Path) -> None:
    # Far below Adam's epsilon of 1e-8, where its steps shrink with the gradient.
    bound = dataclasses.replace(config, fit=dataclasses.replace(config.fit, gradient_clip=1e-12, stages=()))
    first = fit(bound, tmp_path / "clipped", problem=problem).state_dict()
    still = dataclasses.replace(
        bound,
        pretrain=dataclasses.replace(
            config.pretrain,
            rdn=dataclasses.replace(config.pretrain.rdn, steps=0),
            lc=dataclasses.replace(config.pretrain.lc, steps=0),
        ),
    )
    initial = fit(still, tmp_path / "initial", problem=problem).state_dict()
    largest = max((first[key] - initial[key]).abs().max().item() for key in first)
    # Two steps of 1e-3 times at most 1e-12 / 1e-8; unclipped ones move weights by 2e-3.
    assert largest < 1e-6
    assert all(r["gradient_norm"] > 1e-6 for r in records(tmp_path / "clipped") if "loss" in r)


def test_a_run_folder_is_not_overwritten(straight: Path, config, problem) -> None:
    with pytest.raises(InputError, match="--resume"):
        fit(config, straight, problem=problem)


def test_resume_needs_a_checkpoint_and_the_same_configuration(
    straight, config, problem, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        fit(config, tmp_path / "nothing", resume=True, problem=problem)
    with pytest.raises(ConfigError, match="configuration"):
        fit(dataclasses.replace(config, seed=99), straight, resume=True, problem=problem)


def test_pretraining_alone_leaves_usable_weights(config, problem, tmp_path: Path) -> None:
    only = dataclasses.replace(config, fit=dataclasses.replace(config.fit, stages=()))
    fit(only, tmp_path / "run", problem=problem)
    rdn, lc, loaded = load_networks(tmp_path / "run")
    assert loaded == only
    assert not rdn.training
    assert not lc.training
    validations = [r for r in records(tmp_path / "run") if "validation_psnr" in r]
    assert [r["step"] for r in validations] == [4]


def starting_from(config: TrainConfig, *, rdn: Path | None = None, lc: Path | None = None) -> TrainConfig:
    """The run without pre-training, its networks read from weights files."""
    start = {name: None if path is None else str(path) for name, path in (("rdn", rdn), ("lc", lc))}
    pretrain = dataclasses.replace(
        config.pretrain,
        rdn=dataclasses.replace(config.pretrain.rdn, weights=start["rdn"], steps=0),
        lc=dataclasses.replace(config.pretrain.lc, weights=start["lc"], steps=0),
    )
    return dataclasses.replace(config, pretrain=pretrain)


def test_a_run_may_start_from_the_weights_of_another(straight: Path, config, problem, tmp_path: Path) -> None:
    weights = straight / "pretrained.safetensors"
    fit(starting_from(config, rdn=weights, lc=weights), tmp_path / "run", problem=problem)
    assert load_file(tmp_path / "run" / "pretrained.safetensors").keys() == load_file(weights).keys()
    first = next(r for r in records(straight) if "validation_psnr" in r)
    again = next(r for r in records(tmp_path / "run") if "validation_psnr" in r)
    assert again["step"] == 0
    assert again["validation_psnr"] == first["validation_psnr"]


@pytest.mark.parametrize("loaded", ["rdn", "lc"])
def test_each_network_may_start_from_weights_by_itself(
    straight: Path, config, problem, tmp_path: Path, loaded: str
) -> None:
    weights = straight / "weights.safetensors"
    alone = dataclasses.replace(config, fit=FitConfig())
    random, run = tmp_path / "random", tmp_path / "run"
    fit(starting_from(alone), random, problem=problem)
    fit(starting_from(alone, **{loaded: weights}), run, problem=problem)
    found = load_file(run / "pretrained.safetensors")
    initial, given = load_file(random / "pretrained.safetensors"), load_file(weights)
    for key, value in found.items():
        expected = given if key.startswith(f"{loaded}.") else initial
        assert torch.equal(value, expected[key]), key
    assert any(not torch.equal(given[key], initial[key]) for key in given if key.startswith("rdn."))


def test_a_network_must_fit_the_weights_it_is_to_start_from(
    straight: Path, config, problem, tmp_path: Path
) -> None:
    wide = dataclasses.replace(config.model, lc=dataclasses.replace(config.model.lc, features=5))
    other = dataclasses.replace(config, model=wide)
    weights = straight / "weights.safetensors"
    with pytest.raises(InputError, match=r"lc\.features 4, .*5"):
        fit(starting_from(other, lc=weights), tmp_path / "run", problem=problem)
    fit(
        starting_from(dataclasses.replace(other, fit=FitConfig()), rdn=weights),
        tmp_path / "ok",
        problem=problem,
    )


def test_a_resumed_run_does_not_need_the_weights_it_started_from(
    straight: Path, config, problem, tmp_path: Path, interrupt_after, monkeypatch
) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes((straight / "pretrained.safetensors").read_bytes())
    begun = starting_from(config, rdn=start)
    fit(begun, tmp_path / "reference", problem=problem)
    interrupt_after(3)
    with pytest.raises(InterruptedRunError):
        fit(begun, tmp_path / "run", problem=problem)
    monkeypatch.undo()
    start.unlink()
    fit(begun, tmp_path / "run", resume=True, problem=problem)
    assert_same_end(tmp_path / "reference", tmp_path / "run")


def test_the_target_of_psi_lc_decides_what_it_learns(straight: Path, config, problem, tmp_path: Path) -> None:
    lc = dataclasses.replace(config.pretrain.lc, target="noise-free")
    other = dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, lc=lc), fit=FitConfig())
    fit(other, tmp_path / "run", problem=problem)
    found = load_file(tmp_path / "run" / "pretrained.safetensors")
    ball = load_file(straight / "pretrained.safetensors")
    changed = {key.split(".")[0] for key in found if not torch.equal(found[key], ball[key])}
    assert changed == {"lc"}


def test_cudnn_works_without_tf32_while_training(config, problem, tmp_path: Path, monkeypatch) -> None:
    original, seen = Optimisation._optimise, set()

    def optimise(self, phase, optimizer):
        cudnn = torch.backends.cudnn
        seen.add((cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic))
        return original(self, phase, optimizer)

    monkeypatch.setattr(Optimisation, "_optimise", optimise)
    fit(config, tmp_path / "run", problem=problem)
    assert seen == {(True, False, True)}


def test_an_absent_device_is_refused(config, problem, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda = dataclasses.replace(config, fit=dataclasses.replace(config.fit, device="cuda"))
    with pytest.raises(ConfigError, match="no CUDA device"):
        fit(cuda, tmp_path / "run", problem=problem)
    assert not (tmp_path / "run").exists()
