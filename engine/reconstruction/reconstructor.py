"""Reconstructor, from whitened measurements to images: normalise, solve by any method, scale back, report."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import BundleError, ConfigError, NonFiniteError, PairingError
from engine.fixed_point.solution import Result, Solution, SolveStats
from engine.machine.arithmetic import denormals_as_zero, single_blas_thread
from engine.measurement.normalization import NormalizedMeasurement, normalize
from engine.networks.bundle import Bundle
from engine.networks.interval_table import Interval, Intervals
from engine.operators.operators import Operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.report import FrameReport
from engine.solvers.frame_solver import AnytimeSolver, FrameSolver

BATCH = 32
"""Number of frames solved together: enough for matrix products to pay, few enough to stay in the cache."""


@dataclass(frozen=True)
class Reconstruction:
    """An image and the account of how it came about.

    Attributes
    ----------
    image : ndarray of float32, shape (Nz, Ny, Nx)
        Tracer concentration in the unit of the calibration (multiples of its sample's concentration where the
        file states none). Always finite.
    report : FrameReport
        Account of what was done.
    solution : Solution
        Return of the solver: the image, float32 (N,), in normalised units.
    interval : Interval or None
        Bounds of the true concentrations; None without calibrated intervals, and for a zero measurement or an
        unknown noise level.
    """

    image: Float32Array
    report: FrameReport
    solution: Solution
    interval: Interval | None = None


class Reconstructor:
    """Images of measurements by one method: the frame around every solver.

    Parameters
    ----------
    solver : FrameSolver
        Method bound to its operators, such as `Equilibrium` or `LeastSquares`. Most reuse buffers, so an
        object serves one thread.
    intervals : Intervals, optional
        Calibrated for the method and the settings of the solver; images get intervals then.
    bundle : Bundle, optional
        What the solver's networks came from.

    Raises
    ------
    PairingError
        If the intervals were calibrated for another method or other settings.
    """

    def __init__(
        self, solver: FrameSolver, intervals: Intervals | None = None, bundle: Bundle | None = None
    ) -> None:
        if intervals is not None:
            intervals.require_settings(solver.method, solver.settings)
        self.solver = solver
        self.intervals = intervals
        self.bundle = bundle

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.solver.method

    @property
    def operators(self) -> Operators:
        """Operators of the system matrix."""
        return self.solver.operators

    @classmethod
    def load(
        cls,
        operators_path: str | os.PathLike[str],
        method: str | None = None,
        settings: MethodSettings | None = None,
    ) -> "Reconstructor":
        """Open an operators file and a method; see `open`.

        Parameters
        ----------
        operators_path : path
            Written by `engine calibrate`.
        method, settings
            As for `open`.

        Raises
        ------
        OperatorsError
            If the file cannot be used; and what `open` raises.
        """
        from engine.operators.operators_file import load_operators

        return cls.open(load_operators(operators_path), method, settings)

    @classmethod
    def open(
        cls, operators: Operators, method: str | None = None, settings: MethodSettings | None = None
    ) -> "Reconstructor":
        """Open a method for operators.

        Images get the intervals of the method's bundle if it has some and the settings are those they were
        calibrated for; `without_intervals_because` says what is in the way, `require_intervals` insists.

        Parameters
        ----------
        operators : Operators
            Operators of the system matrix.
        method : str, optional
            Name of the method, a key of `engine.reconstruction.methods.METHODS`; by default that of the model
            in the settings, else "deq".
        settings : MethodSettings, optional
            Model, weights and limits; by default what ships.

        Raises
        ------
        BundleError, PairingError, ProviderError, ConfigError
            If the model cannot be used, parts do not belong together, the provider is not available, or a
            setting has no meaning for the method.
        """
        from engine.reconstruction.methods import open_with_bundle

        opened = open_with_bundle(method, operators, settings)
        found = cls(opened.solver, bundle=opened.bundle)
        if opened.bundle is not None and not found.without_intervals_because:
            found.intervals = opened.bundle.intervals
        return found

    @property
    def without_intervals_because(self) -> str:
        """Settings for which the bundle's intervals were not calibrated; empty where there are none such."""
        if self.bundle is None or self.bundle.intervals is None:
            return ""
        return self.bundle.intervals.differences(self.method, self.solver.settings)

    def require_intervals(self) -> None:
        """Raise unless images get intervals.

        Raises
        ------
        PairingError
            If the method has no networks, or the intervals were calibrated for other settings.
        BundleError
            If the bundle has no intervals.
        """
        if self.bundle is None:
            raise PairingError(
                f"method {self.method} has no intervals: they are calibrated for a model with networks; "
                "use one of those or do without intervals"
            )
        if self.bundle.intervals is None:
            path = self.bundle.path
            raise BundleError(
                f"the bundle {path} has no intervals; calibrate them: engine intervals SYSTEM_MATRIX {path}"
            )
        self.bundle.intervals.require_settings(self.method, self.solver.settings)

    @property
    def is_anytime(self) -> bool:
        """Whether the method can give an image at a deadline."""
        return isinstance(self.solver, AnytimeSolver)

    def reconstruct(
        self, rows: NDArray[np.floating], sigma: float | None = None, deadline: float | None = None
    ) -> Reconstruction:
        """Reconstruct one frame.

        Parameters
        ----------
        rows : ndarray of float, shape (R,)
            Whitened, background-corrected, real-stacked rows [Re; Im].
        sigma : float, optional
            Noise standard deviation per real row in whitened units; by default estimated from the frame.
        deadline : float, optional
            Time by which the image is wanted, on the clock `time.perf_counter`. A solve that is not over by
            then gives its best iterate as `Result.DEADLINE`, without interval: intervals hold for finished
            solves.

        Returns
        -------
        Reconstruction
            A zero measurement gives a zero image and `Result.ZERO_MEASUREMENT`. A solve that reached the
            iteration limit gives its best iterate and says so in the report.

        Raises
        ------
        PairingError
            If the number of rows is not the operators', or the method needs a noise level that can neither be
            estimated from them nor was given.
        InputError
            If a value is not finite.
        NonFiniteError
            If the solver produces NaN or infinity.
        ConfigError
            If the method cannot give an image at a deadline.
        """
        return self._reconstruct([np.asarray(rows)], sigma, deadline)[0]

    def reconstruct_frames(
        self, rows: NDArray[np.floating], sigma: float | None = None
    ) -> list[Reconstruction]:
        """Reconstruct frames of rows, float of shape (F, R); methods that can, solve several together."""
        rows = np.asarray(rows)
        if rows.ndim != 2 or rows.shape[1] != self.operators.n_rows:
            raise PairingError(
                f"the frames have shape {rows.shape}; expected (F, {self.operators.n_rows}), one whitened "
                "value per real row of the operators; prepare them with measurement_rows"
            )
        found: list[Reconstruction] = []
        for first in range(0, len(rows), BATCH):
            found += self._reconstruct(list(rows[first : first + BATCH]), sigma)
        return found

    def _reconstruct(
        self, frames: Sequence[NDArray[np.floating]], sigma: float | None, deadline: float | None = None
    ) -> list[Reconstruction]:
        started = time.perf_counter()
        with single_blas_thread(), denormals_as_zero():
            measurements = [normalize(rows, self.operators, sigma) for rows in frames]
            given = [measurement for measurement in measurements if measurement is not None]
            solutions = iter(self._solve(given, deadline) if given else ())
            pairs = [
                (measurement, None if measurement is None else next(solutions))
                for measurement in measurements
            ]
            images = [self._image(*pair) for pair in pairs]
            ratios = [self._residual_over_epsilon(*pair) for pair in pairs]
            bounds = [self._interval(*pair) for pair in pairs]
        milliseconds = 1e3 * (time.perf_counter() - started) / len(frames)
        return [
            self._finish(measurement, solution, image, ratio, interval, milliseconds)
            for (measurement, solution), image, ratio, interval in zip(
                pairs, images, ratios, bounds, strict=True
            )
        ]

    def _solve(self, measurements: list[NormalizedMeasurement], deadline: float | None) -> list[Solution]:
        if deadline is None:
            return self.solver.solve(measurements)
        if not isinstance(self.solver, AnytimeSolver):
            raise ConfigError(
                f"the method {self.method} cannot give an image at a deadline; expected deq; leave it out"
            )
        return self.solver.solve_until(measurements, deadline)

    def _image(self, measurement: NormalizedMeasurement | None, solution: Solution | None) -> Float32Array:
        grid = self.operators.grid
        if measurement is None or solution is None:
            return np.zeros(grid.volume_shape, np.float32)
        with np.errstate(over="ignore"):  # reported below
            x = (measurement.intensity * solution.value.astype(np.float64)).astype(np.float32)
        if not np.all(np.isfinite(x)):
            raise NonFiniteError(
                f"the image holds NaN or infinity (intensity {measurement.intensity:.3g}); expected finite "
                "concentrations; check the units of the measurement and the operators"
            )
        image: Float32Array = grid.to_volume(x)
        return image

    def _residual_over_epsilon(
        self, measurement: NormalizedMeasurement | None, solution: Solution | None
    ) -> float | None:
        if measurement is None or solution is None or measurement.epsilon is None:
            return None
        # ||A x - y|| in the coordinates of A = U diag(s) V^T, where it takes K values instead of R.
        explained = self.operators.singular_values * (solution.value @ self.operators.right_singular)
        misfit = float(np.linalg.norm(explained - measurement.explained))
        return float(np.hypot(misfit, measurement.remainder)) / measurement.epsilon

    def _interval(
        self, measurement: NormalizedMeasurement | None, solution: Solution | None
    ) -> Interval | None:
        if self.intervals is None or measurement is None or solution is None or measurement.snr_db is None:
            return None
        if solution.result is Result.DEADLINE:
            return None
        image = self.operators.grid.to_volume(solution.value)
        return self.intervals.of_image(image, measurement.snr_db, measurement.intensity)

    def _finish(
        self,
        measurement: NormalizedMeasurement | None,
        solution: Solution | None,
        image: Float32Array,
        ratio: float | None,
        interval: Interval | None,
        milliseconds: float,
    ) -> Reconstruction:
        if measurement is None or solution is None:
            zero = np.zeros(self.operators.n_voxels, np.float32)
            solution = Solution(zero, Result.ZERO_MEASUREMENT, SolveStats(0, ()))
        stats = solution.stats
        report = FrameReport(
            method=self.method,
            result=solution.result,
            iterations=stats.iterations,
            residuals=stats.residuals,
            restarts=stats.restarts,
            residual_over_epsilon=ratio,
            sigma=None if measurement is None else measurement.sigma,
            snr_db=None if measurement is None else measurement.snr_db,
            weights=stats.weights,
            weights_clamped=stats.weights_clamped,
            interval_coverage=None if interval is None else interval.coverage,
            interval_clamped=interval is not None and interval.clamped,
            intensity=0.0 if measurement is None else measurement.intensity,
            milliseconds=milliseconds,
        )
        return Reconstruction(image, report, solution, interval)
