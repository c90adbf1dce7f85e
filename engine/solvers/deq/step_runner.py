"""What runs the step of a bundle with its tensors on a device, and what these tensors first hold."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.operators.operators import Operators
from engine.solvers.frame_solver import require_one_slice

SLOT_ROWS = 4
"""Rows of a slot: two of the value, two of the residual. Of images x and d1, of data d0 and A x."""

STORES: Mapping[str, str] = MappingProxyType({"next_image": "images", "next_data": "data"})
"""Outputs that are the rows of one slot, and the inputs that hold the slots."""


class StepRunner(Protocol):
    """A step whose inputs and outputs have a place on a device from run to run."""

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        ...

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Copy values from the host into an input, which holds them from then on."""
        ...

    def run(self, slot: int) -> None:
        """Evaluate on what the inputs hold; value and residual become the rows of a slot."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of an input or of the output "report" on the host."""
        ...


def step_inputs(operators: Operators, n_slots: int) -> dict[str, NDArray[Any]]:
    """Return the first content of every input of a step, by name (`docs/files.md`).

    Parameters
    ----------
    operators : Operators
        Of the system matrix; one slice (Nz = 1).
    n_slots : int
        Slots for states; they are zero.

    Raises
    ------
    PairingError
        If the grid has more than one slice.
    """
    require_one_slice(operators)
    layout, (nx, ny, _) = operators.layout, operators.grid.size
    n_rows, n_voxels = operators.n_rows, operators.n_voxels
    size = layout.mask.size
    selected = np.concatenate([layout.index, layout.index + size]).astype(np.int64)  # of the 2M real rows
    row_places = np.zeros(2 * size, np.int64)  # the mask takes away what the unselected places pick
    row_places[selected] = np.arange(n_rows)
    scalar = (1, 1, 1, 1)
    return {
        "weights": np.zeros((2, n_slots), np.float32),
        "damping": np.zeros((1, 1), np.float32),
        "images": np.zeros((n_slots, SLOT_ROWS, n_voxels), np.float32),
        "data": np.zeros((n_slots, SLOT_ROWS, n_rows), np.float32),
        "system_matrix": operators.system_matrix,
        "weighted_adjoint": operators.weighted_adjoint,
        "inverse": operators.inverse,
        "voxel_grid": np.arange(n_voxels, dtype=np.int64).reshape(1, 1, ny, nx),
        "row_places": row_places.reshape(1, 2, *layout.shape),
        "selected_places": selected,
        "y": np.zeros((1, 2, *layout.shape), np.float32),
        "mask": layout.mask[None, None],
        "epsilon": np.ones(scalar, np.float32),
        "noise": np.ones(scalar, np.float32),
    }


def output_shapes(operators: Operators, n_slots: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every output of a step, by name."""
    return {
        "next_image": (SLOT_ROWS, operators.n_voxels),
        "next_data": (SLOT_ROWS, operators.n_rows),
        "report": (1, n_slots + 2),
    }
