"""Writer of MDF 2.1.0 files: every dataset contiguous and uncompressed, so that other readers can map it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.machine.atomic_write import atomic_path
from engine.mpi.mdf.checks import check_mdf
from engine.mpi.mdf.model import MDF_VERSION, MdfFile
from engine.mpi.mdf.schema import Field, Kind, walk

STORED_TYPES: dict[Kind, np.dtype[Any]] = {
    Kind.FLAG: np.dtype("<i1"),  # a Python bool would become an HDF5 enumeration
    Kind.INTEGER: np.dtype("<i8"),
    Kind.REAL: np.dtype("<f8"),
    Kind.COMPLEX: np.dtype("<c16"),
}


def write_mdf(path: str | Path, file: MdfFile) -> None:
    """Write an MDF 2.1.0 file; an existing file is replaced only when the new one is complete.

    Parameters
    ----------
    path : str or Path
        Target, conventionally ending in ".mdf". Its folder must exist.
    file : MdfFile
        Content; its `version` is replaced by `MDF_VERSION`.

    Raises
    ------
    MdfError
        If the content breaks a rule of the format.
    InputError
        If the folder does not exist or the target is no regular file.
    """
    try:
        check_mdf(file)
    except MdfError as error:
        raise MdfError(f"{path}: {error}") from error
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as handle:
        for name, field, value in walk(replace(file, version=MDF_VERSION)):
            if value is not None or field.required:
                store_value(handle, name, field, value)


def store_value(handle: h5py.File, name: str, field: Field, value: Any) -> None:
    """Write one value at a dataset path, in the type that MDF has for its kind."""
    kind = field.stored.kind
    if kind is Kind.TIME:
        times = [time_text(moment) for moment in value] if field.stored.shape else time_text(value)
        handle.create_dataset(name, data=times, dtype=h5py.string_dtype())
    elif kind in (Kind.TEXT, Kind.UUID):
        handle.create_dataset(name, data=np.asarray(value).tolist(), dtype=h5py.string_dtype())
    elif kind is Kind.NUMBER:
        handle.create_dataset(name, data=_little_endian(value))
    else:
        handle.create_dataset(name, data=np.asarray(value, dtype=STORED_TYPES[kind]))


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values, dtype=values.dtype.newbyteorder("<"))


def time_text(moment: datetime | None) -> str:
    """Return a time in MDF's form, UTC to the millisecond without time zone; empty for an unknown time."""
    if moment is None:
        return ""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds")
