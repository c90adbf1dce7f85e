"""Vessel phantoms from angiograms: projections of patches of time-of-flight MRA volumes (Sec. IV-B).

Volumes are found by the names of the ITKTubeTK data set, Normal002-MRA.mha for subject 2, in any folder
below the one given. Subjects, not patches, are dealt out to training, validation and test sets.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.mpi.simulation.phantoms import MIN_CONTRAST, Split, box_average, require_valid_request
from trainer.data.volume_files import read_volume

SLAB = 10
"""Voxels along the first axis of a patch, over which the maximum is taken."""

REFINEMENT = 2
"""Voxels of the angiogram per pixel of the image and axis."""

PAPER_SUBJECTS = {"train": 77, "validation": 9, "test": 9}
"""Subjects per set in the paper; other numbers of subjects are split in this proportion."""

BLOOD_PERCENTILE = 99.9
"""Percentile of a volume taken as the brightness of blood: above tissue, below single outliers."""

MAX_DRAWS = 1000
"""Patches drawn in a row without contrast before the volume is given up."""

NAME = re.compile(r"(?!\.)[^0-9]*([0-9]+)(?:[^0-9].*)?[-_]MRA\.(?:mha|nii|nii\.gz)", re.IGNORECASE)
"""Name of an angiogram; its first number is the subject."""


def find_angiograms(folder: Path | str) -> dict[int, tuple[Path, ...]]:
    """Find the MRA volumes in a folder and all folders below.

    Parameters
    ----------
    folder : path
        Searched for names such as Normal002-MRA.mha; all other files are ignored.

    Returns
    -------
    dict
        Volumes of each subject, both in ascending order.

    Raises
    ------
    InputError
        If there is no such folder, or no such volume in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected a folder of MRA volumes")
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        match = NAME.fullmatch(path.name)
        if match and path.is_file():
            found.setdefault(int(match[1]), []).append(path)
    if not found:
        raise InputError(
            f"no MRA volume in {folder}; expected names such as Normal002-MRA.mha, .nii or .nii.gz"
        )
    return {subject: tuple(found[subject]) for subject in sorted(found)}


def split_subjects(subjects: Iterable[int], seed: int) -> dict[Split, tuple[int, ...]]:
    """Deal subjects out to the three sets, 77 : 9 : 9 as in the paper.

    Parameters
    ----------
    subjects : iterable of int
        At least three; order and repetitions do not matter.
    seed : int
        Of the shuffling. With another seed a subject may be in another set.

    Returns
    -------
    dict
        Subjects of each set, shuffled; every subject is in exactly one set and no set is empty.

    Raises
    ------
    InputError
        For fewer than three subjects.
    """
    known = sorted(set(subjects))
    if len(known) < len(PAPER_SUBJECTS):
        raise InputError(
            f"angiograms of {len(known)} subjects; expected at least {len(PAPER_SUBJECTS)}, one per set"
        )
    shuffled = [known[index] for index in np.random.default_rng(seed).permutation(len(known))]
    total = sum(PAPER_SUBJECTS.values())
    validation, test = (
        max(1, round(len(known) * PAPER_SUBJECTS[split] / total)) for split in ("validation", "test")
    )
    return {
        "validation": tuple(shuffled[:validation]),
        "test": tuple(shuffled[validation : validation + test]),
        "train": tuple(shuffled[validation + test :]),
    }


def project_patch(patch: NDArray[np.floating]) -> NDArray[np.float64]:
    """Project by maximum intensity along the first axis and average 2 x 2 pixels.

    Parameters
    ----------
    patch : ndarray, shape (depth, 2 Ny, 2 Nx)
        Part of an angiogram.

    Returns
    -------
    ndarray, shape (Ny, Nx)
        In the unit of the patch.
    """
    return box_average(patch.max(axis=0).astype(np.float64), REFINEMENT)


def angiogram_images(
    folder: Path | str, split: Split, count: int, grid: Grid, seed: int
) -> NDArray[np.float32]:
    """Make phantoms from randomly placed patches of angiograms; repeatable, longer sets start the same.

    The images are dealt out to the volumes of the set in turn. A patch whose contrast is below
    `MIN_CONTRAST` of the brightness of blood (air, plain tissue) is drawn again.

    Parameters
    ----------
    folder : path
        Holds the MRA volumes of at least three subjects, see `find_angiograms`.
    split : {"train", "validation", "test"}
        Which subjects to take. For one folder and one seed, no subject is in two sets.
    count : int
        Number of images.
    grid : Grid
        Grid with Nz = 1; a patch has 10 x 2 Ny x 2 Nx voxels.
    seed : int
        Selects the subjects of each set, and the patches.

    Returns
    -------
    ndarray of float32, shape (count, Ny, Nx)
        Each with minimum 0 and maximum 1.

    Raises
    ------
    InputError
        For an unknown split, a volume grid, a negative count, a missing folder, no volumes, too few
        subjects, or a volume that is unreadable, not finite, too small or without contrast.
    """
    require_valid_request(split, count, grid)
    found = find_angiograms(folder)
    subjects = split_subjects(found, seed)[split]
    nx, ny, _ = grid.size
    images = np.empty((count, ny, nx), np.float32)
    volumes = [(subject, number, path) for subject in subjects for number, path in enumerate(found[subject])]
    for turn, (subject, number, path) in enumerate(volumes[:count]):
        rng = np.random.default_rng([seed, subject, number])
        share = images[turn :: len(volumes)]
        share[:] = _volume_images(path, share.shape, rng)
    return images


def _volume_images(path: Path, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Cut the images (n, Ny, Nx) of one volume."""
    count, ny, nx = shape
    volume = read_volume(path)
    patch_shape = (SLAB, REFINEMENT * ny, REFINEMENT * nx)
    if np.less(volume.shape, patch_shape).any():
        raise InputError(f"{path} has {volume.shape} voxels (z, y, x); expected at least {patch_shape}")
    blood = float(np.percentile(volume, BLOOD_PERCENTILE)) - float(volume.min())
    least = MIN_CONTRAST * blood
    images = np.empty(shape)
    for index in range(count):
        image = _draw_image(volume, patch_shape, least, rng)
        if image is None:
            raise InputError(
                f"{path} showed no vessel in {MAX_DRAWS} patches of {patch_shape} voxels; "
                "check that it is an angiogram, or take it away"
            )
        images[index] = image
    return images


def _draw_image(
    volume: NDArray[np.float32], patch_shape: tuple[int, int, int], least: float, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Draw patches until one has at least the contrast `least`; None if `MAX_DRAWS` have not."""
    spare = np.subtract(volume.shape, patch_shape)
    for _ in range(MAX_DRAWS):
        corner = rng.integers(0, spare, endpoint=True)
        place = tuple(slice(start, start + size) for start, size in zip(corner, patch_shape, strict=True))
        image = project_patch(volume[place])
        low, high = image.min(), image.max()
        if high > low and high - low >= least:
            return np.asarray((image - low) / (high - low))
    return None
