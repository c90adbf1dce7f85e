"""Synthetic vessel phantoms: branching trees in 3-D, projected as an angiogram would be.

A *tree* is a list of centreline points with radii. An *image* is a slab of one tree, seen by maximum
intensity projection over a smooth tissue background, rendered on a finer grid and box-averaged down
(Sec. IV-B of the paper does the same with angiography volumes). Trees, not images, are dealt out to
training, validation and test sets, so no tree appears in two sets.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from engine.errors import InputError
from engine.mpi.grid import Grid

Inexact = TypeVar("Inexact", bound=np.inexact[Any])

Split = Literal["train", "validation", "test"]

MIN_CONTRAST = 0.2
"""Least contrast of a view, relative to blood: one with less shows no vessel and is drawn again."""

IMAGES_PER_TREE = {"train": 16, "validation": 16, "test": 1}
"""Images cut from one tree before the next is grown (the paper cuts some 400 from one subject). The test
split shows every tree once, so that the mean over n images is one over n trees."""


@dataclass(frozen=True)
class VesselStyle:
    """The look of the phantoms. Lengths are in coarse pixels (voxels of the reconstruction grid).

    Attributes
    ----------
    root_radius : tuple of float
        Range of the radius of a tree's first branch.
    end_radius : float
        Branches thinner than this end.
    branch_length : tuple of float
        Range of a branch's length in multiples of its radius.
    bending : float
        Standard deviation of the change of direction per pixel of path, in radians.
    trees_per_volume : tuple of int
        Range of the number of root vessels that share a volume.
    slab_thickness : tuple of float
        Range of the thickness of the projected slab.
    brightness : tuple of float
        Range of the brightness of a branch; flow makes some vessels darker than others.
    tissue_contrast : tuple of float
        Range of the tissue's brightness relative to blood.
    tissue_scale : tuple of float
        Range of the tissue's correlation length.
    """

    root_radius: tuple[float, float] = (1.5, 3.0)
    end_radius: float = 1.0
    branch_length: tuple[float, float] = (4.0, 9.0)
    bending: float = 0.1
    trees_per_volume: tuple[int, int] = (1, 1)
    slab_thickness: tuple[float, float] = (4.0, 10.0)
    brightness: tuple[float, float] = (0.5, 1.0)
    tissue_contrast: tuple[float, float] = (0.0, 0.15)
    tissue_scale: tuple[float, float] = (2.5, 7.0)


@dataclass(frozen=True)
class VesselTree:
    """Centreline points of all vessels of one volume, in coarse pixels.

    Attributes
    ----------
    points : ndarray of float64, shape (P, 3)
        Coordinates x, y, z of the centreline, centred on the volume.
    radii : ndarray of float64, shape (P,)
        Vessel radius at each point.
    brightness : ndarray of float64, shape (P,)
        Brightness on the centreline.
    """

    points: NDArray[np.float64]
    radii: NDArray[np.float64]
    brightness: NDArray[np.float64]


VOLUME_EDGE = 64.0
"""Edge of the cube in which trees grow, coarse pixels: twice the long side of the reference grid."""

POINT_SPACING = 0.3
"""Distance between centreline points in multiples of the radius; blobs this close form a smooth tube."""


def _rotated(direction: NDArray[np.float64], angle: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Tilt a unit vector, float64 (3,), by `angle` in radians towards a random side."""
    side = np.cross(direction, rng.standard_normal(3))
    side /= np.linalg.norm(side)
    return np.asarray(np.cos(angle) * direction + np.sin(angle) * side)


def grow_tree(rng: np.random.Generator, style: VesselStyle) -> VesselTree:
    """Grow the vessels of one volume.

    Each branch is a smooth random walk; it ends in a bifurcation whose radii obey Murray's law
    r^3 = r1^3 + r2^3.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all randomness.
    style : VesselStyle
        Sizes and shapes.

    Returns
    -------
    VesselTree
    """
    points: list[NDArray[np.float64]] = []
    radii: list[float] = []
    brightness: list[float] = []
    half = VOLUME_EDGE / 2
    pending = []
    for _ in range(rng.integers(*style.trees_per_volume, endpoint=True)):
        outward = rng.standard_normal(3)
        outward /= np.linalg.norm(outward)
        inward = _rotated(-outward, rng.uniform(0, 0.5), rng)
        pending.append((half * outward, inward, rng.uniform(*style.root_radius)))
    while pending:
        position, direction, radius = pending.pop()
        step = POINT_SPACING * radius
        length = radius * rng.uniform(*style.branch_length)
        bright = rng.uniform(*style.brightness)
        for _ in range(max(2, int(length / step))):
            direction = _rotated(direction, rng.normal(0, style.bending * np.sqrt(step)), rng)
            position = position + step * direction
            points.append(position)
            radii.append(radius)
            brightness.append(bright)
        if np.abs(position).max() > half:
            continue
        share = rng.uniform(0.25, 0.75)
        for part in (share, 1 - share):
            child = radius * part ** (1 / 3)
            if child >= style.end_radius:
                pending.append((position, _rotated(direction, rng.uniform(0.3, 0.9), rng), child))
    return VesselTree(np.array(points), np.array(radii), np.array(brightness))


