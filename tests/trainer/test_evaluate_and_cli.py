"""The evaluation table and the two commands."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import trainer.evaluate
import trainer.fit
from engine.errors import InputError
from engine.fixed_point.solve import FixedPointConfig
from engine.mpi.metrics import psnr_db
from trainer.cli import main
from trainer.config import resolved_toml
from trainer.data.linear_operators import TorchOperators
from trainer.evaluate import NOISE_SEED, evaluate
from trainer.fit import fit
from trainer.loop.optimisation import Optimisation
from trainer.loop.validation import assess, least_squares, measure_once, reconstruct


@pytest.fixture(scope="module")
def run_dir(config, problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(config, folder, problem=problem)
    return folder


@pytest.fixture
def built_in_data(monkeypatch, problem, scan, images) -> None:
    """Let the commands find the tiny problem where they would build the reference scan."""
    monkeypatch.setattr(trainer.fit, "load_problem", lambda *_: problem)
    monkeypatch.setattr(trainer.evaluate, "load_scan", lambda *_: scan)
    monkeypatch.setattr(trainer.evaluate, "load_images", lambda _data, _split, count, _grid: images[:count])


# --- figures --------------------------------------------------------------------------------------------


def test_measurements_depend_on_nothing_but_their_seed(problem, images) -> None:
    snr = np.full(4, 20.0)
    first = measure_once(images[:4], problem.data_matrix, snr, 1)
    again = measure_once(images[:4], problem.data_matrix, snr, 1)
    other = measure_once(images[:4], problem.data_matrix, snr, 2)
    assert first.rows.equal(again.rows)
    assert not first.rows.equal(other.rows)


def test_images_are_judged_in_the_unit_of_the_truth(problem, model, images) -> None:
    model.float()
    measured = measure_once(images[:4], problem.data_matrix, np.full(4, 30.0), 1)
    config = FixedPointConfig(max_iterations=5)
    once, _ = reconstruct(model, problem.operators, measured.rows, config)
    ten, _ = reconstruct(model, problem.operators, 10 * measured.rows, config)
    assert once.shape == images[:4].shape
    assert once.min() >= 0.0
    np.testing.assert_allclose(ten, 10 * once, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(assess(once, images[:4]).psnr, psnr_db(once, images[:4]))


def test_table_has_every_method_at_every_snr(run_dir: Path, scan, images, monkeypatch) -> None:
    monkeypatch.setattr(trainer.evaluate, "BATCH", 4)  # so that 10 images take three batches
    result = evaluate(run_dir, "test", (20.0, 30.0), scan=scan, images=images[:10])
    assert [(row.method, row.snr) for row in result.rows] == [
        (method, snr) for snr in (20.0, 30.0) for method in ("least squares", "pre-trained", "fitted")
    ]
    operators = TorchOperators(scan.operators)
    measured = measure_once(images[:10], torch.tensor(scan.data_matrix), np.full(10, 20.0), NOISE_SEED)
    expected = psnr_db(least_squares(operators, measured.rows), images[:10])
    first = result.rows[0]
    assert first.count == 10
    assert first.psnr == pytest.approx(expected.mean())
    assert first.psnr_std == pytest.approx(expected.std())
    assert (first.iterations, first.converged, first.residual_p95) == (None, None, None)
    for row in result.rows[1:3]:
        assert 1 <= row.iterations <= 8
        assert 0 <= row.converged <= 1
        assert row.residual_p95 > 0
    assert result.rows[1].psnr != result.rows[2].psnr


def test_images_come_from_the_phantoms_of_the_run(
    run_dir: Path, config, scan, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(trainer.evaluate, "load_images", lambda *request: asked.append(request) or images[:2])
    result = evaluate(run_dir, "validation", (25.0,), count=2, scan=scan)
    assert asked == [(config.data, "validation", 2, scan.operators.grid)]
    assert {row.count for row in result.rows} == {2}


def test_markdown_has_one_line_per_row(run_dir: Path, scan, images) -> None:
    result = evaluate(run_dir, "validation", (25.0,), scan=scan, images=images[:3])
    lines = result.to_markdown().splitlines()
    assert lines[0] == "Run tiny, system matrix tiny, validation images."
    assert lines[4].startswith(f"| least squares | 25 | 3 | {result.rows[0].psnr:.2f} ± ")
    assert lines[4].endswith("| – | – | – |")
    assert len(lines) == 4 + 3
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_nothing_to_evaluate_is_an_error(run_dir: Path, scan, images, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no SNR"):
        evaluate(run_dir, snr=(), scan=scan, images=images)
    with pytest.raises(InputError, match="count is 0"):
        evaluate(run_dir, count=0, scan=scan)
    with pytest.raises(InputError, match=r"no config\.toml"):
        evaluate(tmp_path, scan=scan)


# --- commands -------------------------------------------------------------------------------------------


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def config_file(config, tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(resolved_toml(config))
    return path


def test_fit_then_evaluate(built_in_data, config_file: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    done = run("fit", config_file, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"best weights in {out / 'weights.safetensors'}" in done.stdout
    done = run("evaluate", out, "--snr", 20, "--count", 5, "--output", figures)
    assert done.exit_code == 0, done.output
    table = json.loads(figures.read_text())
    assert [row["method"] for row in table["rows"]] == ["least squares", "pre-trained", "fitted"]
    assert {row["count"] for row in table["rows"]} == {5}
    assert f"{table['rows'][2]['psnr']:.2f}" in done.stdout


def test_ctrl_c_ends_with_one_line_and_130_and_resume_goes_on(
    built_in_data, config_file: Path, tmp_path: Path, monkeypatch
) -> None:
    original, calls = Optimisation._optimise, []

    def optimise(self, phase, optimizer):
        calls.append(phase)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return original(self, phase, optimizer)

    monkeypatch.setattr(Optimisation, "_optimise", optimise)
    stopped = run("fit", config_file, "--out", tmp_path / "out")
    assert stopped.exit_code == 130
    (line,) = [line for line in stopped.stderr.splitlines() if line.startswith("Error:")]
    assert "stopped after step 1 of 3 of stage-1" in line
    assert "--resume" in line
    done = run("fit", config_file, "--out", tmp_path / "out", "--resume")
    assert done.exit_code == 0, done.output
    assert len(calls) == 10  # no step was done twice


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "missing.toml", "--out", "out"], "cannot read the configuration missing.toml"),
        (["fit", "unknown.toml", "--out", "out"], "unknown key 'sede'"),
        (
            ["fit", "preset.toml", "--out", "out"],
            "expected one of reference-0.5, reference-0.6",
        ),
        (["evaluate", "nowhere"], "nowhere holds no config.toml"),
        (["evaluate", "nowhere", "--output", "no/such/folder.json"], "does not exist"),
    ],
)
def test_bad_input_ends_with_one_line_and_2(arguments, message, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = 'name = "x"\n'
    (tmp_path / "unknown.toml").write_text(head + 'sede = 1\n[data]\nsystem_matrix = "reference-0.5"\n')
    (tmp_path / "preset.toml").write_text(head + '[data]\nsystem_matrix = "reference-0.7"\n')
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line


def test_a_failed_fit_leaves_no_run_to_resume(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('name = "x"\n[data]\nsystem_matrix = "typo"\n')
    assert run("fit", "run.toml", "--out", "out").exit_code == 2
    (tmp_path / "run.toml").write_text('name = "x"\n[data]\nsystem_matrix = "other typo"\n')
    second = run("fit", "run.toml", "--out", "out")
    assert "other typo" in second.stderr  # not "already holds a run"


def test_nan_ends_with_1(built_in_data, config_file: Path, tmp_path: Path, monkeypatch) -> None:
    import trainer.loop.phases

    original = trainer.loop.phases.denoising_loss
    monkeypatch.setattr(trainer.loop.phases, "denoising_loss", lambda *args: original(*args) * float("nan"))
    result = run("fit", config_file, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "pretrain-rdn, step 1: the loss is nan" in result.stderr


def test_help_names_the_commands() -> None:
    text = run("--help").stdout
    assert "fit" in text
    assert "evaluate" in text
    assert "--resume" in run("fit", "--help").stdout
