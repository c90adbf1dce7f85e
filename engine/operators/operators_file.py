"""The file `operators.h5`: operators of one system matrix on disk, with units and a hash of the content."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from engine.errors import MdfError, OperatorsError
from engine.machine.atomic_write import atomic_path
from engine.mpi.grid import Grid
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.operators.operators import DenseMatrices, Operators

KIND = "deq-mpi-operators"
"""Root attribute `kind` of every operators file."""

SCHEMA = 2
"""Version of the layout of the file that this module writes; it reads this one and all before."""


@dataclass(frozen=True)
class StoredArray:
    """One dataset of the file: the names of its axes, element type, unit and meaning.

    M complex rows, R = 2M real rows, N voxels, T singular triplets, L selected channels, K bins; digits are
    lengths.
    """

    axes: tuple[str, ...]
    dtype: DTypeLike
    unit: str
    meaning: str


FIELDS = {
    "grid/size": StoredArray(("3",), np.int64, "voxels", "Nx, Ny, Nz; voxel vectors run x fastest"),
    "grid/field_of_view": StoredArray(("3",), np.float64, "m", "extent along x, y, z"),
    "grid/center": StoredArray(("3",), np.float64, "m", "centre of the field of view"),
    "layout/shape": StoredArray(
        ("2",), np.int64, "1", "lines (period, then channel) and bins of the dense layout"
    ),
    "layout/index": StoredArray(("M",), np.int64, "1", "flat place of each complex row in the dense layout"),
    "acquisition/bandwidth": StoredArray((), np.float64, "Hz", "receiver bandwidth"),
    "acquisition/n_samples": StoredArray((), np.int64, "samples", "samples V per period"),
    "acquisition/n_periods": StoredArray((), np.int64, "1", "periods J per frame"),
    "acquisition/n_channels": StoredArray((), np.int64, "1", "receive channels C of the files"),
    "acquisition/channels": StoredArray(("L",), np.int64, "1", "selected receive channels, 0-based"),
    "acquisition/bins": StoredArray(("K",), np.int64, "1", "bins of the columns, 0-based on the full axis"),
    "acquisition/is_transfer_function_corrected": StoredArray(
        (), np.int8, "1", "0 or 1; state of the spectra"
    ),
    "noise_std": StoredArray(("M",), np.float64, "signal", "noise per real component of each complex row"),
    "scale": StoredArray((), np.float64, "1/concentration", "whitened system matrix over `system_matrix`"),
    "system_matrix": StoredArray(("R", "N"), np.float32, "1", "A, rows [Re; Im], whitened and normalised"),
    "inverse": StoredArray(("N", "N"), np.float32, "1", "(I + A^T A)^-1"),
    "left_singular": StoredArray(("T", "R"), np.float32, "1", "U^T of A = U diag(s) V^T"),
    "singular_values": StoredArray(("T",), np.float64, "1", "s, decreasing"),
    "right_singular": StoredArray(("N", "T"), np.float32, "1", "V, one singular vector per column"),
    "rank": StoredArray((), np.int64, "1", "singular triplets of the least-squares start"),
    "truncation_error": StoredArray((), np.float64, "1", "||A - U diag(s) V^T|| / ||A||, Frobenius norms"),
    "largest_dropped": StoredArray((), np.float64, "1", "singular value number T + 1 of A; 0 if T = N"),
}
"""Datasets of the file, in the order in which they are hashed."""

DENSE = ("system_matrix", "inverse")
"""Datasets that a file of factored operators lacks."""

FIELDS_OF_SCHEMA_1 = {
    name: FIELDS[name] if name in FIELDS else StoredArray(("N", "R"), np.float32, "1", "transpose of A")
    for name in (
        *(name for name in FIELDS if "/" in name),
        "noise_std",
        "scale",
        "system_matrix",
        "adjoint",
        "inverse",
        "left_singular",
        "singular_values",
        "right_singular",
        "rank",
    )
}
"""Datasets of files from before there were factored operators; the adjoint, which nothing used, is left."""

TEXTS = ("source_sha256", "signal_unit")
"""Root attributes that belong to the content: hash of the calibration file, unit of `noise_std`."""


def save_operators(path: str | os.PathLike[str], operators: Operators) -> None:
    """Write operators to an HDF5 file, complete or not at all.

    Parameters
    ----------
    path : path
        File to create or replace.
    operators : Operators
        Operators that `engine.calibration.calibrate` made.

    Raises
    ------
    OperatorsError
        If the arrays contradict each other.
    InputError
        If the folder does not exist or the target is no regular file.
    """
    arrays = _to_arrays(operators)
    _check_shapes(Path(path), arrays)
    texts = dict(zip(TEXTS, (operators.source_sha256, operators.acquisition.unit), strict=True))
    digest = _ContentDigest()
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["kind"] = KIND
        file.attrs["schema"] = SCHEMA
        file.attrs.update(texts)
        for name, array in arrays.items():
            digest.update(name, array)
            dataset = file.create_dataset(name, data=array)
            dataset.attrs["unit"] = FIELDS[name].unit
            dataset.attrs["axes"] = ", ".join(FIELDS[name].axes)
            dataset.attrs["meaning"] = FIELDS[name].meaning
        file.attrs["content_sha256"] = digest.finish(texts)


def load_operators(path: str | os.PathLike[str]) -> Operators:
    """Read operators and check their schema, shapes and hash.

    Parameters
    ----------
    path : path
        File that `save_operators` wrote.

    Returns
    -------
    Operators

    Raises
    ------
    OperatorsError
        If the file is missing, not HDF5, of another kind or schema, incomplete, of contradicting shapes, or
        changed since it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise OperatorsError(
            f"{path} is not a file; expected an operators file, make one with engine calibrate"
        )
    if not h5py.is_hdf5(path):
        raise OperatorsError(f"{path} is not an HDF5 file; expected operators made with engine calibrate")
    try:
        with h5py.File(path, "r") as file:
            _check_identity(path, file)
            arrays = {}
            digest = _ContentDigest()
            for name, field in _fields_in(file).items():
                array = _read(path, file, name, field)
                digest.update(name, array)
                if name in FIELDS:
                    arrays[name] = array
            texts = {key: _text(path, file, key) for key in TEXTS}
            recorded = _text(path, file, "content_sha256")
    except (OSError, KeyError, RuntimeError) as error:  # what h5py raises on damaged files
        raise OperatorsError(f"{path} cannot be read ({error}); run engine calibrate again") from error
    if digest.finish(texts) != recorded:
        raise OperatorsError(
            f"{path} does not match its own SHA-256: it was changed or damaged; run engine calibrate again"
        )
    _check_shapes(path, arrays)
    try:
        return _from_arrays(arrays, texts)
    except MdfError as error:
        raise OperatorsError(f"{path}: {error}") from error


