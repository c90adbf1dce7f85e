"""Gradients of the fixed point by independent routes, all in double precision."""

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch, as_measurement
from trainer.models.admm_step import AdmmStep
from trainer.models.anderson import BatchSolution, solve_batch
from trainer.models.equilibrium import EquilibriumModel
from trainer.models.gradients import Implicit, ThroughIterates, one_step

TIGHT = FixedPointConfig(memory=6, regularization=1e-10, tolerance=1e-12, max_iterations=400)
"""Far below what is compared, so that the solves add nothing to the differences."""

CLOSED_FORM = 1e-8
"""Relative; solves at 1e-12 of maps with (I - J)^-1 of norm up to 1e3."""

THREE_ROUTES = 1e-4
"""Relative agreement of the gradient's routes, for every weight tensor by itself: those of Psi_LC are up
to 1e4 times larger than those of Psi_RDN. Central differences at h = 1e-5 are good to about 2e-6."""


def no_report(_: BatchSolution) -> None:
    """Drop the account of a backward solve."""


IMPLICIT = Implicit(TIGHT, no_report)


# --- closed forms ---------------------------------------------------------------------------------------


def contraction() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(4)
    matrix = rng.standard_normal((6, 6))
    matrix *= 0.9 / np.linalg.norm(matrix, 2)
    return torch.tensor(matrix), torch.tensor(rng.standard_normal((3, 6)))


def test_affine_contraction_has_the_resolvent_as_jacobian(batch_map) -> None:
    matrix, offset = contraction()
    offset.requires_grad_()
    step = batch_map(lambda z, samples: z @ matrix.T + offset[samples], 3)
    value = solve_batch(step, torch.zeros(3, 6, dtype=torch.float64), TIGHT).value
    attached = IMPLICIT(step, value)
    cotangent = torch.tensor(np.random.default_rng(5).standard_normal((3, 6)))
    (gradient,) = torch.autograd.grad(attached, offset, cotangent)
    resolvent = torch.linalg.inv(torch.eye(6) - matrix)
    torch.testing.assert_close(attached, (offset @ resolvent.T).detach(), rtol=CLOSED_FORM, atol=1e-10)
    torch.testing.assert_close(gradient, cotangent @ resolvent, rtol=CLOSED_FORM, atol=1e-10)


