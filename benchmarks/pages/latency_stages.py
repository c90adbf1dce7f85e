"""Where the time of a frame goes: the engine's own loop with a clock around each of its parts."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.fixed_point.solve import FixedPointConfig, FixedPointSolver
from engine.machine.arithmetic import denormals_as_zero, single_blas_thread
from engine.measurement.normalization import normalize
from engine.networks.bundle import Bundle
from engine.networks.sessions import OnnxConsistency, OnnxPrior
from engine.operators.operators import Operators
from engine.operators.products import Products, products_of
from engine.solvers.deq.admm_step import AdmmStep

STAGES = ("start", "rdn", "lc", "products", "step_rest", "anderson")
"""In the order of a frame: normalising and first state, the networks, the products, what else a step does,
and the acceleration with the stopping rule."""


class Clock:
    """Adds up the time spent inside."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


class TimedBlock:
    """A learned block whose bound calls are timed."""

    def __init__(self, block: Any, clock: Clock) -> None:
        self._block = block
        self._clock = clock

    def __call__(self, *arrays: Float32Array) -> NDArray[Any]:
        """Pass on a call that is not bound."""
        found: NDArray[Any] = self._block(*arrays)
        return found

    def bind(self, *arrays: Float32Array) -> Callable[[], NDArray[Any]]:
        """Return a timed call of these arrays."""
        run = self._block.bind(*arrays)

        def timed() -> NDArray[Any]:
            with self._clock:
                found: NDArray[Any] = run()
            return found

        return timed


class TimedProducts:
    """Products, timed."""

    def __init__(self, products: Products, clock: Clock) -> None:
        self._products = products
        self._clock = clock

    def rows_of(self, images: Float32Array, out: Float32Array, first: int, last: int) -> None:
        """See `Products`."""
        with self._clock:
            self._products.rows_of(images, out, first, last)

    def images_of_rows(self, rows: Float32Array, out: Float32Array) -> None:
        """See `Products`."""
        with self._clock:
            self._products.images_of_rows(rows, out)

    def add_images_of_images(self, images: Float32Array, out: Float32Array) -> None:
        """See `Products`."""
        with self._clock:
            self._products.add_images_of_images(images, out)


class TimedStep:
    """A step of one frame, timed as a whole."""

    def __init__(self, step: AdmmStep, clock: Clock) -> None:
        self._step = step
        self._clock = clock

    def __call__(self, z: Float32Array, out: Float32Array) -> None:
        """Evaluate the map."""
        with self._clock:
            self._step(z, out)

    def keep(self, frames: Sequence[int]) -> None:
        """Pass on which frames go on."""
        self._step.keep(frames)


def stage_times(
    bundle: Bundle, operators: Operators, rows: NDArray[np.floating], config: FixedPointConfig
) -> Mapping[str, float]:
    """Return the median milliseconds of each of `STAGES` over whitened frames (F, R), on one core."""
    rdn, lc, products, whole = Clock(), Clock(), Clock(), Clock()
    step = AdmmStep(
        operators,
        TimedBlock(OnnxPrior(bundle), rdn),
        TimedBlock(OnnxConsistency(bundle), lc),
        products=TimedProducts(products_of(operators), products),
    )
    solver = FixedPointSolver(config, step.measured)
    found: list[list[float]] = []
    with single_blas_thread(), denormals_as_zero():  # as the reconstructor
        for frame in rows:
            started = time.perf_counter()
            measurement = normalize(frame, operators)
            assert measurement is not None  # no phantom is empty
            states = step.begin([measurement], bundle.manifest.dual_start)
            for clock in (rdn, lc, products, whole):
                clock.seconds = 0.0
            begun = time.perf_counter()
            solver.solve(TimedStep(step, whole), states)
            ended = time.perf_counter()
            inside = rdn.seconds + lc.seconds + products.seconds
            seconds = (
                begun - started,
                rdn.seconds,
                lc.seconds,
                products.seconds,
                whole.seconds - inside,
                ended - begun - whole.seconds,
            )
            found.append([1e3 * part for part in seconds])
    return dict(zip(STAGES, np.median(found[1:], axis=0).tolist(), strict=True))
