"""The methods beside the equilibrium with learned consistency: their maps, gradients and whole runs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.fixed_point.solve import FixedPointConfig
from engine.solvers.deq.admm_step import AdmmStep as EngineStep
from trainer.config import FitConfig, StageConfig, TrainConfig, UnrolledConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch, as_measurement
from trainer.evaluate import evaluate
from trainer.fit import fit
from trainer.loop.checkpoint import build_model, load_model, load_networks, load_state
from trainer.loop.optimisation import Optimisation
from trainer.models.admm_step import AdmmStep
from trainer.models.end_to_end import EndToEndModel
from trainer.models.equilibrium import EquilibriumModel
from trainer.models.gradients import Implicit, one_step
from trainer.models.unrolled import UnrolledModel
from trainer.networks.consistency import BallProjection

DOUBLE = 1e-12
"""Relative; one evaluation in double precision."""

SINGLE = 2e-5
"""Relative to the largest value of the data; float32 products of a few hundred terms, three steps."""

DIFFERENCES = 1e-6
"""Relative; central differences at h = 1e-5 in double precision."""

THREE_STEPS = FixedPointConfig(memory=0, tolerance=0.0, max_iterations=3)
NEW_METHODS = ("deq-ball", "unrolled", "end-to-end")


@pytest.fixture(scope="module")
def operators(scan) -> TorchOperators:
    return TorchOperators(scan.operators, torch.float64)


@pytest.fixture(scope="module")
def measurement(scan, images, operators) -> MeasuredBatch:
    """Three noisy samples in double precision."""
    rng = np.random.default_rng(7)
    clean = images[:3].reshape(3, -1) @ scan.data_matrix.T.astype(np.float64)
    rows = clean + 0.1 * np.abs(clean).max() * rng.standard_normal(clean.shape)
    return as_measurement(operators, torch.tensor(rows))


def numpy_ball(v: np.ndarray, y: np.ndarray, epsilon: float) -> np.ndarray:
    """Eq. (10) as it is printed."""
    distance = np.linalg.norm(v - y)
    return v if distance <= epsilon else y + epsilon * (v - y) / distance


# --- maps -----------------------------------------------------------------------------------------------


def test_ball_projection_is_the_formula_of_the_paper() -> None:
    rng = np.random.default_rng(8)
    y, direction = rng.standard_normal((2, 4, 2, 3, 5))
    v = y + np.array([0.1, 0.9, 3.0, 50.0]).reshape(4, 1, 1, 1) * direction / np.linalg.norm(direction[0])
    epsilon = np.array([1.0, 0.5, 2.0, 0.01])
    tensors = (torch.tensor(array) for array in (v, y, np.ones((1, 1, 3, 5)), epsilon.reshape(4, 1, 1, 1)))
    expected = [numpy_ball(v[k], y[k], epsilon[k]) for k in range(4)]
    np.testing.assert_allclose(BallProjection()(*tensors), expected, rtol=DOUBLE, atol=DOUBLE)
    assert [np.array_equal(expected[k], v[k]) for k in range(4)] == [True, False, False, False]
    assert not list(BallProjection().parameters())


@pytest.mark.parametrize("count", [1, 3])
def test_unrolled_takes_that_many_steps_of_the_engine_s_map(
    scan, operators, measurement, model, count
) -> None:
    found, _ = UnrolledModel(model.rdn).reconstruct(
        operators, measurement, dataclasses.replace(THREE_STEPS, max_iterations=count)
    )

    def prior(images: np.ndarray, _noise: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model.rdn(torch.tensor(images, dtype=torch.float64)).numpy().astype(np.float32)

    def ball(v: np.ndarray, y: np.ndarray, _mask: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
        return numpy_ball(v, y, float(epsilon.squeeze()))

    step = EngineStep(scan.operators, prior, ball)
    rows, epsilon = measurement.rows.numpy().astype(np.float32), measurement.epsilon.numpy()
    for k in range(len(rows)):
        step.set_measurements(rows[k][None], epsilon[k : k + 1])
        start = rows[k] @ scan.operators.left_singular.T[:, : scan.operators.rank]
        state = np.zeros(step.measured, np.float32)
        state[: operators.n_voxels] = scan.operators.start_matrix @ start
        for _ in range(count):
            state = step.evaluate(state)
        np.testing.assert_allclose(
            found[k], state[: operators.n_voxels], rtol=0, atol=SINGLE * np.abs(rows[k]).max()
        )


def test_unrolled_gradient_is_that_of_finite_differences(operators, measurement, model) -> None:
    unrolled = UnrolledModel(model.rdn)
    weight = torch.tensor(np.random.default_rng(9).standard_normal((3, operators.n_voxels)))

    def objective() -> Tensor:
        x, solution = unrolled(operators, measurement, THREE_STEPS, one_step)
        assert solution is None
        return (weight * x).sum()

    assert_gradient(objective, model.rdn.entry.weight)
    assert_gradient(objective, model.rdn.exit.bias)


def test_equilibrium_with_the_ball_has_the_gradient_of_finite_differences(well_posed, model) -> None:
    operators = TorchOperators(well_posed.operators, torch.float64)
    rng = np.random.default_rng(10)
    clean = rng.uniform(0, 1, (2, 20)) @ well_posed.data_matrix.T.astype(np.float64)
    rows = torch.tensor(clean + 0.3 * rng.standard_normal(clean.shape))
    measurement = as_measurement(operators, rows)
    tight = FixedPointConfig(memory=6, tolerance=1e-11, max_iterations=600)
    equilibrium = EquilibriumModel(model.rdn, BallProjection())
    weight = torch.tensor(rng.standard_normal((2, 20)))

    def objective() -> Tensor:
        x, solution = equilibrium(operators, measurement, tight, Implicit(tight, lambda _: None))
        assert solution.converged.all()
        return (weight * x).sum()

    assert_gradient(objective, model.rdn.exit.bias, tolerance=1e-4)


def assert_gradient(objective, parameter: Tensor, tolerance: float = DIFFERENCES) -> None:
    """The gradient along a random direction is the central difference."""
    direction = torch.tensor(np.random.default_rng(11).standard_normal(parameter.shape))
    (gradient,) = torch.autograd.grad(objective(), parameter)
    h, values = 1e-5, []
    with torch.no_grad():
        for shift in (h, -2 * h):
            parameter += shift * direction
            values.append(objective().item())
        parameter += h * direction
    found = (gradient * direction).sum().item()
    assert found == pytest.approx((values[0] - values[1]) / (2 * h), rel=tolerance)
    assert abs(found) > 1e-3


def test_end_to_end_sees_the_measurement_through_x_ls_only(scan, operators, measurement, model) -> None:
    end_to_end = EndToEndModel(model.rdn)
    rank = scan.operators.rank
    seen = operators.left_singular[:rank]
    rng = np.random.default_rng(12)
    extra = torch.tensor(rng.standard_normal(measurement.rows.shape))
    basis, _ = torch.linalg.qr(seen.T)  # the rows of U^T are orthonormal in single precision only
    unseen = extra - (extra @ basis) @ basis.T
    other = as_measurement(operators, measurement.rows + unseen)
    first, solution = end_to_end.reconstruct(operators, measurement, THREE_STEPS)
    second, _ = end_to_end.reconstruct(operators, other, THREE_STEPS)
    assert solution is None
    torch.testing.assert_close(first, second, rtol=0, atol=1e-9)
    s = scan.operators.singular_values[:rank]
    explained = measurement.rows.numpy() @ seen.numpy().T / (s + 1e-4)
    start = (explained @ scan.operators.right_singular[:, :rank].T).reshape(3, 1, 6, 8)
    with torch.no_grad():
        expected = model.rdn(torch.tensor(start)).flatten(1)
    # The engine keeps the start's matrix in single precision.
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-4 * np.abs(start).max())
    assert (first >= 0).all()


# --- whole runs -----------------------------------------------------------------------------------------


def of_method(config: TrainConfig, method: str) -> TrainConfig:
    """A short run of a method: two steps of denoising and one stage of three."""
    stage = StageConfig(steps=3, batch_size=4)
    return dataclasses.replace(
        config, method=method, fit=FitConfig(stages=(stage,), validate_every=2), unrolled=UnrolledConfig(2)
    )


@pytest.fixture(scope="module", params=NEW_METHODS)
def run_dir(request, config, problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods") / request.param
    fit(of_method(config, request.param), folder, problem=problem)
    return folder


def records(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_trains_and_keeps_nothing_but_psi_rdn(run_dir: Path) -> None:
    rdn, lc, config = load_networks(run_dir)
    assert lc is None
    assert config.method == run_dir.name
    start, end = load_file(run_dir / "pretrained.safetensors"), load_file(run_dir / "last.safetensors")
    assert start.keys() == end.keys() == {f"rdn.{key}" for key in rdn.state_dict()}
    assert any(not torch.equal(start[key], end[key]) for key in start)
    steps = [record["phase"] for record in records(run_dir) if "loss" in record]
    assert steps == ["pretrain-rdn"] * 2 + ["stage-1"] * 3


def test_records_have_the_figures_that_the_method_has(run_dir: Path) -> None:
    solves = run_dir.name == "deq-ball"
    validations = [record for record in records(run_dir) if "validation_psnr" in record]
    assert [record["step"] for record in validations] == [2, 4, 5]
    for record in validations:
        assert np.isfinite(record["validation_ssim"])
        assert ("validation_iterations" in record) == ("validation_residual_max" in record) == solves
    (last,) = (record for record in records(run_dir) if record["step"] == 5 and "loss" in record)
    assert ("forward_iterations" in last) == ("backward_iterations" in last) == solves


def test_evaluation_judges_the_start_and_the_fitted_network(run_dir: Path, scan, images) -> None:
    rows = {row.method: row for row in evaluate(run_dir, snr=(25.0,), scan=scan, images=images[:5]).rows}
    assert list(rows) == ["least squares", "pre-trained", "fitted"]
    assert rows["pre-trained"].psnr != rows["fitted"].psnr
    assert (rows["fitted"].iterations is None) == (run_dir.name != "deq-ball")


def test_stopped_and_resumed_is_the_same_as_straight_on(
    run_dir: Path, problem, tmp_path: Path, monkeypatch
) -> None:
    config, original, calls = load_model(run_dir)[1], Optimisation._optimise, []

    def optimise(self, phase, optimizer):
        calls.append(phase)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, phase, optimizer)

    monkeypatch.setattr(Optimisation, "_optimise", optimise)
    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path / "run", problem=problem)
    fit(config, tmp_path / "run", resume=True, problem=problem)
    assert load_state(tmp_path / "run").total == 5
    for name in ("weights", "last", "pretrained"):
        again = (tmp_path / "run" / f"{name}.safetensors").read_bytes()
        assert again == (run_dir / f"{name}.safetensors").read_bytes()


def test_psi_rdn_may_come_from_a_run_of_another_method(
    run_dir: Path, config, problem, tmp_path: Path
) -> None:
    rdn = dataclasses.replace(config.pretrain.rdn, weights=str(run_dir / "weights.safetensors"), steps=0)
    start = dataclasses.replace(
        config, pretrain=dataclasses.replace(config.pretrain, rdn=rdn), fit=FitConfig()
    )
    fit(start, tmp_path / "run", problem=problem)
    found, given = (
        load_file(tmp_path / "run" / "weights.safetensors"),
        load_file(run_dir / "weights.safetensors"),
    )
    assert all(torch.equal(found[key], value) for key, value in given.items())
    assert any(key.startswith("lc.") for key in found)


def test_all_methods_start_from_the_same_psi_rdn(config, problem, tmp_path: Path) -> None:
    starts = []
    for method in ("deq", *NEW_METHODS):
        still = dataclasses.replace(
            of_method(config, method),
            pretrain=dataclasses.replace(
                config.pretrain,
                rdn=dataclasses.replace(config.pretrain.rdn, steps=0),
                lc=dataclasses.replace(config.pretrain.lc, steps=0),
            ),
            fit=FitConfig(),
        )
        starts.append(fit(still, tmp_path / method, problem=problem).rdn.state_dict())
    for other in starts[1:]:
        assert all(torch.equal(starts[0][key], value) for key, value in other.items())


def test_the_budget_of_a_reconstruction_is_the_method_s(config: TrainConfig) -> None:
    assert of_method(config, "deq-ball").reconstruction == config.solver.forward
    unrolled = of_method(config, "unrolled").reconstruction
    assert (unrolled.memory, unrolled.tolerance, unrolled.max_iterations) == (0, 0.0, 2)
    assert of_method(config, "end-to-end").reconstruction.max_iterations == 1
    for method, kind in zip(NEW_METHODS, (EquilibriumModel, UnrolledModel, EndToEndModel), strict=True):
        assert type(build_model(config.model, method)) is kind


def test_unrolled_goes_on_where_its_training_stopped(operators, measurement, model) -> None:
    unrolled = UnrolledModel(model.rdn)
    step = AdmmStep(model.rdn, BallProjection(), operators, measurement)
    with torch.no_grad():
        state = step.start()
        for _ in range(8):
            state = step(state)
    more = dataclasses.replace(THREE_STEPS, max_iterations=8)
    found, _ = unrolled.reconstruct(operators, measurement, more)
    assert torch.equal(found, step.split(state)[0])
