"""Per-pixel intervals of stated coverage: the table of half-widths that a reconstructed image gets.

The half-widths are a table over the estimated SNR of the frame and two features of the pixel: the local peak
p, the largest value of the image in the 3 x 3 (x 3) neighbourhood, and the share x / p that the pixel has of
it. Errors grow with p, and the share tells the core of a vessel from its edge. The table comes from
`engine.tuning.fit_intervals`.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from engine.arrays import Float32Array
from engine.errors import ConfigError, PairingError
from engine.machine.checked_values import from_plain, require, to_plain, without_header

KIND = "deq-mpi-intervals"
"""Value of `kind` in every table of intervals."""

SCHEMA = 1
"""Version of the table that this module reads and writes."""

NEIGHBOURHOOD = 3
"""Voxels along each axis of the neighbourhood of the local peak."""


@dataclass(frozen=True)
class Interval:
    """Interval in which each true concentration of one image lies with a stated probability.

    Attributes
    ----------
    low, high : ndarray of float32, shape (Nz, Ny, Nx)
        Bounds in the unit of the image, which lies between them; low is at least 0.
    coverage : float
        Share of the voxels whose truth lies inside, over images like those of the calibration.
    clamped : bool
        Whether the SNR of the frame is outside the calibrated range. The half-widths are then those of its
        nearest end: above the range wider than needed, below it too narrow for the coverage stated.
    """

    low: Float32Array
    high: Float32Array
    coverage: float
    clamped: bool


@dataclass(frozen=True, eq=False)
class Intervals:
    """Calibrated half-widths of one model, for images of peak about 1 (normalised units).

    Attributes
    ----------
    method : str
        Method of the images that were calibrated.
    settings : mapping
        Solver settings of those images: others give other errors.
    coverage : float
        Share of the truth inside, above 0 and below 1.
    snr_db : ndarray of float64, shape (L,)
        Increasing levels of the estimated SNR; between them half-widths are interpolated linearly.
    snr_range : tuple of float
        Lowest and highest estimated SNR of the frames of the calibration.
    peak_edges, share_edges : ndarray of float64, shapes (P - 1,) and (Q - 1,)
        Increasing borders of the classes of local peak and share; a value on a border is in the upper class.
    below, above : ndarray of float64, shape (L, P, Q)
        Half-widths, not negative.
    source : mapping
        Origin of the table, for people; values that JSON can hold.

    Raises
    ------
    ConfigError
        If a value is of the wrong shape, not finite or outside its range.
    """

    method: str
    settings: Mapping[str, Any]
    coverage: float
    snr_db: NDArray[np.float64]
    snr_range: tuple[float, float]
    peak_edges: NDArray[np.float64]
    share_edges: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]
    source: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("snr_db", "peak_edges", "share_edges"):
            object.__setattr__(self, name, _increasing(name, getattr(self, name)))
        if not self.snr_db.size:
            raise ConfigError("snr_db is empty; expected at least one level; calibrate the intervals again")
        shape = (self.snr_db.size, self.peak_edges.size + 1, self.share_edges.size + 1)
        for name in ("below", "above"):
            object.__setattr__(self, name, _half_widths(name, getattr(self, name), shape))
        require(0 < self.coverage < 1, "coverage", self.coverage, "a number between 0 and 1, such as 0.9")
        lowest, highest = _increasing("snr_range", self.snr_range).tolist()
        object.__setattr__(self, "snr_range", (lowest, highest))
        object.__setattr__(self, "settings", _as_json(self.settings))

    def differences(self, method: str, settings: Mapping[str, Any]) -> str:
        """Say what of a method and its solver settings is not as calibrated; empty if everything is."""
        given = {"method": method, **_as_json(settings)}
        expected = {"method": self.method, **self.settings}
        names = sorted(name for name in {*given, *expected} if given.get(name) != expected.get(name))
        return ", ".join(f"{name} {given.get(name)} (calibrated {expected.get(name)})" for name in names)

    def require_settings(self, method: str, settings: Mapping[str, Any]) -> None:
        """Raise unless these are the method and the solver settings of the calibration.

        Raises
        ------
        PairingError
            If one differs.
        """
        if found := self.differences(method, settings):
            raise PairingError(
                f"the images are made with {found}; expected the settings that the intervals were calibrated "
                "for; use those or do without intervals"
            )

    def of_image(self, image: Float32Array, snr_db: float, intensity: float) -> Interval:
        """Return the interval of every voxel of one image.

        Parameters
        ----------
        image : ndarray of float32, shape (Nz, Ny, Nx)
            Image in normalised units, peak about 1.
        snr_db : float
            Estimated SNR of the frame.
        intensity : float
            Concentration of an image value of 1.

        Returns
        -------
        Interval
            Bounds in concentrations.
        """
        cells = self.cells(image)
        below, above = (np.take(table, cells) for table in self.half_widths(snr_db))
        low = np.maximum(image - below, 0.0)
        high = np.maximum(image + above, low)
        first, last = self.snr_range
        return Interval(
            low=(intensity * low).astype(np.float32),
            high=(intensity * high).astype(np.float32),
            coverage=self.coverage,
            clamped=not first <= snr_db <= last,
        )

    def cells(self, image: NDArray[np.floating]) -> NDArray[np.intp]:
        """Return the class of every voxel of an image, intp (Nz, Ny, Nx), as a flat index into (P, Q)."""
        return pixel_cells(image, self.peak_edges, self.share_edges)

    def half_widths(self, snr_db: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the half-widths below and above, each float64 (P, Q), at an estimated SNR in dB."""
        place = float(np.interp(snr_db, self.snr_db, np.arange(self.snr_db.size)))
        first = int(place)
        second = min(first + 1, self.snr_db.size - 1)
        weight = place - first
        below, above = (
            (1 - weight) * table[first] + weight * table[second] for table in (self.below, self.above)
        )
        return below, above

    @classmethod
    def from_dict(cls, values: object) -> "Intervals":
        """Build from decoded JSON.

        Raises
        ------
        ConfigError
            If the kind or schema is another, or a key is missing, unknown or has an impossible value.
        """
        return from_plain(cls, without_header(values, KIND, SCHEMA))

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads and `json.dump` writes."""
        return {"kind": KIND, "schema": SCHEMA, **to_plain(self)}


def pixel_cells(
    image: NDArray[np.floating], peak_edges: NDArray[np.float64], share_edges: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the class of every voxel by local peak and share of it.

    Parameters
    ----------
    image : ndarray of float, shape (Nz, Ny, Nx)
        Image in normalised units.
    peak_edges, share_edges : ndarray of float64, shapes (P - 1,) and (Q - 1,)
        Borders of the classes.

    Returns
    -------
    ndarray of intp, shape (Nz, Ny, Nx)
        Peak class times Q plus share class. Where the local peak is 0 the share counts as 0.
    """
    peak = maximum_filter(image, NEIGHBOURHOOD, mode="nearest")
    share = np.divide(image, peak, out=np.zeros_like(image), where=peak > 0)
    cells: NDArray[np.intp] = np.searchsorted(peak_edges, peak, side="right") * (share_edges.size + 1)
    cells += np.searchsorted(share_edges, share, side="right")
    return cells


def _increasing(name: str, values: Any) -> NDArray[np.float64]:
    found = _numbers(name, values)
    if found.ndim != 1 or not all(first < second for first, second in itertools.pairwise(found.tolist())):
        raise ConfigError(f"{name} is {values!r}; expected a list of increasing numbers")
    return found


def _half_widths(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    found = _numbers(name, values)
    if found.shape != shape or found.min() < 0:
        raise ConfigError(
            f"{name} has shape {found.shape}; expected {shape} for the levels and classes stated, none of "
            "them negative"
        )
    return found


def _numbers(name: str, values: Any) -> NDArray[np.float64]:
    found = np.asarray(values)
    if found.size and (found.dtype.kind not in "iuf" or not np.isfinite(found).all()):
        raise ConfigError(f"{name} is {values!r}; expected finite numbers")
    return found.astype(np.float64)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they come back from a file, where a tuple is a list."""
    found: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return found
