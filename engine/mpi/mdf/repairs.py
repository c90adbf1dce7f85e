"""Array layouts that occur in real files although the specification says otherwise, put right after reading.

Nothing is invented here: a layout that is not recognised is left alone, and the checks refuse it.
"""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.mpi.mdf.model import Acquisition, DriveField, MdfFile, Measurement, Tracer
from engine.mpi.mdf.schema import stored_fields, subgroups

Model = TypeVar("Model")


def standard_layouts(file: MdfFile) -> MdfFile:
    """Return the file with every array in the axes of the specification where that is unambiguous."""
    acquisition = _acquisition(file.acquisition)
    tracer = None if file.tracer is None else _tracer(file.tracer)
    measurement = None if file.measurement is None else _measurement(file.measurement)
    return _with_leading_axes(replace(file, acquisition=acquisition, tracer=tracer, measurement=measurement))


def _acquisition(acquisition: Acquisition) -> Acquisition:
    n_periods = acquisition.num_periods_per_frame
    gradient, offset = acquisition.gradient, acquisition.offset_field
    if gradient is not None and gradient.shape == (3,):
        gradient = np.diag(gradient)
    return replace(
        acquisition,
        drivefield=_drivefield(acquisition.drivefield),
        gradient=None if gradient is None else _per_period(gradient, n_periods, (3, 3)),
        offset_field=None if offset is None else _per_period(offset, n_periods, (3,)),
    )


def _per_period(field: NDArray[Any], n_periods: int, element: tuple[int, ...]) -> NDArray[Any]:
    """Give a field of any type the axes (J, Y, ...): one that stands alone holds in every period."""
    if field.shape == element:
        return np.broadcast_to(field, (n_periods, 1, *element)).copy()
    if field.shape == (n_periods, *element):
        return field[:, np.newaxis]
    return field


def _drivefield(drivefield: DriveField) -> DriveField:
    n_channels, divider, waveform = drivefield.num_channels, drivefield.divider, drivefield.waveform
    if divider.ndim == 2 and divider.shape[0] != n_channels and divider.shape[1] == n_channels:
        divider = np.ascontiguousarray(divider.T)
    if waveform.size == 1:
        waveform = np.broadcast_to(waveform.reshape(()), divider.shape).copy()
    return replace(drivefield, divider=divider, waveform=waveform)


def _tracer(tracer: Tracer) -> Tracer:
    """Repeat values that stand for all tracers: writers without information store a single one."""
    times = tracer.injection_time
    values = {field.attribute: getattr(tracer, field.attribute) for field in stored_fields(Tracer)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    n_tracers = max(array.size for array in arrays.values())
    repeated: dict[str, Any] = {
        name: np.full(n_tracers, array.item()) for name, array in arrays.items() if array.size == 1
    }
    repeated["injection_time"] = times * n_tracers if times is not None and len(times) == 1 else times
    return replace(tracer, **repeated)


def _measurement(measurement: Measurement) -> Measurement:
    """Leave out the lists whose flag says that they do not apply."""
    return replace(
        measurement,
        frame_permutation=measurement.frame_permutation if measurement.is_frame_permutation else None,
        frequency_selection=measurement.frequency_selection if measurement.is_frequency_selection else None,
    )


def _with_leading_axes(node: Model) -> Model:
    """Restore axes of length one that column-major writers drop: their last is HDF5's first."""
    changes: dict[str, Any] = {}
    for field in stored_fields(type(node)):
        value = getattr(node, field.attribute)
        if isinstance(value, np.ndarray):
            missing = len(field.stored.shape) - value.ndim
            changes[field.attribute] = value.reshape((1,) * missing + value.shape)
    for group in subgroups(type(node)):
        child = getattr(node, group.attribute)
        if child is not None:
            changes[group.attribute] = _with_leading_axes(child)
    restored: Model = replace(node, **changes)  # type: ignore[type-var]  # every model is a dataclass
    return restored
