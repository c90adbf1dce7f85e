"""The end-to-end model: one network pass from the least-squares image, without data consistency."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import NonFiniteError
from engine.fixed_point.solution import Result, Solution, SolveStats
from engine.measurement.normalization import NormalizedMeasurement, noise_bound
from engine.networks.learned_blocks import ImagePrior
from engine.operators.operators import Operators
from engine.solvers.frame_solver import require_one_slice


class EndToEnd:
    """End-to-end model x = Psi_RDN(x_LS), the network-only ablation of Sec. V-A.

    Parameters
    ----------
    operators : Operators
        Operators of the system matrix; one slice (Nz = 1).
    prior : ImagePrior
        Network trained to map x_LS to the image.

    Raises
    ------
    PairingError
        If the grid has more than one slice.
    """

    method = "end-to-end"

    def __init__(self, operators: Operators, prior: ImagePrior) -> None:
        require_one_slice(operators)
        self.operators = operators
        self._prior = prior
        self._image_shape = operators.grid.volume_shape

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect."""
        return {}

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Map every least-squares image.

        Raises
        ------
        PairingError
            If the noise level of a measurement is not known.
        NonFiniteError
            If the network gives NaN or infinity.
        """
        starts = np.stack([measurement.start for measurement in measurements])
        bounds = np.array([noise_bound(measurement, self.operators) for measurement in measurements])
        noise = (bounds / math.sqrt(self.operators.n_rows)).astype(np.float32).reshape(-1, 1, 1, 1)
        images = np.asarray(self._prior(starts.reshape(-1, *self._image_shape), noise), np.float32)
        images = np.maximum(images.reshape(len(measurements), -1), 0)
        if not np.all(np.isfinite(images)):
            raise NonFiniteError(
                "the network gave NaN or infinity; expected finite values; check the measurement and "
                "the model"
            )
        return [Solution(image, Result.DIRECT, SolveStats(0, ())) for image in images]
