"""The score of a method's settings: mean pSNR over the validation frames of one SNR."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.mpi.metrics import psnr_db
from engine.operators.operators import Operators
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import METHODS, hand_set, open_method
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.regularization import MethodWeights, SnrCurve
from engine.tuning.emulation import Frames
from engine.tuning.result import Trial


def settings_of(method: str, model: Path | str | None) -> MethodSettings:
    """Return the settings that every trial of a method shares: the model, if it needs one."""
    return MethodSettings(model=model) if METHODS[method].networks else MethodSettings()


class Judge:
    """Trials of one method; none is done twice.

    Parameters
    ----------
    method : str
        Method with hand-set weights.
    operators : Operators
        Operators of the reconstruction.
    frames : mapping of float to Frames
        Frames by mean SNR in dB, increasing.
    model : Path or str, optional
        Bundle of a method that needs one.
    on_trial : callable, optional
        Function that is told every trial when it is done.
    """

    def __init__(
        self,
        method: str,
        operators: Operators,
        frames: Mapping[float, Frames],
        model: Path | str | None = None,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> None:
        self.method = method
        self.snr_db = tuple(frames)
        self._operators = operators
        self._frames = frames
        self._settings = settings_of(method, model)
        self._on_trial = on_trial
        self._trials: dict[tuple[float, tuple[float, ...], int], Trial] = {}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, in order."""
        return tuple(self._trials.values())

    def trial(self, snr_db: float, values: Sequence[float], iterations: int) -> Trial:
        """Judge weights (in the order of their names) and a number of iterations at one SNR."""
        key = snr_db, tuple(values), iterations
        if key not in self._trials:
            weights = dict(zip(hand_set(self.method).names, values, strict=True))
            psnr = self._psnr(snr_db, self._with(weights, iterations))
            done = Trial(self.method, snr_db, weights, iterations, float(psnr.mean()), float(psnr.std()))
            self._trials[key] = done
            if self._on_trial is not None:
                self._on_trial(done)
        return self._trials[key]

    def as_used(self, weights: MethodWeights) -> tuple[float, ...]:
        """Return the mean pSNR at every SNR with weights that follow the estimated SNR of each frame."""
        settings = self._with(weights.curves, weights.iterations)
        return tuple(float(self._psnr(snr, settings).mean()) for snr in self.snr_db)

    def _with(self, weights: Mapping[str, float | SnrCurve], iterations: int) -> MethodSettings:
        limit = iterations if METHODS[self.method].iterates else None
        return replace(self._settings, weights=weights, max_iterations=limit)

    def _psnr(self, snr_db: float, settings: MethodSettings) -> NDArray[np.float64]:
        frames = self._frames[snr_db]
        reconstructor = Reconstructor(open_method(self.method, self._operators, settings))
        found = reconstructor.reconstruct_frames(frames.rows * self._operators.scale)
        return psnr_db(np.stack([frame.image[0] for frame in found]), frames.truth)
