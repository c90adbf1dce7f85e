"""The straightforward training step: it must compute what the trainer does, or its time proves nothing."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from benchmarks import training_speed
from benchmarks.contestants.eager_training import (
    anderson,
    eager_loss,
    eager_reconstruction,
    eager_start,
    eager_step,
)
from benchmarks.contestants.model_shelf import MissingModelError
from benchmarks.training_speed import FULL, OPPONENT, SAME_PRECISION, TRAINER, Setting, Trainee, load_trained
from engine.calibration.calibrate import system_matrix_from_mdf
from engine.fixed_point.solve import FixedPointConfig
from engine.mpi.grid import Grid
from engine.mpi.simulation.phantoms import vessel_images
from engine.mpi.simulation.scan import simulate_calibration
from engine.mpi.simulation.scanner import PRESETS
from trainer.config import TrainConfig, parse_config
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch, as_measurement
from trainer.data.problem import Problem, make_problem, make_scan
from trainer.loop.checkpoint import BEST_WEIGHTS, build_model, save_config, save_tensors
from trainer.loop.phases import make_phases
from trainer.models.anderson import BatchSolution
from trainer.models.equilibrium import EquilibriumModel
from trainer.models.gradients import Implicit

ROUNDING = 1e-8
"""Of a dozen evaluations in float64: Anderson's systems have a condition of up to 1e4 by their
regularisation, and what it amplifies passes through the map again and again."""

SINGLE_LOSS = 1e-3
"""The eager code also solves Anderson's systems in float32: weights are known to 1e-7 times the condition of
1e4, and the iterates move by that share of their differences."""

SINGLE_GRADIENT = 1e-2
"""Likewise, and the derivatives of rectifiers near zero and of absolute errors near zero may jump."""

LOOSE = 0.05
"""Tolerance of solves that end early: their results may differ by about as much."""

BATCH = 4

CONFIG = """
    name = "tiny"
    data = {system_matrix = "tiny", snr = [15.0, 35.0], validation_snr = [20.0]}
    model = {takes_noise = true, rdn = {features = 4, growth = 4, blocks = 1, layers = 2}}
    solver.dual_start = 0.08
    solver.forward = {tolerance = 0.0, max_iterations = 9}
    solver.backward = {tolerance = 0.0, max_iterations = 8}
    fit = {loss = "log_l1", stages = [{steps = 1, batch_size = 4}]}
"""


@pytest.fixture(autouse=True)
def _single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    """Solves that never converge: both sides evaluate as often as they may."""
    return parse_config(CONFIG)


@pytest.fixture(scope="module")
def problem(config: TrainConfig) -> Problem:
    grid = Grid((10, 8, 1), (0.04, 0.032, 0.002))
    scanner = replace(
        PRESETS["reference-0.5"],
        grid=grid,
        n_angles=8,
        harmonics=(2, 5),
        bandwidth=1.5e5,
        noise_voltage=0.005,
    )
    scan = make_scan(system_matrix_from_mdf(simulate_calibration(scanner)), smooth=True)
    images = vessel_images("train", 16, grid, 0)
    return make_problem(scan, images, images[:1], config.data, torch.device("cpu"))


@pytest.fixture
def model(config: TrainConfig) -> EquilibriumModel:
    """Networks of small weights, so that the map contracts and the trainer's safeguard has nothing to do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        made = build_model(config.model, config.method, config.solver.dual_start)
    assert isinstance(made, EquilibriumModel)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter *= 0.5
    return made


def some_measurement(problem: Problem, dtype: torch.dtype) -> tuple[TorchOperators, MeasuredBatch, Tensor]:
    """Operators, noisy data and images of four phantoms in a precision."""
    operators = problem.operators.to(dtype)
    if dtype == torch.float64:  # or else M A^T would be the product only to single precision
        operators.weighted_adjoint = operators.inverse @ operators.system_matrix.T
    images = problem.train.images[:BATCH]
    rows = problem.measure(images).to(dtype)
    rows += 0.1 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return operators, as_measurement(operators, rows), images.flatten(1).to(dtype)


