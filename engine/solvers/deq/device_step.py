"""One evaluation of the accelerated iteration on a device, where operators, states and residuals stay.

The graph is the network "step" of a bundle (`docs/gpu.md`). Per evaluation two numbers per slot go to the
device, and one per slot and two norms come back.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import BundleError, PairingError, ProviderError
from engine.fixed_point.solve_in_slots import START_SLOT, Evaluation
from engine.networks.sessions import SessionTuning, open_session
from engine.operators.operators import Operators
from engine.solvers.deq.device_tensor import DeviceTensor
from engine.solvers.frame_solver import require_one_slice

DEVICES = ("cpu", "cuda")
"""Devices on which a step can run. A provider of that name runs it."""

SLOT_ROWS = 4
"""Number of rows of a slot: two of the value, two of the residual. Of images x and d1, of data d0 and A x."""

CUDA_OPTIONS = {"enable_cuda_graph": "1"}
"""Options of CUDA: a graph, since the hundred small kernels of a step take longer to launch than to run."""

CUDA_GRAPH = "gpu_graph_id"
"""The runtime's run setting that names one captured graph."""


class DeviceStep:
    """The map h_theta (Eqs. 15-17) for one measurement at a time, a `SlotStep` on a device.

    A slot holds, as float32, the value (x, d0, d1) with A x, and the residual of each. A x is carried along:
    A is linear and weights of sum 1 mix it as they mix x, so an evaluation takes one product with A.

    All memory is allocated once and bound once per slot; an object serves one thread.

    Parameters
    ----------
    graph : bytes
        Network "step" of a bundle.
    operators : Operators
        Operators of the system matrix; one slice (Nz = 1).
    n_slots : int
        Number of slots for states.
    device : str
        Device: "cuda", or "cpu" for the same on the host.

    Raises
    ------
    PairingError
        If the grid has more than one slice.
    ProviderError
        If the device is unknown or not available, or cannot run every node of the graph.
    BundleError
        If the graph cannot be loaded or has other inputs and outputs than these operators give it.
    """

    def __init__(self, graph: bytes, operators: Operators, n_slots: int, device: str) -> None:
        require_one_slice(operators)
        nx, ny, _ = operators.grid.size
        if device not in DEVICES:
            raise ProviderError(f"device is {device!r}; expected one of {', '.join(DEVICES)}")
        self._operators = operators
        self._n_slots = n_slots
        lines, bins = operators.layout.shape
        lengths = {
            "slots": n_slots,
            "report": n_slots + 2,
            "rows": operators.n_rows,
            "voxels": operators.n_voxels,
            "height": ny,
            "width": nx,
            "lines": lines,
            "bins": bins,
        }
        tuning = SessionTuning(lengths, CUDA_OPTIONS if device == "cuda" else {}, every_node_on_provider=True)
        self._session = open_session(graph, device, tuning)
        self._inputs = {
            name: DeviceTensor(values, device) for name, values in _inputs(operators, n_slots).items()
        }
        self._report = DeviceTensor(np.zeros((1, n_slots + 2), np.float32), device)
        _require_tensors("input", self._session.get_inputs(), self._inputs)
        rows = {
            "next_image": (SLOT_ROWS, operators.n_voxels),
            "next_data": (SLOT_ROWS, operators.n_rows),
            "report": self._report.shape,
        }
        _require_outputs(self._session.get_outputs(), rows)
        self._damping = 0.0
        self._bindings = [self._bind(slot, device) for slot in range(n_slots)]
        self._run_options = [_run_options(slot, device) for slot in range(n_slots)]

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return self._n_slots

    def set_measurement(self, y: NDArray[np.floating], epsilon: float) -> None:
        """Set the measurement for the evaluations to come.

        Parameters
        ----------
        y : ndarray of float, shape (R,)
            Normalised real-stacked rows [Re; Im].
        epsilon : float
            Bound on ||z0 - y||, in the same units.
        """
        self._inputs["y"].write(self._operators.layout.scatter(y))
        self._inputs["epsilon"].write(np.full((1, 1, 1, 1), epsilon, np.float32))
        noise = epsilon / math.sqrt(self._operators.n_rows)
        self._inputs["noise"].write(np.full((1, 1, 1, 1), noise, np.float32))

    def start(self, image: Float32Array, data_dual: Float32Array | None = None) -> None:
        """Put the first point into `START_SLOT` and empty the others.

        Parameters
        ----------
        image : ndarray of float32, shape (N,)
            Image x.
        data_dual : ndarray of float32, shape (R,), optional
            Data dual d0; by default zero. d1 is zero.
        """
        # All slots at once: one may hold NaN from a solve that failed, and NaN survives a weight of zero.
        images = np.zeros(self._inputs["images"].shape, np.float32)
        data = np.zeros(self._inputs["data"].shape, np.float32)
        images[START_SLOT, 0] = image
        if data_dual is not None:
            data[START_SLOT, 0] = data_dual
        data[START_SLOT, 1] = self._operators.system_matrix @ images[START_SLOT, 0]
        self._inputs["images"].write(images)
        self._inputs["data"].write(data)

    def evaluate(self, weights: NDArray[np.float64], damping: float, slot: int) -> Evaluation:
        """Evaluate h_theta at the mixture by weights, float64 (n_slots,), into `slot`; see `SlotStep`."""
        # The mixture is formed as deviations from one of the values: weights of opposite sign then cancel
        # among small numbers, which single precision can afford, and a weight of 1 gives the very value.
        base = np.zeros_like(weights)
        base[np.argmax(np.abs(weights))] = 1.0
        self._inputs["weights"].write(np.stack([base, weights - base]))
        if damping != self._damping:
            self._inputs["damping"].write(np.full((1, 1), damping, np.float32))
            self._damping = damping
        self._session.run_with_iobinding(self._bindings[slot], self._run_options[slot])
        report = self._report.read().astype(np.float64).reshape(-1)
        return Evaluation(report[: self._n_slots], float(report[-2]), float(report[-1]))

    def read_image(self, slot: int) -> Float32Array:
        """Copy the image x, float32 (N,), of the value in a slot to the host."""
        image: Float32Array = self._inputs["images"].read()[slot, 0]
        return image

    def read_state(self, slot: int) -> Float32Array:
        """Copy the value in a slot to the host as (x, d0, d1), float32 (N + R + N,), as in `AdmmStep`."""
        x, d1 = self._inputs["images"].read()[slot, :2]
        return np.concatenate([x, self._inputs["data"].read()[slot, 0], d1])

    def _bind(self, slot: int, device: str) -> Any:
        """Bind every input, and the outputs to the rows of one slot.

        The rows written belong to an input too. Their weight is zero in the same run and what the report says
        of them is not used, so it does not matter whether they are read before or after.
        """
        binding = self._session.io_binding()
        for name, tensor in self._inputs.items():
            binding.bind_ortvalue_input(name, tensor.ort_value)
        for name, store in (("next_image", "images"), ("next_data", "data")):
            tensor = self._inputs[store]
            address = tensor.row_address(slot)
            binding.bind_output(name, device, 0, np.float32, tensor.shape[1:], address)
        binding.bind_ortvalue_output("report", self._report.ort_value)
        return binding


