"""What a method demands of a bundle and of weights, and that a new method is one entry in the table."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BundleError, ConfigError
from engine.fixed_point.solution import Result, Solution, SolveStats
from engine.networks.bundle import Bundle, load_bundle
from engine.networks.manifest import Manifest
from engine.operators.factorisation import make_operators
from engine.reconstruction import methods
from engine.reconstruction.method import HandSetWeights, Method, require_bundle_of
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import METHODS, open_method, tunable
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.regularization import MethodWeights, SnrCurve, load_weights, save_weights
from engine.tuning.emulation import scan_of
from engine.tuning.result import TuningConfig
from engine.tuning.search import Lattice
from engine.tuning.tune import tune

FIXTURES = Path(__file__).parents[2] / "fixtures"


def manifest_of(folder: str) -> dict:
    return copy.deepcopy(json.loads((FIXTURES / folder / "manifest.json").read_text()))


def refused(content: dict, words: str) -> None:
    manifest = Manifest.from_dict(content)
    with pytest.raises(BundleError, match=words):
        require_bundle_of(
            Bundle(manifest, Path("somewhere"), {}, None), manifest.method, METHODS[manifest.method]
        )


@pytest.mark.parametrize(
    "folder",
    ["bundle", "step-bundle", *(f"image-bundles/{name}" for name in ("deq-ball", "pp-mpi", "unrolled"))],
)
def test_whole_bundles_are_taken(folder: str) -> None:
    bundle = load_bundle(FIXTURES / folder)
    require_bundle_of(bundle, bundle.manifest.method, METHODS[bundle.manifest.method])


def test_every_network_of_the_method_is_required_and_no_other() -> None:
    content = manifest_of("bundle")
    del content["networks"]["lc"]
    refused(content, "deq has the networks rdn; expected rdn, lc")
    refused(manifest_of("bundle") | {"method": "pp-mpi"}, "networks lc, rdn; expected rdn")
    content = manifest_of("step-bundle") | {"method": "deq-ball"}
    del content["networks"]["lc"]
    refused(content, "networks rdn, step")


def test_solver_settings_are_there_where_the_method_iterates() -> None:
    refused(manifest_of("bundle") | {"solver": None}, "expected some for the method deq")
    solver = manifest_of("bundle")["solver"]
    refused(manifest_of("image-bundles/end-to-end") | {"solver": solver}, "expected none for .* end-to-end")


def test_only_an_equilibrium_starts_with_a_dual() -> None:
    refused(manifest_of("image-bundles/unrolled") | {"dual_start": 20.0}, "dual_start of 20")


def test_older_weights_of_conjugate_gradients_are_those_of_tikhonov() -> None:
    old = load_weights(FIXTURES / "weights-schema-1-cg-tikhonov.json")
    assert set(old) == set(tunable())
    stored = json.loads((FIXTURES / "weights-schema-1-cg-tikhonov.json").read_text())
    values = stored["methods"]["cg-tikhonov"]["weights"]["lambda"]["values"]
    assert list(old["tikhonov"].curves["lambda"].values) == values


def test_weights_of_other_names_are_refused(small_system_matrix, tmp_path) -> None:
    other = {"art": MethodWeights({"l1": SnrCurve.constant(0.1)}, 5)}
    save_weights(tmp_path / "weights.json", other, {})
    settings = MethodSettings(weights_file=tmp_path / "weights.json")
    with pytest.raises(ConfigError, match=r"art are \['l1'\]; expected \['lambda'\]"):
        open_method("art", make_operators(small_system_matrix), settings)


class Scaled:
    """A toy method: the least-squares start times a weight."""

    method = "toy"

    def __init__(self, operators, weights) -> None:
        self.operators, self.weights = operators, weights
        self.settings = {}

    def solve(self, measurements, /):
        return [
            Solution(
                np.float32(self.weights.at(measurement.snr_db)["gain"]) * measurement.start,
                Result.DIRECT,
                SolveStats(0, (), weights=self.weights.at(measurement.snr_db)),
            )
            for measurement in measurements
        ]


@pytest.fixture
def toy(monkeypatch) -> str:
    """The whole of adding a method: one entry."""
    entry = Method(
        "the start, scaled",
        lambda opening: Scaled(opening.operators, opening.weights()),
        frozenset({"weights", "weights_file"}),
        weights=HandSetWeights(("gain",), lambda _snr_db: (1.0,)),
    )
    monkeypatch.setattr(methods, "METHODS", {**METHODS, "toy": entry})
    monkeypatch.setattr("engine.tuning.judge.METHODS", methods.METHODS)
    monkeypatch.setattr("engine.tuning.tune.METHODS", methods.METHODS)
    return "toy"


def test_a_new_method_is_one_entry(toy, small_system_matrix, tmp_path) -> None:
    """Tuned, its weights stored and read, opened by name, reconstructed, named in messages."""
    scan = scan_of(small_system_matrix)
    config = TuningConfig(snr_db=(20.0,), frames=2, lattice=Lattice(2))
    save_weights(tmp_path / "weights.json", tune(scan, [toy], config).weights, {})
    found = Reconstructor.open(scan.operators, toy, MethodSettings(weights_file=tmp_path / "weights.json"))
    start = Reconstructor.open(scan.operators, "least-squares")
    rows = np.random.default_rng(3).standard_normal(scan.operators.n_rows)
    gain = found.reconstruct(rows).report.weights["gain"]
    assert gain > 0
    np.testing.assert_allclose(found.reconstruct(rows).image, gain * start.reconstruct(rows).image, rtol=1e-6)
    with pytest.raises(ConfigError, match=r"max_iterations .*toy"):
        open_method(toy, scan.operators, MethodSettings(max_iterations=3))
    with pytest.raises(ConfigError, match=r"'tov'.*toy"):
        open_method("tov", scan.operators)
