"""One ADMM step against the equations written out in double precision, and against the authors' own code."""

from pathlib import Path

import numpy as np
import pytest

from engine.calibration.calibrate import make_operators
from engine.errors import PairingError
from engine.machine.two_cores import Lanes, OneLane, TwoLanes
from engine.mpi.grid import Grid
from engine.mpi.row_layout import RowLayout
from engine.operators.operators import DenseMatrices, Operators
from engine.solvers.deq.admm_step import AdmmStep

STEP_TOLERANCE = 5e-6
"""Relative to the largest value: float32 sums of about 100 products, spectral norm 25."""

INPUT_TOLERANCE = 2e-5
"""Absolute, for A x of size 2 summed in another order."""

AUTHORS_TOLERANCE = 6e-4
"""Absolute, for images of peak 1: the authors invert I + A^T A in single precision, which puts their own
result up to 4.3e-4 from the same equations in double precision (ours: 6e-5)."""

DUAL_TOLERANCE = 2e-4
"""Absolute, for data duals of size 0.06; the same cause, seen through the smoothing A."""


@pytest.fixture(scope="module")
def operators(small_system_matrix) -> Operators:
    return make_operators(small_system_matrix)


NO_NOISE = np.zeros((1, 1, 1, 1), np.float32)


def curved_prior(v, _noise):
    """Stand in for the network: mixes neighbours and is not linear, so a swapped axis or sign shows."""
    return np.maximum(0.8 * v + 0.3 * np.roll(v, 1, axis=3) - 0.1 * np.roll(v, 1, axis=2), 0)


def curved_consistency(v, y, mask, epsilon):
    """Stand in for the network: treats real and imaginary parts, lines and bins differently."""
    mixed = np.tanh(v) + 0.2 * np.roll(v, 1, axis=3) + 0.1 * v[:, ::-1]
    return (0.7 * mixed + 0.4 * y + epsilon) * mask


def written_out(operators: Operators, z, y, epsilon):
    """Eqs. (15)-(17) in float64; M z by solving the least-squares problem it belongs to."""
    n_voxels, n_rows = operators.n_voxels, operators.n_rows
    a = operators.system_matrix.astype(np.float64)
    x, d0, d1 = np.split(z.astype(np.float64), [n_voxels, n_voxels + n_rows])
    mask = operators.layout.mask.astype(np.float64)

    def dense(rows):
        out = np.zeros((1, 2, mask.size))
        out[0, :, operators.layout.index] = rows.reshape(2, -1).T
        return out.reshape(1, 2, *mask.shape)

    z0_dense = curved_consistency(dense(a @ x - d0), dense(y), mask, epsilon)
    z0 = z0_dense.reshape(2, -1)[:, operators.layout.index].reshape(-1)
    z1 = operators.grid.to_vector(curved_prior(operators.grid.to_volume(x - d1)[None], NO_NOISE)[0])
    stacked = np.vstack([a, np.eye(n_voxels)])
    x_next = np.linalg.lstsq(stacked, np.concatenate([z0 + d0, z1 + d1]), rcond=None)[0]
    return np.concatenate([x_next, d0 + z0 - a @ x_next, d1 + z1 - x_next])


def close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def random_states(step: AdmmStep, operators: Operators, n_frames: int, rng: np.random.Generator):
    """Return states that hold A x of their own images."""
    n_voxels, n_rows = operators.n_voxels, operators.n_rows
    shapes = ((n_frames, n_voxels), (n_frames, n_rows), (n_frames, n_voxels))
    return step.states(*(rng.standard_normal(shape) for shape in shapes))


def lanes_of(count: int) -> Lanes:
    return OneLane() if count == 1 else TwoLanes()


@pytest.mark.parametrize("n_lanes", [1, 2])
def test_step_is_the_least_squares_solution_of_the_stacked_system(operators: Operators, n_lanes: int) -> None:
    rng = np.random.default_rng(5)
    step = AdmmStep(operators, curved_prior, curved_consistency, lanes_of(n_lanes))
    # Several times with different measurements: nothing of the ones before may stay in the buffers.
    for n_frames in (1, 3, 2):
        y, epsilon = rng.standard_normal((n_frames, operators.n_rows)), rng.uniform(0.3, 0.6, n_frames)
        step.set_measurements(y, epsilon)
        z = random_states(step, operators, n_frames, rng)
        before, out = z.copy(), np.full_like(z, np.nan)
        step(z, out)
        np.testing.assert_array_equal(z, before)
        for frame in range(n_frames):
            exact = written_out(operators, z[frame, : step.measured], y[frame], epsilon[frame])
            close(out[frame, : step.measured], exact, STEP_TOLERANCE)
            seen = operators.system_matrix.astype(np.float64) @ exact[: operators.n_voxels]
            close(out[frame, step.measured :], seen, STEP_TOLERANCE)


def test_frames_that_are_kept_go_on_as_before(operators: Operators) -> None:
    rng = np.random.default_rng(8)
    step = AdmmStep(operators, curved_prior, curved_consistency)
    step.set_measurements(rng.standard_normal((4, operators.n_rows)), np.linspace(0.2, 0.5, 4))
    z = random_states(step, operators, 4, rng)
    together = np.empty_like(z)
    step(z, together)
    kept = [1, 3]
    step.keep(kept)
    alone = np.empty((2, step.state_size), np.float32)
    step(np.ascontiguousarray(z[kept]), alone)
    np.testing.assert_allclose(alone, together[kept], rtol=0, atol=STEP_TOLERANCE * np.abs(together).max())


