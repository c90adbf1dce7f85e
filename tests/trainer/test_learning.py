"""Training does what it is for: the fitted fixed point is better than the pre-trained one."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.config import (
    FitConfig,
    LcConfig,
    ModelConfig,
    PretrainConfig,
    PretrainLcConfig,
    PretrainRdnConfig,
    RdnConfig,
    SolverConfig,
    StageConfig,
)
from trainer.data.problem import make_problem, make_scan
from trainer.evaluate import evaluate
from trainer.fit import fit

MARGIN = 0.5
"""dB, for means over the same eight measurements."""


@pytest.mark.slow
def test_implicit_training_improves_on_pretraining_and_least_squares(
    config, system_matrix, images, tmp_path: Path
) -> None:
    scan = make_scan(system_matrix, smooth=False)
    longer = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, snr=(20.0, 30.0)),
        model=ModelConfig(RdnConfig(8, 8, 2, 2), LcConfig(4)),
        pretrain=PretrainConfig(
            rdn=PretrainRdnConfig(steps=300, batch_size=32, learning_rate=3e-3),
            lc=PretrainLcConfig(steps=300, batch_size=32, learning_rate=5e-3),
        ),
        fit=FitConfig(stages=(StageConfig(steps=100, batch_size=16),), validate_every=50),
        solver=SolverConfig(),
    )
    problem = make_problem(scan, images[:24], images[24:32], longer.data, torch.device("cpu"))
    fit(longer, tmp_path / "run", problem=problem)
    result = evaluate(tmp_path / "run", snr=(25.0,), scan=scan, images=images[32:])
    psnr = {row.method: row.psnr for row in result.rows}
    assert np.isfinite(list(psnr.values())).all()
    assert psnr["fitted"] > psnr["pre-trained"] + MARGIN
    assert psnr["fitted"] > psnr["least squares"] + MARGIN
