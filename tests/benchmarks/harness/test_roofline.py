"""The least time of an evaluation: counted by hand, and read off graphs of known work."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.harness import roofline
from benchmarks.harness.roofline import Rates, Stage, convolution_flops, evaluation_stages, measure_rates
from benchmarks.scans.scans import reference_scan
from engine.networks.bundle import load_bundle, shipped_bundle_path

BLOCK = 9 * 16 * (16 + 32 + 48 + 64) + 16 * (16 + 4 * 16)
"""Four 3x3 layers of growth 16 that see all before them, and the 1x1 fusion."""

RDN = 9 * 16 * 2 + 9 * 16 * 16 + 4 * BLOCK + 16 * (4 * 16) + 9 * 16 * 16 + 9 * 16
"""Multiplications per pixel: entry (image and noise level), shallow, four blocks, fusion, merging, exit."""

LC = 3 * 8 * 5 + 3 * 8 * 8 + 3 * 2 * 8
"""Multiplications per place: data, v and noise level to 8 features, 8 to 8, 8 to real and imaginary part."""


def shipped(role: str) -> bytes:
    return load_bundle(shipped_bundle_path("reference")).networks[role]


def graph_of_two_convolutions(height: str | int | None) -> bytes:
    """Return a 3x3 convolution of stride 2 without padding, then one in two groups, from (1, 2, H, 9)."""
    weights = {"first": np.zeros((4, 2, 3, 3), np.float32), "second": np.zeros((6, 2, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["v", "first"], ["u"], strides=[2, 2]),
        helper.make_node("Relu", ["u"], ["w"]),
        helper.make_node("Conv", ["w", "second"], ["z"], group=2),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 2, height, 9])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 6, None, None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("size", [(13, 26), (8, 10)])
def test_the_image_network_is_counted_as_by_hand(size: tuple[int, int]) -> None:
    height, width = size
    found = convolution_flops(shipped("rdn"), {"batch": 1, "height": height, "width": width})
    assert found == 2 * RDN * height * width


@pytest.mark.parametrize("size", [(60, 130), (8, 52)])
def test_the_data_network_is_counted_as_by_hand(size: tuple[int, int]) -> None:
    lines, bins = size
    found = convolution_flops(shipped("lc"), {"batch": 1, "lines": lines, "bins": bins})
    assert found == 2 * LC * lines * bins


@pytest.mark.parametrize("height", ["height", 7])
def test_strides_groups_and_borders_count(height: str | int) -> None:
    """Of 7 x 9 pixels the first convolution leaves 3 x 4."""
    model = graph_of_two_convolutions(height)
    assert convolution_flops(model, {"height": 7}) == 2 * 3 * 4 * (4 * 2 * 9 + 6 * 2)


def test_a_length_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="the shape of u is not known"):
        convolution_flops(graph_of_two_convolutions(None), {"height": 7})


def test_an_axis_without_a_length_is_named() -> None:
    with pytest.raises(KeyError, match="height"):
        convolution_flops(graph_of_two_convolutions("height"), {"width": 7})


@pytest.mark.usefixtures("small_world")
def test_the_stages_are_the_networks_and_three_products() -> None:
    operators = reference_scan(0.5).operators
    stages = evaluation_stages(load_bundle(shipped_bundle_path("reference")), operators)
    n, r = operators.n_voxels, operators.n_rows
    lines, bins = operators.layout.shape
    # A x, M A^T d and M x: each entry once multiplied, once added, once read.
    matrices = [operators.system_matrix, operators.weighted_adjoint, operators.inverse]
    assert stages == {
        "rdn": Stage(2 * RDN * 8 * 10, 0),
        "lc": Stage(2 * LC * lines * bins, 0),
        "products": Stage(2 * n * (2 * r + n), sum(matrix.nbytes for matrix in matrices)),
    }


def test_a_stage_takes_as_long_as_the_slower_part() -> None:
    rates = Rates(flops_per_s=100.0, bytes_per_s=10.0)
    assert Stage(flops=500.0, read_bytes=20.0).seconds(rates) == 5.0
    assert Stage(flops=500.0, read_bytes=80.0).seconds(rates) == 8.0
    assert Stage(flops=500.0, read_bytes=0.0).seconds(rates) == 5.0


@pytest.mark.usefixtures("small_world")
def test_rates_are_measured_and_threads_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.01)
    monkeypatch.setattr(roofline, "MATRIX_SIZES", (64,))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        rates = measure_rates(reference_scan(0.5).operators)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert 0 < rates.flops_per_s < np.inf
    assert 0 < rates.bytes_per_s < np.inf
