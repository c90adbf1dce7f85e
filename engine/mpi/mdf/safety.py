"""Limits of what a file may ask of its reader: no other file, no code, no more memory than is justified.

HDF5 can point to other files in four ways (external and soft links, external storage, virtual datasets), load
code (filters from a folder of plug-ins), and announce arrays far larger than the file. None of these belongs
in MDF, and files come from others.
"""

import h5py

from engine.errors import MdfError
from engine.machine.memory import available_bytes
from engine.mpi.mdf.text_heap import check_texts
from engine.mpi.mdf.values import damage_reported

BUILT_IN_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32_000})
"""Filters that are code of HDF5 (deflate, shuffle, Fletcher32, szip, n-bit, scale-offset) or h5py (LZF)."""

MAX_RATIO = 1100
"""Most bytes in memory per byte in the file: deflate reaches 1032."""

SINGLE_TYPES = frozenset(
    {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM, h5py.h5t.BITFIELD}
)
"""Classes of types that MDF uses, beside compounds of them for complex values. HDF5 has been seen to crash
while converting damaged lists of variable length, so these and the rest are not read at all."""

NATIVE_COMPLEX = getattr(h5py.h5t, "COMPLEX", None)
"""Class of complex types, new in HDF5 2.0; None before."""

SLACK_BYTES = 2**20
"""Bytes in memory that are always allowed: what was never written takes no space in the file."""

COPIES = 3
"""Arrays of the size of a dataset that exist at one time while it is read and checked."""


def child(node: h5py.Group, name: str) -> h5py.HLObject:
    """Return an object of a group.

    Raises
    ------
    MdfError
        If it is not in this file, or reading it would take what no MDF file needs.
    """
    path = f"{node.name.rstrip('/')}/{name}"
    with damage_reported(path):
        kind = node.get(name, getlink=True)
    if not isinstance(kind, h5py.HardLink):
        where = "another file" if isinstance(kind, h5py.ExternalLink) else "another name"
        raise MdfError(f"{path} is a link to {where}; expected the object itself; make a file without links")
    with damage_reported(path):
        item = node[name]
        if isinstance(item, h5py.Dataset):
            check_source(item)
            _check_type(item)
            _check_size(item, path)
            check_texts(item)
    return item


def check_source(dataset: h5py.Dataset) -> None:
    """Raise `MdfError` unless the values of a dataset are in its file, without filters of plug-ins."""
    path = dataset.name
    if dataset.is_virtual or dataset.external:
        raise MdfError(
            f"{path} takes its values from other files; expected them in the file; copy them into one file"
        )
    properties = dataset.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        number = properties.get_filter(index)[0]
        if number not in BUILT_IN_FILTERS:
            raise MdfError(
                f"{path} is packed by filter {number}; expected deflate or none; write the file without it"
            )


def _check_type(dataset: h5py.Dataset) -> None:
    kind = dataset.id.get_type()
    parts = [kind]
    if isinstance(kind, h5py.h5t.TypeCompoundID):
        parts = [kind.get_member_type(index) for index in range(kind.get_nmembers())]
    for part in parts:
        if part.get_class() not in SINGLE_TYPES and part.get_class() != NATIVE_COMPLEX:
            raise MdfError(
                f"{dataset.name} has the type {dataset.dtype}; expected numbers or text; correct the file"
            )


def _check_size(dataset: h5py.Dataset, path: str) -> None:
    n_bytes = dataset.size * dataset.dtype.itemsize if dataset.shape is not None else 0
    stored = dataset.id.get_storage_size()
    if n_bytes > MAX_RATIO * stored + SLACK_BYTES:
        raise MdfError(
            f"{path} announces {n_bytes} bytes, of which {stored} are stored; expected an array that was "
            "written; get the file again"
        )
    available = available_bytes()
    if available is not None and COPIES * n_bytes > available:
        raise MdfError(
            f"{path} has {n_bytes} bytes; expected at most a {COPIES}rd of the {available} bytes of memory "
            "available; give fewer frames"
        )