class Account(dict[str, BatchSolution]):
    """Keeps the solves of a step."""

    def __call__(self, name: str, solution: BatchSolution) -> None:
        self[name] = solution


def gradients(model: EquilibriumModel) -> Tensor:
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])  # type: ignore[union-attr]


def test_one_evaluation_is_that_of_the_trainer(problem: Problem, model: EquilibriumModel) -> None:
    operators, measurement, _ = some_measurement(deepcopy(problem), torch.float64)
    step = model.double().step(operators, measurement)
    start = eager_start(model, operators, measurement)
    with torch.no_grad():
        assert_allclose(start, step.start(), atol=ROUNDING)
        assert_allclose(eager_step(model, operators, measurement)(start), step(start), atol=ROUNDING)


def both_steps(
    problem: Problem,
    model: EquilibriumModel,
    forward: FixedPointConfig,
    backward: FixedPointConfig,
    dtype: torch.dtype,
) -> list[tuple[float, Tensor, Account]]:
    """Loss, gradient and solves of the eager step and of the trainer's."""
    operators, measurement, truth = some_measurement(deepcopy(problem), dtype)
    results = []
    for eager in (True, False):
        own, account = deepcopy(model).to(dtype), Account()
        if eager:
            x = eager_reconstruction(own, operators, measurement, forward, backward, account)
        else:
            own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            strategy = Implicit(backward, lambda solution, account=account: account("backward", solution))  # type: ignore[misc]
            x, account["forward"] = own(operators, measurement, forward, strategy)
        loss = (x - truth).abs().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        results.append((loss.item(), gradients(own), account))
    return results


@pytest.mark.parametrize(
    ("dtype", "of_loss", "of_gradient"),
    [(torch.float64, ROUNDING, ROUNDING), (torch.float32, SINGLE_LOSS, SINGLE_GRADIENT)],
)
def test_loss_and_gradient_are_those_of_the_trainer(
    problem: Problem,
    model: EquilibriumModel,
    config: TrainConfig,
    dtype: torch.dtype,
    of_loss: float,
    of_gradient: float,
) -> None:
    """Where nothing converges early both evaluate equally often, and no point is rejected here."""
    solver = config.solver
    eager, own = both_steps(problem, model, solver.forward, solver.backward, dtype)
    for name, budget in (("forward", 9), ("backward", 8)):
        assert int(own[2][name].restarts.sum()) == 0
        assert_allclose(own[2][name].iterations, budget)
        assert_allclose(eager[2][name].iterations, budget)
    assert_allclose(eager[0], own[0], rtol=of_loss)
    assert own[1].norm() > 0
    assert (eager[1] - own[1]).norm() <= of_gradient * own[1].norm()


def test_the_eager_solve_goes_on_until_the_last_sample_has_converged(
    problem: Problem, model: EquilibriumModel
) -> None:
    """The trainer drops a sample once it has converged; so its longest solve is that of the eager batch."""
    budget = FixedPointConfig(tolerance=LOOSE, max_iterations=60)
    eager, own = both_steps(problem, model, budget, budget, torch.float64)
    for name in ("forward", "backward"):
        assert int(own[2][name].restarts.sum()) == 0
        assert own[2][name].converged.all()
        assert eager[2][name].converged.all()
    needed = own[2]["forward"].iterations
    assert needed.min() < needed.max()
    assert_allclose(eager[2]["forward"].iterations, int(needed.max()))
    assert_allclose(eager[0], own[0], rtol=LOOSE)


@pytest.mark.parametrize("beta", [1.0, 0.7])
def test_anderson_finds_the_solution_of_linear_equations(beta: float) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((6, 6))
    matrix *= 0.9 / np.linalg.norm(matrix, 2)
    shift = rng.standard_normal((3, 6))
    expected = np.linalg.solve(np.eye(6) - matrix, shift.T).T
    linear = torch.from_numpy(matrix.T)
    budget = FixedPointConfig(beta=beta, tolerance=1e-12, max_iterations=300)
    found = anderson(lambda z: z @ linear + torch.from_numpy(shift), torch.zeros(3, 6).double(), budget)
    assert found.converged.all()
    assert int(found.iterations[0]) < 300
    assert_allclose(found.value, expected, atol=ROUNDING)


