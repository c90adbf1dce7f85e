"""The batched solver on maps with known fixed points, and against the engine's solver."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import NonFiniteError
from engine.fixed_point.solve import FixedPointConfig, solve_fixed_point
from trainer.models.anderson import solve_batch

TIGHT = FixedPointConfig(tolerance=1e-10, max_iterations=300)
TWIN_TOLERANCE = 1e-9
"""Relative; two implementations in float64 whose rounding differences grow a little with every iteration."""


def affine_family(radii: list[float], size: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Symmetric B (S, n, n) of the given spectral radii, b (S, n) and the fixed points (I - B)^-1 b."""
    rng = np.random.default_rng(7)
    matrices, offsets = [], []
    for radius in radii:
        basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
        matrices.append(basis * np.linspace(-0.3 * radius, radius, size) @ basis.T)
        offsets.append(rng.standard_normal(size))
    b_matrix, b = torch.tensor(np.array(matrices)), torch.tensor(np.array(offsets))
    return b_matrix, b, torch.linalg.solve(torch.eye(size) - b_matrix, b)


def affine(b_matrix, b):
    return lambda z, samples: torch.einsum("bij,bj->bi", b_matrix[samples], z) + b[samples]


def test_affine_contraction_is_solved_with_fewer_evaluations_than_plain_steps(batch_map) -> None:
    b_matrix, b, exact = affine_family([0.9, 0.95])
    fast = solve_batch(batch_map(affine(b_matrix, b), 2), torch.zeros_like(b), TIGHT)
    slow = solve_batch(
        batch_map(affine(b_matrix, b), 2), torch.zeros_like(b), replace(TIGHT, memory=0, max_iterations=1000)
    )
    for solution in (fast, slow):
        assert solution.converged.all()
        # Error <= residual / (1 - radius), 20 times the tolerance of the norm.
        torch.testing.assert_close(solution.value, exact, rtol=0, atol=2e-9 * exact.norm().item())
    assert torch.all(fast.iterations < slow.iterations / 2)


def test_rotation_converges_where_plain_steps_circle(batch_map) -> None:
    angle = 1.0
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    function = lambda z, _: centre + (z - centre) @ turn.T  # noqa: E731
    start = torch.zeros(1, 2, dtype=torch.float64)
    circling = solve_batch(batch_map(function, 1), start, replace(TIGHT, memory=0))
    found = solve_batch(batch_map(function, 1), start, TIGHT)
    assert not circling.converged
    assert found.converged
    torch.testing.assert_close(found.value, centre, rtol=0, atol=1e-9)


@pytest.mark.parametrize("memory", [0, 1, 3, 5])
@pytest.mark.parametrize("beta", [1.0, 0.6])
def test_every_sample_takes_the_steps_of_the_engine_s_solver(batch_map, memory: int, beta: float) -> None:
    b_matrix, b, _ = affine_family([0.3, 0.8, 0.95])
    # A mild nonlinearity, so that acceleration is not exact after n steps.
    function = lambda z, samples: torch.sin(affine(b_matrix, b)(z, samples)) + 0.5 * z  # noqa: E731
    config = FixedPointConfig(memory=memory, beta=beta, tolerance=1e-6, max_iterations=20)
    batch = solve_batch(batch_map(function, 3), torch.zeros_like(b), config)
    assert batch.residuals.shape == (3, batch.iterations.max())
    for k in range(3):
        only = torch.tensor([k])

        def step(z: np.ndarray, out: np.ndarray, only: torch.Tensor = only) -> None:
            out[...] = function(torch.tensor(z)[None], only)[0].numpy()

        alone = solve_fixed_point(step, np.zeros(12), config)
        count = alone.stats.iterations
        assert batch.iterations[k] == count
        assert batch.restarts[k] == alone.stats.restarts
        assert bool(batch.converged[k]) == alone.result.is_success
        np.testing.assert_allclose(batch.residuals[k, :count], alone.stats.residuals, rtol=TWIN_TOLERANCE)
        np.testing.assert_allclose(batch.value[k], alone.value, rtol=TWIN_TOLERANCE)
        assert torch.isnan(batch.residuals[k, count:]).all()


