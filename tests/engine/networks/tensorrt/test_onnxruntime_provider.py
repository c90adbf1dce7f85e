"""What ONNX Runtime's TensorRT provider is told: written to its documentation, it cannot run here."""

import onnxruntime
import pytest

from engine.errors import ProviderError
from engine.machine.cache_folder import cache_folder
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxConsistency
from engine.networks.tensorrt.onnxruntime_provider import provider_options

AVAILABLE = ["TensorrtExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "deq-mpi" / "onnxruntime-tensorrt"


@pytest.fixture
def warm_cache(cache):
    cache.mkdir(parents=True)
    (cache / "some.engine").touch()
    return cache


def test_the_profile_has_every_free_input(warm_cache) -> None:
    inputs = load_bundle().manifest.networks["lc"].inputs
    options = provider_options(inputs, {"lines": 6, "bins": 12})
    assert (
        options["trt_profile_min_shapes"]
        == "v:1x2x6x12,y:1x2x6x12,mask:1x1x6x12,epsilon:1x1x1x1"
        == options["trt_profile_opt_shapes"]
    )
    assert options["trt_profile_max_shapes"] == "v:64x2x6x12,y:64x2x6x12,mask:1x1x6x12,epsilon:64x1x1x1"


def test_single_precision_and_caches_in_the_users_cache(warm_cache) -> None:
    options = provider_options({"v": ("batch", 1, "height", "width")})
    assert options["trt_fp16_enable"] == "False"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(warm_cache)
    assert options["trt_profile_opt_shapes"] == "v:1x1x13x26"
    assert all(isinstance(value, str) for value in options.values())


def test_a_fixed_input_needs_no_profile(warm_cache) -> None:
    assert provider_options({"v": ("batch", 3), "w": (1, 2)})["trt_profile_min_shapes"] == "v:1x3"


def test_the_first_build_is_announced(cache) -> None:
    with pytest.warns(UserWarning, match=f"{cache}"):
        provider_options({"v": ("batch", 1)})


def test_the_cache_folder_is_the_users(tmp_path, monkeypatch) -> None:
    assert cache_folder("x") == tmp_path / "cache" / "deq-mpi" / "x"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA")
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    assert cache_folder("x") == tmp_path / ".cache" / "deq-mpi" / "x"
    assert (tmp_path / ".cache" / "deq-mpi" / "x").is_dir()


def test_a_session_hands_the_options_over_and_refuses_the_fallback(warm_cache, monkeypatch) -> None:
    """The runtime without TensorRT's libraries lists the provider and then goes on without it."""
    original, given = onnxruntime.InferenceSession, []

    def session(model, options, providers):
        given.extend(providers)
        return original(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: AVAILABLE)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ProviderError, match=r"tensorrt .*CPU"):
        OnnxConsistency(load_bundle(), "tensorrt", {"lines": 6, "bins": 12})
    ((name, options),) = given
    assert name == "TensorrtExecutionProvider"
    assert options["trt_profile_max_shapes"].startswith("v:64x2x6x12")


def test_without_the_provider_no_cache_is_made(cache) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(ProviderError, match=r"tensorrt .*build"):
        OnnxConsistency(load_bundle(), "tensorrt")
    assert not cache.exists()
