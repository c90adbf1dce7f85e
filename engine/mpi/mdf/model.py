"""The content of an MDF 2.x file as frozen dataclasses, one per HDF5 group.

Attribute names are MDF's names in snake case, values are in MDF's units (SI, fields in T/mu0) and array axes
are in MDF's order, first axis slowest. `data`, flags and the 1-based index lists are kept as the file stores
them; `engine.mpi.mdf.grids` turns them into spectra, bins and images.

Letters of the shapes: A tracers, J drive-field periods per frame, Y field steps per period, D drive channels,
F frequencies per drive channel, C receive channels, V samples per period, K stored frequency bins, N frames,
O foreground frames (grid points of a calibration), Q reconstructed frames, P voxels, S image channels.
Objects compare by identity, since they hold arrays.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from engine.mpi.mdf.schema import Kind, Stored

MDF_VERSION = "2.1.0"
"""The version of the files this library writes."""

Text = Annotated[str, Stored(Kind.TEXT)]
Uuid = Annotated[str, Stored(Kind.UUID)]
Time = Annotated[datetime | None, Stored(Kind.TIME)]
Flag = Annotated[bool, Stored(Kind.FLAG)]
Integer = Annotated[int, Stored(Kind.INTEGER)]
Real = Annotated[float, Stored(Kind.REAL)]

TracerTexts = Annotated[NDArray[np.str_], Stored(Kind.TEXT, ("A",))]
TracerReals = Annotated[NDArray[np.float64], Stored(Kind.REAL, ("A",))]
DriveReals = Annotated[NDArray[np.float64], Stored(Kind.REAL, ("J", "D", "F"))]
OptionalVector = Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, (3,))]
OptionalSize = Annotated[NDArray[np.int64] | None, Stored(Kind.INTEGER, (3,))]


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """Group /study: the series of experiments a file belongs to. `time` is UTC without time zone."""

    name: Text
    number: Integer
    description: Text
    uuid: Uuid
    time: Time = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment:
    """Group /experiment: one experiment and its subject."""

    name: Text
    number: Integer
    description: Text
    subject: Text
    uuid: Uuid
    is_simulation: Flag


@dataclass(frozen=True, eq=False, kw_only=True)
class Tracer:
    """Group /tracer: the magnetic material, one entry per tracer or injection, all shapes (A,).

    Attributes
    ----------
    name, batch, vendor, solute : ndarray of str
        Description of the tracer; the solute is the element counted, usually Fe.
    concentration : ndarray of float64
        Concentration in mol(solute) / L.
    volume : ndarray of float64
        Volume in L.
    injection_time : tuple of datetime or None, optional
        Time of the injection, UTC without time zone.
    """

    name: TracerTexts
    batch: TracerTexts
    vendor: TracerTexts
    solute: TracerTexts
    concentration: TracerReals
    volume: TracerReals
    injection_time: Annotated[tuple[datetime | None, ...] | None, Stored(Kind.TIME, ("A",))] = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Scanner:
    """Group /scanner. `topology` is FFP, FFL or MPS; `bore_size` is in metres."""

    name: Text
    manufacturer: Text
    facility: Text
    operator: Text
    topology: Text
    bore_size: Annotated[float | None, Stored(Kind.REAL)] = None


@dataclass(frozen=True, eq=False, kw_only=True)
class DriveField:
    """Group /acquisition/drivefield.

    Attributes
    ----------
    num_channels : int
        Number D of drive channels.
    base_frequency : float
        Base frequency in Hz; the drive frequencies are base_frequency / divider.
    divider : ndarray of int64, shape (D, F)
        Frequency dividers.
    cycle : float
        Period length in s: lcm(divider) / base_frequency.
    strength : ndarray of float64, shape (J, D, F)
        Amplitudes in T/mu0.
    phase : ndarray of float64, shape (J, D, F)
        Phases in rad, from -pi to pi.
    waveform : ndarray of str, shape (D, F)
        "sine", "triangle" or "custom".
    """

    num_channels: Integer
    base_frequency: Real
    divider: Annotated[NDArray[np.int64], Stored(Kind.INTEGER, ("D", "F"))]
    cycle: Real
    strength: DriveReals
    phase: DriveReals
    waveform: Annotated[NDArray[np.str_], Stored(Kind.TEXT, ("D", "F"))]


@dataclass(frozen=True, eq=False, kw_only=True)
class Receiver:
    """Group /acquisition/receiver.

    Attributes
    ----------
    num_channels : int
        Number C of receive channels.
    bandwidth : float
        Half the sampling rate in Hz.
    num_sampling_points : int
        Samples V per period.
    unit : str
        SI unit of the signal after the conversion factor, usually "V".
    data_conversion_factor : ndarray of float64, shape (C, 2), optional
        Factors (a, b) per channel: signal = a * stored + b. Present means that it has not been applied yet.
    transfer_function : ndarray of complex128, shape (C, K), optional
        Recorded signal over coil signal, on the stored bins or on the full axis.
    induction_factor : ndarray of float64, shape (C,), optional
        Received signal per moment, in unit / (A m^2).
    """

    num_channels: Integer
    bandwidth: Real
    num_sampling_points: Integer
    unit: Text
    data_conversion_factor: Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, ("C", 2))] = None
    transfer_function: Annotated[NDArray[np.complex128] | None, Stored(Kind.COMPLEX, ("C", "K"))] = None
    induction_factor: Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, ("C",))] = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Acquisition:
    """Group /acquisition: timing and fields of the recording.

    Attributes
    ----------
    num_averages : int
        Block averages per period; the data are already averaged.
    num_frames : int
        Number N of frames, background frames included.
    num_periods_per_frame : int
        Number J of periods per frame.
    start_time : datetime or None
        Beginning of the acquisition, UTC without time zone; None if the file leaves it empty.
    drivefield, receiver : DriveField, Receiver
        Sub-groups of the excitation and of the reception.
    gradient : ndarray of float64, shape (J, Y, 3, 3), optional
        Jacobian of the selection field at the scanner centre in T/m/mu0.
    offset_field : ndarray of float64, shape (J, Y, 3), optional
        Static field at the scanner centre in T/mu0.
    """

    num_averages: Integer
    num_frames: Integer
    # Some writers call it numPeriods or leave it out for single-period frames; the data's shape confirms it.
    num_periods_per_frame: Annotated[int, Stored(Kind.INTEGER, aliases=("numPeriods",))] = 1
    start_time: Time
    drivefield: DriveField
    receiver: Receiver
    gradient: Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, ("J", "Y", 3, 3))] = None
    offset_field: Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, ("J", "Y", 3))] = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """Group /measurement: the recorded data; for calibrations, the system matrix.

    Attributes
    ----------
    data : ndarray, as stored
        Time signals (N, J, C, V), or (J, C, V, N) with the fast frame axis; complex spectra (N, J, C, K) or
        (J, C, K, N). Integer complex values are structured arrays with the fields "r" and "i".
    is_fourier_transformed, is_fast_frame_axis : bool
        Flags that say which of the four layouts `data` has.
    is_background_frame : ndarray of bool, shape (N,)
        Mask of the frames taken without sample, in stored order.
    frame_permutation : ndarray of int64, shape (N,), optional
        Order, 1-based: stored[m] = acquired[frame_permutation[m] - 1]. Present only with
        `is_frame_permutation`.
    frequency_selection : ndarray of int64, shape (K,), optional
        Bins of the full rfft axis, 1-based, in any order. Present only with `is_frequency_selection`.
    is_background_corrected, is_spectral_leakage_corrected, is_transfer_function_corrected : bool
        Corrections that have been applied to `data` already.
    is_sparsity_transformed : bool
        Whether the data are compressed, which is not supported.
    """

    data: Annotated[NDArray[Any], Stored(Kind.NUMBER, ("*", "*", "*", "*"))]
    is_fourier_transformed: Flag
    # "isTransposed" is the name of a draft of the specification.
    is_fast_frame_axis: Annotated[bool, Stored(Kind.FLAG, aliases=("isTransposed",), assumed=False)]
    # The specification's text misspelt the flag for years.
    is_frame_permutation: Annotated[bool, Stored(Kind.FLAG, aliases=("isFramePermution",))]
    is_frequency_selection: Flag
    is_background_corrected: Flag
    is_spectral_leakage_corrected: Flag
    is_transfer_function_corrected: Flag
    is_background_frame: Annotated[NDArray[np.bool_], Stored(Kind.FLAG, ("N",))]
    is_sparsity_transformed: Flag = False  # new in 2.1: absent means no
    frame_permutation: Annotated[NDArray[np.int64] | None, Stored(Kind.INTEGER, ("N",))] = None
    frequency_selection: Annotated[NDArray[np.int64] | None, Stored(Kind.INTEGER, ("*",))] = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibration:
    """Group /calibration: the grid of a system matrix, whose values are `Measurement.data`.

    Attributes
    ----------
    method : str
        "robot", "hybrid", "simulation" or free text.
    size : ndarray of int64, shape (3,), optional
        Grid points (Nx, Ny, Nz); the product is O.
    field_of_view, field_of_view_center, delta_sample_size : ndarray of float64, shape (3,), optional
        Lengths in metres; the field of view includes the outer voxel edges.
    order : str
        Axes of the grid, the fastest first: "xyz" means x.
    positions : ndarray of float64, shape (O, 3), optional
        Positions of the grid points in metres.
    offset_fields : ndarray of float64, shape (O, 3), optional
        Fields in T/mu0 that stand for positions.
    snr : ndarray of float64, shape (J, C, K), optional
        Signal-to-noise ratio as its producer defines it, on the stored bins or on the full axis.
    is_meandering_grid : bool, optional
        Whether the acquisition went back and forth along the grid lines (not in the specification).
    """

    method: Text
    size: OptionalSize = None
    field_of_view: OptionalVector = None
    field_of_view_center: OptionalVector = None
    delta_sample_size: OptionalVector = None
    order: Text = "xyz"
    positions: Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, ("O", 3))] = None
    offset_fields: Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, ("O", 3))] = None
    snr: Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, ("J", "C", "K"))] = None
    is_meandering_grid: Annotated[bool | None, Stored(Kind.FLAG)] = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Reconstruction:
    """Group /reconstruction: images.

    Attributes
    ----------
    data : ndarray, shape (Q, P, S), as stored
        Voxel vectors in grid order.
    size : ndarray of int64, shape (3,), optional
        Grid points (Nx, Ny, Nz); the product is P.
    field_of_view, field_of_view_center : ndarray of float64, shape (3,), optional
        Lengths in metres.
    order : str
        Axes of the grid, the fastest first: "xyz" means x.
    positions : ndarray of float64, shape (P, 3), optional
        Positions of the grid points in metres.
    is_overscan_region : ndarray of bool, shape (P,), optional
        Voxels outside the region the trajectory covers.
    """

    data: Annotated[NDArray[Any], Stored(Kind.NUMBER, ("Q", "P", "S"))]
    size: OptionalSize = None
    field_of_view: OptionalVector = None
    field_of_view_center: OptionalVector = None
    order: Text = "xyz"
    positions: Annotated[NDArray[np.float64] | None, Stored(Kind.REAL, ("P", 3))] = None
    is_overscan_region: Annotated[NDArray[np.bool_] | None, Stored(Kind.FLAG, ("P",))] = None


@dataclass(frozen=True, eq=False, kw_only=True)
class MdfFile:
    """One MDF file: a measurement, a calibration (with its measurement) or a reconstruction.

    Attributes
    ----------
    version : str
        Version the file was read with; files are always written as `MDF_VERSION`.
    uuid : str
        Identifier of the file.
    time : datetime or None
        Creation time, UTC without time zone; None if the file leaves it empty.
    study, experiment, scanner, acquisition : Study, Experiment, Scanner, Acquisition
        Groups that every file has.
    tracer, measurement, calibration, reconstruction : optional
        Groups that depend on the purpose of the file.
    """

    version: Text = MDF_VERSION
    uuid: Uuid
    time: Time
    study: Study
    experiment: Experiment
    tracer: Tracer | None = None
    scanner: Scanner
    acquisition: Acquisition
    measurement: Measurement | None = None
    calibration: Calibration | None = None
    reconstruction: Reconstruction | None = None
