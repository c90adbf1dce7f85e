"""ONNX Runtime sessions of a bundle's networks: how every session of the engine is opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.arrays import Float32Array
from engine.errors import BundleError, PairingError, ProviderError
from engine.networks.bundle import Bundle
from engine.networks.learned_blocks import BoundBlock, Consistency, ImagePrior
from engine.networks.manifest import Shape
from engine.networks.tensorrt.session import TensorRtSession, open_plan

__all__ = ["Consistency", "ImagePrior", "OnnxConsistency", "OnnxPrior", "OnnxSession"]

PROVIDERS: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType(
    {
        "cpu": ("CPUExecutionProvider", {}),
        # TF32 keeps 10 of the 23 bits of a product; the fixed point was validated in full single precision.
        "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    }
)
"""Our name of each execution provider of ONNX Runtime, the runtime's name and the options we set."""

NATIVE_TENSORRT = "tensorrt-native"
"""Name of TensorRT without ONNX Runtime: it runs the plans that `deqmpi-export tensorrt` adds to a bundle."""

PROVIDER_NAMES = (*PROVIDERS, NATIVE_TENSORRT)
"""Names of all ways to run a bundle's networks."""

NO_CPU_FALLBACK = "session.disable_cpu_ep_fallback"
"""The runtime's switch that makes a node which only the CPU could run an error."""


@dataclass(frozen=True)
class SessionTuning:
    """Specialisation of a session, beyond the settings that all sessions share.

    Attributes
    ----------
    lengths : mapping of str to int
        Length of each free axis, by its name in the graph: shapes are then known when the session is made.
    provider_options : mapping of str to str
        Options of the execution provider, on top of those of `PROVIDERS`.
    every_node_on_provider : bool
        Whether a node that the provider cannot run is an error; otherwise the runtime runs it on the CPU.
    """

    lengths: Mapping[str, int] = field(default_factory=dict)
    provider_options: Mapping[str, str] = field(default_factory=dict)
    every_node_on_provider: bool = False


