"""The bundle folder: what the engine reads is what the export wrote, and nothing wrong gets written."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from engine.errors import BundleError, InputError
from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import load_bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.deq.equilibrium import Equilibrium
from export.bundle import export_denoiser, export_networks, export_run
from export.errors import ExportError, ParityError
from export.parity.parity_problem import parity_problem, synthetic_operators
from trainer.config import PretrainConfig, PretrainRdnConfig, UnrolledConfig, load_config
from trainer.data.linear_operators import TorchOperators
from trainer.loop.checkpoint import (
    BEST_WEIGHTS,
    CONFIG_FILE,
    PRETRAINED_WEIGHTS,
    build_model,
    save_config,
    save_tensors,
)
from trainer.loop.validation import reconstruct
from trainer.models.equilibrium import EquilibriumModel
from trainer.networks.consistency import LearnedConsistency

IMAGE_TOLERANCE = 1e-2
"""Relative to the peak: two solvers in float32 that stop at residuals of 2e-3 carry rounding that far."""

ITERATION_TOLERANCE = 4
"""Of about thirty: the residual falls slowly near the end, so that rounding moves the crossing."""


def test_the_engine_reads_what_was_written(bundle_dir):
    manifest = load_bundle(bundle_dir).manifest
    assert (manifest.name, manifest.description, manifest.opset) == ("small", "for tests", 18)
    assert manifest.training["seed"] == 11
    assert manifest.training["parity"]["rdn"] < 1e-5
    assert manifest.solver == FixedPointConfig()
    assert manifest.networks["rdn"].inputs == {"v": ("batch", 1, "height", "width")}
    assert manifest.networks["lc"].inputs["epsilon"] == ("batch", 1, 1, 1)
    assert sorted(entry.name for entry in bundle_dir.iterdir()) == ["lc.onnx", "manifest.json", "rdn.onnx"]
    assert [entry.name for entry in bundle_dir.parent.iterdir()] == [bundle_dir.name]


def test_the_manifest_holds_the_hashes_of_the_files(bundle_dir):
    networks = json.loads((bundle_dir / "manifest.json").read_text(encoding="utf-8"))["networks"]
    for role in ("rdn", "lc"):
        content = (bundle_dir / networks[role]["file"]).read_bytes()
        assert networks[role]["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["rdn.onnx", "lc.onnx"])
def test_a_changed_file_is_refused(bundle_dir, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(bundle_dir, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        load_bundle(copy)


def test_the_engine_reconstructs_what_the_trainer_does(bundle_dir, rdn, lc):
    """Everything at once: the torch twin of the method against the engine with the exported graphs."""
    operators = synthetic_operators()
    problem = parity_problem(operators)
    config = FixedPointConfig(tolerance=2e-3, max_iterations=100)
    bundle = load_bundle(bundle_dir)
    engine = Reconstructor(Equilibrium(operators, OnnxPrior(bundle), OnnxConsistency(bundle), config))
    found = engine.reconstruct_frames(problem.frames)
    rows = torch.tensor(problem.frames / operators.scale, dtype=torch.float32)
    expected, solution = reconstruct(EquilibriumModel(rdn, lc), TorchOperators(operators), rows, config)
    assert bool(solution.converged.all())
    for frame, image, iterations in zip(found, expected, solution.iterations.tolist(), strict=True):
        assert frame.image.shape == (1, *image.shape)
        assert image.max() > 0.5
        assert np.abs(frame.image[0] - image).max() < IMAGE_TOLERANCE * image.max()
        assert abs(frame.report.iterations - iterations) <= ITERATION_TOLERANCE


@pytest.mark.parametrize(
    ("method", "has_lc", "solver", "words"),
    [
        ("art", False, None, "method is 'art', which has no networks"),
        ("deq", False, None, "no data consistency was given for method deq; .* networks rdn, lc"),
        ("unrolled", True, FixedPointConfig(), "a data consistency was given for method unrolled"),
        ("unrolled", False, None, "expected the number of iterations that the network was trained for"),
        ("end-to-end", False, FixedPointConfig(), "method end-to-end was given solver settings"),
    ],
)
def test_networks_and_settings_must_be_those_of_the_method(rdn, lc, tmp_path, method, has_lc, solver, words):
    with pytest.raises(ExportError, match=words):
        export_networks(rdn, lc if has_lc else None, tmp_path / "bundle", "x", method=method, solver=solver)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "solver"),
    [
        ("deq", FixedPointConfig(max_iterations=12)),
        ("deq-ball", FixedPointConfig(max_iterations=12)),
        ("unrolled", FixedPointConfig(memory=0, tolerance=0.0, max_iterations=7)),
        ("end-to-end", None),
    ],
)
def test_a_run_is_exported_as_its_own_method(run_dir, monkeypatch, tmp_path, method, solver):
    config = replace(load_config(run_dir / CONFIG_FILE), method=method, unrolled=UnrolledConfig(iterations=7))
    save_config(tmp_path, config)
    save_tensors(tmp_path / BEST_WEIGHTS, build_model(config.model, method))
    found = {}
    monkeypatch.setattr(
        "export.bundle.export_networks", lambda *args, **named: found.update(named, lc=args[1])
    )
    export_run(tmp_path, tmp_path / "bundle")
    assert (found["method"], found["solver"]) == (method, solver)
    assert (found["lc"] is not None) == (method == "deq")


def test_a_run_without_pretraining_has_no_denoiser(run_dir, tmp_path):
    config = replace(
        load_config(run_dir / CONFIG_FILE), pretrain=PretrainConfig(rdn=PretrainRdnConfig(steps=0))
    )
    save_config(tmp_path, config)
    save_tensors(tmp_path / PRETRAINED_WEIGHTS, build_model(config.model))
    with pytest.raises(InputError, match="did not pre-train its image prior"):
        export_denoiser(tmp_path, tmp_path / "bundle")


class DifferentWhenTraced(nn.Module):
    """Computes something else while it is exported than when it runs."""

    def forward(self, v):
        return torch.relu(v) * (1.01 if torch.compiler.is_exporting() else 1.0)


def test_graphs_that_differ_from_their_networks_are_not_published(lc, tmp_path):
    with pytest.raises(ParityError, match=r"rdn 0\.01 \(limit 1e-05\)"):
        export_networks(DifferentWhenTraced(), lc, tmp_path / "bundle", name="wrong")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_was_cut_off_is_one_clear_line(run_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 40, "pha')
    with pytest.raises(InputError, match=r"metrics\.jsonl holds a line that is no JSON record") as caught:
        export_run(folder, tmp_path / "bundle")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "bundle").exists()


def change_model(run_dir, tmp_path, weights):
    """Copy a run folder with other best weights than its configuration describes."""
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    save_tensors(folder / BEST_WEIGHTS, weights)
    return folder


def test_weights_of_another_architecture_are_refused(run_dir, rdn, tmp_path):
    folder = change_model(run_dir, tmp_path, EquilibriumModel(rdn, LearnedConsistency(features=4)))
    with pytest.raises(InputError, match=r"lc\.exit\.weight") as caught:
        export_run(folder, tmp_path / "bundle")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "bundle").exists()
