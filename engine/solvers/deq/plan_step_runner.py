"""The network "step" of a bundle as a TensorRT plan, run on tensors that stay on the GPU."""

from typing import Any

from numpy.typing import NDArray

from engine.errors import BundleError
from engine.networks.axis_ranges import SLOTS, axis_lengths
from engine.networks.bundle import Bundle
from engine.networks.tensorrt.plan_metadata import REBUILD
from engine.networks.tensorrt.session import open_plan
from engine.operators.operators import Operators
from engine.solvers.deq.step_runner import STORES, output_shapes, step_inputs


class PlanStepRunner:
    """A step in TensorRT, a `StepRunner`.

    Outputs have memory of their own and are copied to their slot on the GPU: TensorRT takes only addresses
    that are multiples of 256 bytes, and an output in the memory of an input gives wrong results.

    Parameters
    ----------
    bundle : Bundle
        With a network "step" and its plan.
    operators : Operators
        Of the system matrix; one slice (Nz = 1).
    n_slots : int
        Slots for states.

    Raises
    ------
    PairingError
        If the grid has more than one slice, or the plan was built for other operators or fewer slots.
    BundleError, ProviderError
        See `engine.networks.tensorrt.session.open_plan`.
    """

    def __init__(self, bundle: Bundle, operators: Operators, n_slots: int) -> None:
        inputs = step_inputs(operators, n_slots)
        self._session = open_plan(bundle, "step", axis_lengths(operators) | {SLOTS: n_slots})
        self._n_slots = n_slots
        for name, values in inputs.items():
            self._session.write(name, values)
        expected = output_shapes(operators, n_slots)
        found = {name: self._session.shape(name) for name in expected}
        if found != expected:
            raise BundleError(
                f"{bundle.path}: the plan of the step has outputs {found}; expected {expected}; {REBUILD}"
            )

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return self._n_slots

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Copy values into an input; see `StepRunner`."""
        self._session.write(name, values)

    def run(self, slot: int) -> None:
        """Evaluate into a slot; see `StepRunner`."""
        self._session.execute()
        for output, store in STORES.items():
            self._session.copy_to_row(output, store, slot)

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of an input or of the report; see `StepRunner`."""
        return self._session.read(name)
