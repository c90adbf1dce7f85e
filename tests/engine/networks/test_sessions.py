"""ONNX Runtime sessions: the right numbers, and a clear error for everything else."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from engine.errors import BundleError, PairingError, ProviderError
from engine.networks.bundle import load_bundle
from engine.networks.sessions import (
    PROVIDERS,
    OnnxConsistency,
    OnnxPrior,
    OnnxSession,
    SessionTuning,
    open_session,
)
from engine.reconstruction.methods import default_bundle_path

FIXTURE = Path(__file__).parents[2] / "fixtures" / "bundle"
IMAGE_BUNDLES = FIXTURE.parent / "image-bundles"

FLOAT32_TOLERANCE = 1e-6
"""Relative: one norm over some hundred values."""

IMAGE = ("batch", 1, "height", "width")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(FIXTURE)


@pytest.fixture
def rdn_bytes() -> bytes:
    return (FIXTURE / "rdn.onnx").read_bytes()


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (3, 1, 2, 9)])
def test_prior_of_the_fixture_clips_at_zero(bundle, shape) -> None:
    v = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    z = OnnxPrior(bundle)(v, NOISE[:1])
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, np.maximum(v, 0))


N_FRAMES = 5

NOISE = np.geomspace(0.01, 0.5, N_FRAMES, dtype=np.float32).reshape(-1, 1, 1, 1)

BATCH_TOLERANCE = 1e-5
"""Relative to the largest value: the runtime adds up the products of a batch in another order, on each
processor in one of its own, in every layer (1e-6 seen). An image that saw its neighbour would be off by a
tenth."""


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=BATCH_TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("method", ["deq", "pp-mpi"])
def test_prior_that_ships_treats_every_image_of_a_batch_on_its_own(method) -> None:
    prior = OnnxPrior(load_bundle(default_bundle_path(method)))
    images = np.random.default_rng(2).random((N_FRAMES, 1, 13, 26), np.float32)
    noise = NOISE[:N_FRAMES]
    found = prior(images, noise)
    assert found.any(axis=(1, 2, 3)).all()
    same(found, np.concatenate([prior(*pair) for pair in zip(images[:, None], noise[:, None], strict=True)]))
    # the same session takes a second batch size and another grid
    same(prior(images[:2], noise[:2]), found[:2])
    assert prior(np.zeros((3, 1, 26, 52), np.float32), noise[:3]).shape == (3, 1, 26, 52)


def test_consistency_that_ships_treats_every_frame_of_a_batch_on_its_own() -> None:
    consistency = OnnxConsistency(load_bundle())
    rng = np.random.default_rng(3)
    mask = (rng.random((1, 1, 6, 10)) < 0.7).astype(np.float32)
    v, y = mask * rng.standard_normal((2, N_FRAMES, 2, 6, 10)).astype(np.float32)
    epsilon = rng.uniform(0.1, 3.0, (N_FRAMES, 1, 1, 1)).astype(np.float32)
    single = [consistency(v[[i]], y[[i]], mask, epsilon[[i]]) for i in range(N_FRAMES)]
    same(consistency(v, y, mask, epsilon), np.concatenate(single))


@pytest.mark.parametrize("method", ["deq-ball", "pp-mpi", "unrolled", "end-to-end"])
def test_prior_opens_the_image_network_of_any_method(method) -> None:
    v = np.random.default_rng(0).standard_normal((2, 1, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(
        OnnxPrior(load_bundle(IMAGE_BUNDLES / method))(v, NOISE[:2]), np.maximum(v, 0)
    )


def test_consistency_of_another_method_is_refused() -> None:
    with pytest.raises(BundleError, match=r"pp-mpi; .*deq"):
        OnnxConsistency(load_bundle(IMAGE_BUNDLES / "pp-mpi"))


@pytest.mark.parametrize("shape", [(1, 2, 5, 7), (5, 7)])
def test_images_of_other_axes_do_not_belong_to_the_network(bundle, shape) -> None:
    with pytest.raises(PairingError, match="'batch', 1, 'height', 'width'"):
        OnnxPrior(bundle)(np.zeros(shape, np.float32), NOISE[:1])


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 1e3])
def test_consistency_of_the_fixture_projects_on_the_ball(bundle, epsilon) -> None:
    rng = np.random.default_rng(1)
    mask = (rng.random((1, 1, 4, 6)) < 0.5).astype(np.float32)
    v, y = (mask * rng.standard_normal((2, 2, 4, 6)).astype(np.float32) for _ in range(2))
    radius = np.array([epsilon, 2 * epsilon], np.float32).reshape(2, 1, 1, 1)
    z = OnnxConsistency(bundle)(v, y, mask, radius)
    length = np.sqrt(np.sum((v - y).astype(np.float64) ** 2, axis=(1, 2, 3), keepdims=True))
    expected = y + (v - y) * np.minimum(1, radius / length)
    assert z.shape == (2, 2, 4, 6)
    np.testing.assert_allclose(z, expected, rtol=0, atol=FLOAT32_TOLERANCE * np.abs(expected).max())
    assert not z[np.broadcast_to(mask == 0, z.shape)].any()


def test_consistency_at_the_centre_of_the_ball(bundle) -> None:
    """v = y leaves 0 / 0 unless the graph guards the norm."""
    y = np.ones((1, 2, 3, 3), np.float32)
    z = OnnxConsistency(bundle)(
        y, y, np.ones((1, 1, 3, 3), np.float32), np.full((1, 1, 1, 1), 0.5, np.float32)
    )
    np.testing.assert_array_equal(z, y)


@pytest.mark.parametrize("provider", ["tpu", "tensorrt"])
def test_unknown_provider(bundle, provider) -> None:
    with pytest.raises(ProviderError, match="expected one of cpu, cuda, tensorrt-native"):
        OnnxPrior(bundle, provider)


def test_provider_that_this_build_lacks(bundle, monkeypatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=r"cuda .*CPUExecutionProvider"):
        OnnxPrior(bundle, "cuda")


def test_silent_fallback_to_the_cpu_is_an_error(bundle, monkeypatch) -> None:
    """The runtime lists a provider, fails to start it and goes on with the CPU."""
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, **_: original(model, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(ProviderError, match="CPUExecutionProvider"):
        OnnxPrior(bundle, "cuda")


@pytest.mark.skipif(
    "AzureExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime has no provider that runs nothing, to stand in for one that cannot start",
)
def test_a_node_that_only_the_cpu_could_run_is_an_error_on_request(rdn_bytes, monkeypatch) -> None:
    """The runtime gives every node that its provider does not take to the CPU, unless told not to."""
    monkeypatch.setattr(
        "engine.networks.sessions.PROVIDERS", {**PROVIDERS, "cuda": ("AzureExecutionProvider", {})}
    )
    assert open_session(rdn_bytes, "cuda").get_providers()[-1] == "CPUExecutionProvider"
    with pytest.raises(ProviderError, match="every node"):
        open_session(rdn_bytes, "cuda", SessionTuning(every_node_on_provider=True))
    open_session(rdn_bytes, "cpu", SessionTuning(every_node_on_provider=True))


def test_a_session_can_be_specialised_to_lengths(rdn_bytes) -> None:
    session = open_session(rdn_bytes, "cpu", SessionTuning({"batch": 1, "height": 5, "width": 7}))
    assert session.get_inputs()[0].shape == [1, 1, 5, 7]
    assert session.run(None, {"v": np.ones((1, 1, 5, 7), np.float32)})[0].all()


def test_missing_runtime_says_what_to_install(bundle, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match=r"pip install 'deq-mpi\[cpu\]'"):
        OnnxPrior(bundle)


def test_session_uses_one_thread(rdn_bytes) -> None:
    session = OnnxSession(rdn_bytes, {"v": IMAGE}, {"z": IMAGE})
    options = session._session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"w": IMAGE}, {"z": IMAGE}, r"inputs .*\['v'\]; .*\['w'\]"),
        ({"v": IMAGE}, {"out": IMAGE}, "outputs are"),
        ({"v": IMAGE[1:]}, {"z": IMAGE}, "input v"),
        ({"v": IMAGE}, {"z": (*IMAGE, 1)}, "output z"),
        ({"v": ("batch", 2, "height", "width")}, {"z": IMAGE}, "input v"),
        ({"v": (1, 1, "height", "width")}, {"z": IMAGE}, "input v"),
        ({"v": ("batch", "channel", "height", "width")}, {"z": IMAGE}, "input v"),
    ],
)
def test_graph_that_differs_from_its_description(rdn_bytes, inputs, outputs, message) -> None:
    with pytest.raises(BundleError, match=message):
        OnnxSession(rdn_bytes, inputs, outputs)


def test_file_that_is_no_graph(tmp_path: Path) -> None:
    """Its hash is right, so the bundle is whole, but the runtime cannot read it; the file is named."""
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "bundle"))
    (folder / "rdn.onnx").write_bytes(b"no graph")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["networks"]["rdn"]["sha256"] = hashlib.sha256(b"no graph").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"rdn\.onnx") as raised:
        OnnxPrior(load_bundle(folder))
    assert "\n" not in str(raised.value)


def test_bound_networks_read_their_arrays_anew_and_write_to_one_place() -> None:
    bundle = load_bundle()
    rng = np.random.default_rng(5)
    prior, consistency = OnnxPrior(bundle), OnnxConsistency(bundle)
    v, noise = rng.random((2, 1, 6, 5), np.float32), NOISE[:2].copy()
    bound = prior.bind(v, noise)
    mask = np.ones((1, 1, 3, 8), np.float32)
    data = rng.standard_normal((2, 2, 2, 3, 8)).astype(np.float32)
    epsilon = np.full((2, 1, 1, 1), 0.5, np.float32)
    bound_data = consistency.bind(data[0], data[1], mask, epsilon)
    places = set()
    for _ in range(3):
        v[...] = rng.random(v.shape, np.float32)
        data[...] = rng.standard_normal(data.shape)
        same(bound(), prior(v, noise))
        same(bound_data(), consistency(data[0], data[1], mask, epsilon))
        places.add((bound().ctypes.data, bound_data().ctypes.data))
    assert len(places) == 1


def test_binding_arrays_of_another_shape_is_refused() -> None:
    with pytest.raises(PairingError, match="input v"):
        OnnxPrior(load_bundle()).bind(np.zeros((1, 2, 6, 5), np.float32), NOISE[:1])


def test_binding_what_cannot_be_read_in_its_place_is_refused() -> None:
    wide = np.zeros((1, 1, 6, 10), np.float32)
    for array in (wide[..., ::2], wide.astype(np.float64)):
        with pytest.raises(PairingError, match="expected contiguous float32"):
            OnnxPrior(load_bundle()).bind(array, NOISE[:1])


def test_a_device_is_given_the_arrays_anew_at_every_call(monkeypatch) -> None:
    """ONNX Runtime copies to a device when it binds, and never again."""
    prior = OnnxPrior(load_bundle())
    monkeypatch.setattr(prior._session, "_provider", "cuda")
    v, noise = np.zeros((1, 1, 6, 5), np.float32), NOISE[:1].copy()
    bound = prior.bind(v, noise)
    v[...] = np.random.default_rng(7).random(v.shape, np.float32)
    same(bound(), prior(v, noise))
    assert bound().any()
