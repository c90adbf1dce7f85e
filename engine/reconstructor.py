"""From whitened measurements to images: the deep equilibrium method and its linear baseline."""

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.admm_step import AdmmStep
from engine.blas_threads import single_blas_thread
from engine.errors import NonFiniteError, PairingError
from engine.fixed_point import FixedPointConfig, solve_fixed_point
from engine.normalization import NormalizedMeasurement, noise_bound, normalize
from engine.operators import Operators
from engine.protocols import Consistency, Float32Array, ImagePrior
from engine.report import FrameReport
from engine.solution import Result, Solution, SolveStats


@dataclass(frozen=True)
class Reconstruction:
    """An image and the account of how it came about.

    Attributes
    ----------
    image : ndarray of float32, shape (Nz, Ny, Nx)
        Tracer concentration in the unit of the calibration (multiples of its sample's concentration where the
        file states none). Always finite.
    report : FrameReport
        What was done.
    solution : Solution
        Final state of the solver, in normalised units.
    """

    image: Float32Array
    report: FrameReport
    solution: Solution


class LeastSquares:
    """The truncated least-squares image x_LS = V_r (U_r^T y / (s_r + damping)): the start of the iteration.

    A linear estimate, so values may be negative; nothing is clipped.

    Parameters
    ----------
    operators : Operators
        Of the system matrix.
    """

    method = "least-squares"

    def __init__(self, operators: Operators) -> None:
        self.operators = operators

    @classmethod
    def load(cls, operators_path: str | os.PathLike[str]) -> "LeastSquares":
        """Open an operators file; raises OperatorsError if it cannot be used."""
        from engine.operators_file import load_operators

        return cls(load_operators(operators_path))

    def reconstruct(self, rows: NDArray[np.floating], sigma: float | None = None) -> Reconstruction:
        """Reconstruct one frame, as `Reconstructor.reconstruct`; sigma matters only to the report."""
        with single_blas_thread():
            return self._reconstruct(rows, sigma)

    def _reconstruct(self, rows: NDArray[np.floating], sigma: float | None) -> Reconstruction:
        started = time.perf_counter()
        measurement = normalize(rows, self.operators, sigma)
        if measurement is None:
            return _zero_image(self, started)
        solution = Solution(measurement.start, Result.DIRECT, SolveStats(0, ()))
        return _finish(self, measurement, measurement.start, solution, started)

    def reconstruct_frames(
        self, rows: NDArray[np.floating], sigma: float | None = None
    ) -> list[Reconstruction]:
        """Reconstruct frames of shape (F, R), each on its own."""
        return [self.reconstruct(frame, sigma) for frame in _as_frames(rows, self.operators)]


