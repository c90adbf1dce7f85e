import shutil
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest

from engine.calibration.calibrate import make_operators
from engine.errors import InputError, OperatorsError
from engine.operators.operators_file import FIELDS, KIND, SCHEMA, load_operators, save_operators


@pytest.fixture(scope="module")
def operators(small_system_matrix):
    acquisition = replace(small_system_matrix.acquisition, unit="mV", is_transfer_function_corrected=True)
    return make_operators(
        replace(small_system_matrix, acquisition=acquisition), rank=12, source_sha256="0f" * 32
    )


@pytest.fixture(scope="module")
def written(operators, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "operators.h5"
    save_operators(path, operators)
    return path


@pytest.fixture
def copy(written, tmp_path):
    """A copy of the file that a test may damage."""
    return shutil.copy(written, tmp_path / "copy.h5")


def assert_same(a, b):
    assert type(a) is type(b)
    if hasattr(a, "__dataclass_fields__"):
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert b.flags.c_contiguous
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def test_round_trip_is_exact(operators, written):
    assert_same(operators, load_operators(written))


def test_every_dataset_names_its_unit_and_axes(written):
    with h5py.File(written) as file:
        assert file.attrs["kind"] == KIND
        assert file.attrs["schema"] == SCHEMA
        for name in FIELDS:
            assert file[name].attrs["unit"]
            assert len(file[name].attrs["axes"].split(", ")) == max(1, file[name].ndim)


def test_an_existing_file_is_replaced_and_nothing_else_is_left(operators, tmp_path):
    path = tmp_path / "operators.h5"
    path.write_text("old")
    save_operators(path, operators)
    assert load_operators(path).rank == 12
    assert [p.name for p in tmp_path.iterdir()] == ["operators.h5"]


def test_a_missing_folder_is_an_input_error(operators, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        save_operators(tmp_path / "nowhere" / "operators.h5", operators)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_changed_value_is_noticed(copy, name):
    with h5py.File(copy, "r+") as file:
        values = file[name][()]
        file[name][...] = values + 1
    with pytest.raises(OperatorsError, match="SHA-256"):
        load_operators(copy)


@pytest.mark.parametrize("key", ["source_sha256", "signal_unit"])
def test_a_changed_text_is_noticed(copy, key):
    with h5py.File(copy, "r+") as file:
        file.attrs[key] = "something else"
    with pytest.raises(OperatorsError, match="SHA-256"):
        load_operators(copy)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_missing_dataset_is_named(copy, name):
    with h5py.File(copy, "r+") as file:
        del file[name]
    with pytest.raises(OperatorsError, match=name):
        load_operators(copy)


def test_a_dataset_of_another_type_is_named(copy):
    with h5py.File(copy, "r+") as file:
        values = file["inverse"][()]
        del file["inverse"]
        file["inverse"] = values.astype(np.float64)
    with pytest.raises(OperatorsError, match=r"inverse .*float64 .*float32"):
        load_operators(copy)


def test_another_schema_names_both_numbers(copy):
    with h5py.File(copy, "r+") as file:
        file.attrs["schema"] = SCHEMA + 1
    with pytest.raises(OperatorsError, match=f"schema {SCHEMA + 1}, .*1 to {SCHEMA}"):
        load_operators(copy)


@pytest.mark.parametrize("key", ["kind", "content_sha256", "source_sha256"])
def test_a_missing_attribute_is_named(copy, key):
    with h5py.File(copy, "r+") as file:
        del file.attrs[key]
    with pytest.raises(OperatorsError, match=key):
        load_operators(copy)


def test_what_is_not_an_operators_file_is_refused(tmp_path, written):
    with pytest.raises(OperatorsError, match=r"absent\.h5"):
        load_operators(tmp_path / "absent.h5")
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    with pytest.raises(OperatorsError, match="HDF5"):
        load_operators(text)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(written.read_bytes()[:3000])
    with pytest.raises(OperatorsError, match=r"cannot be read|lacks"):
        load_operators(cut)


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 0},
        {"rank": 36},
        {"noise_std": np.ones(3)},
        {"right_singular": np.ones((3, 3), np.float32)},
    ],
)
def test_contradicting_operators_are_not_written(operators, tmp_path, change):
    with pytest.raises(OperatorsError, match=next(iter(change))):
        save_operators(tmp_path / "operators.h5", replace(operators, **change))
    assert not list(tmp_path.iterdir())


def test_a_layout_that_cannot_hold_the_rows_is_not_written(operators, tmp_path):
    short = replace(operators, layout=replace(operators.layout, shape=(2, 12)))
    with pytest.raises(OperatorsError, match="dense layout"):
        save_operators(tmp_path / "operators.h5", short)
    more_lines = replace(operators, layout=replace(operators.layout, shape=(7, 12)))
    with pytest.raises(OperatorsError, match="lines"):
        save_operators(tmp_path / "operators.h5", more_lines)
