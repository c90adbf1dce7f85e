"""Vessel phantoms: normalisation, repeatability, separation of the splits, anatomy of a tree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from engine.errors import InputError
from engine.mpi.grid import Grid
from engine.mpi.simulation.phantoms import (
    IMAGES_PER_TREE,
    MIN_CONTRAST,
    VesselStyle,
    VesselTree,
    box_average,
    fine_vessel_images,
    grow_tree,
    vessel_images,
)

GRID = Grid((26, 13, 1), (0.052, 0.026, 0.002))
SINGLE = 1e-6
"""Rounding of float32 means."""


def test_images_span_zero_to_one() -> None:
    images = vessel_images("train", 20, GRID, 0)
    assert images.shape == (20, 13, 26)
    assert images.dtype == np.float32
    assert_allclose(images.min(axis=(1, 2)), 0.0, atol=SINGLE)
    assert_allclose(images.max(axis=(1, 2)), 1.0, atol=SINGLE)


@pytest.mark.parametrize("refinement", [2, 4])
def test_coarse_images_are_box_averages_of_fine_ones(refinement: int) -> None:
    fine, coarse = fine_vessel_images("test", 5, GRID, 1, refinement)
    assert fine.shape == (5, 13 * refinement, 26 * refinement)
    assert_allclose(box_average(fine, refinement), coarse, atol=10 * SINGLE)
    assert MIN_CONTRAST < 1


@given(factor=st.integers(1, 4), ny=st.integers(1, 5), nx=st.integers(1, 5))
@settings(deadline=None)
def test_box_average_is_the_mean_of_each_block(factor: int, ny: int, nx: int) -> None:
    image = np.random.default_rng(0).standard_normal((ny * factor, nx * factor))
    got = box_average(image, factor)
    for row in range(ny):
        for column in range(nx):
            block = image[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            assert_allclose(got[row, column], block.mean())


def test_the_same_seed_repeats_and_a_longer_set_starts_the_same() -> None:
    n = IMAGES_PER_TREE["train"]
    short, longer = (vessel_images("train", count, GRID, 4) for count in (n, n + 3))
    assert np.array_equal(short, longer[:n])
    assert not np.array_equal(short, vessel_images("train", n, GRID, 5))


def test_every_test_image_shows_a_tree_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = []

    def counting_grow_tree(rng: np.random.Generator, style: VesselStyle) -> VesselTree:
        grown.append(grow_tree(rng, style))
        return grown[-1]

    monkeypatch.setattr("engine.mpi.simulation.phantoms.grow_tree", counting_grow_tree)
    vessel_images("test", 3, GRID, 0)
    assert len({tree.points.tobytes() for tree in grown}) == 3


def test_splits_never_share_an_image_or_a_tree() -> None:
    n = 4 * IMAGES_PER_TREE["train"]
    sets = [
        vessel_images(split, n, GRID, seed) for split in ("train", "validation", "test") for seed in (0, 1)
    ]
    flat = np.concatenate(sets).reshape(6 * n, -1)
    assert len(np.unique(flat, axis=0)) == 6 * n
    trees = [grow_tree(np.random.default_rng([family, 0, 0]), VesselStyle()) for family in range(3)]
    lengths = {tree.points.tobytes() for tree in trees}
    assert len(lengths) == 3


def test_radii_fall_at_bifurcations_only_and_end_above_the_limit() -> None:
    style = VesselStyle()
    for seed in range(5):
        tree = grow_tree(np.random.default_rng(seed), style)
        assert len(tree.points) == len(tree.radii) == len(tree.brightness)
        assert tree.radii.max() <= style.root_radius[1]
        assert tree.radii.min() >= style.end_radius
        assert style.brightness[0] <= tree.brightness.min()
        assert tree.brightness.max() <= style.brightness[1]


def test_children_obey_murrays_law() -> None:
    style = VesselStyle(end_radius=0.01, root_radius=(2.0, 2.0), branch_length=(300.0, 300.0), bending=0.0)
    tree = grow_tree(np.random.default_rng(0), style)
    assert set(tree.radii) == {2.0}, "a vessel that leaves the volume has no children"
    style = VesselStyle(end_radius=1.2, root_radius=(2.0, 2.0), branch_length=(4.0, 4.0))
    for seed in range(20):
        radii = sorted(set(grow_tree(np.random.default_rng(seed), style).radii), reverse=True)
        if len(radii) >= 3:
            siblings = [(a, b) for a in radii[1:] for b in radii[1:] if abs(a**3 + b**3 - 8.0) < 1e-9]
            if siblings:
                return
    pytest.fail("no tree bifurcated into two visible children")


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InputError, match="train, validation, test"):
        vessel_images("training", 1, GRID, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Nz = 1"):
        vessel_images("train", 1, Grid((4, 4, 2), (1.0, 1.0, 1.0)), 0)
    with pytest.raises(InputError, match="zero or more"):
        vessel_images("train", -1, GRID, 0)
    assert vessel_images("train", 0, GRID, 0).shape == (0, 13, 26)
