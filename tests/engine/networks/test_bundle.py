"""A bundle is used only if every byte and every word of it is as expected."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BundleError
from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import Manifest, load_bundle, shipped_bundle_path
from engine.networks.manifest import SCHEMA
from engine.networks.sessions import OnnxPrior
from engine.reconstruction.methods import default_bundle_path

FIXTURE = Path(__file__).parents[2] / "fixtures" / "bundle"
IMAGE_BUNDLES = FIXTURE.parent / "image-bundles"
IMAGE_METHODS = ("deq-ball", "pp-mpi", "unrolled", "end-to-end")


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "bundle"))


@pytest.fixture
def content() -> dict:
    return json.loads((FIXTURE / "manifest.json").read_text())


def rewrite(bundle_dir: Path, change) -> None:
    """Change the manifest in place: `change` edits the decoded JSON."""
    path = bundle_dir / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_fixture_loads() -> None:
    bundle = load_bundle(FIXTURE)
    assert bundle.manifest.name == "test-projections"
    assert bundle.manifest.method == "deq"
    assert bundle.manifest.solver == bundle.require_solver() == FixedPointConfig()
    assert bundle.manifest.networks["lc"].inputs["mask"] == (1, 1, "lines", "bins")
    assert bundle.networks["rdn"] == (FIXTURE / "rdn.onnx").read_bytes()


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_bundles_of_other_methods_hold_the_image_network_alone(method: str) -> None:
    bundle = load_bundle(IMAGE_BUNDLES / method)
    assert bundle.manifest.method == method
    assert list(bundle.manifest.networks) == ["rdn"]
    bundle.require_method(method)
    with pytest.raises(BundleError, match=rf"is of method {method}; expected deq; use --method {method} "):
        bundle.require_method("deq")


def test_a_method_that_does_not_iterate_has_no_solver_settings() -> None:
    bundle = load_bundle(IMAGE_BUNDLES / "end-to-end")
    assert bundle.manifest.solver is None
    with pytest.raises(BundleError, match="of method end-to-end, which does not iterate"):
        bundle.require_solver()


@pytest.mark.parametrize("folder", [FIXTURE, *(IMAGE_BUNDLES / method for method in IMAGE_METHODS)])
def test_manifest_survives_a_round_trip(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    manifest = Manifest.from_dict(content)
    assert json.loads(json.dumps(manifest.to_dict())) == content
    assert Manifest.from_dict(manifest.to_dict()) == manifest


@pytest.mark.parametrize("name", ["rdn.onnx", "lc.onnx"])
def test_one_changed_byte_is_found(bundle_dir: Path, name: str) -> None:
    data = bytearray((bundle_dir / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle_dir / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name} has SHA-256"):
        load_bundle(bundle_dir)


def test_a_file_changed_after_loading_changes_nothing(bundle_dir: Path) -> None:
    bundle = load_bundle(bundle_dir)
    checked = (bundle_dir / "rdn.onnx").read_bytes()
    (bundle_dir / "rdn.onnx").write_bytes(b"something else")
    assert bundle.networks["rdn"] == checked


@pytest.mark.parametrize("name", ["rdn.onnx", "lc.onnx", "manifest.json"])
def test_missing_file_is_named(bundle_dir: Path, name: str) -> None:
    (bundle_dir / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(bundle_dir)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a model bundle"):
        load_bundle(tmp_path / "absent")


def test_other_schema_names_both_numbers(bundle_dir: Path) -> None:
    rewrite(bundle_dir, lambda m: m.update(schema=7))
    with pytest.raises(BundleError, match=r"schema 7; this version reads .*schema 3"):
        load_bundle(bundle_dir)


@pytest.mark.parametrize("schema", [1, 2])
def test_bundles_of_older_schemas_load_with_what_held_then(schema: int) -> None:
    folder = FIXTURE.parent / f"bundle-schema-{schema}"
    assert json.loads((folder / "manifest.json").read_text())["schema"] == schema
    manifest = load_bundle(folder).manifest
    assert (manifest.method, manifest.dual_start) == ("deq", 0.0)
    assert manifest.to_dict()["schema"] == SCHEMA
    v = np.random.default_rng(0).standard_normal((1, 1, 5, 7)).astype(np.float32)
    noise = np.full((1, 1, 1, 1), 0.1, np.float32)
    np.testing.assert_array_equal(OnnxPrior(load_bundle(folder))(v, noise), np.maximum(v, 0))


@pytest.mark.parametrize("key", ["method", "dual_start"])
def test_what_a_schema_brought_is_missed_in_it(content: dict, key: str) -> None:
    del content[key]
    with pytest.raises(BundleError, match=f"missing .*`{key}`"):
        Manifest.from_dict(content)


@pytest.mark.parametrize("text", ["{", "[]", "null", '"text"', '{"kind": "other"}'])
def test_other_content_is_refused(bundle_dir: Path, text: str) -> None:
    (bundle_dir / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(bundle_dir)


def test_manifest_that_is_not_text(bundle_dir: Path) -> None:
    (bundle_dir / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="not valid JSON"):
        load_bundle(bundle_dir)


def set_in(content: dict, path: str, value: object) -> dict:
    *folders, key = path.split(".")
    changed = copy.deepcopy(content)
    target = changed
    for folder in folders:
        target = target[folder]
    target[key] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", "colour"),
        ("networks.rdn.colour", "red", "colour"),
        ("networks.third", {}, "third"),
        ("conventions.colour", "red", "colour"),
        ("solver.colour", "red", "colour"),
        ("solver.memory", -1, "memory"),
        ("solver", 3, "solver: .*`int`"),
        ("method", ["deq"], "method: .*`str`"),
        ("training", [], "training"),
        ("name", 3, "name: .*`str`"),
        ("opset", "18", "opset"),
        ("opset", True, "opset"),
        ("conventions.spectral_norm", 1.0, "spectral_norm is 1.0; expected 25.0"),
        ("conventions.spectral_norm", "25", "spectral_norm"),
        ("conventions.image_peak", 2, "image_peak"),
        ("conventions.image_axes", "batch, 1, Nx, Ny", "image_axes"),
        ("networks.rdn.sha256", "abc", "64 hexadecimal"),
        ("networks.rdn.sha256", "G" * 64, "64 hexadecimal"),
        ("networks.rdn.inputs", {"image": ["batch", 1, "h", "w"]}, "image"),
        ("networks.rdn.inputs.v", "batch", r"networks\.rdn\.inputs\.v: .*`array`"),
        ("networks.rdn.inputs.v", [1.5], r"networks\.rdn\.inputs\.v\[0\]: .*`float`"),
        ("networks.lc", [], r"networks\.lc: .*`array`"),
    ],
)
def test_unexpected_values_are_named(content: dict, path: str, value: object, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.from_dict(set_in(content, path, value))


@pytest.mark.parametrize("file", ["../rdn.onnx", "/etc/passwd", "sub/rdn.onnx", "..", "", "a\\b"])
def test_files_outside_the_folder_are_refused(content: dict, file: str) -> None:
    with pytest.raises(BundleError, match="plain name"):
        Manifest.from_dict(set_in(content, "networks.rdn.file", file))


@pytest.mark.parametrize("key", ["name", "method", "opset", "networks", "conventions", "solver", "training"])
def test_missing_keys_are_named(content: dict, key: str) -> None:
    del content[key]
    with pytest.raises(BundleError, match=f"missing .*`{key}`"):
        Manifest.from_dict(content)


@pytest.mark.parametrize(("method", "name"), [("deq", "reference"), ("pp-mpi", "denoiser")])
def test_default_bundles_lie_in_the_package(method: str, name: str) -> None:
    import engine

    assert default_bundle_path(method) == Path(engine.__file__).parent / "models" / name


def test_the_default_bundle_is_of_the_equilibrium_method() -> None:
    assert default_bundle_path() == default_bundle_path("deq")


def test_methods_without_a_shipped_bundle() -> None:
    with pytest.raises(BundleError, match=r"unrolled.*--model"):
        default_bundle_path("unrolled")
    with pytest.raises(BundleError, match="art has no networks"):
        default_bundle_path("art")


def test_a_shipped_bundle_opens_by_its_name_unless_a_folder_has_it(tmp_path: Path, monkeypatch) -> None:
    assert load_bundle("denoiser").path == default_bundle_path("pp-mpi")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURE, tmp_path / "denoiser")
    assert load_bundle("denoiser").manifest.name == "test-projections"
    with pytest.raises(BundleError, match="no-such-model is not a model bundle"):
        load_bundle("no-such-model")
    with pytest.raises(BundleError, match="no bundle 'quick' ships; expected one of denoiser"):
        shipped_bundle_path("quick")


@pytest.mark.parametrize("value", [-0.1, "0.1", True, None, float("nan")])
def test_a_dual_start_is_a_non_negative_number(content: dict, value: object) -> None:
    content["dual_start"] = value
    with pytest.raises(BundleError, match=r"dual_start(: .*`float`| is .*; expected a non-negative number)"):
        Manifest.from_dict(content)


def test_an_image_network_may_take_the_noise_level_and_nothing_else(content: dict) -> None:
    inputs = content["networks"]["rdn"]["inputs"]
    assert not Manifest.from_dict(content).networks["rdn"].takes_noise
    inputs["noise"] = ["batch", 1, 1, 1]
    assert Manifest.from_dict(content).networks["rdn"].takes_noise
    inputs["snr"] = ["batch", 1, 1, 1]
    with pytest.raises(BundleError, match=r"networks\.rdn\.inputs .*snr"):
        Manifest.from_dict(content)


def test_a_step_is_an_optional_network_of_the_method_deq() -> None:
    folder = FIXTURE.parent / "step-bundle"
    bundle = load_bundle(folder)
    assert list(bundle.manifest.networks) == ["rdn", "lc", "step"]
    step = bundle.manifest.networks["step"]
    assert step.inputs["system_matrix"] == ("rows", "voxels")
    assert list(step.outputs) == ["next_image", "next_data", "report"]
    content = bundle.manifest.to_dict()
    assert Manifest.from_dict(json.loads(json.dumps(content))) == bundle.manifest
    del content["networks"]["step"]
    assert list(Manifest.from_dict(content).networks) == ["rdn", "lc"]


def test_a_step_with_other_inputs_is_refused() -> None:
    content = load_bundle(FIXTURE.parent / "step-bundle").manifest.to_dict()
    del content["networks"]["step"]["inputs"]["weights"]
    with pytest.raises(BundleError, match=r"networks\.step\.inputs is .*; expected .*weights"):
        Manifest.from_dict(content)


def test_a_damaged_step_is_refused_when_the_bundle_is_loaded(tmp_path) -> None:
    folder = Path(shutil.copytree(FIXTURE.parent / "step-bundle", tmp_path / "bundle"))
    (folder / "step.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"step\.onnx has SHA-256"):
        load_bundle(folder)
