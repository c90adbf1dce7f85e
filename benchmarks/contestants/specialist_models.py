"""One model per measurement SNR, to compare the noise-conditioned one with, and their training.

`python -m benchmarks.contestants.specialist_models` trains whatever is missing, one run after the other on
one core, and goes on where it was stopped. Run folders are `models/specialists/SNR`.

A specialist is the shipped model's own pair of networks trained further around one SNR, with the loss, the
solver and the data of the shipped model's training. What it gains is therefore what a model for all SNRs
gives up: the start, the size and the kind of the networks are the same.
"""

from collections.abc import Mapping
from types import MappingProxyType

import click

from benchmarks.harness import training_runs
from benchmarks.harness.record import ROOT
from engine.fixed_point.solve import FixedPointConfig
from trainer.config import (
    DataConfig,
    FitConfig,
    LcConfig,
    ModelConfig,
    PretrainConfig,
    PretrainLcConfig,
    PretrainRdnConfig,
    RdnConfig,
    SolverConfig,
    StageConfig,
    TrainConfig,
)

MODELS = ROOT / "models" / "specialists"
"""The run folders."""

START = "models/reference/weights.safetensors"
"""The networks that ship, relative to the repository."""

SNRS = (35.0, 25.0, 15.0, 45.0, 5.0)
"""Training SNRs in dB, in the order of training."""

SPREAD = 5.0
"""Half the range of the SNRs around a specialist's own, in dB: `engine.tuning.emulation` gives all frames of
a level one standard deviation of the noise, so that their own SNRs spread by about as much."""

SEED = 3100

STAGE = StageConfig(
    steps=150,
    batch_size=16,
    learning_rate=2e-4,
    gradient="implicit",
    precision="bfloat16",
    max_iterations=25,
)

VALIDATE_EVERY = 50


def model_name(snr: float) -> str:
    """Return the name of the specialist for an SNR in dB: its run folder."""
    return f"{snr:g}"


def _config(snr: float) -> TrainConfig:
    return TrainConfig(
        name=f"specialist-{model_name(snr)}",
        method="deq",
        seed=SEED,
        data=DataConfig(
            "reference-0.5",
            train=20000,
            validation=48,
            snr=(snr - SPREAD, snr + SPREAD),
            validation_snr=(snr,),
        ),
        model=ModelConfig(takes_noise=True, rdn=RdnConfig(16, 16, 4, 4), lc=LcConfig(8)),
        pretrain=PretrainConfig(
            PretrainRdnConfig(steps=0, weights=START), PretrainLcConfig(steps=0, weights=START)
        ),
        fit=FitConfig(
            stages=(STAGE,),
            loss="log_l1",
            gradient_clip=50.0,
            validate_every=VALIDATE_EVERY,
            spectral_frames=0,
            threads=1,
        ),
        solver=SolverConfig(
            forward=FixedPointConfig(max_iterations=25),
            backward=FixedPointConfig(tolerance=1e-2, max_iterations=20),
            dual_start=0.08,
        ),
    )


CONFIGS: Mapping[str, TrainConfig] = MappingProxyType({model_name(snr): _config(snr) for snr in SNRS})
"""Every specialist's run, in the order of training."""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CONFIGS)))
def main(names: tuple[str, ...]) -> None:
    """Train the specialists for the SNRs NAMES, by default all that are missing."""
    training_runs.train_missing({MODELS / name: CONFIGS[name] for name in names or CONFIGS})


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.contestants.specialist_models")
