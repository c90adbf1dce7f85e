"""The networks that ship: exported from the runs in models, and better than their start."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import default_bundle_path, load_bundle
from engine.fixed_point import FixedPointConfig
from export.learned_blocks import LearnedBlocks
from export.parity import measure_parity
from export.parity_problem import parity_problem, synthetic_operators
from trainer.checkpoint import PRETRAINED_WEIGHTS, load_networks
from trainer.evaluate import evaluate

MODELS = Path(__file__).resolve().parents[2] / "models"
RUN = MODELS / "reference"
PRETRAINING = MODELS / "pretrain"

MARGIN = 1.0
"""dB of mean pSNR that the equilibrium training has to gain; the same measurements for both."""

SHORT_SOLVE = FixedPointConfig(memory=0, tolerance=0.0, max_iterations=5)

N_TREES = 6
"""Vessel trees of 16 images each. Trees differ: the mean gain is 3.1 dB, that on the first tree 2.2 dB."""


def test_the_shipped_bundle_is_the_run_in_models() -> None:
    rdn, lc, config = load_networks(RUN)
    bundle = load_bundle()
    networks, graphs = LearnedBlocks.of_networks(rdn, lc), LearnedBlocks.of_bundle(bundle)
    problem = parity_problem(synthetic_operators())
    measure_parity(networks, graphs, problem, config.method, config.solver.forward).require()
    assert bundle.manifest.name == config.name
    assert bundle.manifest.method == config.method
    assert bundle.manifest.solver == config.solver.forward


def test_the_shipped_denoiser_is_the_pretrained_image_prior_in_models() -> None:
    rdn, _, config = load_networks(PRETRAINING, PRETRAINED_WEIGHTS)
    bundle = load_bundle(default_bundle_path("pp-mpi"))
    networks, graphs = LearnedBlocks.of_networks(rdn, None), LearnedBlocks.of_bundle(bundle)
    problem = parity_problem(synthetic_operators())
    measure_parity(networks, graphs, problem, "pp-mpi", SHORT_SOLVE).require()
    assert bundle.manifest.method == "pp-mpi"
    assert bundle.manifest.training["config"]["pretrain"]["rdn"]["steps"] == config.pretrain.rdn.steps


def test_the_manifest_names_the_best_validation_of_the_log() -> None:
    lines = (RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    validations = [record for record in map(json.loads, lines) if "validation_psnr" in record]
    best = max(validations, key=lambda record: record["validation_psnr"])
    assert load_bundle().manifest.training["best_validation"] == best


def test_the_run_began_with_the_weights_of_the_pretraining() -> None:
    began = (RUN / "pretrained.safetensors").read_bytes()
    for name in ("weights.safetensors", "pretrained.safetensors"):  # it had no stages after pre-training
        assert began == (PRETRAINING / name).read_bytes()
    assert began != (RUN / "weights.safetensors").read_bytes()


@pytest.mark.slow
def test_the_equilibrium_training_gained_a_decibel_on_the_test_split() -> None:
    result = evaluate(RUN, "test", (25.0,), count=16 * N_TREES)
    psnr = {row.method: row.psnr for row in result.rows}
    assert np.isfinite(list(psnr.values())).all()
    assert psnr["fitted"] > psnr["pre-trained"] + MARGIN
    assert psnr["pre-trained"] > psnr["least squares"] + MARGIN
