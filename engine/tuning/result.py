"""Settings and results of a tuning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.solvers.regularization import MethodWeights
from engine.tuning.search import Lattice


@dataclass(frozen=True)
class TuningConfig:
    """Settings of a tuning: the frames it is made on, and how finely.

    Attributes
    ----------
    snr_db : tuple of float
        Mean measurement SNRs (Eq. 36), in dB, in any order.
    frames : int
        Validation frames per SNR.
    seed : int
        Seed of the frames.
    model : Path or str, optional
        Bundle of the denoiser of pp-mpi; by default the one that ships.
    lattice : Lattice
        Lattice of the values that can be chosen.

    Raises
    ------
    ConfigError
        If there is no SNR or no frame, or an SNR is not finite or given twice.
    """

    snr_db: tuple[float, ...] = (10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
    frames: int = 32
    seed: int = 0
    model: Path | str | None = None
    lattice: Lattice = field(default_factory=Lattice)

    def __post_init__(self) -> None:
        if not self.snr_db:
            raise ConfigError("there is no SNR to tune at; expected at least one, in dB")
        for snr in self.snr_db:
            if not math.isfinite(snr):
                raise ConfigError(f"an SNR is {snr} dB; expected a finite number")
        if len(set(self.snr_db)) < len(self.snr_db):
            raise ConfigError(f"the SNRs are {list(self.snr_db)} dB; expected each of them once")
        if self.frames < 1:
            raise ConfigError(f"number of frames is {self.frames}; expected at least 1")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected zero or more")


@dataclass(frozen=True)
class Trial:
    """One setting of a method, judged on the frames of one SNR.

    Attributes
    ----------
    method : str
        Name of the method.
    snr_db : float
        Mean measurement SNR of the frames.
    weights : mapping of str to float
        Weights by the names of `engine.solvers.regularization.WEIGHT_NAMES`.
    iterations : int
        Number of iterations or sweeps.
    psnr_mean, psnr_std : float
        Mean and standard deviation of the pSNR over the frames, in dB (Eq. 37).
    """

    method: str
    snr_db: float
    weights: Mapping[str, float]
    iterations: int
    psnr_mean: float
    psnr_std: float


@dataclass(frozen=True)
class MethodTuning:
    """Result of the tuning of one method.

    Attributes
    ----------
    weights : MethodWeights
        The chosen values.
    chosen : tuple of Trial
        Trials of the chosen values, one per SNR, SNRs increasing.
    published : tuple of Trial
        Trials of the paper's values at the same SNRs; empty for a method that is not in the paper.
    as_used : tuple of float
        Mean pSNR in dB at the same SNRs, when every frame gets the weights of its own estimated SNR as in a
        reconstruction, and not those of the mean SNR.
    at_limit : bool
        Whether a chosen value is the last that the search may reach.
    trials : tuple of Trial
        All trials, in order.
    """

    weights: MethodWeights
    chosen: tuple[Trial, ...]
    published: tuple[Trial, ...]
    as_used: tuple[float, ...]
    at_limit: bool
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class TuningResult:
    """Result of the tuning of several methods.

    Attributes
    ----------
    config : TuningConfig
        Settings of the tuning.
    methods : mapping of str to MethodTuning
        Results by method, the simplest first.
    """

    config: TuningConfig
    methods: Mapping[str, MethodTuning]

    @property
    def weights(self) -> dict[str, MethodWeights]:
        """The chosen values by method, for `engine.solvers.regularization.save_weights`."""
        return {method: tuning.weights for method, tuning in self.methods.items()}

    def figures(self) -> dict[str, Any]:
        """Return frames, SNRs and mean pSNRs, values that JSON can hold, for the source of a weights file."""
        return {
            "split": "validation",
            "frames": self.config.frames,
            "seed": self.config.seed,
            "snr_db": sorted(self.config.snr_db),
            "psnr_mean_db": {
                method: {
                    "published": [round(trial.psnr_mean, 3) for trial in tuning.published] or None,
                    "tuned": [round(trial.psnr_mean, 3) for trial in tuning.chosen],
                    "as_used": [round(mean, 3) for mean in tuning.as_used],
                }
                for method, tuning in self.methods.items()
            },
        }
