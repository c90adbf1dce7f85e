"""Reader of MDF 2.x files: tolerant where real files are known to deviate, strict everywhere else."""

import re
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from engine.errors import MdfError
from engine.mpi.mdf.checks import check_mdf
from engine.mpi.mdf.model import MdfFile
from engine.mpi.mdf.recording_mark import COUNT, REMEDY, is_unfinished
from engine.mpi.mdf.repairs import standard_layouts
from engine.mpi.mdf.safety import child
from engine.mpi.mdf.schema import Field, stored_fields, subgroups
from engine.mpi.mdf.values import damage_reported, read_value, warn

Model = TypeVar("Model")
Members = dict[str, h5py.HLObject]


def read_mdf(path: str | Path) -> MdfFile:
    """Read an MDF 2.x file completely into memory and check it.

    Parameters
    ----------
    path : str or Path
        File of a measurement, calibration or reconstruction.

    Returns
    -------
    MdfFile
        Data in the type and axis order of the file. Names this library does not know are ignored.

    Raises
    ------
    MdfError
        If the file does not exist, is not MDF 2.x, breaks a rule of the format or is compressed by a
        sparsity transformation.

    Warns
    -----
    MdfWarning
        For an empty time, a malformed UUID, a missing fast-frame flag, and spectra that still carry a
        conversion factor.
    """
    path = Path(path)
    try:
        with _opened(path) as handle:
            return read_open_mdf(handle)
    except MdfError as error:
        raise MdfError(f"{path}: {error}") from error


def read_open_mdf(handle: h5py.File) -> MdfFile:
    """Read and check an open MDF file as `read_mdf` does one by its path; messages do not name it."""
    _check_finished(handle)
    _check_version(handle)
    file = standard_layouts(_read_group(handle, MdfFile))
    check_mdf(file)
    _warn_about_conversion(handle, file)
    return file


def _opened(path: Path) -> h5py.File:
    if not path.is_file():
        raise MdfError("there is no such file; expected an MDF file; check the path")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise MdfError(
            f"not an intact HDF5 file ({error}); expected MDF 2.x; get the file again or convert it"
        ) from error


def _check_finished(handle: h5py.File) -> None:
    with damage_reported("/"):
        if not is_unfinished(handle):
            return
        n_frames = int(handle[COUNT][()])
    raise MdfError(f"a recording of {n_frames} frames that was not finished; expected MDF; {REMEDY}")


def _check_version(handle: h5py.File) -> None:
    members = _members(handle, MdfFile)
    if "version" not in members:
        raise MdfError("/version is missing; expected MDF 2.x; is this another kind of HDF5 file?")
    field = next(field for field in stored_fields(MdfFile) if field.name == "version")
    version = str(_read_field(handle, members, field))
    match = re.fullmatch(r"\s*v?(\d+)(\.\d+)*\s*", version)
    if match is None:
        raise MdfError(f"/version is {version!r:.40}; expected a number like 2.1.0; correct the file")
    if match[1].lstrip("0") != "2":
        raise MdfError(
            f"/version is {version:.40}; expected MDF 2.x, others are not supported; convert the file"
        )


def _read_group(node: h5py.Group, model: type[Model]) -> Model:
    members = _members(node, model)
    values: dict[str, Any] = {}
    for field in stored_fields(model):
        values[field.attribute] = _read_field(node, members, field)
    for group in subgroups(model):
        path, child = _path(node, group.name), members.get(group.name)
        if child is None and group.required:
            raise MdfError(f"{path} is missing; expected this group; complete the file")
        if child is not None and not isinstance(child, h5py.Group):
            raise MdfError(f"{path} is no group; expected one; correct the file")
        # An optional group that only holds extensions of other programs is not in use.
        if child is not None and (group.required or _members(child, group.model)):
            values[group.attribute] = _read_group(child, group.model)
    return model(**values)


def _members(node: h5py.Group, model: type) -> Members:
    """Return the objects of a group that the specification knows; extensions are left alone."""
    known = {name for field in stored_fields(model) for name in (field.name, *field.stored.aliases)}
    known |= {group.name for group in subgroups(model)}
    # Listing the links finds damage that h5py's own test for membership takes for absence.
    with damage_reported(node.name):
        return {name: child(node, name) for name in node if name in known}


def _read_field(node: h5py.Group, members: Members, field: Field) -> Any:
    for name in (field.name, *field.stored.aliases):
        if name not in members:
            continue
        if not isinstance(members[name], h5py.Dataset):
            raise MdfError(f"{_path(node, name)} is no dataset; expected one; correct the file")
        return read_value(members[name], field.stored)
    path = _path(node, field.name)
    if field.stored.assumed is not None:
        warn(node, f"{path} is missing; {int(field.stored.assumed)} is assumed")
        return field.stored.assumed
    if field.required:
        raise MdfError(f"{path} is missing; expected this mandatory dataset; complete the file")
    return field.default


def _path(node: h5py.Group, name: str) -> str:
    return f"{node.name.rstrip('/')}/{name}"


def _warn_about_conversion(handle: h5py.File, file: MdfFile) -> None:
    factors = file.acquisition.receiver.data_conversion_factor
    if file.measurement is None or not file.measurement.is_fourier_transformed or factors is None:
        return
    if not np.array_equal(factors, np.broadcast_to([1.0, 0.0], factors.shape)):
        warn(
            handle,
            "/acquisition/receiver/dataConversionFactor is given with spectra; it will be applied, although "
            "some writers keep it after applying it",
        )
