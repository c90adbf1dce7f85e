"""The value of a model attribute from one HDF5 dataset, whatever accepted encoding it has."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.mpi.mdf.schema import Kind, Stored

CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class MdfWarning(UserWarning):
    """A file that can be used, but says something incomplete or suspicious."""


def warn(handle: h5py.HLObject, message: str) -> None:
    """Issue an `MdfWarning` that names the file of an HDF5 object."""
    warnings.warn(f"{handle.file.filename}: {message}", MdfWarning, stacklevel=2)


@contextmanager
def damage_reported(name: str) -> Iterator[None]:
    """Turn what h5py raises for damaged files into an `MdfError` that names the HDF5 object."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise MdfError(f"{name} cannot be read ({reason}); expected an intact file; get it again") from error


def read_value(dataset: h5py.Dataset, stored: Stored) -> Any:
    """Read a dataset as its kind demands: one value for an empty shape, else an array of any shape.

    Raises
    ------
    MdfError
        If the dataset cannot be read, has another type, or holds several values where one is expected.
    """
    with damage_reported(dataset.name):
        raw = dataset[()]
    texts_expected = stored.kind in (Kind.TEXT, Kind.UUID, Kind.TIME)
    array = _texts(dataset, raw) if texts_expected else _converted(dataset, raw, stored.kind)
    if stored.shape:
        if stored.kind is Kind.TIME:
            return tuple(_time(dataset, text) for text in array.ravel().tolist())
        return array
    if array.size != 1:
        raise MdfError(f"{dataset.name} has shape {array.shape}; expected one value; correct the file")
    value = array.ravel()[0].item() if not texts_expected else str(array.ravel()[0])
    if stored.kind is Kind.TIME:
        return _time(dataset, value)
    if stored.kind is Kind.UUID and not CANONICAL_UUID.fullmatch(value):
        warn(dataset, f"{dataset.name} is {value!r}, which is not a UUID; it is kept as text")
    return value


def _texts(dataset: h5py.Dataset, raw: Any) -> NDArray[Any]:
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise MdfError(f"{dataset.name} has the type {dataset.dtype}; expected text; correct the file")
    if isinstance(raw, h5py.Empty):  # an HDF5 null dataspace: how some writers store an empty string
        return np.array("")
    array = np.asarray(raw, dtype=object)
    try:
        texts = [_decoded(text) for text in array.ravel()]
    except UnicodeDecodeError as error:
        raise MdfError(f"{dataset.name} is not text ({error}); expected UTF-8; correct the file") from error
    return np.array(texts, np.str_).reshape(array.shape)


def _decoded(text: bytes | str) -> str:
    # Text of fixed length ends at its first NUL; what follows is padding.
    return text.partition(b"\0")[0].decode("utf-8") if isinstance(text, bytes) else text


def _time(dataset: h5py.Dataset, text: str) -> datetime | None:
    if not text.strip():
        warn(dataset, f"{dataset.name} is empty; the time is unknown")
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise MdfError(
            f"{dataset.name} is {text!r}; expected a UTC time like 2024-05-31T12:00:00.000; correct the file"
        ) from error


def _converted(dataset: h5py.Dataset, raw: Any, kind: Kind) -> NDArray[Any]:
    if isinstance(raw, h5py.Empty):
        raise MdfError(f"{dataset.name} is empty; expected a value; correct the file")
    if h5py.check_string_dtype(dataset.dtype) is not None:
        raise MdfError(f"{dataset.name} holds text; expected numbers; correct the file")
    array = np.asarray(raw)
    if kind is Kind.NUMBER:
        # Byte order belongs to the machine, not to the value: everything in memory is native.
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind is Kind.COMPLEX:
        return _complex(dataset, array)
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "b" and kind is not Kind.FLAG):
        raise MdfError(f"{dataset.name} has the type {array.dtype}; expected numbers; correct the file")
    if kind is Kind.FLAG:
        return _flags(dataset, array)
    if kind is Kind.INTEGER:
        return _integers(dataset, array)
    return array.astype(np.float64)


def _flags(dataset: h5py.Dataset, array: NDArray[Any]) -> NDArray[np.bool_]:
    wrong = array[(array != 0) & (array != 1)]
    if array.dtype.kind == "f" or wrong.size:
        found = f"holds {wrong.ravel()[0]}" if wrong.size else f"has the type {array.dtype}"
        raise MdfError(f"{dataset.name} {found}; expected the integers 0 or 1; correct the file")
    return array.astype(np.bool_)


def _integers(dataset: h5py.Dataset, array: NDArray[Any]) -> NDArray[np.int64]:
    with np.errstate(invalid="ignore"):  # NaN becomes some integer, which differs from NaN
        integers = array.astype(np.int64)
    wrong = array[integers != array]
    if wrong.size:
        raise MdfError(f"{dataset.name} holds {wrong.ravel()[0]}; expected 64-bit integers; correct the file")
    return integers


def _complex(dataset: h5py.Dataset, array: NDArray[Any]) -> NDArray[np.complex128]:
    if array.dtype.names is not None and set(array.dtype.names) == {"r", "i"}:
        return combined(array).astype(np.complex128)
    if array.dtype.names is not None or array.dtype.kind not in "iufc":
        raise MdfError(
            f"{dataset.name} has the type {array.dtype}; expected complex numbers; correct the file"
        )
    return array.astype(np.complex128)


def combined(array: NDArray[Any]) -> NDArray[Any]:
    """Return values stored as compounds of r and i as complex numbers of the same shape; others unchanged.

    Parts of at most 24 bits, which complex64 holds exactly, become complex64, wider ones complex128.
    """
    if array.dtype.names is None:
        return array
    dtype = np.result_type(array.dtype["r"], array.dtype["i"], np.complex64)
    values = np.empty(array.shape, dtype)
    values.real = array["r"]
    values.imag = array["i"]
    return values