def test_ridge_regression_has_the_known_derivative_in_its_weight(batch_map) -> None:
    rng = np.random.default_rng(6)
    a, y = torch.tensor(rng.standard_normal((9, 5))), torch.tensor(rng.standard_normal(9))
    weights = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64, requires_grad=True)
    normal, rhs = a.T @ a, a.T @ y
    length = 1.0 / (torch.linalg.eigvalsh(normal).max() + 8.0)

    def descend(x: Tensor, samples: Tensor) -> Tensor:
        return x - length * (x @ normal + weights[samples, None] * x - rhs)

    step = batch_map(descend, 3)
    value = solve_batch(step, torch.zeros(3, 5, dtype=torch.float64), TIGHT).value
    cotangent = torch.tensor(rng.standard_normal((3, 5)))
    (gradient,) = torch.autograd.grad(IMPLICIT(step, value), weights, cotangent)
    for k, weight in enumerate(weights.tolist()):
        inverse = torch.linalg.inv(normal + weight * torch.eye(5))
        torch.testing.assert_close(value[k], inverse @ rhs, rtol=CLOSED_FORM, atol=1e-10)
        expected = -cotangent[k] @ inverse @ inverse @ rhs
        torch.testing.assert_close(gradient[k], expected, rtol=CLOSED_FORM, atol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_through_iterates_is_the_truncated_neumann_series(batch_map, count: int) -> None:
    matrix, offset = contraction()
    offset.requires_grad_()
    step = batch_map(lambda z, samples: z @ matrix.T + offset[samples], 3)
    value = solve_batch(step, torch.zeros(3, 6, dtype=torch.float64), TIGHT).value
    cotangent = torch.ones(3, 6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(ThroughIterates(count)(step, value), offset, cotangent)
    series = sum(torch.linalg.matrix_power(matrix, k) for k in range(count))
    torch.testing.assert_close(gradient, cotangent @ series)


def test_one_step_is_the_first_term(batch_map) -> None:
    matrix, offset = contraction()
    offset.requires_grad_()
    step = batch_map(lambda z, samples: z @ matrix.T + offset[samples], 3)
    attached = one_step(step, torch.zeros(3, 6, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(attached, offset, torch.full((3, 6), 2.0, dtype=torch.float64))
    torch.testing.assert_close(gradient, torch.full((3, 6), 2.0, dtype=torch.float64))


def test_backward_failure_is_reported_and_the_best_vector_used(batch_map) -> None:
    matrix, offset = contraction()
    offset.requires_grad_()
    step = batch_map(lambda z, samples: z @ matrix.T + offset[samples], 3)
    reports: list[BatchSolution] = []
    budget = FixedPointConfig(memory=0, tolerance=1e-12, max_iterations=4)
    value = torch.linalg.solve(torch.eye(6) - matrix, offset.T).T.detach()
    cotangent = torch.ones(3, 6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(Implicit(budget, reports.append)(step, value), offset, cotangent)
    (report,) = reports
    assert not report.converged.any()
    assert report.iterations.tolist() == [4, 4, 4]
    torch.testing.assert_close(gradient, report.value)


def test_samples_that_leave_the_backward_solve_early_keep_their_gradient(batch_map) -> None:
    # Seven samples converge within a few products, which shrinks the recorded graph; the last takes long.
    rates = torch.tensor([0.1] * 7 + [0.98], dtype=torch.float64)
    offset = torch.ones(8, 2, dtype=torch.float64, requires_grad=True)
    reports: list[BatchSolution] = []
    step = batch_map(lambda z, samples: rates[samples, None] * z + offset[samples], 8)
    value = (offset / (1 - rates[:, None])).detach()
    plain = FixedPointConfig(memory=0, tolerance=1e-10, max_iterations=2000)
    cotangent = torch.arange(1.0, 17.0, dtype=torch.float64).reshape(8, 2)
    (gradient,) = torch.autograd.grad(Implicit(plain, reports.append)(step, value), offset, cotangent)
    torch.testing.assert_close(gradient, cotangent / (1 - rates[:, None]), rtol=1e-7, atol=0)
    assert reports[0].iterations[0] < reports[0].iterations[-1]
    assert {len(state) for state in step.log} == {8, 1}  # the graph was recorded again for the last sample


# --- the model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def operators(well_posed) -> TorchOperators:
    return TorchOperators(well_posed.operators, torch.float64)


@pytest.fixture(scope="module")
def measurement(well_posed, operators) -> MeasuredBatch:
    rng = np.random.default_rng(2)
    clean = rng.uniform(0, 1, (3, 20)) @ well_posed.data_matrix.T.astype(np.float64)
    return as_measurement(operators, torch.tensor(clean + 0.3 * rng.standard_normal(clean.shape)))


def gradient_of(
    model: EquilibriumModel, operators, measurement, strategy, weights: Tensor
) -> dict[str, Tensor]:
    x, solution = model(operators, measurement, TIGHT, strategy)
    assert solution.converged.all()
    parameters = dict(model.named_parameters())
    return dict(
        zip(parameters, torch.autograd.grad((x * weights).sum(), list(parameters.values())), strict=True)
    )


def test_three_routes_to_the_gradient_agree(model, operators, measurement) -> None:
    rng = np.random.default_rng(9)
    weights = torch.tensor(rng.standard_normal((3, operators.n_voxels)))
    implicit = gradient_of(model, operators, measurement, IMPLICIT, weights)
    iterates = gradient_of(model, operators, measurement, ThroughIterates(100), weights)

    def loss() -> float:
        with torch.no_grad():
            x, _ = model(operators, measurement, TIGHT, one_step)
            return float((x * weights).sum())

    parameters = dict(model.named_parameters())
    assert {name.split(".")[0] for name in parameters} == {"rdn", "lc"}
    for name, parameter in parameters.items():
        size = implicit[name].norm()
        assert size > 0, name
        assert (iterates[name] - implicit[name]).norm() < THREE_ROUTES * size, name
        flat = parameter.data.view(-1)
        k = int(implicit[name].flatten().abs().argmax())  # a weight that matters
        h, kept = 1e-5, flat[k].item()
        flat[k] = kept + h
        above = loss()
        flat[k] = kept - h
        below = loss()
        flat[k] = kept
        difference = (above - below) / (2 * h)
        exact = implicit[name].flatten()[k].item()
        assert difference == pytest.approx(exact, rel=THREE_ROUTES, abs=0.0), name


def test_one_step_points_the_same_way_but_is_another_gradient(model, operators, measurement) -> None:
    weights = torch.ones(3, operators.n_voxels, dtype=torch.float64)
    implicit = gradient_of(model, operators, measurement, IMPLICIT, weights)
    single = gradient_of(model, operators, measurement, one_step, weights)
    a = torch.cat([g.flatten() for g in implicit.values()])
    b = torch.cat([g.flatten() for g in single.values()])
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0
    assert not torch.allclose(a, b, rtol=1e-2)


def test_output_is_the_image_of_the_fixed_point(model, operators, measurement) -> None:
    x, solution = model(operators, measurement, TIGHT, one_step)
    step = AdmmStep(model.rdn, model.lc, operators, measurement)
    with torch.no_grad():
        once_more = step(solution.value)
    torch.testing.assert_close(once_more, solution.value, rtol=0, atol=1e-9)
    torch.testing.assert_close(x, solution.value[:, : operators.n_voxels], rtol=0, atol=1e-9)
    assert x.requires_grad


def test_a_sample_s_image_and_gradient_do_not_depend_on_its_batch(model, operators, measurement) -> None:
    # Even when no solve gets to its end: the value depends on the number of evaluations only.
    budget = FixedPointConfig(tolerance=1e-8, max_iterations=7)
    one = torch.tensor([1])
    together, _ = model(operators, measurement, budget, IMPLICIT)
    alone, _ = model(operators, measurement.take(one), budget, IMPLICIT)
    # Rounding of batched against single products in float64.
    torch.testing.assert_close(together[1], alone[0], rtol=1e-9, atol=1e-9)
    parameter = model.rdn.exit.weight
    (g_together,) = torch.autograd.grad(together[1].sum(), parameter)
    (g_alone,) = torch.autograd.grad(alone[0].sum(), parameter)
    torch.testing.assert_close(g_together, g_alone, rtol=1e-7, atol=1e-9)
