"""The networks and the total variation are two-dimensional: the grids that they can take."""

from engine.errors import PairingError
from engine.operators.operators import Operators


def require_one_slice(operators: Operators) -> None:
    """Raise PairingError if the grid has more than one slice (Nz > 1)."""
    slices = operators.grid.size[2]
    if slices != 1:
        raise PairingError(
            f"the operators' grid has {slices} slices; the image prior takes images of one slice; use "
            "a system matrix with Nz = 1 or a method for volumes: least-squares, cg-tikhonov, art, admm-l1"
        )
