"""Networks and their ONNX graphs, exported once for all tests of this folder (seconds each)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

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
    """A small image prior; the last bias keeps Eq. (23) from clipping a whole image to zero."""
    torch.manual_seed(11)
    network = ResidualDenseNetwork(features=8, growth=4, blocks=2, layers=2).eval()
    nn.init.ones_(network.exit.bias)
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
