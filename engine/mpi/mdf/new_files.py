"""Valid MDF files made from arrays: for the simulator, the reconstructor and tests."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.mpi.grid import Grid
from engine.mpi.mdf.checks import check_mdf
from engine.mpi.mdf.model import (
    Acquisition,
    Calibration,
    Experiment,
    MdfFile,
    Measurement,
    Reconstruction,
    Scanner,
    Study,
    Tracer,
)
from engine.mpi.mdf.new_metadata import (
    new_acquisition,
    new_experiment,
    new_scanner,
    new_sine_drive,
    new_study,
    new_tracer,
    new_uuid,
    utc_now,
)

__all__ = [
    "new_acquisition",
    "new_calibration_file",
    "new_experiment",
    "new_measurement_file",
    "new_reconstruction_file",
    "new_scanner",
    "new_sine_drive",
    "new_study",
    "new_tracer",
]


def new_calibration_file(
    foreground: NDArray[np.complexfloating],
    background: NDArray[np.complexfloating] | None = None,
    *,
    grid: Grid,
    acquisition: Acquisition,
    bins: Sequence[int] | NDArray[np.int64] | None = None,
    snr: NDArray[np.float64] | None = None,
    method: str = "simulation",
    study: Study | None = None,
    experiment: Experiment | None = None,
    scanner: Scanner | None = None,
    tracer: Tracer | None = None,
) -> MdfFile:
    """Return a calibration: the system matrix in grid order, then the background frames.

    Parameters
    ----------
    foreground : ndarray of complex, shape (O, J, C, K)
        Spectra, one per voxel of `grid`, x fastest; unnormalised rfft in the acquisition's unit.
    background : ndarray of complex, shape (E, J, C, K), optional
        Spectra without sample. Noise figures need at least two.
    grid : Grid
        Voxel grid with O voxels.
    acquisition : Acquisition
        Acquisition, whose number of frames is replaced by O + E.
    bins : sequence of int, shape (K,), optional
        Stored bins, 0-based on the full rfft axis; None for the full axis.
    snr : ndarray of float64, shape (J, C, K), optional
        Signal-to-noise ratio of each row.
    method : str
        "robot", "hybrid", "simulation" or free text.
    study, experiment, scanner, tracer : optional
        Metadata; by default those of a simulation.

    Returns
    -------
    MdfFile
        Complex64 data of shape (J, C, K, N), checked.

    Raises
    ------
    MdfError
        If the shapes contradict each other or a value is not finite.
    """
    if background is not None and background.shape[1:] != foreground.shape[1:]:
        raise MdfError(
            f"background frames have the shape {background.shape[1:]}; expected {foreground.shape[1:]} like "
            "the foreground; pass spectra of the same periods, channels and bins"
        )
    frames = foreground if background is None else np.concatenate([foreground, background])
    n_frames = len(frames)
    measurement = _measurement(
        data=_single(np.moveaxis(frames, 0, -1), np.complex64),
        is_background_frame=np.arange(n_frames) >= len(foreground),
        bins=bins,
        is_fast_frame_axis=True,
        frame_permutation=np.arange(1, n_frames + 1),
    )
    calibration = Calibration(
        method=method,
        size=np.array(grid.size, np.int64),
        field_of_view=np.array(grid.field_of_view, np.float64),
        field_of_view_center=np.array(grid.center, np.float64),
        snr=snr,
    )
    return _checked(
        MdfFile(
            uuid=new_uuid(),
            time=utc_now(),
            study=study or new_study(),
            experiment=experiment or new_experiment("calibration"),
            tracer=tracer,
            scanner=scanner or new_scanner(),
            acquisition=replace(acquisition, num_frames=n_frames),
            measurement=measurement,
            calibration=calibration,
        )
    )


def new_measurement_file(
    frames: NDArray[Any],
    *,
    acquisition: Acquisition,
    background_mask: NDArray[np.bool_] | None = None,
    bins: Sequence[int] | NDArray[np.int64] | None = None,
    study: Study | None = None,
    experiment: Experiment | None = None,
    scanner: Scanner | None = None,
    tracer: Tracer | None = None,
) -> MdfFile:
    """Return a measurement: time signals if the frames are real, spectra if they are complex.

    Parameters
    ----------
    frames : ndarray, shape (N, J, C, V) real or (N, J, C, K) complex
        Frames, kept in their type: raw counts together with the acquisition's conversion factor, or values in
        its unit.
    acquisition : Acquisition
        Acquisition, whose number of frames is replaced by N.
    background_mask : ndarray of bool, shape (N,), optional
        Frames taken without sample; by default none.
    bins : sequence of int, shape (K,), optional
        Stored bins of spectra, 0-based on the full rfft axis; None for the full axis.
    study, experiment, scanner, tracer : optional
        Metadata; by default those of a simulation.

    Returns
    -------
    MdfFile
        Measurement, checked.

    Raises
    ------
    MdfError
        If the shapes contradict each other or a value is not finite.
    """
    mask = np.zeros(len(frames), bool) if background_mask is None else np.asarray(background_mask, bool)
    return _checked(
        MdfFile(
            uuid=new_uuid(),
            time=utc_now(),
            study=study or new_study(),
            experiment=experiment or new_experiment("measurement"),
            tracer=tracer,
            scanner=scanner or new_scanner(),
            acquisition=replace(acquisition, num_frames=len(frames)),
            measurement=_measurement(data=np.asarray(frames), is_background_frame=mask, bins=bins),
        )
    )


def new_reconstruction_file(images: NDArray[np.floating], grid: Grid, source: MdfFile) -> MdfFile:
    """Return a reconstruction with the study, experiment, tracer, scanner and acquisition of its source.

    Parameters
    ----------
    images : ndarray of float, shape (Q, Nz, Ny, Nx)
        Images, one volume per reconstructed frame.
    grid : Grid
        Grid of the volumes.
    source : MdfFile
        The measurement that was reconstructed.

    Returns
    -------
    MdfFile
        Float32 data of shape (Q, P, 1), checked.

    Raises
    ------
    MdfError
        If the images do not fit the grid or a value is not finite.
    """
    if images.ndim != 4 or images.shape[1:] != grid.volume_shape:
        raise MdfError(
            f"images have the shape {images.shape}; expected (frames, Nz, Ny, Nx) = (frames, "
            f"{', '.join(str(n) for n in grid.volume_shape)}); pass volumes on the grid"
        )
    reconstruction = Reconstruction(
        data=_single(grid.to_vector(images), np.float32)[..., np.newaxis],
        size=np.array(grid.size, np.int64),
        field_of_view=np.array(grid.field_of_view, np.float64),
        field_of_view_center=np.array(grid.center, np.float64),
    )
    return _checked(
        replace(
            source,
            uuid=new_uuid(),
            time=utc_now(),
            measurement=None,
            calibration=None,
            reconstruction=reconstruction,
        )
    )


def _measurement(
    data: NDArray[Any],
    is_background_frame: NDArray[np.bool_],
    bins: Sequence[int] | NDArray[np.int64] | None,
    *,
    is_fast_frame_axis: bool = False,
    frame_permutation: NDArray[np.int64] | None = None,
) -> Measurement:
    """Return a measurement of data in any layout of `Measurement`, without any correction applied."""
    return Measurement(
        data=data,
        is_fourier_transformed=np.iscomplexobj(data),
        is_fast_frame_axis=is_fast_frame_axis,
        is_frame_permutation=frame_permutation is not None,
        is_frequency_selection=bins is not None,
        is_background_corrected=False,
        is_spectral_leakage_corrected=False,
        is_transfer_function_corrected=False,
        is_background_frame=is_background_frame,
        frame_permutation=frame_permutation,
        frequency_selection=None if bins is None else np.asarray(bins, np.int64) + 1,
    )


def _single(values: NDArray[Any], dtype: type[np.float32 | np.complex64]) -> NDArray[Any]:
    """Copy an array of any shape to single precision, contiguous; what overflows becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=dtype, order="C")


def _checked(file: MdfFile) -> MdfFile:
    check_mdf(file)
    return file
