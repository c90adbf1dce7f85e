"""Volume files: ITK's own files as the oracle, hand-made headers, damage of every kind."""

import gzip
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import InputError
from trainer.data.volume_files import ELEMENT_TYPES, read_volume

# The files in `volumes` were written by ITK 5.4 (SimpleITK) from the array of the fixture `ramp`.
VOLUMES = Path(__file__).parents[2] / "fixtures" / "volumes"
DEFAULTS = {"NDims": "3", "DimSize": "4 3 2", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL"}


@pytest.fixture
def ramp() -> NDArray[np.int16]:
    """100 z + 10 y + x - 50: every voxel says where it is."""
    z, y, x = np.mgrid[:2, :3, :4]
    return (100 * z + 10 * y + x - 50).astype(np.int16)


def metaimage(data: bytes, **keys: str) -> bytes:
    """Write a MetaImage by hand; an empty value leaves the key out."""
    values = DEFAULTS | keys
    values["ElementDataFile"] = values.pop("ElementDataFile")  # the last key
    return "".join(f"{key} = {value}\n" for key, value in values.items() if value).encode() + data


@pytest.mark.parametrize("name", ["raw.mha", "compressed.mha", "plain.nii", "single.nii.gz"])
def test_files_of_itk_are_read_voxel_by_voxel(name: str, ramp) -> None:
    if ".nii" in name:
        pytest.importorskip("nibabel")
    volume = read_volume(VOLUMES / name)
    assert volume.dtype == np.float32
    assert np.array_equal(volume, ramp)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("name", "kind"), ELEMENT_TYPES.items())
def test_every_voxel_type_and_byte_order(name: str, kind: str, order: str, ramp, tmp_path: Path) -> None:
    values = np.abs(ramp)
    path = tmp_path / "a.MHA"
    big = str(order == ">")
    path.write_bytes(
        metaimage(values.astype(order + kind).tobytes(), ElementType=name, BinaryDataByteOrderMSB=big)
    )
    assert np.array_equal(read_volume(path), values.astype(kind))


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress])
def test_both_kinds_of_compression(compress, ramp, tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(metaimage(compress(ramp.tobytes()), CompressedData="True"))
    assert np.array_equal(read_volume(path), ramp)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"NDims": "2"}, "NDims is 2"),
        ({"ElementNumberOfChannels": "3"}, "ElementNumberOfChannels is 3"),
        ({"ElementDataFile": "other.raw"}, "ElementDataFile is other.raw"),
        ({"HeaderSize": "16"}, "HeaderSize is 16"),
        ({"BinaryData": "False"}, "written as text"),
        ({"ElementType": "MET_STRING"}, "ElementType is MET_STRING"),
        ({"ElementType": ""}, "ElementType is None"),
        ({"DimSize": "4 3"}, "'4 3'"),
        ({"DimSize": "4 3 -2"}, "'4 3 -2'"),
        ({"DimSize": "4 0 2"}, "'4 0 2'"),
        ({"DimSize": "99999999 99999999 99999999"}, "bytes .*48"),
        ({"DimSize": "99999999 99999999 99999999", "CompressedData": "True"}, "damaged"),
        ({"DimSize": "4 3 1"}, "24 bytes .*more"),
        ({"CompressedData": "True"}, "damaged"),
        ({"ElementDataFile": ""}, "no MetaImage header"),
    ],
)
def test_metaimages_that_are_not_supported_are_refused(keys, message: str, ramp, tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(metaimage(ramp.tobytes(), **keys))
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["raw.mha", "compressed.mha", "plain.nii", "single.nii.gz"])
def test_a_file_cut_off_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    if ".nii" in name:
        pytest.importorskip("nibabel")
    content = (VOLUMES / name).read_bytes()
    path = tmp_path / name
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=name) as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["compressed.mha", "single.nii.gz"])
def test_a_damaged_byte_of_compressed_voxels_never_changes_them(name: str, ramp, tmp_path: Path) -> None:
    if ".nii" in name:
        pytest.importorskip("nibabel")
    content = (VOLUMES / name).read_bytes()
    path = tmp_path / name
    refused = 0
    first = content.index(b"LOCAL\n") + 6 if name.endswith(".mha") else 0
    for position in range(first, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_volume(path), ramp)  # bits that pad the stream, or its time stamp
        except InputError:
            refused += 1
    assert refused > 0.8 * (len(content) - first)


@pytest.mark.parametrize("suffix", [".mha", ".nii", ".nii.gz"])
@given(content=st.binary(max_size=600), valid=st.integers(0, 400))
@settings(deadline=None, max_examples=50)
def test_any_bytes_are_read_or_refused(suffix: str, content: bytes, valid: int, tmp_path_factory) -> None:
    if suffix != ".mha":
        pytest.importorskip("nibabel")
    start = (VOLUMES / {".mha": "raw.mha"}.get(suffix, "plain.nii")).read_bytes()[:valid]
    content = start + content
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    try:
        volume = read_volume(path)
    except InputError:
        return
    assert volume.ndim == 3
    assert np.isfinite(volume).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    volume = np.zeros((2, 3, 4))
    volume[1, 2, 3] = value
    path = tmp_path / "a.mha"
    path.write_bytes(metaimage(volume.tobytes(), ElementType="MET_DOUBLE"))
    with pytest.raises(InputError, match="not finite"):
        read_volume(path)


def test_missing_files_and_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_volume(tmp_path / "none.mha")
    other = tmp_path / "a.dcm"
    other.touch()
    with pytest.raises(InputError, match=r"\.mha, \.nii, \.nii\.gz"):
        read_volume(other)


def test_nifti_without_nibabel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(InputError, match=r"nibabel; .*`train`"):
        read_volume(VOLUMES / "plain.nii")


def test_nifti_scaling_later_axes_and_version_two(ramp, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    content = bytearray((VOLUMES / "plain.nii").read_bytes())
    content[112:120] = struct.pack("<2f", 2.0, 5.0)  # scl_slope and scl_inter
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    assert np.array_equal(read_volume(path), 2.0 * ramp + 5.0)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        path.write_bytes(kind(ramp.T[..., None], np.eye(4)).to_bytes())
        assert np.array_equal(read_volume(path), ramp)
        path.write_bytes(kind(np.stack([ramp.T] * 2, axis=-1), np.eye(4)).to_bytes())
        with pytest.raises(InputError, match=r"int16 .*\(4, 3, 2, 2\)"):
            read_volume(path)
        path.write_bytes(kind(ramp.T.astype(np.complex64), np.eye(4)).to_bytes())
        with pytest.raises(InputError, match="complex64"):
            read_volume(path)