def _inputs(operators: Operators, n_slots: int) -> dict[str, NDArray[Any]]:
    """Return the first content of every input of the graph by name, in its shape and type."""
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


def _run_options(slot: int, device: str) -> Any:
    from onnxruntime import RunOptions

    options = RunOptions()
    if device == "cuda":
        # One graph per slot, for a captured graph keeps the addresses it was captured with.
        options.add_run_config_entry(CUDA_GRAPH, str(slot + 1))
    return options


def _require_tensors(kind: str, found: Sequence[Any], expected: Mapping[str, DeviceTensor]) -> None:
    types = {np.dtype(np.float32): "tensor(float)", np.dtype(np.int64): "tensor(int64)"}
    _require_names(kind, found, expected)
    for tensor in found:
        wanted = expected[tensor.name]
        if tensor.type != types[wanted.dtype]:
            raise BundleError(f"{kind} {tensor.name} of the step is {tensor.type}; expected {wanted.dtype}")
        _require_shape(kind, tensor, wanted.shape)


def _require_outputs(found: Sequence[Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    _require_names("output", found, expected)
    for tensor in found:
        if tensor.type != "tensor(float)":
            raise BundleError(f"output {tensor.name} of the step is {tensor.type}; expected float32")
        _require_shape("output", tensor, expected[tensor.name])


def _require_names(kind: str, found: Sequence[Any], expected: Mapping[str, object]) -> None:
    names = [tensor.name for tensor in found]
    if sorted(names) != sorted(expected):
        raise BundleError(
            f"the {kind}s of the step are {names}; expected {list(expected)}: "
            "write it again with deqmpi-export add-step"
        )


def _require_shape(kind: str, tensor: Any, expected: tuple[int, ...]) -> None:
    if list(tensor.shape) != list(expected):
        raise PairingError(
            f"{kind} {tensor.name} of the step has shape {tensor.shape}; expected {list(expected)} for these "
            "operators; use a bundle whose step was made by deqmpi-export add-step"
        )
