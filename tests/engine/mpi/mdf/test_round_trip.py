"""Everything written is read back bit for bit, whatever the flags, types and shapes."""

from dataclasses import fields, is_dataclass, replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.mpi.mdf import MdfWarning, Measurement, Reconstruction, read_mdf, write_mdf
from engine.mpi.mdf import new_files as mdf_factory

REAL_TYPES = ["i1", "i2", "i4", "i8", "f4", "f8"]
COMPLEX_TYPES = ["c8", "c16", "r:i2 i:i2", "i:i4 r:i4", "r:i8 i:i8", "i:f4 r:f4"]
# The temporary folder is shared by the examples on purpose: each one overwrites the file of the last.
EXAMPLES = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)


def assert_same(written, read, path="file"):
    """Compare two model objects attribute by attribute: values, types, shapes and bits of arrays."""
    assert type(written) is type(read), path
    for item in fields(written):
        where = f"{path}.{item.name}"
        left, right = getattr(written, item.name), getattr(read, item.name)
        if is_dataclass(left):
            assert_same(left, right, where)
        elif isinstance(left, np.ndarray):
            assert left.shape == right.shape, where
            assert left.dtype == right.dtype or left.dtype.kind == right.dtype.kind == "U", where
            bits_agree = left.tobytes() == right.tobytes()
            assert bits_agree or (left.dtype.kind == "U" and np.array_equal(left, right)), where
        else:
            assert left == right, where
            assert type(left) is type(right), where


def compound(description):
    """Return the dtype of "c8" or of a compound like "r:i2 i:i2"."""
    if ":" not in description:
        return np.dtype(description)
    return np.dtype([tuple(member.split(":")) for member in description.split()])


def random_values(rng, shape, dtype):
    """Return finite values over the whole range of the type, from random bits."""
    if dtype.names:
        values = np.empty(shape, dtype)
        for name in dtype.names:
            values[name] = random_values(rng, shape, dtype[name])
        return values
    values = np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape).copy()
    if dtype.kind in "fc":
        values[~np.isfinite(values)] = -0.0
    return values


