"""Protocols of a method: what the reconstructor needs of one."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from engine.errors import PairingError
from engine.fixed_point.solution import Solution
from engine.measurement.normalization import NormalizedMeasurement
from engine.operators.operators import Operators


class FrameSolver(Protocol):
    """A reconstruction method bound to the operators of one system matrix."""

    @property
    def method(self) -> str:
        """Name of the method, as on the command line."""
        ...

    @property
    def operators(self) -> Operators:
        """Operators of the system matrix."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings in effect, values that JSON can hold; for the report."""
        ...

    def solve(self, measurements: Sequence[NormalizedMeasurement], /) -> list[Solution]:
        """Solve for one image per measurement.

        Parameters
        ----------
        measurements : sequence of NormalizedMeasurement
            Measurements, none of them zero. The image of one does not depend on the others, up to rounding.

        Returns
        -------
        list of Solution
            Each `value` is the image, float32 of shape (N,), in the units of the normalised measurement.
        """
        ...


@runtime_checkable
class AnytimeSolver(FrameSolver, Protocol):
    """A method that has an answer at any time, better the later."""

    def solve_until(
        self, measurements: Sequence[NormalizedMeasurement], deadline: float | None
    ) -> list[Solution]:
        """Solve, or give the best iterates at the deadline, as `Result.DEADLINE`.

        Parameters
        ----------
        measurements : sequence of NormalizedMeasurement
            Measurements as for `solve`.
        deadline : float or None
            Deadline on the clock `time.perf_counter`; None to solve without.
        """
        ...


def require_one_slice(operators: Operators) -> None:
    """Raise PairingError if the grid has more than one slice (Nz > 1)."""
    slices = operators.grid.size[2]
    if slices != 1:
        raise PairingError(
            f"the operators' grid has {slices} slices; the image prior takes images of one slice; use "
            "a system matrix with Nz = 1 or a method for volumes: least-squares, tikhonov, art, admm-l1"
        )
