"""Snapshots: files that others can read, names that lead nowhere else."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from engine.errors import InputError
from engine.live.loop.live_image import Flag
from engine.live.view.feed import ReceivedImage, ViewFeed
from engine.live.view.snapshot_formats import nifti_affine, unknown_origin
from engine.live.view.snapshots import NAME, SnapshotFolder, SnapshotKind
from engine.live.wire.messages import encode_image
from engine.mpi.grid import Grid
from engine.mpi.mdf import read_mdf
from engine.mpi.mdf.grids import images, reconstruction_grid
from engine.mpi.mdf.image_intervals import read_intervals
from engine.mpi.mdf.new_files import new_experiment
from tests.engine.live.view.fake_service import VOLUME, FakeService

MILLIMETRE_DIGITS = 1e-4
"""NIfTI-1 stores places as float32: 1e-7 of some centimetres, in millimetres, with room for rounding."""


@pytest.fixture(params=["plane", "plane with interval", "volume with interval"])
def received(request, fake_service) -> ReceivedImage:
    settings = {} if request.param.startswith("plane") else {"grid": VOLUME}
    return receive(fake_service(coverage=0.9 if "interval" in request.param else None, **settings))


def receive(service: FakeService, **changes) -> ReceivedImage:
    feed = ViewFeed("tcp://127.0.0.1:1")
    feed.take(encode_image(service.image(**changes), service.ledger.counters()))
    assert feed.newest is not None
    return feed.newest


def test_nifti_has_every_voxel_at_its_place(received, tmp_path) -> None:
    snapshot = SnapshotFolder(tmp_path).save(SnapshotKind.NIFTI, received)
    file = nibabel.load(tmp_path / snapshot.name)
    assert file.get_data_dtype() == np.float32
    assert file.header.get_xyzt_units()[0] == "mm"
    assert (int(file.header["sform_code"]), int(file.header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(file.get_qform(), file.get_sform(), atol=MILLIMETRE_DIGITS)
    values = np.asarray(file.dataobj)
    assert values.shape == received.grid.size
    # Positions and values of the voxel vector, which Grid lists by itself: x fastest.
    index = np.stack(np.unravel_index(np.arange(values.size), values.shape, order="F"), axis=1)
    places = nibabel.affines.apply_affine(file.affine, index)
    np.testing.assert_allclose(places, 1e3 * received.grid.positions(), atol=MILLIMETRE_DIGITS)
    np.testing.assert_array_equal(values[tuple(index.T)], received.message.image.ravel())


def test_affine_by_hand() -> None:
    grid = Grid((4, 2, 3), (0.040, 0.010, 0.006), (0.005, 0.0, -0.001))
    # First voxel: half a voxel from the edge. x: 5 - 20 + 5, y: -5 + 2.5, z: -1 - 3 + 1 millimetres.
    expected = [[10, 0, 0, -10], [0, 5, 0, -2.5], [0, 0, 2, -3], [0, 0, 0, 1]]
    np.testing.assert_allclose(nifti_affine(grid), expected, atol=1e-12)


def test_mdf_reads_back_with_its_interval_and_metadata(received, tmp_path) -> None:
    source = replace(unknown_origin(), experiment=new_experiment("phantom 7", subject="bottle"))
    snapshot = SnapshotFolder(tmp_path, source).save(SnapshotKind.MDF, received)
    path = tmp_path / snapshot.name
    file = read_mdf(path)
    np.testing.assert_array_equal(images(file), received.message.image[np.newaxis, np.newaxis])
    assert reconstruction_grid(file) == received.grid
    assert (file.experiment.name, file.experiment.subject) == ("phantom 7", "bottle")
    with h5py.File(path) as content:
        (report,) = content["/reconstruction/_report"]
    assert json.loads(report) == received.message.header["report"]
    bounds = read_intervals(path, received.grid)
    if received.message.low is None:
        assert bounds is None
    else:
        assert bounds is not None
        assert bounds.coverage == 0.9
        np.testing.assert_array_equal(bounds.low, received.message.low[np.newaxis])
        np.testing.assert_array_equal(bounds.high, received.message.high[np.newaxis])


def test_mdf_without_metadata_says_so(fake_service, tmp_path) -> None:
    snapshot = SnapshotFolder(tmp_path).save(SnapshotKind.MDF, receive(fake_service()))
    experiment = read_mdf(tmp_path / snapshot.name).experiment
    assert not experiment.is_simulation
    assert "placeholders" in experiment.description


def test_png_shows_the_image_and_with_interval_a_second_panel(fake_service, tmp_path) -> None:
    folder = SnapshotFolder(tmp_path)
    flags = (Flag.LATE, Flag.NOT_CONVERGED, Flag.NO_BACKGROUND)
    names = [
        folder.save(SnapshotKind.PNG, receive(fake_service(coverage=coverage), flags=flags)).name
        for coverage in (None, 0.9)
    ]
    plain, double = (imread(tmp_path / name) for name in names)
    assert double.shape[1] == pytest.approx(2 * plain.shape[1], abs=2)


def test_names_are_made_here_sort_by_time_and_never_repeat(fake_service, tmp_path) -> None:
    image = receive(fake_service())
    folder, other = SnapshotFolder(tmp_path / "new"), SnapshotFolder(tmp_path / "new")
    saved = [f.save(SnapshotKind.NIFTI, image) for f in (folder, other, folder, other)]
    names = [snapshot.name for snapshot in saved]
    assert len(set(names)) == 4
    assert all(NAME.fullmatch(name) for name in names)
    assert [snapshot.name for snapshot in folder.list_all()] == names[::2]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        names
    )  # and no temporary file
    assert saved[0].n_bytes == (tmp_path / "new" / names[0]).stat().st_size
    assert folder.find(names[1]) is None  # another process wrote it


def test_snapshots_from_many_threads(fake_service, tmp_path) -> None:
    folder, image = SnapshotFolder(tmp_path), receive(fake_service())
    threads = [threading.Thread(target=folder.save, args=(SnapshotKind.NIFTI, image)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert len(list(tmp_path.iterdir())) == len(folder.list_all()) == 8


def test_failures_leave_nothing_behind(fake_service, tmp_path, monkeypatch) -> None:
    image = receive(fake_service())
    with pytest.raises(InputError, match="--snapshots"):
        SnapshotFolder(tmp_path / "a" / "b").save(SnapshotKind.PNG, image)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--snapshots"):
        SnapshotFolder(tmp_path / "file").save(SnapshotKind.PNG, image)

    def full(path: Path, _image: ReceivedImage) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.live.view.snapshots.write_nifti", full)
    folder = SnapshotFolder(tmp_path / "full")
    with pytest.raises(OSError, match="No space"):
        folder.save(SnapshotKind.NIFTI, image)
    assert list((tmp_path / "full").iterdir()) == []
    assert folder.list_all() == []


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[SnapshotFolder, str]:
    """A folder with one snapshot, beside a secret, with a file and a link that were not written by us."""
    around = tmp_path_factory.mktemp("around")
    (around / "secret.mdf").write_text("secret")
    folder = SnapshotFolder(around / "snapshots")
    with FakeService() as service:
        name = folder.save(SnapshotKind.NIFTI, receive(service)).name
    (folder.folder / "20260101T000000Z-0001.mdf").write_text("not ours")
    (folder.folder / "20260101T000000Z-0002.mdf").symlink_to(around / "secret.mdf")
    return folder, name


@given(
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(["..", ".", "/", "\\", "%2e", "secret.mdf", "\0", "20260101T000000Z-0001.mdf"])
        ).map("".join),
        st.from_regex(NAME, fullmatch=True),
    )
)
@example("../secret.mdf")
@example("20260101T000000Z-0001.mdf")
@example("20260101T000000Z-0002.mdf")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_leads_anywhere_else(written, name) -> None:
    folder, own = written
    assert folder.find(name) is None or name == own
    assert folder.find(own) == folder.folder / own


def test_own_name_with_something_around_it_is_refused(written) -> None:
    folder, own = written
    for name in (f"{own}\n", f" {own}", f"./{own}", f"{own}/", f"x/../{own}", own.upper(), f"{own}\0"):
        assert folder.find(name) is None


def test_snapshot_replaced_by_a_link_is_not_followed(fake_service, tmp_path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = SnapshotFolder(tmp_path / "snapshots")
    name = folder.save(SnapshotKind.NIFTI, receive(fake_service())).name
    (folder.folder / name).unlink()
    assert folder.find(name) is None
    (folder.folder / name).symlink_to(tmp_path / "secret")
    assert folder.find(name) is None