def test_both_losses_draw_the_same_batch(
    problem: Problem, model: EquilibriumModel, config: TrainConfig
) -> None:
    stage = config.fit.stages[0]
    eager = Trainee(model, eager_loss(model, problem, config, stage), 1e-3, 1.0)
    own_model = deepcopy(model)
    own = Trainee(own_model, make_phases(config, own_model, problem)[-1].loss, 1e-3, 1.0)
    for _ in range(2):
        (loss, gradient), (own_loss, own_gradient) = eager.gradient(), own.gradient()
        assert_allclose(loss, own_loss, rtol=SINGLE_LOSS)
        assert (gradient - own_gradient).norm() <= SINGLE_GRADIENT * own_gradient.norm()


def test_the_benchmark_compares_all_contestants(
    problem: Problem,
    model: EquilibriumModel,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, output = tmp_path / "run", tmp_path / "output"
    run.mkdir()
    output.mkdir()
    save_config(run, config)
    save_tensors(run / BEST_WEIGHTS, model)
    monkeypatch.setattr(training_speed, "RUN", run)
    monkeypatch.setattr(
        training_speed, "QUICK", (Setting(2, 1, 2), Setting(4, 1, 1, (OPPONENT, SAME_PRECISION)))
    )
    monkeypatch.setattr(training_speed, "load_problem", lambda *_: problem)
    training_speed._problem.cache_clear()
    try:
        training_speed.run(quick=True, output=output)
    finally:
        training_speed._problem.cache_clear()
    assert (output / "training_speed.png").stat().st_size > 0
    rows: list[dict[str, Any]] = json.loads((output / "training_speed.json").read_text())["rows"]
    assert [(row["batch_size"], row["contestant"]) for row in rows] == [
        *((2, name) for name in (OPPONENT, *TRAINER)),
        (4, OPPONENT),
        (4, SAME_PRECISION),
    ]
    by_name = {row["contestant"]: row for row in rows[:4]}
    for row in by_name.values():
        assert_allclose(row["images_per_second"], 2 / (row["step_ms"] / 1e3))
        assert_allclose(row["ratio"], by_name[OPPONENT]["step_ms"] / row["step_ms"])
        assert sum(row[f"share_{part}"] for part in ("data", "forward", "backward")) <= 1
        assert row["forward_evaluations"] == 9
    assert by_name[OPPONENT]["gradient_cosine"] > 1 - SINGLE_GRADIENT
    assert by_name[OPPONENT]["loss_difference"] < SINGLE_LOSS
    assert 0 < by_name["bfloat16"]["loss_difference"] < by_name["bfloat16"]["gradient_cosine"] < 1
    assert by_name["one_step"]["backward_evaluations"] is None
    assert by_name["one_step"]["gradient_cosine"] < 1 - ROUNDING
    page = (output / "training_speed.md").read_text()
    assert "| 2 | 1 | eager |" in page


def test_the_full_run_times_the_eager_step_in_every_setting() -> None:
    for setting in FULL:
        assert {OPPONENT, SAME_PRECISION} <= set(setting.contestants)


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingModelError, match=r"no finished run in .*nothing; expected its config\.toml"):
        load_trained(tmp_path / "nothing")


def test_the_evaluations_of_the_first_stage_count(
    model: EquilibriumModel, config: TrainConfig, tmp_path: Path
) -> None:
    stage = replace(config.fit.stages[0], max_iterations=3)
    save_config(tmp_path, replace(config, fit=replace(config.fit, stages=(stage,))))
    save_tensors(tmp_path / BEST_WEIGHTS, model)
    _, loaded = load_trained(tmp_path)
    assert loaded.solver.forward.max_iterations == 3


def test_a_run_without_an_equilibrium_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    other = parse_config(CONFIG.replace('name = "tiny"', 'name = "tiny"\n    method = "end-to-end"'))
    save_config(tmp_path, other)
    save_tensors(tmp_path / BEST_WEIGHTS, build_model(other.model, other.method))
    with pytest.raises(MissingModelError, match="a run of end-to-end"):
        load_trained(tmp_path)