class OnnxSession:
    """One network in ONNX Runtime, checked against its description.

    One thread and sequential execution: for networks of a millisecond a second thread costs more in the tail
    of the latency than it gains.

    Parameters
    ----------
    model : bytes
        ONNX graph with its weights inside.
    inputs, outputs : mapping of str to tuple
        Axes of each tensor as the manifest states them; all tensors are float32.
    provider : str, optional
        "cpu" or "cuda".

    Raises
    ------
    ProviderError
        If the runtime is not installed, or the provider is not available here.
    BundleError
        If the graph cannot be loaded, or its inputs and outputs are not the stated ones.
    """

    def __init__(
        self,
        model: bytes,
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
        provider: str = "cpu",
    ) -> None:
        self._session = open_session(model, provider)
        _check_tensors("input", self._session.get_inputs(), inputs)
        _check_tensors("output", self._session.get_outputs(), outputs)
        self._provider = provider
        self._inputs = dict(inputs)
        self._outputs = list(outputs)
        self._output_axes = next(iter(outputs.values()))

    def __call__(self, **inputs: Float32Array) -> NDArray[Any]:
        """Run the network on named arrays, float32 with the axes `inputs`; return its first output, likewise.

        Raises
        ------
        PairingError
            If an array has other axes than the network.
        """
        try:
            output: NDArray[Any] = self._session.run(self._outputs, inputs)[0]
        except Exception:  # the runtime's exceptions share no public base
            for name, array in inputs.items():
                _check_axes(name, array.shape, self._inputs[name])
            raise
        return output

    def bind(self, **inputs: Float32Array) -> BoundBlock:
        """Return a call of the network on arrays that stay where they are, into one output array.

        On the CPU nothing is copied or allocated by the call, and what it returns is overwritten by the next
        one. On other providers every call copies: the runtime would otherwise keep what it was bound to.

        Parameters
        ----------
        **inputs : ndarray of float32
            Arrays with the axes of the inputs, C-contiguous; they are kept as long as the call is.

        Raises
        ------
        PairingError
            If an array has other axes than the network.
        """
        if self._provider != "cpu":
            return partial(self, **inputs)
        axes: dict[str, int] = {}
        for name, array in inputs.items():
            _check_axes(name, array.shape, self._inputs[name])
            if not array.flags.c_contiguous or array.dtype != np.float32:
                raise PairingError(
                    f"network input {name} is {array.dtype}, contiguous: {array.flags.c_contiguous}; "
                    "expected contiguous float32, which can be read in its place"
                )
            axes |= {
                axis: length
                for length, axis in zip(array.shape, self._inputs[name], strict=True)
                if isinstance(axis, str)
            }
        (result,) = self._outputs
        shape = [axes[axis] if isinstance(axis, str) else axis for axis in self._output_axes]
        output = np.zeros(shape, np.float32)
        from onnxruntime import OrtValue

        # The runtime reads and writes the arrays' own memory.
        bound = {name: OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        bound[result] = OrtValue.ortvalue_from_numpy(output)
        binding = self._session.io_binding()
        for name in inputs:
            binding.bind_ortvalue_input(name, bound[name])
        binding.bind_ortvalue_output(result, bound[result])

        def run() -> NDArray[Any]:
            self._session.run_with_iobinding(binding)
            return output

        run.arrays = (inputs, bound)  # type: ignore[attr-defined] # as long as the binding points to them
        return run


class OnnxPrior:
    """Psi_RDN of a bundle, an `ImagePrior`: the image network of whichever method the bundle is of.

    Parameters
    ----------
    bundle : Bundle
        Checked bundle of any method.
    provider : str, optional
        Name of the provider, one of `PROVIDER_NAMES`.
    lengths : mapping of str to int, optional
        Lengths of the axes that the operators decide (`engine.networks.axis_ranges.axis_lengths`), which the
        plans of "tensorrt-native" have to hold.
    """

    def __init__(
        self, bundle: Bundle, provider: str = "cpu", lengths: Mapping[str, int] | None = None
    ) -> None:
        self._session = _open_network(bundle, "rdn", provider, lengths)
        self._takes_noise = bundle.manifest.networks["rdn"].takes_noise

    def __call__(self, v: Float32Array, noise: Float32Array, /) -> NDArray[Any]:
        """Regularise images, float32 (B, 1, Ny, Nx); a network may do without `noise`, (B, 1, 1, 1)."""
        return self._session(v=v, noise=noise) if self._takes_noise else self._session(v=v)

    def bind(self, v: Float32Array, noise: Float32Array, /) -> BoundBlock:
        """Return the call of these arrays, as in `__call__`; they may change in content but not in place."""
        return self._session.bind(v=v, noise=noise) if self._takes_noise else self._session.bind(v=v)


class OnnxConsistency:
    """Psi_LC of a bundle, a `Consistency`.

    Parameters
    ----------
    bundle : Bundle
        Checked bundle of the method deq, the only one with this network.
    provider : str, optional
        Name of the provider, one of `PROVIDER_NAMES`.
    lengths : mapping of str to int, optional
        Lengths of the axes that the operators decide (`engine.networks.axis_ranges.axis_lengths`), which the
        plans of "tensorrt-native" have to hold.

    Raises
    ------
    BundleError
        If the bundle is of another method.
    """

    def __init__(
        self, bundle: Bundle, provider: str = "cpu", lengths: Mapping[str, int] | None = None
    ) -> None:
        bundle.require_method("deq")
        self._session = _open_network(bundle, "lc", provider, lengths)

    def __call__(
        self, v: Float32Array, y: Float32Array, mask: Float32Array, epsilon: Float32Array, /
    ) -> NDArray[Any]:
        """Make data consistent with the measurement; shapes and types are those of `Consistency`."""
        return self._session(v=v, y=y, mask=mask, epsilon=epsilon)

    def bind(
        self, v: Float32Array, y: Float32Array, mask: Float32Array, epsilon: Float32Array, /
    ) -> BoundBlock:
        """Return the call of these arrays, as in `__call__`; they may change in content but not in place."""
        return self._session.bind(v=v, y=y, mask=mask, epsilon=epsilon)


def _open_network(
    bundle: Bundle, role: str, provider: str, lengths: Mapping[str, int] | None
) -> OnnxSession | TensorRtSession:
    if provider == NATIVE_TENSORRT:
        return open_plan(bundle, role, lengths)
    network = bundle.manifest.networks[role]
    try:
        return OnnxSession(bundle.networks[role], network.inputs, network.outputs, provider)
    except BundleError as error:
        raise BundleError(f"{bundle.path / network.file}: {error}") from error


def require_provider(provider: str) -> None:
    """Raise unless ONNX Runtime is installed with a provider.

    Raises
    ------
    ProviderError
        If the runtime is missing, or the provider unknown or not in this build of it.
    """
    if provider not in PROVIDERS:
        raise ProviderError(f"provider is {provider!r}; expected one of {', '.join(PROVIDER_NAMES)}")
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            "ONNX Runtime, which runs the networks, is not installed; "
            "pip install 'deq-mpi[cpu]' or 'deq-mpi[gpu]'"
        ) from error
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider][0] not in available:
        raise ProviderError(
            f"provider {provider} is not in this build of ONNX Runtime; it has {', '.join(available)}; "
            "use --provider cpu or install deq-mpi[gpu]"
        )


