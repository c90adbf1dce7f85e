"""The models of the ablation studies: the committed ones are the defined ones, and runs resume and end."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.contestants import ablation_models
from benchmarks.contestants.ablation_models import (
    CONFIGS,
    METHODS,
    MODELS,
    SNRS,
    START,
    main,
    model_name,
)
from benchmarks.harness import training_runs
from benchmarks.harness.record import ROOT
from benchmarks.harness.training_runs import keep_essentials
from engine.errors import NonFiniteError
from trainer.config import load_config
from trainer.loop.checkpoint import BEST_WEIGHTS, CONFIG_FILE, STATE_FILE, load_model

COMMITTED = sorted(path.parent.name for path in MODELS.glob(f"*/{CONFIG_FILE}"))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the run folders elsewhere, so that no committed one counts."""
    monkeypatch.setattr(ablation_models, "MODELS", tmp_path)
    monkeypatch.setattr(training_runs, "_problem", lambda _: None)
    return tmp_path


def test_every_method_is_trained_at_every_snr_and_each_start_once() -> None:
    variants = {"init-random-rdn", "init-random-lc", "init-random-both", "init-noise-free-lc"}
    assert set(CONFIGS) == {model_name(method, snr) for method in METHODS for snr in SNRS} | variants
    for name, config in CONFIGS.items():
        snr = config.data.snr[0]
        assert config.data.snr == (snr, snr)
        assert config.data.validation_snr == (snr,)
        assert name in (model_name(config.method, snr), *variants)


@pytest.mark.parametrize(
    ("name", "rdn_start", "lc_start", "lc_steps"),
    [
        ("deq-35", START, START, 0),
        ("deq-ball-35", START, None, 0),
        ("unrolled-35", START, None, 0),
        ("end-to-end-35", START, None, 0),
        ("init-random-rdn", None, START, 0),
        ("init-random-lc", START, None, 0),
        ("init-random-both", None, None, 0),
        ("init-noise-free-lc", START, None, 2000),
    ],
)
def test_each_start_is_what_its_name_says(
    name: str, rdn_start: str | None, lc_start: str | None, lc_steps: int
) -> None:
    pretrain = CONFIGS[name].pretrain
    assert (pretrain.rdn.weights, pretrain.lc.weights) == (rdn_start, lc_start)
    assert (pretrain.rdn.steps, pretrain.lc.steps) == (0, lc_steps)
    assert (pretrain.lc.target == "noise-free") == (name == "init-noise-free-lc")


def test_variants_of_the_start_differ_in_nothing_else() -> None:
    full = CONFIGS["deq-35"]
    for name, config in CONFIGS.items():
        if name.startswith("init-"):
            same = (config.seed, config.data, config.model, config.fit, config.solver)
            assert same == (full.seed, full.data, full.model, full.fit, full.solver)


def test_the_start_is_in_the_repository() -> None:
    assert (ROOT / START).is_file()


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_models_are_the_defined_ones(name: str) -> None:
    assert load_config(MODELS / name / CONFIG_FILE) == CONFIGS[name]
    load_model(MODELS / name)  # the weights fit


def test_a_finished_run_keeps_its_essentials(tmp_path: Path) -> None:
    steps = [{"step": step, "phase": "pretrain-lc", "loss": 1.0} for step in range(1, 101)]
    steps += [{"step": step, "phase": "stage-1", "loss": 1.0} for step in range(101, 126)]
    checks = [{"step": step, "phase": "stage-1", "validation_psnr": 30.0} for step in (100, 113, 125)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in steps + checks))
    for file in (CONFIG_FILE, BEST_WEIGHTS, "last.safetensors", "pretrained.safetensors", STATE_FILE):
        (tmp_path / file).write_text("")
    (tmp_path / "tensorboard").mkdir()
    keep_essentials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_FILE, "metrics.jsonl", BEST_WEIGHTS]
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in kept] == [50, 100, 110, 120, 100, 113, 125]


def test_only_missing_models_are_trained_and_stopped_ones_go_on(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, stopped, fresh = "deq-5", "deq-ball-5", "unrolled-5"
    for name in (done, stopped):
        (models / name).mkdir()
        (models / name / BEST_WEIGHTS).write_text("")
    (models / stopped / STATE_FILE).write_text("")
    calls = []

    def fit(config: object, folder: Path, *, resume: bool, problem: object) -> None:
        calls.append((config, folder, resume))
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").write_text("")

    monkeypatch.setattr(training_runs, "fit", fit)
    result = CliRunner().invoke(main, [done, stopped, fresh])
    assert result.exit_code == 0, result.output
    assert calls == [
        (CONFIGS[stopped], models / stopped, True),
        (CONFIGS[fresh], models / fresh, False),
    ]
    assert not (models / stopped / STATE_FILE).exists()


@pytest.mark.usefixtures("models")
def test_a_failed_run_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object, **__: object) -> None:
        raise NonFiniteError("the loss is nan; expected a finite number: lower the learning rate")

    monkeypatch.setattr(training_runs, "fit", fit)
    result = CliRunner().invoke(main, ["deq-5"])
    assert result.exit_code == NonFiniteError.exit_code
    assert "Error: the loss is nan" in result.output
    assert "Traceback" not in result.output
