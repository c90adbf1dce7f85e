"""Phantoms from angiograms: naming, splits by subject, patches against an exhaustive list of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.mpi.simulation.phantoms import MIN_CONTRAST
from trainer.data.angiography import (
    MAX_DRAWS,
    SLAB,
    angiogram_images,
    find_angiograms,
    project_patch,
    split_subjects,
)

GRID = Grid((4, 3, 1), (0.008, 0.006, 0.002))
SHAPE = (12, 9, 11)
"""Of the test volumes: 3 x 4 x 4 places for a patch of 10 x 6 x 8 voxels."""
SINGLE = 1e-6
"""Rounding of float32 pixels between 0 and 1."""
SPLITS = ("train", "validation", "test")


def write_volume(path: Path, volume: NDArray[np.floating]) -> None:
    """Write an uncompressed MetaImage of single precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nz, ny, nx = volume.shape
    header = f"NDims = 3\nDimSize = {nx} {ny} {nz}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + volume.astype("<f4").tobytes())


def noise_volume(subject: int) -> NDArray[np.float32]:
    """Independent voxels, few of them bright: every patch has contrast, and no two look the same."""
    return (20 + 400 * np.random.default_rng(subject).uniform(0, 1, SHAPE) ** 30).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven subjects, one file each."""
    root = tmp_path_factory.mktemp("mra")
    for subject in range(1, 8):
        write_volume(root / f"Normal{subject:03}-MRA.mha", noise_volume(subject))
    return root


def all_images(volume: NDArray[np.floating]) -> NDArray[np.float64]:
    """Normalised images of every place of a patch, pixel by pixel from the formula."""
    places = np.subtract(SHAPE, (10, 6, 8)) + 1
    found = []
    for z, y, x in np.ndindex(*places):
        image = np.empty((3, 4))
        for row, column in np.ndindex(3, 4):
            corner = [
                max(float(volume[z + depth, y + 2 * row + dy, x + 2 * column + dx]) for depth in range(10))
                for dy in range(2)
                for dx in range(2)
            ]
            image[row, column] = sum(corner) / 4
        found.append((image - image.min()) / (image.max() - image.min()))
    return np.array(found)


def is_among(images: NDArray[np.floating], candidates: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Say of each image whether it equals one of the candidates."""
    distance = np.abs(images[:, None] - candidates[None]).max(axis=(2, 3))
    return np.asarray(distance.min(axis=1) < SINGLE)


# --- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("Normal002-MRA.mha", 2),
        ("Normal-002/MRA/Normal002-MRA.mha", 2),
        ("a/b/c/Normal-104-MRA.nii", 104),
        ("Normal010_MRA.nii.gz", 10),
        ("normal011-mra.NII.GZ", 11),
        ("IXI012-Guys-0828-MRA.nii.gz", 12),
    ],
)
def test_the_subject_is_the_number_in_the_name(name: str, subject: int, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert find_angiograms(tmp_path) == {subject: (path,)}


def test_other_files_are_ignored_and_files_of_a_subject_stay_together(tmp_path: Path) -> None:
    ignored = [
        "Normal003-T1-Flash.mha",
        "Normal003-T2.nii.gz",
        "Normal003-MRA.mhd",
        "Normal003-MRA-brain.mha",
        "Normal003-MRA.mha.part",
        "SkullStripped-MRA.mha",
        "._Normal003-MRA.mha",
        "notes.txt",
    ]
    wanted = ["Normal-005/MRA/Normal005-MRA.mha", "again/Normal5-MRA.nii", "Normal004-MRA.nii.gz"]
    for name in (*ignored, *wanted):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "Normal006-MRA.mha").mkdir()
    found = find_angiograms(tmp_path)
    assert list(found.items()) == [
        (4, (tmp_path / wanted[2],)),
        (5, (tmp_path / wanted[0], tmp_path / wanted[1])),
    ]


