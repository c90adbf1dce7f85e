"""Operators, the step and the start: against numpy and against the engine's twins."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import OperatorsError
from engine.fixed_point.solve import FixedPointConfig
from engine.measurement.normalization import normalize
from engine.mpi.grid import Grid
from engine.operators.factorisation import make_factored_operators, make_operators
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.deq.admm_step import AdmmStep as EngineStep
from engine.solvers.deq.equilibrium import Equilibrium
from engine.solvers.least_squares import LeastSquares
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch, as_measurement, normalise_intensity
from trainer.loop.validation import least_squares, reconstruct
from trainer.models.admm_step import AdmmStep
from trainer.networks.consistency import project_ball

NO_NOISE = torch.zeros(1, 1, 1, 1)

SINGLE = 2e-5
"""Relative to the largest intermediate value; float32 products of a few hundred terms."""


@pytest.fixture(scope="module")
def operators(scan) -> TorchOperators:
    return TorchOperators(scan.operators)


@pytest.fixture(scope="module")
def rows(scan, images) -> np.ndarray:
    """Whitened rows (4, R) of scaled images, in the unit of the system matrix."""
    rng = np.random.default_rng(3)
    peaks = np.array([0.5, 1.0, 1.5, 30.0])[:, None]
    clean = peaks * images[:4].reshape(4, -1) @ scan.data_matrix.T
    return (clean + 0.3 * peaks * rng.standard_normal(clean.shape)).astype(np.float32)


def as_numpy(function):
    """Let a torch callable serve the engine."""

    def call(*arrays: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return function(*(torch.tensor(a) for a in arrays)).numpy()

    return call


def shrink(v: torch.Tensor, _noise: torch.Tensor) -> torch.Tensor:
    """Soft threshold, a prior without weights."""
    return torch.relu(v - 0.02)


def ball(v, y, mask, epsilon):
    """The unlearned consistency block, Eq. (10)."""
    return project_ball(v, y, epsilon) * mask


def test_operators_agree_with_their_definitions(scan, operators) -> None:
    a = scan.operators.system_matrix.astype(np.float64)
    rng = np.random.default_rng(0)
    x, r = rng.standard_normal((2, operators.n_voxels)), rng.standard_normal((2, operators.n_rows))
    tx, tr = torch.tensor(x, dtype=torch.float32), torch.tensor(r, dtype=torch.float32)
    inverse = np.linalg.inv(np.eye(operators.n_voxels) + a.T @ a)
    expected = {
        "A x": (operators.forward_project(tx), x @ a.T),
        "M (A^T r + x)": (operators.reconcile(tr, tx), (r @ a + x) @ inverse),
        "M A^T r": (operators.tikhonov(operators.project_left(tr)), r @ a @ inverse),
    }
    for name, (found, exact) in expected.items():
        bound = 10 * SINGLE * np.abs(exact).max()
        np.testing.assert_allclose(found.numpy(), exact, rtol=0, atol=bound, err_msg=name)


def test_scatter_and_gather_are_those_of_the_layout(scan, operators, rows) -> None:
    dense = operators.scatter(torch.tensor(rows))
    np.testing.assert_array_equal(dense.numpy(), scan.operators.layout.scatter(rows))
    np.testing.assert_array_equal(operators.gather(dense).numpy(), rows)
    assert torch.all(dense[(operators.mask == 0).expand_as(dense)] == 0)


def test_buffers_follow_the_module_and_stay_out_of_the_state_dict(scan) -> None:
    operators = TorchOperators(scan.operators).double()
    assert operators.system_matrix.dtype is torch.float64
    assert operators.index.dtype is torch.int64
    assert operators.state_dict() == {}


def test_a_volume_is_refused(system_matrix) -> None:
    thick = replace(system_matrix, grid=Grid((8, 3, 2), (0.016, 0.006, 0.004)))
    with pytest.raises(OperatorsError, match="2 slices"):
        TorchOperators(make_operators(thick))


def test_factors_in_place_of_the_matrix_are_refused(system_matrix) -> None:
    with pytest.raises(OperatorsError, match=r"5 singular triplets .*--factors"):
        TorchOperators(make_factored_operators(system_matrix, 5))


def test_step_agrees_with_the_engine_s(scan, operators, rows, model) -> None:
    model.float()
    measurement = as_measurement(operators, torch.tensor(rows))
    ours = AdmmStep(model.rdn, model.lc, operators, measurement)
    theirs = EngineStep(scan.operators, as_numpy(model.rdn), as_numpy(model.lc))
    rng = np.random.default_rng(5)
    states = rng.standard_normal((4, theirs.measured)).astype(np.float32)
    with torch.no_grad():
        found = ours(torch.tensor(states)).numpy()
    for k in range(4):
        theirs.set_measurements(rows[k][None], measurement.epsilon[k : k + 1].numpy())
        out = theirs.evaluate(states[k])
        largest = max(np.abs(rows[k]).max(), np.abs(scan.operators.system_matrix @ states[k, :48]).max())
        np.testing.assert_allclose(found[k], out, rtol=0, atol=SINGLE * largest)


def test_step_solves_the_least_squares_problem_of_eq_7(operators, rows) -> None:
    step = AdmmStep(shrink, ball, operators, as_measurement(operators, torch.tensor(rows)))
    state = step.start() + 0.1
    x, d0, d1 = step.split(state)
    x_next, d0_next, d1_next = step.split(step(state))
    z0 = d0_next - d0 + operators.forward_project(x_next)  # from Eq. (8)
    z1 = d1_next - d1 + x_next  # from Eq. (9)
    # Gradient of ||A x' - z0 - d0||^2 + ||x' - z1 - d1||^2.
    a = operators.system_matrix
    gradient = (operators.forward_project(x_next) - z0 - d0) @ a + (x_next - z1 - d1)
    assert gradient.abs().max() <= 10 * SINGLE * ((z0 + d0) @ a).abs().max()
    torch.testing.assert_close(z1, shrink(x - d1, NO_NOISE), rtol=0, atol=1e-5)


def test_start_and_take(scan, operators, rows) -> None:
    measurement = as_measurement(operators, torch.tensor(rows))
    step = AdmmStep(shrink, ball, operators, measurement)
    start = step.start()
    expected = (
        rows[2] @ scan.operators.left_singular.T[:, : scan.operators.rank] @ scan.operators.start_matrix.T
    )
    np.testing.assert_allclose(
        start[2, : operators.n_voxels], expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )
    assert torch.all(start[:, operators.n_voxels :] == 0)
    samples = torch.tensor([3, 1])
    bound = SINGLE * np.abs(rows).max()
    torch.testing.assert_close(step.take(samples)(start[samples]), step(start)[samples], rtol=0, atol=bound)


def test_normalisation_is_the_engine_s(scan, operators, rows) -> None:
    scaled, intensity = normalise_intensity(operators, torch.tensor(rows))
    measurement = as_measurement(operators, scaled)
    for k in range(len(rows)):
        theirs = normalize(rows[k] * scan.operators.scale, scan.operators)
        assert theirs is not None
        assert intensity[k].item() == pytest.approx(theirs.intensity, rel=1e-5)
        assert measurement.epsilon[k].item() == pytest.approx(theirs.epsilon, rel=1e-5)
        np.testing.assert_allclose(scaled[k], theirs.y, rtol=1e-5)


def test_an_image_without_positive_values_has_a_scale_all_the_same(scan, operators, rows) -> None:
    negative = -np.abs(scan.operators.left_singular[:1])
    _, intensity = normalise_intensity(operators, torch.tensor(negative))
    theirs = normalize(negative[0] * scan.operators.scale, scan.operators)
    assert theirs is not None
    assert intensity[0].item() == pytest.approx(theirs.intensity, rel=1e-4)


def test_whole_reconstruction_is_the_engine_s(well_posed, model) -> None:
    model.float()
    rng = np.random.default_rng(2)
    clean = np.array([[1.0], [20.0]]) * (rng.uniform(0, 1, (2, 20)) @ well_posed.data_matrix.T)
    rows = (clean + [[0.3], [6.0]] * rng.standard_normal(clean.shape)).astype(np.float32)
    operators = TorchOperators(well_posed.operators)
    config = FixedPointConfig(tolerance=1e-5, max_iterations=60)
    images, solution = reconstruct(model, operators, torch.tensor(rows), config)
    engine = Reconstructor(Equilibrium(well_posed.operators, as_numpy(model.rdn), as_numpy(model.lc), config))
    starts = least_squares(operators, torch.tensor(rows))
    for k in range(2):
        whitened = rows[k] * well_posed.operators.scale
        theirs = engine.reconstruct(whitened)
        assert solution.converged[k]
        assert theirs.report.converged
        # Both stop within 1e-5 of their state; the image agrees to a moderate multiple of that.
        np.testing.assert_allclose(images[k], theirs.image[0], rtol=0, atol=1e-3 * theirs.image.max())
        start = Reconstructor(LeastSquares(well_posed.operators)).reconstruct(whitened).image[0]
        np.testing.assert_allclose(starts[k], start, rtol=0, atol=1e-4 * np.abs(start).max())


def test_measurement_take_keeps_pairs_together() -> None:
    measurement = MeasuredBatch(torch.arange(6.0).reshape(3, 2), torch.tensor([1.0, 2.0, 3.0]))
    taken = measurement.take(torch.tensor([2, 0]))
    assert taken.rows.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert taken.epsilon.tolist() == [3.0, 1.0]
