"""Reading medical image volumes: MetaImage (.mha) and NIfTI (.nii, .nii.gz), strictly.

A volume that is cut off or damaged is refused, never filled up with zeros: the length of the data and
the checksums of compressed files are checked. Orientation and voxel size are not used.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError

SUFFIXES = (".mha", ".nii", ".nii.gz")
"""Endings of the files that can be read."""

MAX_HEADER = 65536
"""Bytes within which the header of a MetaImage must end; the usual ones have some hundred."""

ELEMENT_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # four bytes on every platform, by the format's definition
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""Voxel types of MetaImage and what numpy calls them, byte order left out."""

NIFTI2_HEADER = 540
"""First number in a NIfTI-2 file, its header's size; it is 348 in NIfTI-1."""

ZLIB_OR_GZIP = 47
"""`wbits` with which zlib finds out by itself which of the two headers a stream has."""


def read_volume(path: Path | str) -> NDArray[np.float32]:
    """Read one scalar volume.

    Parameters
    ----------
    path : path
        A .mha, .nii or .nii.gz file. NIfTI needs nibabel, which the extra `train` brings.

    Returns
    -------
    ndarray of float32, shape (Nz, Ny, Nx)
        In the file's own unit; x is the axis stored fastest.

    Raises
    ------
    InputError
        If the file cannot be read, is damaged, is no scalar 3-D volume or holds values that are not
        finite in single precision.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the volume {path}: {error.strerror}; check the path") from error
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise InputError(f"{path} is no volume file; expected a name ending in {', '.join(SUFFIXES)}")
    stored = _read_metaimage(content, path) if name.endswith(".mha") else _read_nifti(content, path)
    with np.errstate(over="ignore", invalid="ignore"):
        volume = stored.astype(np.float32)
    if not np.isfinite(volume).all():
        raise InputError(f"the volume {path} has values that are not finite; repair it or take it away")
    return volume


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"cannot read the volume {path}: {what}; fetch or export it again")


def _read_metaimage(content: bytes, path: Path) -> NDArray[Any]:
    """Read a MetaImage whose data follow the header in the same file."""
    header, data = _metaimage_header(content, path)
    expected = {
        "NDims": "3",
        "ElementNumberOfChannels": "1",
        "ElementDataFile": "LOCAL",
        "HeaderSize": "0",
    }
    for key, value in expected.items():
        if header.get(key, value) != value:
            raise _damaged(path, f"{key} is {header[key]}, expected {value}")
    if not _is_true(header.get("BinaryData", "True")):
        raise _damaged(path, "its voxels are written as text, expected binary ones")
    kind = ELEMENT_TYPES.get(header.get("ElementType", ""))
    if kind is None:
        raise _damaged(path, f"ElementType is {header.get('ElementType')}, expected a scalar type")
    sizes = header.get("DimSize", "").split()
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise _damaged(path, f"DimSize is {' '.join(sizes)!r}, expected three voxel counts")
    shape = tuple(int(size) for size in reversed(sizes))
    big_endian = header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB", "False"))
    dtype = np.dtype(kind).newbyteorder(">" if _is_true(big_endian) else "<")
    length = math.prod(shape) * dtype.itemsize
    if _is_true(header.get("CompressedData", "False")):
        data = _inflate(data, length, path)
    if len(data) != length:
        got = "more" if len(data) > length else len(data)
        raise _damaged(path, f"expected {length} bytes of voxels, got {got}")
    return np.frombuffer(data, dtype).reshape(shape)


def _metaimage_header(content: bytes, path: Path) -> tuple[dict[str, str], bytes]:
    """Split a MetaImage into its keys and the bytes behind them; `ElementDataFile` is the last key."""
    header: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in header:
        end = content.find(b"\n", start, MAX_HEADER)
        key, equals, value = content[start : max(end, start)].decode("latin-1").partition("=")
        if not equals:
            raise _damaged(path, "it has no MetaImage header that ends in ElementDataFile")
        header[key.strip()] = value.strip()
        start = end + 1
    return header, content[start:]


def _is_true(value: str) -> bool:
    return value.lower() in {"true", "t", "1"}


def _inflate(data: bytes, length: int, path: Path) -> bytes:
    """Decompress to at most one byte more than `length`, with the stream's checksum."""
    stream = zlib.decompressobj(ZLIB_OR_GZIP)
    try:
        voxels = stream.decompress(data, length + 1)
    except (zlib.error, OverflowError) as error:
        raise _damaged(path, f"its compressed voxels are damaged ({error})") from error
    if len(voxels) == length and not stream.eof:
        raise _damaged(path, "its compressed voxels end too early")
    return voxels


def _read_nifti(content: bytes, path: Path) -> NDArray[Any]:
    """Read NIfTI-1 or NIfTI-2; decompressed here as a whole, so that the checksum is seen."""
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
        from nibabel.wrapstruct import WrapStructError
    except ImportError as error:
        raise InputError(f"reading {path} needs nibabel; install the extra `train` (or nibabel)") from error
    try:
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(content)
        second = NIFTI2_HEADER in (int.from_bytes(content[:4], order) for order in ("little", "big"))
        image = (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_bytes(content)
        with np.errstate(all="ignore"):
            values = np.asarray(image.dataobj)
    except (OSError, EOFError, MemoryError, ValueError, zlib.error) as error:
        raise _damaged(path, " ".join(str(error).split()) or "its size is impossible") from error
    except (HeaderDataError, ImageFileError, WrapStructError) as error:
        raise _damaged(path, f"it is no NIfTI file ({' '.join(str(error).split())})") from error
    if values.ndim < 3 or math.prod(values.shape[3:]) != 1 or values.dtype.kind not in "iuf":
        raise _damaged(path, f"it is no scalar volume but {values.dtype} of shape {values.shape}")
    return values.reshape(values.shape[:3]).T
