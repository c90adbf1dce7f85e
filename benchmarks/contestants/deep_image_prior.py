"""The deep image prior among the methods under test: it needs torch and half a minute per frame."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.contestants.contestant import Contestant
from engine.fixed_point.solution import Solution
from engine.measurement.normalization import NormalizedMeasurement
from engine.operators.operators import Operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.reconstructor import Reconstructor
from trainer.deep_image_prior import DipConfig, deep_image_prior

METHOD = "dip"

TOO_SLOW = "dip: it takes half a minute per frame; a full run measures it"
"""Why quick runs leave it out."""


class DeepImagePrior:
    """A `FrameSolver` that fits an untrained network to each frame, on one thread.

    Parameters
    ----------
    operators : Operators
        Of the system matrix.
    config : DipConfig
        How to fit.
    """

    method = METHOD

    def __init__(self, operators: Operators, config: DipConfig) -> None:
        self.operators = operators
        self._config = config

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return asdict(self._config)

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Fit all frames together."""
        torch.set_num_threads(1)
        return deep_image_prior(self.operators, measurements, self._config)


@dataclass(frozen=True)
class DeepImagePriorContestant(Contestant):
    """The deep image prior with its settings.

    Attributes
    ----------
    config : DipConfig
        How to fit.
    """

    config: DipConfig

    def open(self, operators: Operators) -> Reconstructor:
        """Make the reconstructor for a system matrix."""
        return Reconstructor(DeepImagePrior(operators, self.config))


def untrained(config: DipConfig | None = None) -> Contestant:
    """Return the deep image prior, by default with the paper's number of iterations."""
    config = config or DipConfig()
    return DeepImagePriorContestant(METHOD, METHOD, MethodSettings(), asdict(config), config)
