"""The models of the ablation studies (Figs. 3 and 4, Sec. V-A): which there are, and their training.

`python -m benchmarks.contestants.ablation_models` trains whatever is missing, one run after the other on one
core, and goes on where it was stopped. Run folders are `models/ablation/NAME`; of a finished run only the
configuration, the weights and a thinned log stay.

All runs start from the networks after pre-training (`models/pretrain/weights.safetensors`; the variants
of the initialisation leave some of them random) and take about the same time on one core, 4 to 5 minutes:
an image costs the equilibrium methods 50 ms of training, the unrolled one 17 ms, the end-to-end one 3 ms, so
these two see more images.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import click

from benchmarks.harness import training_runs
from benchmarks.harness.record import ROOT
from engine.fixed_point.solve import FixedPointConfig
from trainer.config import (
    DataConfig,
    FitConfig,
    Method,
    PretrainConfig,
    PretrainLcConfig,
    PretrainRdnConfig,
    SolverConfig,
    StageConfig,
    TrainConfig,
)

MODELS = ROOT / "models" / "ablation"
"""The run folders."""

START = "models/pretrain/weights.safetensors"
"""Both networks after pre-training, relative to the repository."""

METHODS: tuple[Method, ...] = ("deq", "deq-ball", "unrolled", "end-to-end")
SNRS = (35.0, 25.0, 15.0, 45.0, 5.0)
"""Training SNRs in dB, in the order of training: the tests are at 35 dB."""

INITIALISATION_SNR = 35.0
SEED = 3000

EQUILIBRIUM_STAGE = StageConfig(steps=250, batch_size=16, learning_rate=4e-4, gradient="implicit")

STAGES: Mapping[Method, StageConfig] = MappingProxyType(
    {
        "deq": EQUILIBRIUM_STAGE,
        "deq-ball": EQUILIBRIUM_STAGE,
        "unrolled": StageConfig(steps=900, batch_size=16, learning_rate=4e-4),
        "end-to-end": StageConfig(steps=1200, batch_size=64, learning_rate=1e-3),
    }
)
"""Optimisation of each method; the numbers of steps make the training times equal."""

VALIDATIONS = 5
"""Validations per run."""

NOISE_FREE_LC = PretrainLcConfig(target="noise-free", steps=2000, learning_rate=2e-3)
"""Pre-training of a random Psi_LC to return the data without their noise (Sec. V-A)."""


def model_name(method: str, snr: float) -> str:
    """Return the name of the model of a method trained at one SNR."""
    return f"{method}-{snr:g}"


def _config(
    name: str, method: Method, snr: float, rdn: PretrainRdnConfig, lc: PretrainLcConfig
) -> TrainConfig:
    stage = STAGES[method]
    return TrainConfig(
        name=f"ablation-{name}",
        method=method,
        seed=SEED,
        data=DataConfig("reference-0.5", train=12000, validation=48, snr=(snr, snr), validation_snr=(snr,)),
        pretrain=PretrainConfig(rdn, lc),
        fit=FitConfig(stages=(stage,), validate_every=stage.steps // VALIDATIONS, threads=1),
        solver=SolverConfig(backward=FixedPointConfig(tolerance=1e-2, max_iterations=15)),
    )


def _configs() -> Iterator[tuple[str, TrainConfig]]:
    random_rdn, given_rdn = PretrainRdnConfig(steps=0), PretrainRdnConfig(steps=0, weights=START)
    random_lc, given_lc = PretrainLcConfig(steps=0), PretrainLcConfig(steps=0, weights=START)
    for snr in SNRS:
        for method in METHODS:
            name = model_name(method, snr)
            yield name, _config(name, method, snr, given_rdn, given_lc if method == "deq" else random_lc)
        if snr == INITIALISATION_SNR:
            starts = {
                "init-random-lc": (given_rdn, random_lc),
                "init-random-rdn": (random_rdn, given_lc),
                "init-noise-free-lc": (given_rdn, NOISE_FREE_LC),
                "init-random-both": (random_rdn, random_lc),
            }
            for name, (rdn, lc) in starts.items():
                yield name, _config(name, "deq", snr, rdn, lc)


CONFIGS: Mapping[str, TrainConfig] = MappingProxyType(dict(_configs()))
"""Every model's run, in the order of training."""


def is_finished(name: str) -> bool:
    """Whether the model is there and its run is over."""
    return training_runs.is_finished(MODELS / name)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CONFIGS)))
def main(names: tuple[str, ...]) -> None:
    """Train the models NAMES of the ablation studies, by default all that are missing."""
    training_runs.train_missing({MODELS / name: CONFIGS[name] for name in names or CONFIGS})


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.contestants.ablation_models")
