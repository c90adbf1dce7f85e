"""The spectral radius against numpy's dense eigenvalues."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import InputError
from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import as_measurement, normalise_intensity
from trainer.models.equilibrium import EquilibriumModel
from trainer.stability.spectral_radius import TOLERANCE, spectral_radius, transposed_jacobian

EXACT = 1e-9
"""Relative; a complete Krylov space in double precision, of eigenvalues of condition up to 1e5."""

Matrix = NDArray[np.float64]


def linear(batch_map, matrices: list[Matrix], dtype: torch.dtype = torch.float64):
    """Return the map z -> M z + 1 with a matrix per sample, and a state of it."""
    stack = torch.tensor(np.array(matrices), dtype=dtype)
    step = batch_map(lambda z, samples: torch.einsum("bij,bj->bi", stack[samples], z) + 1.0, len(stack))
    return step, torch.zeros(stack.shape[:2], dtype=dtype)


def modulus(matrix: Matrix) -> float:
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def similar(blocks: Matrix, seed: int) -> Matrix:
    """Return a matrix with the spectrum of `blocks` and eigenvectors that are not orthogonal."""
    size = len(blocks)
    basis = np.random.default_rng(seed).standard_normal((size, size)) / (3 * size**0.5) + np.eye(size)
    return basis @ blocks @ np.linalg.inv(basis)


def complex_pair(size: int) -> Matrix:
    """A dominant pair 0.95 exp(+-0.7i) above real eigenvalues of at most 0.8."""
    blocks = np.diag(np.linspace(-0.8, 0.8, size))
    blocks[:2, :2] = 0.95 * np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    return similar(blocks, 3)


def non_normal(size: int) -> Matrix:
    """Spectral radius 0.9 with a norm above 10."""
    matrix = np.diag(np.linspace(0.1, 0.9, size))
    return matrix + 5 * np.triu(np.random.default_rng(4).standard_normal(matrix.shape), 1) / size**0.5


def cycle(size: int) -> Matrix:
    """All eigenvalues are 0.9 times a root of unity."""
    return 0.9 * np.roll(np.eye(size), 1, axis=0)


def crowded(size: int) -> Matrix:
    """Real eigenvalues that crowd below the largest, where power iterations stay too low."""
    return similar(np.diag(1.003 - 0.4 * np.linspace(0, 1, size) ** 2), 6)


@pytest.mark.parametrize("make", [complex_pair, non_normal, cycle, crowded])
def test_a_complete_space_gives_the_largest_modulus(batch_map, make) -> None:
    matrix = make(12)
    found = spectral_radius(*linear(batch_map, [matrix, -0.5 * matrix]), tolerance=0.0)
    expected = modulus(matrix) * torch.tensor([1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(found.radius, expected, rtol=EXACT, atol=0.0)
    assert found.settled.tolist() == [True, True]
    assert found.products <= 12


@pytest.mark.parametrize("make", [complex_pair, crowded])
def test_single_precision_is_enough(batch_map, make) -> None:
    matrix = make(80)
    found = spectral_radius(*linear(batch_map, [matrix], torch.float32), max_products=60)
    assert found.settled.item()
    assert found.radius.item() == pytest.approx(modulus(matrix), abs=TOLERANCE)


def test_an_invariant_space_ends_one_sample_and_not_the_others(batch_map) -> None:
    other = complex_pair(30)
    found = spectral_radius(*linear(batch_map, [0.7 * np.eye(30), np.zeros((30, 30)), other]))
    expected = torch.tensor([0.7, 0.0, modulus(other)], dtype=torch.float64)
    torch.testing.assert_close(found.radius, expected, rtol=1e-5, atol=1e-12)
    assert bool(found.settled.all())


def test_a_space_too_small_says_so(batch_map) -> None:
    """The eigenvalues of a cycle need the complete space; of a part, nothing is known."""
    found = spectral_radius(*linear(batch_map, [cycle(50)]), max_products=20)
    assert not found.settled.item()
    assert found.error.item() > TOLERANCE
    assert found.products == 20


def test_products_end_when_the_radius_is_known(batch_map) -> None:
    matrix = similar(np.diag([0.9, *np.full(99, 0.1)]), 7)
    assert spectral_radius(*linear(batch_map, [matrix])).products == 10


def test_no_products_are_refused(batch_map) -> None:
    with pytest.raises(InputError, match="max_products is 0"):
        spectral_radius(*linear(batch_map, [np.eye(3)]), max_products=0)


@pytest.fixture
def at_rest(model: EquilibriumModel, well_posed):
    """The step of a small model and its fixed points for three measurements, in double precision."""
    operators = TorchOperators(well_posed.operators, torch.float64)
    generator = torch.Generator().manual_seed(8)
    truth = torch.rand(3, operators.n_voxels, generator=generator, dtype=torch.float64)
    rows = operators.forward_project(truth)
    rows = rows + 0.05 * torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    measurement = as_measurement(operators, normalise_intensity(operators, rows)[0])
    config = FixedPointConfig(tolerance=1e-10, max_iterations=300)
    solution = model.solve(operators, measurement, config)
    return model.step(operators, measurement), solution.value


def dense_jacobian(step, state: Tensor, sample: int) -> Matrix:
    alone = step.take(torch.tensor([sample]))
    jacobian = torch.autograd.functional.jacobian(lambda z: alone(z[None])[0], state[sample])
    return jacobian.numpy()


def test_products_are_those_of_the_dense_jacobian(at_rest) -> None:
    step, state = at_rest
    vector = torch.randn(state.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    product = transposed_jacobian(step, state)(vector)
    for sample in range(len(state)):
        expected = dense_jacobian(step, state, sample).T @ vector[sample].numpy()
        np.testing.assert_allclose(product[sample].numpy(), expected, rtol=1e-9, atol=1e-11)


def test_radius_of_the_admm_step_is_that_of_its_dense_jacobian(at_rest) -> None:
    step, state = at_rest
    found = spectral_radius(step, state, max_products=state.shape[1])
    assert bool(found.settled.all())
    for sample in range(len(state)):
        expected = modulus(dense_jacobian(step, state, sample))
        assert found.radius[sample].item() == pytest.approx(expected, abs=TOLERANCE)
