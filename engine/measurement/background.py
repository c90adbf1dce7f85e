"""The running mean of background frames, their noise and their drift."""

import numpy as np
from numpy.typing import NDArray

from engine.measurement.raw_frame import RawFrame


class RunningBackground:
    """Background: the mean of what the scanner receives without a sample, followed while it drifts.

    The mean is that of all background frames until there are `window` of them, and forgets with a time
    constant of `window` frames from then on. It is kept as spectra, so that it outlives a change of
    operators.

    Noise comes from differences of consecutive background frames, var = |b_k - b_(k-1)|^2 / 2 per real
    component, so that drift does not count as noise.

    Parameters
    ----------
    window : float
        Background frames that the mean remembers; infinity for all of them.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self.forget()

    def forget(self) -> None:
        """Start anew, as for another acquisition."""
        self._count = 0
        self._layout: tuple[object, ...] | None = None
        self._mean = np.empty(0, np.complex128)
        self._first = np.empty(0, np.complex128)
        self._last = np.empty(0, np.complex128)
        self._variance = np.empty(0)

    @property
    def n_frames(self) -> int:
        """Background frames seen since the start."""
        return self._count

    @property
    def mean(self) -> NDArray[np.complex128]:
        """Mean spectra, complex128 (J, C, K); only with `n_frames` > 0."""
        return self._mean

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance per real component, float64 (J, C, K); only with `n_frames` > 1."""
        return self._variance

    @property
    def change(self) -> NDArray[np.complex128]:
        """Mean less that of the first `window` frames, complex128 (J, C, K); zero until there are as many."""
        return self._mean - self._first

    def fits(self, frame: RawFrame) -> bool:
        """Whether the mean can be subtracted from a frame: it has one, of the same layout."""
        return self._count > 0 and self._layout == layout_of(frame)

    def update(self, frame: RawFrame, spectra: NDArray[np.complex128]) -> None:
        """Take a background frame in; one of another layout starts anew.

        Parameters
        ----------
        frame : RawFrame
            The empty frame.
        spectra : ndarray of complex128, shape (J, C, K)
            Spectra of the frame; kept, so they must not be changed any more.
        """
        if self._layout != layout_of(frame):
            self.forget()
            self._layout = layout_of(frame)
            self._mean = np.zeros_like(spectra)
            self._variance = np.zeros(spectra.shape)
        self._count += 1
        weight = 1.0 / min(self._count, self._window)
        self._mean = self._mean + weight * (spectra - self._mean)
        if self._count > 1:
            step = spectra - self._last
            weight = 1.0 / min(self._count - 1, self._window)
            self._variance += weight * ((step.real**2 + step.imag**2) / 4 - self._variance)
        if self._count <= self._window:
            self._first = self._mean
        self._last = spectra


def layout_of(frame: RawFrame) -> tuple[object, ...]:
    """Return what two frames must share to be averaged or subtracted from each other."""
    bins = None if frame.bins is None else frame.bins.tobytes()
    return frame.data.shape, np.iscomplexobj(frame.data), bins
