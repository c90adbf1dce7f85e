"""The penalty on the spectral radius against dense eigenvalues and their finite differences."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import as_measurement, normalise_intensity
from trainer.models.equilibrium import EquilibriumModel
from trainer.stability.jacobian_penalty import radius_penalty

EIGENVALUE = 1e-9
"""Relative; complete Krylov spaces in double precision."""

DIFFERENCE_STEP = 1e-6

DIFFERENCES = 1e-5
"""Relative; central differences of eigenvalues of condition up to 1e2, good to 1e-16 / 1e-6 times that."""

TARGET = 0.5

Matrix = NDArray[np.float64]


def radius_of(matrix: Matrix) -> float:
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def real_dominant(rng: np.random.Generator) -> Matrix:
    return np.diag([0.97, *np.linspace(-0.4, 0.4, 9)]) + np.triu(rng.standard_normal((10, 10)), 1)


def pair_dominant(rng: np.random.Generator) -> Matrix:
    matrix = real_dominant(rng)
    matrix[:2, :2] = 0.9 * np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    return matrix


@pytest.mark.parametrize("make", [real_dominant, pair_dominant])
def test_derivative_is_that_of_the_eigenvalue_of_a_non_normal_matrix(batch_map, make) -> None:
    rng = np.random.default_rng(3)
    matrix, direction = make(rng), rng.standard_normal((10, 10))
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    along = torch.tensor(matrix) + weight * torch.tensor(direction)
    step = batch_map(lambda z, _: z @ along.T, 1)
    penalty = radius_penalty(step, torch.zeros(1, 10, dtype=torch.float64), TARGET)
    (derivative,) = torch.autograd.grad(penalty.loss, weight)
    assert penalty.radius.item() == pytest.approx(radius_of(matrix), rel=EIGENVALUE)
    assert penalty.loss.item() == pytest.approx((radius_of(matrix) - TARGET) ** 2, rel=EIGENVALUE)
    h = DIFFERENCE_STEP
    above, below = ((radius_of(matrix + s * direction) - TARGET) ** 2 for s in (h, -h))
    assert derivative.item() == pytest.approx((above - below) / (2 * h), rel=DIFFERENCES)


def test_radii_below_the_target_cost_nothing(batch_map) -> None:
    scale = torch.tensor([0.3, 0.0], dtype=torch.float64, requires_grad=True)
    step = batch_map(lambda z, samples: scale[samples, None] * z, 2)
    penalty = radius_penalty(step, torch.zeros(2, 5, dtype=torch.float64), TARGET)
    assert penalty.loss.item() == 0.0
    assert torch.autograd.grad(penalty.loss, scale)[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(penalty.radius, scale.detach())


def test_a_defective_eigenvalue_is_left_out_and_the_others_count(batch_map) -> None:
    """A Jordan block has orthogonal left and right eigenvectors: no derivative, and none is made up."""
    jordan, plain = np.array([[0.9, 1.0], [0.0, 0.9]]), np.diag([0.8, 0.1])
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    stack = torch.tensor(np.array([jordan, plain]))
    step = batch_map(lambda z, samples: factor * torch.einsum("bij,bj->bi", stack[samples], z), 2)
    penalty = radius_penalty(step, torch.zeros(2, 2, dtype=torch.float64), TARGET)
    (derivative,) = torch.autograd.grad(penalty.loss, factor)
    assert penalty.radius.isnan().tolist() == [True, False]
    assert penalty.loss.item() == pytest.approx(0.3**2 / 2, rel=EIGENVALUE)
    assert derivative.item() == pytest.approx(0.3 * 0.8, rel=EIGENVALUE)


def test_gradient_for_the_networks_is_that_of_the_dense_radius(model: EquilibriumModel, well_posed) -> None:
    operators = TorchOperators(well_posed.operators, torch.float64)
    generator = torch.Generator().manual_seed(8)
    truth = torch.rand(2, operators.n_voxels, generator=generator, dtype=torch.float64)
    rows = operators.forward_project(truth)
    rows = rows + 0.05 * torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    measurement = as_measurement(operators, normalise_intensity(operators, rows)[0])
    solved = FixedPointConfig(tolerance=1e-10, max_iterations=300)
    state = model.solve(operators, measurement, solved).value
    step = model.step(operators, measurement)

    def dense() -> float:
        excess = []
        for sample in range(len(state)):
            alone = step.take(torch.tensor([sample]))
            jacobian = torch.autograd.functional.jacobian(alone, state[sample : sample + 1])[0, :, 0]
            excess.append(max(0.0, radius_of(jacobian.numpy()) - TARGET) ** 2)
        return float(np.mean(excess))

    penalty = radius_penalty(step, state, TARGET, products=state.shape[1])
    assert penalty.loss.item() == pytest.approx(dense(), rel=EIGENVALUE)
    weights = list(model.parameters())
    gradient = torch.autograd.grad(penalty.loss, weights, allow_unused=True)
    direction = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
    expected = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True) if g is not None)

    def moved(by: float) -> float:
        with torch.no_grad():
            for weight, along in zip(weights, direction, strict=True):
                weight += by * along
        return dense()

    h = DIFFERENCE_STEP
    above, below = moved(h), moved(-2 * h)
    assert (above - below) / (2 * h) == pytest.approx(expected, rel=DIFFERENCES)