def open_session(model: bytes, provider: str, tuning: SessionTuning | None = None) -> Any:
    """Open a graph in ONNX Runtime on a provider.

    Parameters
    ----------
    model : bytes
        ONNX graph with its weights inside.
    provider : str
        "cpu" or "cuda".
    tuning : SessionTuning, optional
        Specialisation of the session.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    ProviderError
        If the runtime is not installed, or the provider is not available here or cannot run every node.
    BundleError
        If the graph cannot be loaded.
    """
    tuning = tuning or SessionTuning()
    require_provider(provider)
    import onnxruntime

    name, settings = PROVIDERS[provider]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors; problems are reported below in our own words
    for axis, length in tuning.lengths.items():
        options.add_free_dimension_override_by_name(axis, length)
    if tuning.every_node_on_provider and provider != "cpu":
        options.add_session_config_entry(NO_CPU_FALLBACK, "1")
    settings = {**settings, **tuning.provider_options}
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[(name, settings)])
    except Exception as error:  # the runtime's exceptions share no public base
        if tuning.every_node_on_provider and "fallback to CPU EP" in str(error):
            raise ProviderError(
                f"provider {provider} could not start or cannot run every node of the network, and going on "
                "on the CPU was ruled out; check the driver and libraries or use --provider cpu"
            ) from error
        raise BundleError(f"ONNX Runtime cannot load the network: {_first_line(error)}") from error
    if session.get_providers()[0] != name:  # it falls back to the CPU without a word
        raise ProviderError(
            f"provider {provider} could not start; ONNX Runtime fell back to {session.get_providers()[0]}; "
            "check the driver and libraries or use --provider cpu"
        )
    return session


def _check_tensors(kind: str, found: list[Any], expected: Mapping[str, Shape]) -> None:
    names = [tensor.name for tensor in found]
    if sorted(names) != sorted(expected):
        raise BundleError(f"the graph's {kind}s are {names}; expected {list(expected)}")
    for tensor in found:
        axes = expected[tensor.name]
        if tensor.type != "tensor(float)":
            raise BundleError(f"{kind} {tensor.name} is {tensor.type}; expected float32")
        if len(tensor.shape) != len(axes):
            raise BundleError(f"{kind} {tensor.name} has shape {tensor.shape}; expected axes {list(axes)}")
        for length, axis in zip(tensor.shape, axes, strict=True):
            # A fixed length must be the manifest's; where the manifest has a free axis, so must the graph.
            if isinstance(length, int) != isinstance(axis, int) or (isinstance(axis, int) and length != axis):
                raise BundleError(
                    f"{kind} {tensor.name} has shape {tensor.shape}; expected axes {list(axes)}"
                )


def _check_axes(name: str, shape: tuple[int, ...], axes: Shape) -> None:
    fits = len(shape) == len(axes) and all(
        length == axis for length, axis in zip(shape, axes, strict=True) if isinstance(axis, int)
    )
    if not fits:
        raise PairingError(
            f"network input {name} has shape {shape}; expected axes {list(axes)}; use a bundle made for the "
            "grid and the row layout of the operators"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
