"""Networks and their ONNX graphs, exported once for all tests of this folder (seconds each)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from engine.bundle import Bundle, load_bundle
from export.bundle import export_networks
from export.iconlab import import_iconlab
from export.onnx_graphs import export_lc, export_rdn
from trainer.consistency import LearnedConsistency
from trainer.rdn import ResidualDenseNetwork

Run = Callable[..., np.ndarray]


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
    """A small image prior near the identity, so that its fixed point is a well-behaved one."""
    torch.manual_seed(11)
    network = ResidualDenseNetwork(features=8, growth=4, blocks=2, layers=2).eval()
    with torch.no_grad():
        network.exit.weight.mul_(0.1)
        network.exit.bias.zero_()
    return network


@pytest.fixture(scope="session")
def lc() -> nn.Module:
    torch.manual_seed(12)
    return LearnedConsistency(features=8, hidden_layers=1, kernel=3).eval()


@pytest.fixture(scope="session")
def rdn_graph(rdn: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "rdn.onnx"
    export_rdn(rdn, path)
    return path


@pytest.fixture(scope="session")
def lc_graph(lc: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "lc.onnx"
    export_lc(lc, path)
    return path


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
def bundle_dir(rdn: nn.Module, lc: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the two small networks; tests must not change it."""
    path = tmp_path_factory.mktemp("bundles") / "small"
    export_networks(rdn, lc, path, name="small", description="for tests", training={"seed": 11})
    return path


@pytest.fixture(scope="session")
def iconlab_bundle(iconlab: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The authors' model for a measurement SNR of about 25 dB, imported."""
    path = tmp_path_factory.mktemp("bundles") / "iconlab"
    import_iconlab(iconlab / "deqmpi_psnr20.pth", path)
    return load_bundle(path)
