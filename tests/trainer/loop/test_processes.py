"""Runs of two processes, started by torchrun on one machine."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import as_measurement
from trainer.fit import fit
from trainer.loop.batch_shares import share_batches
from trainer.loop.checkpoint import build_model, load_state
from trainer.loop.processes import SingleProcess, join_processes
from trainer.models.gradients import Implicit

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("process_worker.py")

ROUNDING = 1e-8
"""Relative, per tensor, in double precision: sums in another order, through eight Anderson steps."""

SOLVER = FixedPointConfig(tolerance=0.0, max_iterations=8)
"""The same evaluations for every sample, whatever its company."""


@pytest.fixture(scope="module")
def gradient_inputs(problem, scan, config):
    """Model, operators, data and truth of one batch of 6, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build_model(config.model).double()
    operators = TorchOperators(scan.operators).double()
    truth = problem.train.images[:6].double().flatten(1)
    generator = torch.Generator().manual_seed(2)
    clean = truth @ problem.data_matrix.double().T
    rows = clean + 0.1 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    measurement = as_measurement(operators, rows)
    return model, operators, measurement.rows, measurement.epsilon, truth, SOLVER


@pytest.fixture(scope="module")
def pair(problem, config, gradient_inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave behind: see `process_worker.py`."""
    folder = tmp_path_factory.mktemp("pair")
    inputs = {"problem": problem, "config": config, "gradient": gradient_inputs}
    torch.save(inputs, folder / "inputs.pt")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", WORKER, folder]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def lines(run_dir: Path) -> list[dict[str, float]]:
    """Records of a run without its times."""
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    times = ("images_per_second", "share_")
    return [{key: value for key, value in line.items() if not key.startswith(times)} for line in found]


def told(pair: Path, name: str) -> list[str]:
    """How an action ended in each process."""
    return [(pair / f"{name}-{rank}.txt").read_text() for rank in range(2)]


def test_the_mean_gradient_is_that_of_the_whole_batch(pair: Path, gradient_inputs) -> None:
    model, operators, rows, epsilon, truth, solver = copy.deepcopy(gradient_inputs)
    measurement = as_measurement(operators, rows)
    assert torch.equal(measurement.epsilon, epsilon)
    x, _ = model(operators, measurement, solver, Implicit(solver, lambda _: None))
    (x - truth).abs().mean().backward()
    first, second = (torch.load(pair / f"gradient-{rank}.pt", weights_only=True) for rank in range(2))
    assert first
    for name, parameter in model.named_parameters():
        assert torch.equal(first[name], second[name]), name
        expected: Tensor = parameter.grad
        assert expected.abs().max() > 0.0, name
        atol = ROUNDING * expected.abs().max().item()
        torch.testing.assert_close(first[name], expected, rtol=0.0, atol=atol)


def test_both_processes_end_with_the_same_weights(pair: Path) -> None:
    first, second = (torch.load(pair / f"weights-{rank}.pt", weights_only=True) for rank in range(2))
    assert first
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_run_is_written_once_and_says_what_a_step_of_all_took(pair: Path) -> None:
    records = [json.loads(line) for line in (pair / "straight" / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 11))
    assert len([record for record in records if "validation_psnr" in record]) == 5


def test_stopped_and_resumed_is_the_same_as_straight_on(pair: Path) -> None:
    for text in told(pair, "stopped"):
        assert text.startswith("InterruptedRunError: stopped after step 2 of 3 of stage-1")
    one, two = (load_state(pair / name) for name in ("straight", "stopped"))
    assert (one.phase, one.step, one.total, one.best_psnr) == (two.phase, two.step, two.total, two.best_psnr)
    assert torch.equal(one.generator, two.generator)
    assert all(torch.equal(one.model[key], two.model[key]) for key in one.model)
    for name in ("weights", "last", "pretrained"):
        path = f"{name}.safetensors"
        assert (pair / "straight" / path).read_bytes() == (pair / "stopped" / path).read_bytes()
    assert lines(pair / "straight") == lines(pair / "stopped")


def test_each_process_has_random_numbers_of_its_own(pair: Path) -> None:
    generators = load_state(pair / "straight").generator
    assert len(generators) == 2
    assert not torch.equal(*generators)


def test_nan_in_one_process_ends_both_with_the_same_error(pair: Path) -> None:
    first, second = told(pair, "nan")
    assert first == second
    assert first.startswith("NonFiniteError: pretrain-rdn, step 2: the loss is nan")


def test_a_defect_in_one_process_ends_the_other_with_its_name(pair: Path) -> None:
    first, second = told(pair, "defect")
    assert second == "RuntimeError: a defect"
    assert first.startswith("ProcessError: process 1 of 2 failed with RuntimeError: a defect")


def test_an_error_of_the_main_process_ends_both(pair: Path) -> None:
    first, second = told(pair, "occupied")
    assert first == second
    assert "already holds a run" in first


def test_a_process_whose_companion_is_gone_does_not_wait_for_it(pair: Path) -> None:
    text = (pair / "left-0.txt").read_text()
    assert text.startswith("ProcessError: the connection to the other processes broke")
    assert "\n" not in text


def test_a_batch_that_cannot_be_shared_is_refused(pair: Path) -> None:
    for text in told(pair, "uneven"):
        assert text.startswith(
            "ConfigError: fit.stages[0].batch_size is 3; expected a multiple of the 2 processes"
        )
    assert not (pair / "uneven").exists()


def test_a_checkpoint_of_two_processes_is_not_that_of_one(pair: Path, config, problem) -> None:
    with pytest.raises(ConfigError, match=r"2 processes, .*1; .*--nproc-per-node=2"):
        fit(config, pair / "straight", resume=True, problem=problem)


def test_shares_add_up_to_the_batches(config) -> None:
    shared = share_batches(config, 4)
    assert [stage.batch_size for stage in shared.fit.stages] == [1, 1]
    assert (shared.pretrain.rdn.batch_size, shared.pretrain.lc.batch_size) == (1, 1)
    assert share_batches(config, 1) == config


def test_one_process_needs_no_torchrun(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes() as processes:
        assert isinstance(processes, SingleProcess)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2 .*RANK"), join_processes():
        pass