@st.composite
def measurements(draw):
    """Draw an acquisition and a measurement that belong together."""
    n_frames, n_periods, n_channels = draw(st.tuples(*[st.integers(1, 3)] * 3))
    n_samples = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    fourier, fast_frame, permuted = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    selected = fourier and draw(st.booleans())
    selection = None
    if selected:
        full = rng.permutation(n_samples // 2 + 1) + 1
        selection = full[: draw(st.integers(1, len(full)))].astype(np.int64)
    length = (len(selection) if selected else n_samples // 2 + 1) if fourier else n_samples
    frames = (n_frames,)
    signal = (n_periods, n_channels, length)
    dtype = compound(draw(st.sampled_from(COMPLEX_TYPES if fourier else REAL_TYPES)))
    mask = rng.random(n_frames) < 0.4
    mask[draw(st.integers(0, n_frames - 1))] = False
    measurement = Measurement(
        data=random_values(rng, signal + frames if fast_frame else frames + signal, dtype),
        is_fourier_transformed=fourier,
        is_fast_frame_axis=fast_frame,
        is_frame_permutation=permuted,
        is_frequency_selection=selected,
        is_background_corrected=draw(st.booleans()),
        is_spectral_leakage_corrected=draw(st.booleans()),
        is_transfer_function_corrected=draw(st.booleans()),
        is_background_frame=mask,
        frame_permutation=rng.permutation(n_frames) + 1 if permuted else None,
        frequency_selection=selection,
    )
    acquisition = mdf_factory.new_acquisition(
        bandwidth=draw(st.floats(1e-3, 1e9)),
        n_samples=n_samples,
        n_periods=n_periods,
        n_channels=n_channels,
        drivefield=mdf_factory.new_sine_drive(2.5e6, [[102, 7], [96, 11]], 0.012, n_periods=n_periods),
        gradient=rng.normal(size=(n_periods, 2, 3, 3)) if draw(st.booleans()) else None,
        offset_field=rng.normal(size=(n_periods, 2, 3)) if draw(st.booleans()) else None,
        data_conversion_factor=None if fourier else rng.normal(size=(n_channels, 2)),
    )
    function = rng.normal(size=(n_channels, n_samples // 2 + 1)) + 1j if draw(st.booleans()) else None
    receiver = replace(acquisition.receiver, transfer_function=function)
    return replace(acquisition, num_frames=n_frames, receiver=receiver), measurement


def file_of(acquisition, **groups):
    """Return a file with the given groups and default metadata."""
    source = mdf_factory.new_measurement_file(
        np.zeros(
            (
                1,
                acquisition.num_periods_per_frame,
                acquisition.receiver.num_channels,
                acquisition.receiver.num_sampling_points,
            ),
            np.int8,
        ),
        acquisition=acquisition,
    )
    return replace(source, **{"acquisition": acquisition, "measurement": None, **groups})


@EXAMPLES
@given(content=measurements())
def test_measurements(content, tmp_path):
    acquisition, measurement = content
    written = file_of(acquisition, measurement=measurement)
    write_mdf(tmp_path / "file.mdf", written)
    assert_same(written, read_mdf(tmp_path / "file.mdf"))


@EXAMPLES
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 5),
    dtype=st.sampled_from(REAL_TYPES + COMPLEX_TYPES),
    overscan=st.booleans(),
    order=st.sampled_from(["xyz", "zyx", "yxz"]),
)
def test_reconstructions(shape, dtype, overscan, order, tmp_path):
    n_frames, n_channels, nx, ny, nz = shape
    rng = np.random.default_rng(sum(shape))
    n_voxels = nx * ny * nz
    acquisition = mdf_factory.new_acquisition(
        bandwidth=1e3, n_samples=4, drivefield=mdf_factory.new_sine_drive(1e6, [10], 0.01)
    )
    reconstruction = Reconstruction(
        data=random_values(rng, (n_frames, n_voxels, n_channels), compound(dtype)),
        size=np.array([nx, ny, nz]),
        field_of_view=rng.random(3) + 0.1,
        field_of_view_center=rng.normal(size=3),
        order=order,
        positions=rng.normal(size=(n_voxels, 3)),
        is_overscan_region=rng.random(n_voxels) < 0.5 if overscan else None,
    )
    written = file_of(acquisition, reconstruction=reconstruction)
    write_mdf(tmp_path / "file.mdf", written)
    assert_same(written, read_mdf(tmp_path / "file.mdf"))


@EXAMPLES
@given(text=TEXTS, number=st.integers(-(2**63), 2**63 - 1), bore=st.none() | st.floats(0, 1), moment=MOMENTS)
def test_metadata(text, number, bore, moment, tmp_path):
    acquisition = mdf_factory.new_acquisition(
        bandwidth=1e3, n_samples=4, drivefield=mdf_factory.new_sine_drive(1e6, [10], 0.01)
    )
    source = mdf_factory.new_measurement_file(
        np.zeros((1, 1, 1, 4), np.int16),
        acquisition=acquisition,
        study=mdf_factory.new_study(text, number=number, description=text * 3),
        experiment=mdf_factory.new_experiment(text, subject=text, is_simulation=False),
        scanner=mdf_factory.new_scanner(text, topology=text, bore_size=bore),
        tracer=mdf_factory.new_tracer(text, concentration=0.5, volume=1e-5, vendor=text),
    )
    written = replace(source, time=moment, study=replace(source.study, time=None))
    write_mdf(tmp_path / "file.mdf", written)
    assert_same(written, read_mdf(tmp_path / "file.mdf"))


def test_calibration_with_every_optional_dataset(raw_calibration, save_raw, tmp_path):
    rng = np.random.default_rng(0)
    raw_calibration |= {
        "/study/time": "2024-05-31T12:34:56.789",
        "/scanner/boreSize": 0.12,
        "/acquisition/gradient": rng.normal(size=(2, 5, 3, 3)),
        "/acquisition/offsetField": rng.normal(size=(2, 5, 3)),
        "/acquisition/receiver/transferFunction": rng.normal(size=(3, 4)) + 1j,
        "/acquisition/receiver/inductionFactor": rng.normal(size=3),
        "/acquisition/receiver/dataConversionFactor": np.array([[1.0, 0.0]] * 3),
        "/calibration/positions": rng.normal(size=(24, 3)),
        "/calibration/offsetFields": rng.normal(size=(24, 3)),
        "/calibration/deltaSampleSize": np.full(3, 1e-3),
        "/calibration/isMeanderingGrid": np.int8(1),
    }
    first = read_mdf(save_raw(raw_calibration))
    values = [
        getattr(node, item.name) for node in (first.calibration, first.acquisition) for item in fields(node)
    ]
    assert all(value is not None for value in values)
    write_mdf(tmp_path / "again.mdf", first)
    assert_same(first, read_mdf(tmp_path / "again.mdf"))


def test_unknown_time_stays_unknown(raw_measurement, save_raw, tmp_path):
    raw_measurement["/time"] = ""
    path = save_raw(raw_measurement)
    with pytest.warns(MdfWarning, match="/time is empty"):
        first = read_mdf(path)
    write_mdf(tmp_path / "again.mdf", first)
    with pytest.warns(MdfWarning, match="/time is empty"):
        assert_same(first, read_mdf(tmp_path / "again.mdf"))
