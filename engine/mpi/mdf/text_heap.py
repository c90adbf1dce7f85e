"""A look at where HDF5 keeps texts, before it is asked to read them.

Texts of variable length lie in collections, lists of objects that each state their size. HDF5 follows the
sizes and goes round for ever at a free object of size 0 (seen with version 2.0), such as a block of zeros in
a damaged file. So the list is walked here first. Layout: HDF5 File Format Specification, section III.E,
"Global Heap".
"""

import mmap
import struct
from collections.abc import Iterator

import h5py

from engine.errors import MdfError

REFERENCE = struct.Struct("<IQI")
"""Reference to a text in a dataset: its length, the address of the collection, the number of the object."""

COLLECTION = struct.Struct("<4sB3sQ")
OBJECT = struct.Struct("<HH4xQ")
SIGNATURE, VERSION, RESERVED = b"GCOL", 1, bytes(3)
ALIGNMENT = 8

SIZES = (8, 8)
"""Bytes of addresses and of lengths in the file; all writers in use have these."""


def check_texts(dataset: h5py.Dataset) -> None:
    """Check that reading the texts of a dataset comes to an end.

    Parameters
    ----------
    dataset : Dataset
        Dataset of any type; one without texts of variable length is passed over, and so is a file in memory.

    Raises
    ------
    MdfError
        If a collection of texts that it refers to is damaged.
    """
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is None or kind.length is not None or dataset.file.driver == "core":
        return
    if not dataset.id.get_storage_size():
        return
    if dataset.file.id.get_create_plist().get_sizes() != SIZES:
        raise MdfError(f"{dataset.name} is in a file without 64-bit addresses; expected those; convert it")
    # The file that HDF5 has open is looked at, not the path again: it may name another file by now.
    with mmap.mmap(dataset.file.id.get_vfd_handle(), 0, access=mmap.ACCESS_READ) as content:
        for address in set(_collections(dataset, content)):
            _check_collection(content, address, dataset.name)


def _collections(dataset: h5py.Dataset, content: mmap.mmap) -> Iterator[int]:
    """Yield where the collections of a dataset begin, or all of the file where those are not known."""
    offset = dataset.id.get_offset() if dataset.chunks is None else None
    if offset is not None:
        raw = content[offset : offset + dataset.size * REFERENCE.size]
        whole = raw[: len(raw) // REFERENCE.size * REFERENCE.size]
        for length, address, _ in REFERENCE.iter_unpack(whole):
            if length > len(content):  # it would ask for that much memory, too
                raise MdfError(
                    f"{dataset.name} cannot be read: it states a text of {length} bytes; expected less than "
                    "the file has; get it again"
                )
            if length:
                yield int(dataset.file.userblock_size + address)
        return
    place = content.find(SIGNATURE)
    while place >= 0:
        yield place
        place = content.find(SIGNATURE, place + 1)


def _check_collection(content: mmap.mmap, address: int, name: str) -> None:
    header = content[address : address + COLLECTION.size]
    if len(header) < COLLECTION.size:
        return  # HDF5 says so itself
    signature, version, reserved, length = COLLECTION.unpack(header)
    if (signature, version, reserved) != (SIGNATURE, VERSION, RESERVED):
        return  # it says this, too
    place, end = address + COLLECTION.size, address + length
    if end > len(content):  # HDF5 would ask for that much memory first
        raise MdfError(
            f"{name} cannot be read: the list of texts at byte {address} states {length} bytes; expected an "
            "end inside the file; get it again"
        )
    while place + OBJECT.size <= end:
        number, _, size = OBJECT.unpack(content[place : place + OBJECT.size])
        # The size of free space, number 0, counts its own header.
        needed = size if number == 0 else OBJECT.size + -(-size // ALIGNMENT) * ALIGNMENT
        if not OBJECT.size <= needed <= end - place:
            raise MdfError(
                f"{name} cannot be read: the list of texts at byte {address} is damaged (an object of {size} "
                f"bytes at byte {place}); expected an intact file; get it again"
            )
        place += needed
