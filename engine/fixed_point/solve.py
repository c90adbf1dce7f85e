"""Solver of z = f(z) by safeguarded Anderson iteration, for one vector or for those of many frames."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.fixed_point.anderson import AndersonHistory, residual_norms
from engine.fixed_point.config import FixedPointConfig
from engine.fixed_point.safeguard import Safeguard
from engine.fixed_point.solution import Solution
from engine.machine.memory import require_memory

__all__ = [
    "FixedPointConfig",
    "FixedPointSolver",
    "FramesStep",
    "Step",
    "solve_fixed_point",
]

Step = Callable[[NDArray[Any], NDArray[Any]], None]
"""A map: `step(z, out)` writes f(z) into `out` and leaves z alone; both are (n,), of the state's dtype."""


class FramesStep(Protocol):
    """The map of several frames at once."""

    def __call__(self, z: NDArray[Any], out: NDArray[Any], /) -> None:
        """Write f(z) of every frame into `out`; both are contiguous, (F, n), and of the state's dtype."""
        ...

    def keep(self, frames: Sequence[int], /) -> None:
        """Go on with these frames only: row i of the states to come is row frames[i] of those before."""
        ...


class FixedPointSolver:
    """Solver of z = f(z) for one vector, or for those of many frames, each until its own tolerance is met.

    The history and the safeguard are those of `AndersonHistory` and `Safeguard`. The value returned is f(z)
    at the smallest residual seen, whether or not that met the tolerance.

    Buffers stay from one solve to the next, so an object serves one thread.

    Parameters
    ----------
    config : FixedPointConfig
        History, damping and stopping rule.
    measured : int, optional
        Leading entries of the state that residuals and weights look at; by default all. Those behind must be
        a linear function of them (`AndersonHistory`).
    """

    def __init__(self, config: FixedPointConfig, measured: int | None = None) -> None:
        self._config = config
        self._measured = measured
        self._tracks: list[_Track] = []
        self._points: NDArray[Any] = np.empty((0, 0))
        self._values: NDArray[Any] = np.empty((0, 0))

    def solve(
        self, step: FramesStep, starts: NDArray[np.floating], deadline: float | None = None
    ) -> list[Solution]:
        """Iterate until every frame has met the tolerance or the limit; frames that have leave the work.

        Parameters
        ----------
        step : FramesStep
            Map of the frames. The arrays are reused; the step must not keep them.
        starts : ndarray of float32 or float64, shape (F, n)
            First points; not changed. Their dtype is the dtype of the iteration.
        deadline : float, optional
            Time to end at, on the clock `time.perf_counter`. At least one evaluation is made, and another one
            only if it will be over by then, judged by the one before.

        Returns
        -------
        list of Solution
            For each frame the best value (n,), CONVERGED, MAX_ITERATIONS or DEADLINE, and one relative
            residual per evaluation of f.

        Raises
        ------
        NonFiniteError
            If f returns NaN or infinity.
        ConfigError
            If there is not enough memory for so many frames.
        """
        self._prepare(starts)
        self._points[: len(starts)] = starts
        active = list(range(len(starts)))  # row i of the points belongs to frame active[i]
        while active:
            began = time.perf_counter()
            points, values = self._points[: len(active)], self._values[: len(active)]
            step(points, values)
            open_rows = [
                row
                for row, frame in enumerate(active)
                if not self._tracks[frame].advance(points[row], values[row])
            ]
            if len(open_rows) < len(active):
                active = [active[row] for row in open_rows]
                if active:
                    points[: len(active)] = points[open_rows]
                    step.keep(open_rows)
            if deadline is not None and 2 * time.perf_counter() - began > deadline:
                break  # now + (now - began) is when another evaluation would be over
        return [self._tracks[frame].solution() for frame in range(len(starts))]

    def _prepare(self, starts: NDArray[np.floating]) -> None:
        n_frames, size = starts.shape
        if self._points.shape[1] != size or self._points.dtype != starts.dtype:
            self._tracks.clear()
        if len(self._tracks) < n_frames:
            # Values and residuals in the history, the best value, point and value of a frame.
            per_frame = (2 * max(1, self._config.memory) + 3) * size * starts.itemsize
            more = n_frames - len(self._tracks)
            require_memory(more * per_frame, f"a batch of {n_frames} frames", "give fewer frames at a time")
        if len(self._points) < n_frames or not self._tracks:
            self._points = np.empty((n_frames, size), starts.dtype)
            self._values = np.empty_like(self._points)
        measured = size if self._measured is None else self._measured
        while len(self._tracks) < n_frames:
            self._tracks.append(_Track(self._config, size, starts.dtype, measured))
        for track in self._tracks[:n_frames]:
            track.reset()


class _Track:
    """The iteration of one frame: its history, its best value and its account."""

    def __init__(self, config: FixedPointConfig, size: int, dtype: np.dtype[Any], measured: int) -> None:
        self._config = config
        self._measured = measured
        self._history = AndersonHistory(
            size, max(1, config.memory), config.beta, config.regularization, dtype, measured
        )
        self._best_value = np.empty(size, dtype)
        self.reset()

    def reset(self) -> None:
        """Forget the frame before."""
        self._history.clear()
        self._safeguard = Safeguard(self._config)

    def advance(self, point: NDArray[Any], value: NDArray[Any]) -> bool:
        """Take note of f(point) = value; return True at the end, else write the next point into `point`.

        Both are contiguous, (n,), and of the state's dtype.
        """
        history = self._history
        verdict = self._safeguard.judge(*residual_norms(point, value, self._measured))
        if verdict.is_best:
            self._best_value[...] = value
        if verdict.has_ended:
            return True
        if verdict.is_rejected:
            point[...] = self._best_value if verdict.resumes_from_best else history.newest
            history.clear()
        else:
            history.push(point, value)
            history.propose(point)
        self._safeguard.go_on(verdict, len(history))
        return False

    def solution(self) -> Solution:
        """Return the best value and the account."""
        return Solution(self._best_value.copy(), *self._safeguard.account())


def solve_fixed_point(step: Step, start: NDArray[np.floating], config: FixedPointConfig) -> Solution:
    """Find z = f(z) for one vector, as `FixedPointSolver` does.

    Parameters
    ----------
    step : callable
        Map: `step(z, out)` writes f(z) into `out`. The arrays are reused; the step must not keep them.
    start : ndarray of float32 or float64, shape (n,)
        First point; it is not changed, and its dtype is the dtype of the iteration.
    config : FixedPointConfig
        History, damping and stopping rule.

    Returns
    -------
    Solution
        Best value (n,), CONVERGED or MAX_ITERATIONS, and one relative residual per evaluation of f.

    Raises
    ------
    NonFiniteError
        If f returns NaN or infinity.
    """
    return FixedPointSolver(config).solve(_SingleFrame(step), np.asarray(start)[None])[0]


class _SingleFrame:
    """The map of one vector as one of frames."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def __call__(self, z: NDArray[Any], out: NDArray[Any]) -> None:
        self._step(z[0], out[0])

    def keep(self, _frames: Sequence[int]) -> None:
        """Keep the frame, as there is nothing to leave out: a solve of one frame ends with it."""
