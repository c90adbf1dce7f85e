"""What is stated of the stability of a model, against dense eigenvalues and the iteration itself."""

import numpy as np
import pytest
import torch

from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import as_measurement, normalise_intensity
from trainer.models.equilibrium import EquilibriumModel
from trainer.stability.spectral_radius import TOLERANCE
from trainer.stability.stability import RESIDUAL, Stability, measure_stability

CONFIG = FixedPointConfig(max_iterations=3)
"""Far too short for the fixed point."""

RATE = 2e-2
"""Relative agreement of the radius with the contraction of a plain iteration, which other modes disturb."""

SMALL_MOVE, ROUNDING = 1e-4, 1e-11
"""Moves of a plain iteration between these are those of the linearised map, above rounding errors."""


@pytest.fixture
def frames(well_posed) -> tuple[TorchOperators, torch.Tensor]:
    operators = TorchOperators(well_posed.operators, torch.float64)
    generator = torch.Generator().manual_seed(8)
    truth = torch.rand(3, operators.n_voxels, generator=generator, dtype=torch.float64)
    rows = 7.0 * operators.forward_project(truth)
    return operators, rows + torch.randn(rows.shape, generator=generator, dtype=torch.float64)


def test_the_fixed_point_is_found_whatever_the_budget_of_a_reconstruction(
    model: EquilibriumModel, frames
) -> None:
    found = measure_stability(model, *frames, CONFIG)
    assert found.radius.shape == found.settled.shape == found.residual.shape == (3,)
    assert (found.residual <= RESIDUAL).all()


def test_the_plain_iteration_contracts_at_the_radius(model: EquilibriumModel, frames) -> None:
    operators, rows = frames
    found = measure_stability(model, operators, rows, CONFIG)
    assert (found.radius < 1.0).all()
    measurement = as_measurement(operators, normalise_intensity(operators, rows)[0])
    step = model.step(operators, measurement)
    state, moves = step.start(), []
    with torch.no_grad():
        for _ in range(200):
            following = step(state)
            moves.append(torch.linalg.vector_norm(following - state, dim=1).numpy())
            state = following
    for sample, radius in enumerate(found.radius):
        course = np.array(moves)[:, sample]
        settled = (course < SMALL_MOVE) & (course > ROUNDING)
        slope, _ = np.polyfit(np.flatnonzero(settled), np.log(course[settled]), 1)
        assert np.exp(slope) == pytest.approx(radius, rel=RATE)


def test_summary_counts_frames() -> None:
    stability = Stability(np.array([0.5, 1.2, 0.9]), np.array([True, False, True]), np.zeros(3))
    assert stability.summary("some") == {
        "some_spectral_radius_median": 0.9,
        "some_spectral_radius_max": 1.2,
        "some_spectral_radius_share_below_1": pytest.approx(2 / 3, abs=TOLERANCE * 1e-9),
        "some_spectral_radius_settled": pytest.approx(2 / 3, abs=TOLERANCE * 1e-9),
    }