def test_as_many_states_as_measurements(operators: Operators) -> None:
    step = AdmmStep(operators, curved_prior, curved_consistency)
    z = step.states(np.zeros((2, operators.n_voxels)))
    with pytest.raises(PairingError, match="2 states were given for 1 "):
        step(z, np.empty_like(z))


def test_start_has_zero_duals(operators: Operators) -> None:
    step = AdmmStep(operators, curved_prior, curved_consistency)
    image = np.arange(operators.n_voxels)
    (state,) = step.states(image[None])
    assert state.shape == (2 * operators.n_voxels + 2 * operators.n_rows,)
    assert state.dtype == np.float32
    np.testing.assert_array_equal(state[: operators.n_voxels], image)
    assert not state[operators.n_voxels : step.measured].any()
    close(state[step.measured :], operators.system_matrix.astype(np.float64) @ image, STEP_TOLERANCE)


def test_networks_see_the_documented_arrays(operators: Operators) -> None:
    """The prior sees (1, 1, Ny, Nx) with x along the last axis; unselected data places are zero."""
    seen = {}

    def prior(v, _noise):
        seen["image"] = v.copy()
        return v

    def consistency(v, y, mask, epsilon):
        seen.update(v=v.copy(), y=y.copy(), mask=mask.copy(), epsilon=epsilon.copy())
        return v

    rng = np.random.default_rng(6)
    y = rng.standard_normal(operators.n_rows).astype(np.float32)
    image = np.arange(35, dtype=np.float32)
    step = AdmmStep(operators, prior, consistency)
    step.set_measurements(y[None], np.array([0.25]))
    z = step.states(image[None])
    step(z, np.empty_like(z))
    assert seen["image"].shape == (1, 1, 5, 7)
    np.testing.assert_array_equal(seen["image"][0, 0, 0], np.arange(7))
    np.testing.assert_array_equal(seen["y"][0], operators.layout.scatter(y))
    np.testing.assert_allclose(
        seen["v"][0], operators.layout.scatter(operators.system_matrix @ image), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_array_equal(seen["mask"][0, 0], operators.layout.mask)
    assert {array.dtype for array in seen.values()} == {np.dtype(np.float32)}
    assert seen["epsilon"].shape == (1, 1, 1, 1)
    assert seen["epsilon"].item() == 0.25


def test_more_than_one_slice_is_refused(make_system_matrix) -> None:
    grid = Grid((3, 2, 2), (0.01, 0.01, 0.01))
    operators = make_operators(make_system_matrix(grid, 20, (4, 6), 1))
    with pytest.raises(PairingError, match="2 slices"):
        AdmmStep(operators, curved_prior, curved_consistency)


def test_a_block_that_changes_the_shape_is_refused(operators: Operators) -> None:
    step = AdmmStep(operators, lambda v, _noise: v[0], curved_consistency)
    z = np.zeros((1, step.state_size), np.float32)
    with pytest.raises(PairingError, match="image prior returned"):
        step(z, np.empty_like(z))


def authors_operators(a, inverse) -> Operators:
    """Only the fields a step reads; the parity data have no scan behind them."""
    shape = (60, 130)
    layout = np.sort(np.random.default_rng(0).choice(60 * 130, 2743, replace=False)).astype(np.int64)
    u, s, vt = np.linalg.svd(a.astype(np.float64), full_matrices=False)
    return Operators(
        grid=Grid((13, 26, 1), (0.026, 0.052, 0.001)),
        layout=RowLayout(shape, layout),
        acquisition=None,
        noise_std=np.ones(2743),
        scale=1.0,
        left_singular=np.ascontiguousarray(u.T, np.float32),
        singular_values=s,
        right_singular=np.ascontiguousarray(vt.T, np.float32),
        rank=0,
        dense=DenseMatrices(a, inverse),
    )


def test_step_reproduces_the_authors_code(iconlab: Path) -> None:
    """The published network outputs are fed back in, so this checks Eqs. (15)-(17) around them."""
    with np.load(iconlab / "parity.npz") as data:
        parity = dict(data)
    a = parity["system_matrix"]
    a64 = a.astype(np.float64)
    operators = authors_operators(a, np.linalg.inv(np.eye(338) + a64.T @ a64).astype(np.float32))
    assert len(parity["x_init"]) == 4
    for x, v0, z0, v1, z1, expected in zip(
        *(parity[key] for key in ("x_init", "lc_input_v", "lc_output", "rdn_input", "rdn_output")),
        parity["state_after_1_step"],
        strict=True,
    ):

        def prior(v, _noise, v1=v1, z1=z1):
            np.testing.assert_allclose(v.reshape(-1), v1, rtol=0, atol=INPUT_TOLERANCE)
            return z1.reshape(v.shape)

        def consistency(v, y, mask, epsilon, v0=v0, z0=z0):
            found = operators.layout.gather(v[0])
            np.testing.assert_allclose(found, v0, rtol=0, atol=INPUT_TOLERANCE)
            return operators.layout.scatter(z0)[None]

        step = AdmmStep(operators, prior, consistency)
        z = step.states(x[None])
        out = np.empty_like(z)
        step(z, out)
        image, data_dual, image_dual, _ = np.split(out[0], [338, 338 + 5486, 676 + 5486])
        # The authors order the state as image, image dual, data dual.
        theirs, their_image_dual, their_data_dual = np.split(expected, [338, 676])
        np.testing.assert_allclose(image, theirs, rtol=0, atol=AUTHORS_TOLERANCE)
        np.testing.assert_allclose(image_dual, their_image_dual, rtol=0, atol=AUTHORS_TOLERANCE)
        np.testing.assert_allclose(data_dual, their_data_dual, rtol=0, atol=DUAL_TOLERANCE)