def render_slab(
    tree: VesselTree, shape: tuple[int, int], refinement: int, rng: np.random.Generator, style: VesselStyle
) -> NDArray[np.float64]:
    """Project a randomly placed and turned slab of a tree over tissue.

    Parameters
    ----------
    tree : VesselTree
        Vessels to look at.
    shape : tuple of int
        (Ny, Nx) coarse pixels of the view.
    refinement : int
        Fine pixels per coarse pixel and axis.
    rng : numpy.random.Generator
        Source of placement and tissue.
    style : VesselStyle
        Sizes and shapes.

    Returns
    -------
    ndarray of float64, shape (Ny * refinement, Nx * refinement)
        Maximum intensity projection, arbitrary non-negative units.
    """
    ny, nx = shape[0] * refinement, shape[1] * refinement
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    centre = tree.points[rng.integers(len(tree.points))]
    shift = np.append(rng.uniform(-0.4, 0.4, 2) * (shape[1], shape[0]), 0.0)
    seen = (tree.points - centre) @ rotation + shift
    thickness = rng.uniform(*style.slab_thickness)
    above = np.maximum(np.abs(seen[:, 2]) - thickness / 2, 0.0)
    radius = np.sqrt(np.maximum(tree.radii**2 - above**2, 0.0))  # cut of the tube at the slab's face
    beside = np.abs(seen[:, :2]) - (shape[1] / 2, shape[0] / 2)
    near = (radius > 0) & (beside.max(axis=1) < 2 * radius)
    x = (np.arange(nx) + 0.5) / refinement - shape[1] / 2
    y = (np.arange(ny) + 0.5) / refinement - shape[0] / 2
    image = _tissue((ny, nx), refinement, rng, style)
    for (px, py, _), r, bright in zip(seen[near], radius[near], tree.brightness[near], strict=True):
        reach = 2 * r
        x0, x1 = np.searchsorted(x, (px - reach, px + reach))
        y0, y1 = np.searchsorted(y, (py - reach, py + reach))
        window = image[y0:y1, x0:x1]
        squared = (x[None, x0:x1] - px) ** 2 + (y[y0:y1, None] - py) ** 2
        np.maximum(window, bright * np.exp2(-squared / r**2), out=window)  # half brightness at the wall
    return image


def _tissue(
    shape: tuple[int, int], refinement: int, rng: np.random.Generator, style: VesselStyle
) -> NDArray[np.float64]:
    """Return a smooth random background between zero and the drawn contrast: float64 of shape `shape`."""
    scale = rng.uniform(*style.tissue_scale) * refinement
    field = gaussian_filter(rng.standard_normal(shape), scale, mode="reflect", truncate=3.0)
    field -= field.min()
    return np.asarray(field * (rng.uniform(*style.tissue_contrast) / max(field.max(), 1e-12)))


def box_average(images: NDArray[Inexact], factor: int) -> NDArray[Inexact]:
    """Average blocks of factor x factor pixels: (..., factor Ny, factor Nx) -> (..., Ny, Nx), same type."""
    *lead, ny, nx = images.shape
    blocks = images.reshape(*lead, ny // factor, factor, nx // factor, factor)
    return np.asarray(blocks.mean(axis=(-3, -1)))


def require_valid_request(split: str, count: int, grid: Grid) -> None:
    """Raise InputError for an unknown split, a negative number of images or a volume grid."""
    if split not in get_args(Split):
        raise InputError(f"phantom split is {split!r}; expected one of {', '.join(get_args(Split))}")
    if grid.size[2] != 1:
        raise InputError(f"vessel phantoms need a grid with Nz = 1, got size {grid.size}")
    if count < 0:
        raise InputError(f"number of phantoms is {count}; expected zero or more")


def fine_vessel_images(
    split: Split, count: int, grid: Grid, seed: int, refinement: int, style: VesselStyle | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Make phantoms on a refined grid together with their box averages on the grid itself.

    Parameters
    ----------
    split : {"train", "validation", "test"}
        Family of trees to draw from; families share no tree for any seeds.
    count : int
        Number of images.
    grid : Grid
        Coarse grid with Nz = 1.
    seed : int
        Number that selects the trees within the family.
    refinement : int
        Fine pixels per coarse pixel and axis.
    style : VesselStyle, optional
        Look of the phantoms.

    Returns
    -------
    fine : ndarray of float32, shape (count, refinement * Ny, refinement * Nx)
        Zero is the minimum of the box averages, so single pixels lie slightly below (about 1 % of the peak).
    coarse : ndarray of float32, shape (count, Ny, Nx)
        Box averages of `fine`, each with minimum 0 and maximum 1.

    Raises
    ------
    InputError
        For an unknown split, a volume grid or a negative count.
    """
    require_valid_request(split, count, grid)
    nx, ny, _ = grid.size
    style = style or VesselStyle()
    fine = np.empty((count, ny * refinement, nx * refinement), np.float32)
    coarse = np.empty((count, ny, nx), np.float32)
    family = get_args(Split).index(split)
    per_tree = IMAGES_PER_TREE[split]
    for first in range(0, count, per_tree):
        rng = np.random.default_rng([family, seed, first // per_tree])
        tree = grow_tree(rng, style)
        for index in range(first, min(first + per_tree, count)):
            low = high = 0.0
            while high - low < MIN_CONTRAST:  # a view past all vessels, rare
                image = render_slab(tree, (ny, nx), refinement, rng, style)
                small = box_average(image, refinement)
                low, high = small.min(), small.max()
            fine[index] = (image - low) / (high - low)
            coarse[index] = (small - low) / (high - low)
    return fine, coarse


def vessel_images(
    split: Split, count: int, grid: Grid, seed: int, style: VesselStyle | None = None
) -> NDArray[np.float32]:
    """Make phantoms as the paper does: rendered twice as fine, box-averaged, minimum 0, maximum 1.

    Parameters and errors are those of `fine_vessel_images`.

    Returns
    -------
    ndarray of float32, shape (count, Ny, Nx)
    """
    return fine_vessel_images(split, count, grid, seed, 2, style)[1]
