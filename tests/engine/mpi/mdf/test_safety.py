"""A stranger's file cannot make its reader open other files, load code, fill the memory or wait for ever."""

import h5py
import numpy as np
import pytest

from engine.errors import MdfError
from engine.mpi.mdf import read_mdf
from engine.mpi.mdf.text_heap import COLLECTION, SIGNATURE

DATA = "/measurement/data"


def external_link(handle):
    del handle["/study"]
    handle["/study"] = h5py.ExternalLink("other.mdf", "/study")


def soft_link(handle):
    del handle["/study/name"]
    handle["/study/name"] = h5py.SoftLink("/scanner/name")


def virtual(handle):
    shape, dtype = handle[DATA].shape, handle[DATA].dtype
    del handle[DATA]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource("other.mdf", DATA, shape)
    handle.create_virtual_dataset(DATA, layout)


def stored_outside(handle):
    shape, dtype = handle[DATA].shape, handle[DATA].dtype
    del handle[DATA]
    handle.create_dataset(DATA, shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def plug_in(handle):
    shape, dtype = handle[DATA].shape, handle[DATA].dtype
    del handle[DATA]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    properties.set_filter(32_099, h5py.h5z.FLAG_OPTIONAL, (1,))
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype)
    h5py.h5d.create(handle["/measurement"].id, b"data", kind, space, dcpl=properties)


def bomb(handle):
    del handle[DATA]
    handle.create_dataset(DATA, (10**9, 2, 3, 14), "f8", chunks=(10**4, 2, 3, 14))


REFUSED = {
    external_link: "/study .*another file",
    soft_link: "/study/name .*another name",
    virtual: "/measurement/data .*other files",
    stored_outside: "/measurement/data .*other files",
    plug_in: "/measurement/data .*filter 32099",
    bomb: "/measurement/data .*672000000000 bytes, .*0 ",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_no_mdf_file_needs_is_refused(raw_measurement, save_raw, change) -> None:
    save_raw(raw_measurement, "other.mdf")
    path = save_raw(raw_measurement)
    with h5py.File(path, "r+") as handle:
        change(handle)
    with pytest.raises(MdfError, match=REFUSED[change]):
        read_mdf(path)


@pytest.mark.parametrize("filters", [{"compression": "gzip"}, {"compression": "lzf"}, {"fletcher32": True}])
def test_filters_of_hdf5_itself_are_read(raw_measurement, save_raw, filters) -> None:
    path = save_raw(raw_measurement)
    with h5py.File(path, "r+") as handle:
        data = handle[DATA][()]
        del handle[DATA]
        handle.create_dataset(DATA, data=data, chunks=True, **filters)
    assert np.array_equal(read_mdf(path).measurement.data, data)


@pytest.mark.parametrize("compact", [False, True])
def test_a_list_of_texts_without_an_end_is_refused(raw_measurement, save_raw, compact) -> None:
    """HDF5 would walk it for ever."""
    path = save_raw(raw_measurement)
    if compact:
        with h5py.File(path, "r+") as handle:
            del handle["/version"]
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_layout(h5py.h5d.COMPACT)
            kind = h5py.h5t.py_create(h5py.string_dtype(), logical=True)
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.Dataset(h5py.h5d.create(handle.id, b"version", kind, space, dcpl=layout))[()] = "2.1.0"
        assert read_mdf(path).version == "2.1.0"
    content = bytearray(path.read_bytes())
    first = content.find(SIGNATURE) + COLLECTION.size
    content[first + 32 : first + 96] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(MdfError, match="list of texts"):
        read_mdf(path)
