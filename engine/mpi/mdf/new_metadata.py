"""Descriptive groups of an MDF file, made: study, experiment, scanner, tracer, drive field, acquisition.

The defaults describe a simulation; a caller with real data passes its own values.
"""

import math
import uuid
from datetime import UTC, datetime

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import MdfError
from engine.mpi.mdf.model import Acquisition, DriveField, Experiment, Receiver, Scanner, Study, Tracer


def new_study(name: str = "DEQ-MPI", *, number: int = 1, description: str = "") -> Study:
    """Return a study that starts now, with a fresh UUID."""
    return Study(name=name, number=number, description=description, uuid=new_uuid(), time=utc_now())


def new_experiment(
    name: str = "simulation",
    *,
    number: int = 1,
    description: str = "",
    subject: str = "phantom",
    is_simulation: bool = True,
) -> Experiment:
    """Return an experiment with a fresh UUID."""
    return Experiment(
        name=name,
        number=number,
        description=description,
        subject=subject,
        uuid=new_uuid(),
        is_simulation=is_simulation,
    )


def new_scanner(
    name: str = "simulated scanner",
    *,
    topology: str = "FFL",
    manufacturer: str = "n.a.",
    facility: str = "n.a.",
    operator: str = "n.a.",
    bore_size: float | None = None,
) -> Scanner:
    """Return a scanner; `topology` is FFP, FFL or MPS, `bore_size` is in metres."""
    return Scanner(
        name=name,
        manufacturer=manufacturer,
        facility=facility,
        operator=operator,
        topology=topology,
        bore_size=bore_size,
    )


def new_tracer(
    name: str,
    *,
    concentration: float,
    volume: float,
    solute: str = "Fe",
    batch: str = "n.a.",
    vendor: str = "n.a.",
) -> Tracer:
    """Return a single tracer: `concentration` in mol(solute)/L, `volume` in L."""
    return Tracer(
        name=np.array([name]),
        batch=np.array([batch]),
        vendor=np.array([vendor]),
        solute=np.array([solute]),
        concentration=np.array([concentration], np.float64),
        volume=np.array([volume], np.float64),
    )


def new_sine_drive(
    base_frequency: float,
    divider: ArrayLike,
    strength: ArrayLike,
    *,
    n_periods: int = 1,
    phase: ArrayLike = 0.0,
    waveform: str = "sine",
) -> DriveField:
    """Return a drive field that repeats the same excitation in every period.

    Parameters
    ----------
    base_frequency : float
        Base frequency in Hz.
    divider : array_like of int, shape (D,) or (D, F)
        Dividers: the drive frequencies are base_frequency / divider.
    strength : array_like of float, shape of `divider` or scalar
        Amplitudes in T/mu0.
    n_periods : int
        Number J of periods.
    phase : array_like of float, shape of `divider` or scalar
        Phases in rad.
    waveform : str
        "sine", "triangle" or "custom", for all channels.

    Returns
    -------
    DriveField
        Its cycle is lcm(divider) / base_frequency.
    """
    dividers = np.asarray(divider, np.int64)
    dividers = dividers[:, np.newaxis] if dividers.ndim == 1 else dividers
    if dividers.ndim != 2 or np.any(dividers < 1) or not base_frequency > 0:
        raise MdfError(
            f"drive field has the base frequency {base_frequency} and the dividers {dividers.tolist()}; "
            "expected positive numbers, one divider per channel (and frequency); correct them"
        )
    shape = (n_periods, *dividers.shape)
    return DriveField(
        num_channels=dividers.shape[0],
        base_frequency=float(base_frequency),
        divider=dividers,
        cycle=math.lcm(*dividers.ravel().tolist()) / base_frequency,
        strength=np.broadcast_to(_per_drive(strength, dividers), shape).copy(),
        phase=np.broadcast_to(_per_drive(phase, dividers), shape).copy(),
        waveform=np.full(dividers.shape, waveform),
    )


def new_acquisition(
    *,
    bandwidth: float,
    n_samples: int,
    drivefield: DriveField,
    n_periods: int = 1,
    n_channels: int = 1,
    gradient: NDArray[np.float64] | None = None,
    offset_field: NDArray[np.float64] | None = None,
    unit: str = "V",
    num_averages: int = 1,
    data_conversion_factor: NDArray[np.float64] | None = None,
) -> Acquisition:
    """Return an acquisition that starts now; the file factories set its number of frames.

    Parameters
    ----------
    bandwidth : float
        Half the sampling rate in Hz.
    n_samples : int
        Samples V per period.
    drivefield : DriveField
        Drive field for the same number of periods.
    n_periods, n_channels : int
        Numbers J of periods and C of receive channels.
    gradient : ndarray of float64, shape (J, Y, 3, 3), optional
        Jacobian of the selection field in T/m/mu0.
    offset_field : ndarray of float64, shape (J, Y, 3), optional
        Static field in T/mu0.
    unit : str
        SI unit of the signal.
    num_averages : int
        Averages already contained in the data.
    data_conversion_factor : ndarray of float64, shape (C, 2), optional
        Factors (a, b) of raw counts: signal = a * stored + b.
    """
    receiver = Receiver(
        num_channels=n_channels,
        bandwidth=float(bandwidth),
        num_sampling_points=n_samples,
        unit=unit,
        data_conversion_factor=data_conversion_factor,
    )
    return Acquisition(
        num_averages=num_averages,
        num_frames=1,
        num_periods_per_frame=n_periods,
        start_time=utc_now(),
        drivefield=drivefield,
        receiver=receiver,
        gradient=gradient,
        offset_field=offset_field,
    )


def new_uuid() -> str:
    """Return a random UUID (version 4) as text."""
    return str(uuid.uuid4())


def utc_now() -> datetime:
    """Return the current UTC time, cut to the milliseconds that MDF stores, without time zone."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000, tzinfo=None)


def _per_drive(values: ArrayLike, dividers: NDArray[np.int64]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    return array[:, np.newaxis] if array.ndim == 1 and dividers.ndim == 2 else array
