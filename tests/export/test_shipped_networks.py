"""The networks that ship: exported from the runs in models, and better than their start."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.fixed_point.solve import FixedPointConfig
from engine.networks.bundle import load_bundle
from engine.reconstruction.methods import default_bundle_path
from export.parity.learned_blocks import LearnedBlocks
from export.parity.parity import measure_parity
from export.parity.parity_problem import parity_problem, synthetic_operators
from trainer.evaluate import evaluate
from trainer.loop.checkpoint import BEST_WEIGHTS, PRETRAINED_WEIGHTS, load_networks

MODELS = Path(__file__).resolve().parents[2] / "models"
RUN = MODELS / "reference"
FIRST_EQUILIBRIUM = MODELS / "wide-equilibrium"
PRETRAINING = MODELS / "pretrain"

MARGIN = 1.0
"""dB of mean pSNR that the first equilibrium training has to gain; the same measurements for both."""

SHORT_SOLVE = FixedPointConfig(memory=0, tolerance=0.0, max_iterations=5)

N_TREES = 6
"""Vessel trees of 16 images each. Trees differ: the mean gain is 3.1 dB, that on the first tree 2.2 dB."""


def test_the_shipped_bundle_is_the_run_in_models() -> None:
    rdn, lc, config = load_networks(RUN)
    bundle = load_bundle()
    networks, graphs = LearnedBlocks.of_networks(rdn, lc), LearnedBlocks.of_bundle(bundle)
    problem = parity_problem(synthetic_operators())
    solver = config.solver
    measure_parity(networks, graphs, problem, config.method, solver.forward, solver.dual_start).require()
    assert bundle.manifest.name == config.name
    assert bundle.manifest.method == config.method
    assert bundle.manifest.solver == solver.forward
    assert bundle.manifest.dual_start == solver.dual_start > 0
    assert bundle.manifest.networks["rdn"].takes_noise


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


def test_every_run_began_with_the_weights_of_the_one_before() -> None:
    first, last = (load_file(run / PRETRAINED_WEIGHTS) for run in (FIRST_EQUILIBRIUM, RUN))
    denoiser, consistency, equilibrium = (
        load_file(MODELS / name / BEST_WEIGHTS)
        for name in ("wide-denoiser", "wide-consistency", "wide-equilibrium")
    )
    for name, value in first.items():
        before = consistency[name] if name.startswith("lc.") else denoiser[name]
        # The first kernel got a zero channel for the noise level, which the denoiser does not see.
        torch.testing.assert_close(value[:, : before.shape[1]] if value.ndim == 4 else value, before)
    assert last.keys() == equilibrium.keys()
    assert all(torch.equal(value, equilibrium[name]) for name, value in last.items())
    assert any(not torch.equal(value, last[name]) for name, value in load_file(RUN / BEST_WEIGHTS).items())


@pytest.mark.slow
def test_the_equilibrium_training_gained_a_decibel_on_the_test_split() -> None:
    result = evaluate(FIRST_EQUILIBRIUM, "test", (25.0,), count=16 * N_TREES)
    psnr = {row.method: row.psnr for row in result.rows}
    assert np.isfinite(list(psnr.values())).all()
    assert psnr["fitted"] > psnr["pre-trained"] + MARGIN
    assert psnr["pre-trained"] > psnr["least squares"] + MARGIN
