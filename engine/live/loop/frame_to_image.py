"""One image from raw frames, with the doubts that come up on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.fixed_point.solution import Result
from engine.live.loop.live_image import BackgroundState, Flag
from engine.live.loop.loop_config import LoopConfig
from engine.measurement.background import RunningBackground
from engine.measurement.frame_rows import FrameRows, saturated_channels, whiten
from engine.measurement.raw_frame import RawFrame
from engine.mpi.preprocess import MIN_BACKGROUND_FRAMES
from engine.operators.operators import Operators
from engine.reconstruction.reconstructor import Reconstruction, Reconstructor


@dataclass(frozen=True)
class AssessedImage:
    """An image, and what of its `LiveReport` is known when it is made: what to doubt about it."""

    reconstruction: Reconstruction
    flags: tuple[Flag, ...]
    saturated_channels: tuple[int, ...]
    residual_ratio: float | None


class FrameToImage:
    """One reconstructor with what it needs to take raw frames. Serves one thread.

    Parameters
    ----------
    reconstructor : Reconstructor
        Method and operators.
    config : LoopConfig
        Conversion, and the limits of the doubts.
    """

    def __init__(self, reconstructor: Reconstructor, config: LoopConfig) -> None:
        self.reconstructor = reconstructor
        self._config = config
        conversion = None if config.conversion is None else np.array(config.conversion, np.float64)
        self._rows = FrameRows(reconstructor.operators, conversion)
        self._noise = reconstructor.operators.noise_std

    @property
    def operators(self) -> Operators:
        """Operators of the reconstructor."""
        return self.reconstructor.operators

    def require_frame(self, frame: RawFrame) -> None:
        """Check shape and values of a frame; PairingError or InputError as `FrameRows.require_frame`."""
        self._rows.require_frame(frame)

    def spectra(self, frame: RawFrame) -> NDArray[np.complex128]:
        """Return the spectra (J, C, K) of a frame in the unit of the receiver."""
        return self._rows.spectra(frame)

    def make(
        self, frames: Sequence[RawFrame], background: RunningBackground, deadline: float | None
    ) -> AssessedImage:
        """Reconstruct the mean of some frames.

        Parameters
        ----------
        frames : sequence of RawFrame
            Frames of one layout, each passed by `require_frame`.
        background : RunningBackground
            Background, whose mean is subtracted if it has one of the same layout.
        deadline : float or None
            Deadline on the clock `time.perf_counter`, for methods that can have one.

        Raises
        ------
        PairingError, InputError, NonFiniteError
            As `Reconstructor.reconstruct`.
        """
        frame = frames[0] if len(frames) == 1 else _mean_of(frames)
        rows = self._rows.rows(frame, self.spectra(frame))
        flags = []
        sigma = None
        if background.fits(frame):
            rows = rows - self._rows.rows(frame, background.mean)
            sigma = self._background_sigma(background, frame)
        else:
            flags.append(Flag.NO_BACKGROUND)
        whitened = whiten(rows, self.operators)
        found = self.reconstructor.reconstruct(
            whitened, deadline=deadline if self.reconstructor.is_anytime else None
        )
        saturated = {
            int(channel) for frame in frames for channel in saturated_channels(frame, self._config.saturation)
        }
        ratio = self._residual_ratio(found, whitened, sigma, len(frames))
        flags += self._doubts(found, sigma, ratio, len(frames))
        if saturated:
            flags.append(Flag.SATURATED)
        return AssessedImage(found, tuple(flags), tuple(sorted(saturated)), ratio)

    def background_state(
        self, background: RunningBackground, frame: RawFrame | None, age_s: float | None
    ) -> BackgroundState:
        """Say what is subtracted, in units of the calibration's noise; `frame` gives the layout."""
        if frame is None or not background.fits(frame):
            return BackgroundState(n_frames=background.n_frames, age_s=age_s)
        sigma = self._background_sigma(background, frame)
        change = self._rows.rows(frame, background.change) / self._noise
        drift = math.sqrt(float(np.mean(change.real**2 + change.imag**2)) / 2)
        return BackgroundState(background.n_frames, age_s, sigma, drift)

    def _background_sigma(self, background: RunningBackground, frame: RawFrame) -> float | None:
        if background.n_frames < MIN_BACKGROUND_FRAMES:
            return None
        variance = self._rows.rows(frame, background.variance.astype(np.complex128)).real
        return math.sqrt(float(np.mean(variance / self._noise**2)))

    def _residual_ratio(
        self,
        found: Reconstruction,
        whitened: NDArray[np.floating],
        sigma: float | None,
        n_frames: int,
    ) -> float | None:
        report = found.report
        if report.residual_over_epsilon is None or report.sigma is None:
            return None
        residual = report.residual_over_epsilon * report.sigma  # per row, as what follows
        noise = (1.0 if sigma is None else sigma) / math.sqrt(n_frames)
        model_error = self._config.model_error * float(np.linalg.norm(whitened)) / math.sqrt(whitened.size)
        return residual / math.hypot(noise, model_error)

    def _doubts(
        self, found: Reconstruction, sigma: float | None, ratio: float | None, n_frames: int
    ) -> list[Flag]:
        report, config = found.report, self._config
        flags = []
        if report.result is Result.DEADLINE:
            flags.append(Flag.DEADLINE)
        if not report.converged:
            flags.append(Flag.NOT_CONVERGED)
        if n_frames > 1:
            flags.append(Flag.AVERAGED)
        least, most = config.noise_range
        # A frame's own estimate also holds what the model does not explain: only too little of it is telling.
        own = None if report.sigma is None else report.sigma * math.sqrt(n_frames)
        if (sigma is not None and not least <= sigma <= most) or (own is not None and own < least):
            flags.append(Flag.NOISE_LEVEL)
        if ratio is not None and ratio > config.max_residual:
            flags.append(Flag.RESIDUAL)
        return flags


def _mean_of(frames: Sequence[RawFrame]) -> RawFrame:
    newest = frames[-1]
    kind = np.complex128 if np.iscomplexobj(newest.data) else np.float64
    mean: NDArray[np.complex128 | np.float64] = np.mean([frame.data for frame in frames], axis=0, dtype=kind)
    return RawFrame(newest.sequence, mean, newest.stream, bins=newest.bins)