def _to_arrays(operators: Operators) -> dict[str, NDArray[Any]]:
    owners = {"grid": operators.grid, "layout": operators.layout, "acquisition": operators.acquisition}
    dense = operators.dense is not None
    arrays = {}
    for name, field in FIELDS.items():
        if name in DENSE and not dense:
            continue
        group, _, attribute = name.rpartition("/")
        arrays[name] = np.asarray(getattr(owners.get(group, operators), attribute), field.dtype, order="C")
    return arrays


def _from_arrays(arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Operators:
    size, extent, center = (arrays[f"grid/{name}"].tolist() for name in ("size", "field_of_view", "center"))
    lines, bins = arrays["layout/shape"].tolist()
    own: dict[str, Any] = {name: array for name, array in arrays.items() if "/" not in name}
    own["rank"] = int(own["rank"])
    for name in ("scale", "truncation_error", "largest_dropped"):
        if name in own:
            own[name] = float(own[name])
    if "system_matrix" in own:
        own["dense"] = DenseMatrices(own.pop("system_matrix"), own.pop("inverse"))
    return Operators(
        grid=Grid(tuple(size), tuple(extent), tuple(center)),
        layout=RowLayout((lines, bins), arrays["layout/index"]),
        acquisition=Acquisition(
            bandwidth=float(arrays["acquisition/bandwidth"]),
            n_samples=int(arrays["acquisition/n_samples"]),
            n_periods=int(arrays["acquisition/n_periods"]),
            n_channels=int(arrays["acquisition/n_channels"]),
            channels=arrays["acquisition/channels"],
            bins=arrays["acquisition/bins"],
            unit=texts["signal_unit"],
            is_transfer_function_corrected=bool(arrays["acquisition/is_transfer_function_corrected"]),
        ),
        **own,
        source_sha256=texts["source_sha256"],
    )


def _check_identity(path: Path, file: h5py.File) -> None:
    kind, schema = file.attrs.get("kind"), file.attrs.get("schema")
    if not isinstance(kind, str) or kind != KIND:
        raise OperatorsError(f"{path} has kind {kind!r}, expected {KIND!r}; make one with engine calibrate")
    if schema not in range(1, SCHEMA + 1):
        raise OperatorsError(
            f"{path} has schema {schema}, this version reads schema 1 to {SCHEMA}; run engine calibrate again"
        )


def _fields_in(file: h5py.File) -> dict[str, StoredArray]:
    """Return the datasets that a file must hold, in the order in which they were hashed."""
    if file.attrs["schema"] == 1:
        return FIELDS_OF_SCHEMA_1
    is_dense = any(name in file for name in DENSE)
    return {name: field for name, field in FIELDS.items() if is_dense or name not in DENSE}


def _read(path: Path, file: h5py.File, name: str, field: StoredArray) -> NDArray[Any]:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise OperatorsError(f"{path} lacks the dataset {name}; run engine calibrate again")
    if dataset.dtype != field.dtype or dataset.ndim != len(field.axes):
        raise OperatorsError(
            f"{path}: {name} is {dataset.dtype} with {dataset.ndim} axes, expected {np.dtype(field.dtype)} "
            f"with {len(field.axes)}; run engine calibrate again"
        )
    return np.asarray(dataset[()])


def _text(path: Path, file: h5py.File, key: str) -> str:
    value = file.attrs.get(key)
    if not isinstance(value, str):
        raise OperatorsError(f"{path} lacks the text attribute {key}; run engine calibrate again")
    return value


def _check_shapes(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Check the shapes of the datasets, by name: one letter, one length, which fits grid, layout and rank."""
    n_rows = len(arrays["layout/index"])
    shape = arrays["layout/shape"]
    lines, bins = shape.tolist() if shape.shape == (2,) else (0, 0)
    lengths = {
        "2": 2,
        "3": 3,
        "M": n_rows,
        "R": 2 * n_rows,
        "N": int(np.prod(arrays["grid/size"])),
        "L": len(arrays["acquisition/channels"]),
        "K": bins,
        "T": arrays["singular_values"].size,
    }
    for name, array in arrays.items():
        expected = tuple(lengths[axis] for axis in FIELDS[name].axes)
        if array.shape != expected:
            raise OperatorsError(f"{path}: {name} has shape {array.shape}, expected {expected}")
    if not 1 <= lengths["T"] <= lengths["N"]:
        raise OperatorsError(f"{path}: {lengths['T']} singular_values, expected 1 to {lengths['N']}")
    if "system_matrix" in arrays and lengths["T"] != lengths["N"]:
        raise OperatorsError(
            f"{path}: {lengths['T']} singular_values beside a system_matrix, expected {lengths['N']}"
        )
    index = arrays["layout/index"]
    if n_rows == 0 or index[0] < 0 or index[-1] >= lines * bins or np.any(np.diff(index) <= 0):
        raise OperatorsError(f"{path}: layout/index does not fit a dense layout of {lines} x {bins}")
    if lines != int(arrays["acquisition/n_periods"]) * lengths["L"]:
        raise OperatorsError(f"{path}: {lines} lines in the layout, expected periods times selected channels")
    if not 1 <= arrays["rank"] <= lengths["T"]:
        raise OperatorsError(f"{path}: rank {arrays['rank']}, expected 1 to {lengths['T']}")


class _ContentDigest:
    """SHA-256 over names, shapes and little-endian values of the datasets, then the texts."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def update(self, name: str, array: NDArray[Any]) -> None:
        self._sha256.update(f"{name} {array.shape}\n".encode())
        little_endian = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        self._sha256.update(little_endian.reshape(-1).view(np.uint8).data)

    def finish(self, texts: dict[str, str]) -> str:
        for key in TEXTS:
            self._sha256.update(f"{key} {texts[key]}\n".encode())
        return self._sha256.hexdigest()