class Reconstructor:
    """DEQ-MPI: the fixed point of h_theta (Eqs. 14-17) for the measurement at hand.

    The state starts at (x_LS, 0, 0); the image is max(x, 0) of the best iterate, scaled back to
    concentration. Buffers are reused between frames, so an object serves one thread.

    Parameters
    ----------
    operators : Operators
        Of the system matrix; one slice (Nz = 1).
    prior : ImagePrior
        Psi_RDN: an `OnnxPrior` or any callable of that shape.
    consistency : Consistency
        Psi_LC: an `OnnxConsistency` or any callable of that shape.
    config : FixedPointConfig, optional
        Solver settings.

    Raises
    ------
    PairingError
        If the grid has more than one slice.
    """

    method = "deq"

    def __init__(
        self,
        operators: Operators,
        prior: ImagePrior,
        consistency: Consistency,
        config: FixedPointConfig | None = None,
    ) -> None:
        self.operators = operators
        self.config = config or FixedPointConfig()
        self._step = AdmmStep(operators, prior, consistency)

    @classmethod
    def load(
        cls,
        operators_path: str | os.PathLike[str],
        bundle_path: str | os.PathLike[str] | None = None,
        config: FixedPointConfig | None = None,
        provider: str = "cpu",
    ) -> "Reconstructor":
        """Open an operators file and a model bundle.

        Parameters
        ----------
        operators_path : path
            Written by `engine calibrate`.
        bundle_path : path, optional
            Bundle folder; by default the one that ships with the package.
        config : FixedPointConfig, optional
            Solver settings; by default those in the bundle's manifest.
        provider : str, optional
            "cpu", "cuda" or "tensorrt" (`engine.sessions`).

        Raises
        ------
        OperatorsError, BundleError, PairingError, ProviderError
            If a file cannot be used, the two do not belong together, or the provider is not available.
        """
        from engine.bundle import load_bundle
        from engine.operators_file import load_operators
        from engine.sessions import OnnxConsistency, OnnxPrior

        operators = load_operators(operators_path)
        bundle = load_bundle(bundle_path)
        return cls(
            operators,
            OnnxPrior(bundle, provider),
            OnnxConsistency(bundle, provider),
            config or bundle.manifest.solver,
        )

    def reconstruct(self, rows: NDArray[np.floating], sigma: float | None = None) -> Reconstruction:
        """Reconstruct one frame.

        Parameters
        ----------
        rows : ndarray of float, shape (R,)
            Whitened, background-corrected, real-stacked rows [Re; Im].
        sigma : float, optional
            Noise standard deviation per real row in whitened units; by default estimated from the frame.

        Returns
        -------
        Reconstruction
            A zero measurement gives a zero image and `Result.ZERO_MEASUREMENT`. A solve that reached the
            iteration limit gives its best iterate and says so in the report.

        Raises
        ------
        PairingError
            If the number of rows is not the operators', or the noise level can neither be estimated from
            them nor was given.
        InputError
            If a value is not finite.
        NonFiniteError
            If the networks produce NaN or infinity.
        """
        with single_blas_thread():
            return self._reconstruct(rows, sigma)

    def _reconstruct(self, rows: NDArray[np.floating], sigma: float | None) -> Reconstruction:
        started = time.perf_counter()
        measurement = normalize(rows, self.operators, sigma)
        if measurement is None:
            return _zero_image(self, started)
        self._step.set_measurement(measurement.y, noise_bound(measurement, self.operators))
        solution = solve_fixed_point(self._step, self._step.start(measurement.start), self.config)
        image = np.maximum(solution.value[: self.operators.n_voxels], 0)
        return _finish(self, measurement, image, solution, started)

    def reconstruct_frames(
        self, rows: NDArray[np.floating], sigma: float | None = None
    ) -> list[Reconstruction]:
        """Reconstruct frames of shape (F, R), each on its own."""
        return [self.reconstruct(frame, sigma) for frame in _as_frames(rows, self.operators)]


def _as_frames(rows: NDArray[Any], operators: Operators) -> NDArray[Any]:
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] != operators.n_rows:
        raise PairingError(
            f"the frames have shape {rows.shape}; expected (F, {operators.n_rows}), one whitened value per "
            "real row of the operators; prepare them with measurement_rows"
        )
    return rows


def _finish(
    source: LeastSquares | Reconstructor,
    measurement: NormalizedMeasurement,
    x: NDArray[np.floating],
    solution: Solution,
    started: float,
) -> Reconstruction:
    operators = source.operators
    misfit = operators.system_matrix @ x - measurement.y
    with np.errstate(over="ignore"):  # reported below
        image = operators.grid.to_volume((measurement.intensity * x.astype(np.float64)).astype(np.float32))
    if not np.all(np.isfinite(image)):
        raise NonFiniteError(
            f"the image holds NaN or infinity (intensity {measurement.intensity:.3g}); expected finite "
            "concentrations; check the units of the measurement and the operators"
        )
    report = FrameReport(
        method=source.method,
        result=solution.result,
        iterations=solution.stats.iterations,
        residuals=solution.stats.residuals,
        restarts=solution.stats.restarts,
        residual_over_epsilon=(
            None if measurement.epsilon is None else float(np.linalg.norm(misfit)) / measurement.epsilon
        ),
        sigma=measurement.sigma,
        intensity=measurement.intensity,
        milliseconds=1e3 * (time.perf_counter() - started),
    )
    return Reconstruction(image, report, solution)


def _zero_image(source: LeastSquares | Reconstructor, started: float) -> Reconstruction:
    grid = source.operators.grid
    image = np.zeros(grid.volume_shape, np.float32)
    result = Result.ZERO_MEASUREMENT
    milliseconds = 1e3 * (time.perf_counter() - started)
    report = FrameReport(source.method, result, 0, (), 0, None, None, 0.0, milliseconds)
    return Reconstruction(image, report, Solution(image.reshape(-1), result, SolveStats(0, ())))