# --- splits ---------------------------------------------------------------------------------------------


@given(subjects=st.lists(st.integers(0, 999), min_size=3, unique=True), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_every_subject_is_in_exactly_one_set(subjects: list[int], seed: int) -> None:
    sets = split_subjects(subjects, seed)
    assert set(sets) == set(SPLITS)
    assert sorted(subject for members in sets.values() for subject in members) == sorted(subjects)
    assert all(sets.values())
    assert len(sets["validation"]) == len(sets["test"]) == max(1, round(9 * len(subjects) / 95))
    assert split_subjects([*reversed(subjects), subjects[0]], seed) == sets


def test_the_paper_has_77_9_and_9_subjects() -> None:
    sets = split_subjects(range(1, 96), 0)
    assert [len(sets[split]) for split in SPLITS] == [77, 9, 9]
    assert sets != split_subjects(range(1, 96), 1)


# --- images ---------------------------------------------------------------------------------------------


@given(
    patch=st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4)).flatmap(
        lambda n: arrays(np.float32, (n[0], 2 * n[1], 2 * n[2]), elements=st.floats(-1e3, 1e3, width=32))
    )
)
@settings(deadline=None)
def test_projection_is_the_mean_of_four_maxima(patch: NDArray[np.float32]) -> None:
    highest = np.sort(patch.astype(np.float64), axis=0)[-1]
    expected = (highest[::2, ::2] + highest[1::2, ::2] + highest[::2, 1::2] + highest[1::2, 1::2]) / 4
    np.testing.assert_allclose(project_patch(patch), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_image_is_a_patch_of_a_subject_of_its_set(folder: Path, seed: int) -> None:
    sets = split_subjects(range(1, 8), seed)
    candidates = {
        split: np.concatenate([all_images(noise_volume(subject)) for subject in sets[split]])
        for split in SPLITS
    }
    for split in SPLITS:
        images = angiogram_images(folder, split, 40, GRID, seed)
        assert images.shape == (40, 3, 4)
        assert images.dtype == np.float32
        assert set(images.min(axis=(1, 2))) == {0.0}
        assert set(images.max(axis=(1, 2))) == {1.0}
        assert {other: is_among(images, candidates[other]).any() for other in SPLITS} == {
            other: other == split for other in SPLITS
        }
        assert is_among(images, candidates[split]).all()


def test_patches_are_drawn_from_the_whole_of_every_volume(folder: Path) -> None:
    sets = split_subjects(range(1, 8), 0)
    images = angiogram_images(folder, "train", 1500, GRID, 0)
    for subject in sets["train"]:
        assert is_among(all_images(noise_volume(subject)), images).all(), "300 draws from 48 places"


def test_the_same_seed_repeats_and_a_longer_set_starts_the_same(folder: Path) -> None:
    short, longer = (angiogram_images(folder, "train", n, GRID, 4) for n in (7, 12))
    assert np.array_equal(short, longer[:7])
    assert np.array_equal(longer, angiogram_images(folder, "train", 12, GRID, 4))
    assert not np.array_equal(longer, angiogram_images(folder, "train", 12, GRID, 5))


def test_a_small_set_reads_no_more_volumes_than_images(folder: Path, tmp_path: Path) -> None:
    train = split_subjects(range(1, 8), 0)["train"]
    for subject in range(1, 8):
        source = folder / f"Normal{subject:03}-MRA.mha"
        (tmp_path / source.name).write_bytes(source.read_bytes() if subject in train[:2] else b"damaged")
    images = angiogram_images(tmp_path, "train", 2, GRID, 0)
    assert np.array_equal(images, angiogram_images(folder, "train", 2, GRID, 0))


def test_the_reference_grid_takes_the_patches_of_the_paper(tmp_path: Path) -> None:
    grid = Grid((26, 13, 1), (0.052, 0.026, 0.002))
    for subject in range(3):  # of exactly the size of a patch, so that the image is known
        volume = np.random.default_rng(subject).uniform(0, 1, (10, 26, 52))
        write_volume(tmp_path / f"Normal{subject:03}-MRA.mha", volume)
    (subject,) = split_subjects(range(3), 0)["test"]
    volume = np.random.default_rng(subject).uniform(0, 1, (10, 26, 52)).astype(np.float32)
    expected = volume.max(axis=0).reshape(13, 2, 26, 2).mean(axis=(1, 3))
    expected = (expected - expected.min()) / np.ptp(expected)
    for image in angiogram_images(tmp_path, "test", 3, grid, 0):
        np.testing.assert_allclose(image, expected, atol=SINGLE)


def vessel_in_air(brightness: float, air: float) -> NDArray[np.float64]:
    """A bright tube along y in one corner; most patches show nothing but air."""
    volume = np.random.default_rng(0).uniform(0, air, (SLAB, 30, 200))
    volume[4:7, :, 2:6] = brightness
    return volume


@pytest.mark.parametrize("air", [0.0, 0.5 * MIN_CONTRAST])
def test_patches_of_air_are_drawn_again(air: float, tmp_path: Path) -> None:
    for subject in range(3):
        write_volume(tmp_path / f"Normal{subject:03}-MRA.mha", 300 * vessel_in_air(1.0, air))
    images = angiogram_images(tmp_path, "validation", 30, GRID, 0)
    assert set(images.max(axis=(1, 2))) == {1.0}
    # The tube runs along y: columns in it are bright from end to end, which noise is not.
    assert (images.min(axis=1).max(axis=1) > 0.9).all()


# --- errors ---------------------------------------------------------------------------------------------


def assert_refused(match: str, folder: Path, split: str = "test", count: int = 4, grid: Grid = GRID) -> None:
    with pytest.raises(InputError, match=match) as caught:
        angiogram_images(folder, split, count, grid, 0)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_wrong_requests_are_refused(folder: Path) -> None:
    assert_refused("train, validation, test", folder, split="training")
    assert_refused("Nz = 1", folder, grid=Grid((4, 4, 2), (1.0, 1.0, 1.0)))
    assert_refused("zero or more", folder, count=-1)
    assert angiogram_images(folder, "test", 0, GRID, 0).shape == (0, 3, 4)


def test_folders_without_enough_angiograms_are_refused(tmp_path: Path) -> None:
    assert_refused("/none ", tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    assert_refused(r"notes\.txt ", tmp_path / "notes.txt")
    assert_refused("Normal002-MRA", tmp_path)
    for name in ("Normal001-MRA.mha", "Normal002-MRA.mha", "again/Normal002-MRA.mha"):
        write_volume(tmp_path / name, noise_volume(1))
    assert_refused("2 subjects; .*3", tmp_path)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros(SHAPE), f"{MAX_DRAWS} patches"),
        (np.full(SHAPE, 7.0), f"{MAX_DRAWS} patches"),
        (np.full(SHAPE, np.nan), "not finite"),
        (np.zeros((9, 9, 11)), r"\(9, 9, 11\) voxels .*\(10, 6, 8\)"),
        (np.zeros((12, 5, 11)), r"\(10, 6, 8\)"),
        (np.zeros((12, 9, 7)), r"\(10, 6, 8\)"),
    ],
)
def test_volumes_that_give_no_image_are_named(volume, message: str, tmp_path: Path) -> None:
    for subject in range(3):
        write_volume(tmp_path / f"Normal{subject:03}-MRA.mha", volume)
    assert_refused(rf"Normal00\d-MRA.mha.*{message}", tmp_path)


def test_a_damaged_volume_is_named(tmp_path: Path) -> None:
    for subject in range(3):
        (tmp_path / f"Normal{subject:03}-MRA.mha").write_bytes(b"no MetaImage")
    assert_refused(r"cannot read the volume .*Normal00\d-MRA.mha", tmp_path)
