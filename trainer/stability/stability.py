"""How stable an equilibrium model is: the spectral radius of h_theta where its iteration comes to rest."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.fixed_point.solve import FixedPointConfig
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import as_measurement, normalise_intensity
from trainer.models.equilibrium import EquilibriumModel
from trainer.stability.spectral_radius import MAX_PRODUCTS, TOLERANCE, spectral_radius

EVALUATIONS = 100
"""Evaluations for the fixed point: four times what a reconstruction takes."""

RESIDUAL = 1e-5
"""Relative residual at which a state counts as at rest; single precision ends near 1e-6."""

METHOD = (
    f"Arnoldi process of up to {MAX_PRODUCTS} products with the transposed Jacobian of the map, at the state "
    f"of smallest residual of {EVALUATIONS} evaluations; settled: error of the radius at most {TOLERANCE:g}"
)
"""How the figures were measured, for records."""


@dataclass(frozen=True)
class Stability:
    """Figures per frame, each of shape (n,).

    Attributes
    ----------
    radius : ndarray of float64
        Spectral radius of the Jacobian of h_theta.
    settled : ndarray of bool
        Whether the radius is known to `trainer.stability.spectral_radius.TOLERANCE`.
    residual : ndarray of float64
        Relative residual of the state at which it was measured.
    """

    radius: NDArray[np.float64]
    settled: NDArray[np.bool_]
    residual: NDArray[np.float64]

    @property
    def share_below_1(self) -> float:
        """Share of frames whose plain iteration converges from near the fixed point."""
        return float(np.mean(self.radius < 1.0))

    def summary(self, prefix: str) -> dict[str, float]:
        """Return the figures worth logging, under names that start with `prefix`."""
        return {
            f"{prefix}_spectral_radius_median": float(np.median(self.radius)),
            f"{prefix}_spectral_radius_max": float(self.radius.max()),
            f"{prefix}_spectral_radius_share_below_1": self.share_below_1,
            f"{prefix}_spectral_radius_settled": float(np.mean(self.settled)),
        }


def measure_stability(
    model: EquilibriumModel, operators: TorchOperators, rows: Tensor, config: FixedPointConfig
) -> Stability:
    """Measure the spectral radius at the fixed points of some frames.

    Parameters
    ----------
    model : EquilibriumModel
    operators : TorchOperators
    rows : Tensor, shape (n, R)
        Data of the frames, in the unit of `TorchOperators.system_matrix`.
    config : FixedPointConfig
        Of a reconstruction; its budget is raised to `EVALUATIONS`.

    Returns
    -------
    Stability
    """
    scaled, _ = normalise_intensity(operators, rows)
    measurement = as_measurement(operators, scaled)
    patient = replace(config, max_iterations=EVALUATIONS, tolerance=RESIDUAL)
    solution = model.solve(operators, measurement, patient)
    found = spectral_radius(model.step(operators, measurement), solution.value)
    return Stability(
        found.radius.numpy(), found.settled.numpy(), solution.residual.cpu().numpy().astype(np.float64)
    )
