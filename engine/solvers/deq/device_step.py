"""One evaluation of the accelerated iteration on a device, where operators, states and residuals stay.

The graph is the network "step" of a bundle (`docs/gpu.md`). Per evaluation two numbers per slot go to the
device, and one per slot and two norms come back.
"""

import math

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.fixed_point.solve_in_slots import START_SLOT, Evaluation
from engine.operators.operators import Operators
from engine.solvers.deq.step_runner import SLOT_ROWS, StepRunner


class DeviceStep:
    """The map h_theta (Eqs. 15-17) for one measurement at a time, a `SlotStep` on a device.

    A slot holds, as float32, the value (x, d0, d1) with A x, and the residual of each. A x is carried along:
    A is linear and weights of sum 1 mix it as they mix x, so an evaluation takes one product with A.

    An object serves one thread.

    Parameters
    ----------
    runner : StepRunner
        The step in ONNX Runtime or TensorRT, opened for the operators.
    operators : Operators
        Of the system matrix.
    """

    def __init__(self, runner: StepRunner, operators: Operators) -> None:
        self._runner = runner
        self._operators = operators
        self._damping = 0.0

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return self._runner.n_slots

    def set_measurement(self, y: NDArray[np.floating], epsilon: float) -> None:
        """Set the measurement for the evaluations to come.

        Parameters
        ----------
        y : ndarray of float, shape (R,)
            Normalised real-stacked rows [Re; Im].
        epsilon : float
            Bound on ||z0 - y||, in the same units.
        """
        self._runner.write("y", self._operators.layout.scatter(y)[None])
        self._runner.write("epsilon", np.full((1, 1, 1, 1), epsilon, np.float32))
        noise = epsilon / math.sqrt(self._operators.n_rows)
        self._runner.write("noise", np.full((1, 1, 1, 1), noise, np.float32))

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
        images = np.zeros((self.n_slots, SLOT_ROWS, self._operators.n_voxels), np.float32)
        data = np.zeros((self.n_slots, SLOT_ROWS, self._operators.n_rows), np.float32)
        images[START_SLOT, 0] = image
        if data_dual is not None:
            data[START_SLOT, 0] = data_dual
        data[START_SLOT, 1] = self._operators.system_matrix @ images[START_SLOT, 0]
        self._runner.write("images", images)
        self._runner.write("data", data)

    def evaluate(self, weights: NDArray[np.float64], damping: float, slot: int) -> Evaluation:
        """Evaluate h_theta at the mixture by weights, float64 (n_slots,), into `slot`; see `SlotStep`."""
        # The mixture is formed as deviations from one of the values: weights of opposite sign then cancel
        # among small numbers, which single precision can afford, and a weight of 1 gives the very value.
        base = np.zeros_like(weights)
        base[np.argmax(np.abs(weights))] = 1.0
        self._runner.write("weights", np.stack([base, weights - base]))
        if damping != self._damping:
            self._runner.write("damping", np.full((1, 1), damping, np.float32))
            self._damping = damping
        self._runner.run(slot)
        report = self._runner.read("report").astype(np.float64).reshape(-1)
        return Evaluation(report[: self.n_slots], float(report[-2]), float(report[-1]))

    def read_image(self, slot: int) -> Float32Array:
        """Copy the image x (N,) of the value in a slot to the host."""
        image: Float32Array = self._runner.read("images")[slot, 0]
        return image

    def read_state(self, slot: int) -> Float32Array:
        """Copy the value in a slot to the host as (x, d0, d1), shape (N + R + N,), as in `AdmmStep`."""
        x, d1 = self._runner.read("images")[slot, :2]
        return np.concatenate([x, self._runner.read("data")[slot, 0], d1])
