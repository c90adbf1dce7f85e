"""A small scan, its images and configurations shared by the trainer's tests."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.mpi.grid import Grid
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.mpi.system_matrix import SystemMatrix
from trainer.config import TrainConfig, parse_config
from trainer.data.problem import Problem, TrainingScan, make_problem, make_scan
from trainer.models.equilibrium import EquilibriumModel
from trainer.networks.consistency import LearnedConsistency
from trainer.networks.rdn import ResidualDenseNetwork

GRID = Grid((8, 6, 1), (0.016, 0.012, 0.002))
LAYOUT = (5, 24)


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def system_matrix() -> SystemMatrix:
    """100 smooth complex rows with noise on 48 voxels, at random places of a (5, 24) layout."""
    rng = np.random.default_rng(1)
    index = np.sort(rng.choice(LAYOUT[0] * LAYOUT[1], 100, replace=False)).astype(np.int64)
    waves = rng.uniform(-9, 9, (len(index), 3)) / np.array(GRID.field_of_view)
    rows = 40 * np.exp(1j * (waves @ GRID.positions().T) + 1j * rng.uniform(0, 6, (len(index), 1)))
    rows += rng.standard_normal(rows.shape) + 1j * rng.standard_normal(rows.shape)
    bins = np.arange(50, 50 + LAYOUT[1], dtype=np.int64)
    acquisition = Acquisition(500e3, 1000, LAYOUT[0], 1, np.array([0], np.int64), bins)
    return SystemMatrix(rows, GRID, RowLayout(LAYOUT, index), acquisition, np.ones(len(index)))


@pytest.fixture(scope="session")
def scan(system_matrix: SystemMatrix) -> TrainingScan:
    """The scan as in Sec. IV-D: data from A, reconstruction with A U D."""
    return make_scan(system_matrix, smooth=True)


@pytest.fixture(scope="session")
def well_posed() -> TrainingScan:
    """48 random rows on a 5 x 4 grid: all singular values within a factor of 3."""
    rng = np.random.default_rng(1)
    index = np.sort(rng.choice(4 * 14, 48, replace=False)).astype(np.int64)
    rows = rng.standard_normal((48, 20)) + 1j * rng.standard_normal((48, 20))
    acquisition = Acquisition(500e3, 1000, 4, 1, np.array([0], np.int64), np.arange(14, dtype=np.int64))
    grid = Grid((5, 4, 1), (0.01, 0.008, 0.002))
    matrix = SystemMatrix(rows, grid, RowLayout((4, 14), index), acquisition, np.ones(48))
    return make_scan(matrix, smooth=False)


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    """40 images of one or two Gaussian blobs, minimum 0 and peak 1."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:6, :8]
    stack = []
    for _ in range(40):
        centres = rng.uniform((0, 0), (6, 8), (2, 2))
        image = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / rng.uniform(1, 4)) for a, b in centres)
        image -= image.min()
        stack.append(image / image.max())
    return np.array(stack, np.float32)


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    """A run of 2 + 2 pre-training steps and two stages of 3 steps."""
    return parse_config("""
        name = "tiny"
        seed = 3
        data = {system_matrix = "tiny", snr = [15.0, 35.0], validation_snr = [20.0, 30.0]}
        model.rdn = {features = 4, growth = 4, blocks = 1, layers = 2}
        model.lc = {features = 4}
        pretrain.rdn = {steps = 2, batch_size = 4}
        pretrain.lc = {steps = 2, batch_size = 4}
        solver.forward = {max_iterations = 8}
        solver.backward = {max_iterations = 8}
        [fit]
        validate_every = 2
        [[fit.stages]]
        gradient = "one_step"
        steps = 3
        batch_size = 4
        [[fit.stages]]
        gradient = "implicit"
        steps = 3
        batch_size = 4
    """)


@pytest.fixture(scope="session")
def problem(scan: TrainingScan, images: NDArray[np.float32], config: TrainConfig) -> Problem:
    """The small scan with 32 training and 8 validation images."""
    return make_problem(scan, images[:32], images[32:], config.data, torch.device("cpu"))


@pytest.fixture
def model() -> EquilibriumModel:
    """A small model in double precision, of fixed weights, whose map has fixed points.

    Psi_LC is near the projection on the ball (its hidden layers carry the positive and negative part of
    v) and Psi_RDN near the identity on non-negative images, as after pre-training: with random
    weights in Psi_LC the data constraint cannot be met, and the duals grow for ever.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        rdn = ResidualDenseNetwork(features=4, growth=4, blocks=1, layers=2)
        lc = LearnedConsistency(features=4)
    centre = 1
    with torch.no_grad():
        rdn.exit.weight *= 0.5
        for parameter in lc.parameters():
            parameter *= 0.05
        for feature, (channel, sign) in enumerate([(0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)]):
            lc.hidden[0].weight[feature, 2 + channel, 0, centre] += sign
            lc.hidden[1].weight[feature, feature, 0, centre] += 1.0
            lc.exit.weight[channel, feature, 0, centre] += sign
    return EquilibriumModel(rdn, lc).double()


class FunctionMap:
    """A `BatchMap` from a function of (state (B, n), sample indices (B,)); counts and keeps what it sees."""

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], samples: Tensor, log: list[Tensor]
    ) -> None:
        self._function = function
        self._samples = samples
        self.log = log

    def __call__(self, state: Tensor) -> Tensor:
        self.log.append(state.detach().clone())
        return self._function(state, self._samples)

    def take(self, samples: Tensor) -> "FunctionMap":
        return FunctionMap(self._function, self._samples[samples], self.log)


@pytest.fixture(scope="session")
def batch_map() -> Callable[[Callable[[Tensor, Tensor], Tensor], int], FunctionMap]:
    """Make a BatchMap: batch_map(function of (state, sample indices), batch size)."""
    return lambda function, count: FunctionMap(function, torch.arange(count), [])
