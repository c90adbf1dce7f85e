"""The authors' published weights, imported, compute what the authors' own code computed (parity.npz)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torch import nn

from engine.fixed_point.solve import FixedPointConfig, FixedPointSolver
from engine.mpi.grid import Grid
from engine.mpi.metrics import psnr_db
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.networks.bundle import Bundle, load_bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.operators.operators import DenseMatrices, Operators
from engine.solvers.deq.admm_step import AdmmStep
from export.iconlab import import_iconlab, load_iconlab, load_iconlab_denoiser
from export.parity.learned_blocks import as_callable
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import MeasuredBatch
from trainer.models.admm_step import AdmmStep as TorchAdmmStep
from trainer.models.anderson import solve_batch

NETWORK_TOLERANCE = 1e-5
"""One network in float32: rounding of another convolution routine, 1e-7 in practice."""

STATE_TOLERANCE = 1e-3
"""States of plain steps: their start comes from a float32 SVD (2e-5 off ours) and the map carries it on."""

PSNR_TOLERANCE = 0.05
"""dB. A solve stopped before convergence carries rounding to the second decimal; one image or the mean."""

SOLVER_PSNR_TOLERANCE = 0.25
"""dB on one image: our weights are regularised relative to the residuals, theirs absolutely, so two solves
that both stop at 25 evaluations, at residuals of 1e-3, stop at somewhat different images."""

ROWS, COLUMNS = 26, 13
N_VOXELS = ROWS * COLUMNS
OURS = np.arange(N_VOXELS).reshape(ROWS, COLUMNS).T.reshape(-1)
"""Their voxel (columns fastest) at each of our places (x, their row, fastest)."""


@dataclass(frozen=True)
class Published:
    """parity.npz in our conventions: voxels x fastest, states (x, d0, d1)."""

    arrays: dict[str, np.ndarray]
    operators: Operators

    def images(self, name: str) -> np.ndarray:
        return np.ascontiguousarray(self.arrays[name].reshape(4, N_VOXELS)[:, OURS])

    def states(self, name: str) -> np.ndarray:
        x, d1, d0 = np.split(self.arrays[name], [N_VOXELS, 2 * N_VOXELS], axis=1)
        return np.concatenate([x[:, OURS], d0, d1[:, OURS]], axis=1)

    @property
    def y(self) -> np.ndarray:
        return self.arrays["y"]

    @property
    def epsilon(self) -> float:
        return float(self.arrays["eps"])

    def psnr(self, states: np.ndarray) -> np.ndarray:
        shape = (4, COLUMNS, ROWS)
        return psnr_db(states[:, :N_VOXELS].reshape(shape), self.images("image_true").reshape(shape))


def published_layout(iconlab: Path) -> RowLayout:
    """60 angles x 19 harmonics x 13 bins, of which the first ten harmonics hold all selected rows."""
    selected = scipy.io.loadmat(iconlab / "selElems.mat")["selElems"].reshape(60, 19, 13).astype(bool)
    assert not selected[:, 10:].any()
    return RowLayout((60, 130), np.flatnonzero(selected[:, :10]))


NO_NOISE = np.zeros((1, 1, 1, 1), np.float32)


@pytest.fixture(scope="module")
def published(iconlab) -> Published:
    with np.load(iconlab / "parity.npz") as content:
        arrays = dict(content)
    assert int(arrays["model_psnr"]) == 20
    matrix = arrays["system_matrix"][:, OURS]
    left, s, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    layout = published_layout(iconlab)
    operators = Operators(
        grid=Grid((ROWS, COLUMNS, 1), (0.052, 0.026, 0.002)),
        layout=layout,
        acquisition=Acquisition(5e5, 10_000, 60, 1, np.array([0]), np.arange(130)),
        noise_std=np.ones(layout.n_rows),
        scale=1.0,
        left_singular=np.ascontiguousarray(left.T, np.float32),
        singular_values=s,
        right_singular=np.ascontiguousarray(right.T, np.float32),
        rank=220,
        dense=DenseMatrices(
            np.ascontiguousarray(matrix),
            np.ascontiguousarray((right.T / (1 + s**2)) @ right, np.float32),
        ),
    )
    return Published(arrays, operators)


@pytest.fixture(scope="module")
def networks(iconlab) -> tuple[nn.Module, nn.Module]:
    return load_iconlab(iconlab / "deqmpi_psnr20.pth")


@pytest.fixture(scope="module", params=["torch", "onnx"])
def blocks(request, networks) -> tuple[Callable, Callable]:
    """The image prior and the data consistency, as torch modules and as the imported bundle."""
    if request.param == "torch":
        return as_callable(networks[0]), as_callable(networks[1])
    bundle: Bundle = request.getfixturevalue("iconlab_bundle")
    return OnnxPrior(bundle), OnnxConsistency(bundle)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    assert expected.size > 0
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_image_prior_equals_theirs(blocks, published):
    v = published.images("rdn_input").reshape(4, 1, COLUMNS, ROWS)
    expected = published.images("rdn_output").reshape(v.shape)
    assert relative_error(blocks[0](v, NO_NOISE), expected) < NETWORK_TOLERANCE


@pytest.fixture(scope="module")
def denoiser_bundle(iconlab, tmp_path_factory) -> Bundle:
    path = tmp_path_factory.mktemp("bundles") / "denoiser"
    import_iconlab(iconlab / "ppmpi_denoiser.pth", path)
    return load_bundle(path)


def test_denoiser_equals_theirs(iconlab, denoiser_bundle, published):
    v = published.images("denoiser_input").reshape(4, 1, COLUMNS, ROWS)
    expected = published.images("denoiser_output").reshape(v.shape)
    in_torch = as_callable(load_iconlab_denoiser(iconlab / "ppmpi_denoiser.pth"))
    for prior in (in_torch, OnnxPrior(denoiser_bundle)):
        assert relative_error(prior(v, NO_NOISE), expected) < NETWORK_TOLERANCE


def test_denoiser_becomes_a_bundle_of_plug_and_play(denoiser_bundle):
    manifest = denoiser_bundle.manifest
    assert (manifest.name, manifest.method) == ("iconlab-ppmpi_denoiser", "pp-mpi")
    assert list(manifest.networks) == ["rdn"]
    assert manifest.solver == FixedPointConfig(memory=0, tolerance=0.0, max_iterations=150)


def test_data_consistency_equals_theirs(blocks, published):
    layout = published.operators.layout
    v, y = layout.scatter(published.arrays["lc_input_v"]), layout.scatter(published.y)
    epsilon = np.full((4, 1, 1, 1), published.epsilon, np.float32)
    found = blocks[1](v, y, layout.mask[None, None], epsilon)
    assert relative_error(layout.gather(found), published.arrays["lc_output"]) < NETWORK_TOLERANCE
    assert not np.any(found[np.broadcast_to(layout.mask == 0, found.shape)])


@pytest.fixture(scope="module")
def torch_step(networks, published) -> TorchAdmmStep:
    epsilon = torch.full((4,), published.epsilon)
    measurement = MeasuredBatch(torch.tensor(published.y), epsilon)
    return TorchAdmmStep(*networks, TorchOperators(published.operators), measurement)


@pytest.fixture(scope="module")
def engine_step(iconlab_bundle, published) -> AdmmStep:
    return AdmmStep(published.operators, OnnxPrior(iconlab_bundle), OnnxConsistency(iconlab_bundle))


def least_squares(published: Published, y: np.ndarray) -> np.ndarray:
    operators = published.operators
    return operators.start_matrix @ (operators.left_singular @ y)[: operators.rank]


Maps = list[tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]]


@pytest.fixture(params=["torch", "engine"])
def maps(request, published) -> Maps:
    """The fixed-point map and the start state of each image: the torch twin, and the engine with ONNX."""
    if request.param == "torch":
        step = request.getfixturevalue("torch_step")
        singles = [step.take(torch.tensor([image])) for image in range(4)]

        def through_torch(single: TorchAdmmStep) -> Callable[[np.ndarray], np.ndarray]:
            def call(z: np.ndarray) -> np.ndarray:
                with torch.no_grad():
                    return single(torch.tensor(z[None]))[0].numpy()

            return call

        return [(through_torch(single), single.start()[0].numpy()) for single in singles]
    step = request.getfixturevalue("engine_step")

    def through_engine(image: int) -> Callable[[np.ndarray], np.ndarray]:
        def call(z: np.ndarray) -> np.ndarray:
            step.set_measurements(published.y[image][None], np.array([published.epsilon]))
            return step.evaluate(z)

        return call

    images = np.stack([least_squares(published, y) for y in published.y])
    starts = step.states(images)[:, : step.measured]
    return [(through_engine(image), starts[image]) for image in range(4)]


def test_start_image_equals_theirs(maps, published):
    start = np.stack([state for _, state in maps])
    assert relative_error(start[:, :N_VOXELS], published.images("x_init")) < STATE_TOLERANCE
    assert not start[:, N_VOXELS:].any()


@pytest.mark.parametrize(("steps", "name"), [(1, "state_after_1_step"), (26, "state_after_26_plain_steps")])
def test_plain_steps_equal_theirs(maps, published, steps, name):
    states = []
    for step, state in maps:
        for _ in range(steps):
            state = step(state)
        states.append(state)
    for state, expected in zip(states, published.states(name), strict=True):
        assert relative_error(state, expected) < STATE_TOLERANCE
        assert relative_error(state[:N_VOXELS], expected[:N_VOXELS]) < STATE_TOLERANCE


def released_anderson(step: Callable[[np.ndarray], np.ndarray], start: np.ndarray, beta: float) -> np.ndarray:
    """Anderson as the authors ran it: m = 5, absolute lambda, at most 25 evaluations, the last iterate."""
    memory, regularization, tolerance, evaluations = 5, 1e-4, 1e-4, 25
    points, values = [start], [step(start)]
    points.append(values[0])
    values.append(step(points[1]))
    while len(points) < evaluations:
        f, z = np.array(values[-memory:]), np.array(points[-memory:])
        gram = (f - z) @ (f - z).T + regularization * np.eye(len(f))
        weights = np.linalg.solve(gram, np.ones(len(f)))
        weights = (weights / weights.sum()).astype(np.float32)
        points.append(beta * (weights @ f) + (1 - beta) * (weights @ z))
        values.append(step(points[-1]))
        difference = np.linalg.norm(values[-1] - points[-1])
        if difference < tolerance * np.linalg.norm(values[-1]):
            break
    return points[-1]


SOLVES = [(1.0, "state_anderson_beta1"), (2.0, "state_anderson_beta2")]


@pytest.mark.parametrize(("beta", "name"), SOLVES)
def test_their_solver_on_our_map_gives_their_images(maps, published, beta, name):
    found = np.stack([released_anderson(step, start, beta) for step, start in maps])
    np.testing.assert_allclose(
        published.psnr(found), published.psnr(published.states(name)), atol=PSNR_TOLERANCE, rtol=0
    )


def solved_by_the_engine(published: Published, step: AdmmStep, config: FixedPointConfig) -> np.ndarray:
    step.set_measurements(published.y, np.full(len(published.y), published.epsilon))
    starts = step.states(np.stack([least_squares(published, y) for y in published.y]))
    solutions = FixedPointSolver(config, step.measured).solve(step, starts)
    return np.stack([solution.value[: step.measured] for solution in solutions])


@pytest.mark.parametrize(("beta", "name"), SOLVES)
def test_our_solvers_reach_their_quality(torch_step, engine_step, published, beta, name):
    config = FixedPointConfig(memory=5, beta=beta, tolerance=1e-4, max_iterations=25)
    theirs = published.psnr(published.states(name))
    for states in (
        solve_batch(torch_step, torch_step.start(), config).value.numpy(),
        solved_by_the_engine(published, engine_step, config),
    ):
        ours = published.psnr(states)
        np.testing.assert_allclose(ours, theirs, atol=SOLVER_PSNR_TOLERANCE, rtol=0)
        assert abs(ours.mean() - theirs.mean()) < PSNR_TOLERANCE


def test_tolerances_would_notice_the_papers_formula(networks, published):
    """Eq. (25) as printed bounds Z - y in place of Z; the comparison above tells the two apart."""
    lc = networks[1]
    layout = published.operators.layout
    v, y = (torch.tensor(layout.scatter(published.arrays[name])) for name in ("lc_input_v", "y"))
    mask = torch.tensor(layout.mask[None, None])
    unbounded = torch.full((4, 1, 1, 1), 1e9)
    with torch.no_grad():
        z = lc(v, y, mask, unbounded) - y
        factor = published.epsilon / torch.linalg.vector_norm((z - y).flatten(1), dim=1)
        printed = y + (z - y) * factor.clamp(max=1.0).reshape(4, 1, 1, 1)
    found = layout.gather(printed.numpy())
    assert relative_error(found, published.arrays["lc_output"]) > 100 * NETWORK_TOLERANCE
