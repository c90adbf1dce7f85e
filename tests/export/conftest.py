"""Networks and their ONNX graphs, exported once for all tests of this folder (seconds each)."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from engine.fixed_point.solve import FixedPointConfig
from engine.mpi.grid import Grid
from engine.mpi.mdf import write_mdf
from engine.mpi.mdf.new_files import new_acquisition, new_calibration_file, new_sine_drive
from engine.networks.bundle import Bundle, load_bundle
from export.bundle import export_networks
from export.iconlab import import_iconlab
from trainer.config import DataConfig, LcConfig, ModelConfig, RdnConfig, SolverConfig, TrainConfig
from trainer.loop.checkpoint import BEST_WEIGHTS, PRETRAINED_WEIGHTS, save_config, save_tensors
from trainer.models.equilibrium import EquilibriumModel
from trainer.networks.consistency import LearnedConsistency
from trainer.networks.rdn import ResidualDenseNetwork

Run = Callable[..., np.ndarray]

RUN_CONFIG = TrainConfig(
    name="small run",
    data=DataConfig(system_matrix="/measurements/scanner/system-matrix.mdf"),
    seed=11,
    model=ModelConfig(rdn=RdnConfig(features=8, growth=4, blocks=2, layers=2), lc=LcConfig(features=8)),
    solver=SolverConfig(forward=FixedPointConfig(max_iterations=12)),
)


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> None:
    torch.set_num_threads(1)


def _run(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda **inputs: session.run(["z"], inputs)[0]


@pytest.fixture(scope="session")
def rdn() -> nn.Module:
    """A small image prior that shrinks images by a fifth, slightly perturbed: its solves converge."""
    torch.manual_seed(11)
    network = ResidualDenseNetwork(features=8, growth=4, blocks=2, layers=2).eval()
    with torch.no_grad():
        network.entry.weight[0] = 0.0
        network.entry.weight[0, 0, 1, 1] = 1.0
        network.exit.weight.mul_(0.05)
        network.exit.weight[0, 0, 1, 1] -= 0.2
        network.exit.bias.zero_()
    return network


@pytest.fixture(scope="session")
def lc() -> nn.Module:
    """A small data consistency near the projection on the ball: random weights on top of v itself."""
    torch.manual_seed(12)
    network = LearnedConsistency(features=8, hidden_layers=1, kernel=3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.05)
        for component in range(2):  # relu(v) and relu(-v) pass both layers, then their difference is taken
            for sign, channel in ((1.0, 2 * component), (-1.0, 2 * component + 1)):
                network.hidden[0].weight[channel, 2 + component, 0, 1] += sign
                network.hidden[1].weight[channel, channel, 0, 1] += 1.0
                network.exit.weight[component, channel, 0, 1] += sign
    return network


@pytest.fixture(scope="session")
def bundle_dir(rdn: nn.Module, lc: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the two small networks; tests must not change it."""
    path = tmp_path_factory.mktemp("bundles") / "small"
    export_networks(rdn, lc, path, name="small", description="for tests", training={"seed": 11})
    return path


@pytest.fixture(scope="session")
def rdn_graph(bundle_dir: Path) -> Path:
    return bundle_dir / "rdn.onnx"


@pytest.fixture(scope="session")
def lc_graph(bundle_dir: Path) -> Path:
    return bundle_dir / "lc.onnx"


@pytest.fixture(scope="session")
def run_rdn(rdn_graph: Path) -> Run:
    return _run(rdn_graph)


@pytest.fixture(scope="session")
def run_lc(lc_graph: Path) -> Run:
    return _run(lc_graph)


@pytest.fixture(scope="session")
def open_graph() -> Callable[[Path], Run]:
    """Open any graph with ONNX Runtime as a function of named arrays."""
    return _run


@pytest.fixture(scope="session")
def iconlab_bundle(iconlab: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The authors' model for a measurement SNR of about 25 dB, imported."""
    path = tmp_path_factory.mktemp("bundles") / "iconlab"
    import_iconlab(iconlab / "deqmpi_psnr20.pth", path)
    return load_bundle(path)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, rdn: nn.Module, lc: nn.Module) -> Path:
    """A run folder with the two small networks as its best and as its pre-trained weights."""
    folder = tmp_path_factory.mktemp("run")
    save_config(folder, RUN_CONFIG)
    for name in (BEST_WEIGHTS, PRETRAINED_WEIGHTS):
        save_tensors(folder / name, EquilibriumModel(rdn, lc))
    records = [
        {"step": 1, "phase": "stage 1", "loss": 0.5},
        {"step": 10, "phase": "stage 1", "validation_psnr": 29.5},
        {"step": 20, "phase": "stage 1", "validation_psnr": 30.25},
        {"step": 30, "phase": "stage 1", "validation_psnr": 30.0},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def system_matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MDF calibration of a made-up scanner: 8 x 5 voxels, 6 periods, harmonics of 1 kHz."""
    rng = np.random.default_rng(21)
    grid = Grid((8, 5, 1), (0.016, 0.010, 0.002))
    shape = (6, 1, 101)
    waves = rng.uniform(-300, 300, (*shape, 2)) @ grid.positions()[:, :2].T
    signal = 20 * np.exp(1j * (waves + rng.uniform(0, 2 * np.pi, (*shape, 1))))

    def noise(frames: int) -> np.ndarray:
        return rng.standard_normal((frames, *shape)) + 1j * rng.standard_normal((frames, *shape))

    file = new_calibration_file(
        np.moveaxis(signal, -1, 0) + noise(grid.n_voxels),
        noise(20),
        grid=grid,
        acquisition=new_acquisition(
            bandwidth=10e3,
            n_samples=200,
            n_periods=6,
            n_channels=1,
            drivefield=new_sine_drive(10e3, (10,), 0.01, n_periods=6),
        ),
    )
    path = tmp_path_factory.mktemp("calibration") / "system-matrix.mdf"
    write_mdf(path, file)
    return path