@pytest.mark.parametrize("beta", [1.0, 1.6])
def test_safeguard_rejects_and_resumes_as_the_engine_s_does(batch_map, beta: float) -> None:
    # Maps that bend enough for extrapolations to fail, some again and again from the same best point.
    rng = np.random.default_rng(30)
    matrices, offsets = (
        torch.tensor(0.5 * rng.standard_normal((24, 3, 3))),
        torch.tensor(rng.standard_normal((24, 3))),
    )
    starts = torch.tensor(rng.standard_normal((24, 3)))
    bending = affine(matrices, offsets)
    function = lambda z, samples: 1.5 * torch.sin(bending(z, samples))  # noqa: E731
    config = FixedPointConfig(beta=beta, tolerance=1e-8, max_iterations=60)
    batch = solve_batch(batch_map(function, 24), starts, config)
    assert batch.restarts.max() >= 3
    assert batch.converged.sum() >= 12
    for k in range(24):
        only = torch.tensor([k])

        def step(z: np.ndarray, out: np.ndarray, only: torch.Tensor = only) -> None:
            out[...] = function(torch.tensor(z)[None], only)[0].numpy()

        alone = solve_fixed_point(step, starts[k].numpy(), config)
        count = min(alone.stats.iterations, 30)
        # Rounding grows with every bend, so that late residuals of the two may part.
        np.testing.assert_allclose(batch.residuals[k, :count], alone.stats.residuals[:count], rtol=1e-4)
        if count < 30:
            assert batch.restarts[k] == alone.stats.restarts
            np.testing.assert_allclose(batch.value[k], alone.value, rtol=1e-6)


def test_a_converged_sample_is_frozen_and_leaves_the_batch(batch_map) -> None:
    b_matrix, b, exact = affine_family([0.1, 0.97])
    step = batch_map(affine(b_matrix, b), 2)
    solution = solve_batch(step, torch.zeros_like(b), TIGHT)
    assert solution.iterations[0] < solution.iterations[1]
    sizes = [len(state) for state in step.log]
    assert sizes == [2] * int(solution.iterations[0]) + [1] * int(
        solution.iterations[1] - solution.iterations[0]
    )
    torch.testing.assert_close(solution.value, exact, rtol=0, atol=1e-8)


def test_a_sample_does_not_feel_its_neighbours(batch_map) -> None:
    b_matrix, b, _ = affine_family([0.5, 0.9, 0.99, 0.2])
    together = solve_batch(
        batch_map(affine(b_matrix, b), 4), torch.zeros_like(b), replace(TIGHT, max_iterations=9)
    )
    for k in range(4):
        alone = solve_batch(
            batch_map(affine(b_matrix[k : k + 1], b[k : k + 1]), 1),
            torch.zeros_like(b[:1]),
            replace(TIGHT, max_iterations=9),
        )
        torch.testing.assert_close(together.value[k], alone.value[0], rtol=TWIN_TOLERANCE, atol=0)


def test_the_best_iterate_is_returned_when_the_budget_ends(batch_map) -> None:
    step = batch_map(lambda z, _: 3.0 * z + 1.0, 1)  # repelling: each plain step is worse
    start = torch.full((1, 1), 5.0, dtype=torch.float64)
    solution = solve_batch(step, start, FixedPointConfig(memory=0, max_iterations=4))
    assert not solution.converged
    best = int(solution.residuals[0].argmin())
    assert solution.residual[0] == solution.residuals[0, best]
    assert solution.value[0, 0] == 3.0 * step.log[best][0, 0] + 1.0


def test_a_start_at_the_fixed_point_costs_one_evaluation(batch_map) -> None:
    solution = solve_batch(batch_map(lambda z, _: z, 2), torch.ones(2, 3), FixedPointConfig(tolerance=0.0))
    assert solution.iterations.tolist() == [1, 1]
    assert torch.equal(solution.value, torch.ones(2, 3))


def test_rescaling_the_problem_changes_no_decision(batch_map) -> None:
    b_matrix, b, _ = affine_family([0.9])
    config = FixedPointConfig(tolerance=1e-8, max_iterations=40)
    plain = solve_batch(batch_map(affine(b_matrix, b), 1), torch.zeros_like(b), config)
    scaled = solve_batch(batch_map(affine(b_matrix, 1e6 * b), 1), torch.zeros_like(b), config)
    assert plain.iterations == scaled.iterations
    torch.testing.assert_close(1e6 * plain.value, scaled.value, rtol=TWIN_TOLERANCE, atol=0)


def test_nan_in_one_sample_is_an_error(batch_map) -> None:
    function = lambda z, samples: torch.where((samples == 1)[:, None], torch.nan, 0.5 * z + 1)  # noqa: E731
    with pytest.raises(NonFiniteError, match="1 of 3 samples"):
        solve_batch(batch_map(function, 3), torch.zeros(3, 2), FixedPointConfig())


def test_no_graph_is_recorded(batch_map) -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    solution = solve_batch(batch_map(lambda z, _: weight * z + 1, 1), torch.zeros(1, 2), FixedPointConfig())
    assert not solution.value.requires_grad


def test_summary_names_and_values(batch_map) -> None:
    b_matrix, b, _ = affine_family([0.2, 0.999])
    config = FixedPointConfig(memory=0, tolerance=1e-3, max_iterations=12)
    solution = solve_batch(batch_map(affine(b_matrix, b), 2), torch.zeros_like(b), config)
    summary = solution.summary("forward")
    assert summary["forward_converged"] == 0.5
    assert summary["forward_iterations"] == (solution.iterations[0] + 12) / 2
    assert summary["forward_residual_max"] == solution.residual.max()
