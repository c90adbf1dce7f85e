"""The network "step" of a bundle in ONNX Runtime, bound once to tensors that stay on a device."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BundleError, PairingError
from engine.networks.axis_ranges import SLOTS, axis_lengths
from engine.networks.sessions import SessionTuning, open_session
from engine.operators.operators import Operators
from engine.solvers.deq.device_tensor import DeviceTensor
from engine.solvers.deq.step_runner import STORES, output_shapes, step_inputs

CUDA_OPTIONS = {"enable_cuda_graph": "1"}
"""A step is some hundred small kernels: launched one by one they take longer than they run."""

CUDA_GRAPH = "gpu_graph_id"
"""The runtime's run setting that names one captured graph."""


class OnnxStepRunner:
    """A step in ONNX Runtime, a `StepRunner`.

    All memory is allocated once and bound once per slot: outputs are written in the place of a slot.

    Parameters
    ----------
    graph : bytes
        The network "step" of a bundle.
    device : str
        "cuda", or "cpu" for the same on the host.
    operators : Operators
        Of the system matrix; one slice (Nz = 1).
    n_slots : int
        Slots for states.

    Raises
    ------
    PairingError
        If the grid has more than one slice.
    ProviderError
        If the device is unknown or not available, or cannot run every node of the graph.
    BundleError
        If the graph cannot be loaded or has other inputs and outputs than these operators give it.
    """

    def __init__(self, graph: bytes, device: str, operators: Operators, n_slots: int) -> None:
        inputs = step_inputs(operators, n_slots)
        outputs = output_shapes(operators, n_slots)
        lengths = axis_lengths(operators) | {SLOTS: n_slots, "report": outputs["report"][1]}
        tuning = SessionTuning(lengths, CUDA_OPTIONS if device == "cuda" else {}, every_node_on_provider=True)
        self._session = open_session(graph, device, tuning)
        self._inputs = {name: DeviceTensor(values, device) for name, values in inputs.items()}
        given = {name: (values.dtype, values.shape) for name, values in inputs.items()}
        _require_tensors("input", self._session.get_inputs(), given)
        wanted = {name: (np.dtype(np.float32), shape) for name, shape in outputs.items()}
        _require_tensors("output", self._session.get_outputs(), wanted)
        self._report = DeviceTensor(np.zeros(outputs["report"], np.float32), device)
        self._n_slots = n_slots
        self._bindings = [self._bind(slot, device) for slot in range(n_slots)]
        self._run_options = [_run_options(slot, device) for slot in range(n_slots)]

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return self._n_slots

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Copy values into an input; see `StepRunner`."""
        self._inputs[name].write(values)

    def run(self, slot: int) -> None:
        """Evaluate into a slot; see `StepRunner`."""
        self._session.run_with_iobinding(self._bindings[slot], self._run_options[slot])

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of an input or of the report; see `StepRunner`."""
        return (self._report if name == "report" else self._inputs[name]).read()

    def _bind(self, slot: int, device: str) -> Any:
        """Bind every input, and the outputs to the rows of one slot.

        The rows written belong to an input too. Their weight is zero in the same run and what the report says
        of them is not used, so it does not matter whether they are read before or after.
        """
        binding = self._session.io_binding()
        for name, tensor in self._inputs.items():
            binding.bind_ortvalue_input(name, tensor.ort_value)
        for output, store in STORES.items():
            tensor = self._inputs[store]
            address = tensor.row_address(slot)
            binding.bind_output(output, device, 0, np.float32, tensor.shape[1:], address)
        binding.bind_ortvalue_output("report", self._report.ort_value)
        return binding


def _run_options(slot: int, device: str) -> Any:
    from onnxruntime import RunOptions

    options = RunOptions()
    if device == "cuda":
        # One graph per slot, for a captured graph keeps the addresses it was captured with.
        options.add_run_config_entry(CUDA_GRAPH, str(slot + 1))
    return options


def _require_tensors(
    kind: str, found: Sequence[Any], expected: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
) -> None:
    """Raise unless the tensors of a graph are those expected, of these types and shapes."""
    types = {np.dtype(np.float32): "tensor(float)", np.dtype(np.int64): "tensor(int64)"}
    names = [tensor.name for tensor in found]
    if sorted(names) != sorted(expected):
        raise BundleError(
            f"the {kind}s of the step are {names}; expected {list(expected)}: "
            "write it again with deqmpi-export add-step"
        )
    for tensor in found:
        dtype, shape = expected[tensor.name]
        if tensor.type != types[dtype]:
            raise BundleError(f"{kind} {tensor.name} of the step is {tensor.type}; expected {dtype}")
        if list(tensor.shape) != list(shape):
            raise PairingError(
                f"{kind} {tensor.name} of the step has shape {tensor.shape}; expected {list(shape)} for "
                "these operators; use a bundle whose step was made by deqmpi-export add-step"
            )
