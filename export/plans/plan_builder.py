"""One TensorRT plan from one ONNX graph, with either flavour of TensorRT.

The two flavours share their Python interface but for the target: TensorRT measures kernels on the GPU of the
machine, TensorRT for RTX compiles for named GPUs and needs none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError, ProviderError
from engine.networks.axis_ranges import ShapeRange
from engine.networks.tensorrt.cuda_device import CudaDevice
from engine.networks.tensorrt.module import TensorRt, import_tensorrt, message_collector, one_line, reason
from engine.networks.tensorrt.plan_metadata import DTYPES, RUNTIMES, PlanRecipe
from export.errors import ExportError
from export.plans.plan_config import PlanConfig
from export.plans.timing_cache import TimingCache

ALWAYS_STRONGLY_TYPED = 11
"""From this version of TensorRT on networks are strongly typed without asking, and asking is deprecated."""


@dataclass(frozen=True)
class BuiltPlan:
    """What a build gives.

    Attributes
    ----------
    plan : bytes
        The serialized engine.
    dtypes : mapping of str to str
        Type of every input and output.
    """

    plan: bytes
    dtypes: Mapping[str, str]


@dataclass(frozen=True)
class PlanBuilder:
    """An installed builder and the GPUs it builds for.

    Attributes
    ----------
    flavour : str
        "tensorrt" or "tensorrt-rtx".
    tensorrt : TensorRt
        Its module.
    compute_capabilities : tuple of str
        Targets, such as "8.9".
    """

    flavour: str
    tensorrt: TensorRt
    compute_capabilities: tuple[str, ...]

    @classmethod
    def open(cls, config: PlanConfig) -> "PlanBuilder":
        """Import the configured flavour and settle what it builds for.

        Raises
        ------
        ProviderError
            If the flavour is not installed, or the GPU of this machine is needed and there is none.
        ConfigError
            If the flavour cannot build for the configured GPU.
        """
        tensorrt = import_tensorrt(RUNTIMES[config.flavour])
        if config.flavour == "tensorrt-rtx":
            targets = config.compute_capabilities or (_capability_here("give --compute-capability 8.9, say"),)
            for target in targets:
                _rtx_target(tensorrt, target)
            return cls(config.flavour, tensorrt, targets)
        here = _capability_here("build where the GPU is")
        if config.compute_capabilities not in ((), (here,)):
            raise ConfigError(
                f"compute capability is {config.compute_capabilities[0]}; the GPU here has {here}, and "
                "TensorRT builds for no other: leave it out, or build on the other machine"
            )
        return cls(config.flavour, tensorrt, (here,))

    def build(self, graph: bytes, recipe: PlanRecipe, timing_cache: TimingCache | None = None) -> BuiltPlan:
        """Build a plan.

        Parameters
        ----------
        graph : bytes
            Serialized ONNX graph, weights inside.
        recipe : PlanRecipe
            Of this builder: profile, effort and memory.
        timing_cache : TimingCache, optional
            Read and extended.

        Returns
        -------
        BuiltPlan

        Raises
        ------
        ExportError
            If TensorRT refuses the graph, the profile or the build, or the graph's tensors are not those of
            the recipe.
        """
        trt: Any = self.tensorrt.module
        logger = message_collector(self.tensorrt)
        logger.errors.clear()
        builder = trt.Builder(logger)
        network = builder.create_network(self._creation_flags())
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph):
            raise ExportError(f"{self.tensorrt.name} cannot read the graph: {_parser_errors(parser)}")
        _require_interface(network, recipe)
        dtypes = _dtypes(trt, network)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # keeps 10 of the 23 bits of a product
        config.builder_optimization_level = recipe.optimization_level
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace_bytes)
        if self.flavour == "tensorrt-rtx":
            self._set_targets(config)
        ranges = {name: spec.range for name, spec in recipe.inputs.items()}
        _add_profile(builder, config, network, ranges)
        if timing_cache is not None:
            timing_cache.attach(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ExportError(f"{self.tensorrt.name} cannot build the plan: {reason(logger.errors)}")
        if timing_cache is not None:
            timing_cache.save(config)
        return BuiltPlan(bytes(plan), dtypes)

    def _creation_flags(self) -> int:
        major = int(self.tensorrt.version.split(".")[0])
        if self.flavour == "tensorrt-rtx" or major >= ALWAYS_STRONGLY_TYPED:
            return 0
        return 1 << int(self.tensorrt.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def _set_targets(self, config: Any) -> None:
        config.num_compute_capabilities = len(self.compute_capabilities)
        for index, capability in enumerate(self.compute_capabilities):
            if not config.set_compute_capability(_rtx_target(self.tensorrt, capability), index):
                raise ExportError(f"{self.tensorrt.name} refused the compute capability {capability}")


def _capability_here(instead: str) -> str:
    try:
        return CudaDevice().compute_capability
    except ProviderError as error:
        raise ProviderError(f"building for the GPU of this machine: {error}; {instead}") from error


def _rtx_target(tensorrt: TensorRt, capability: str) -> Any:
    targets = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in tensorrt.module.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if capability not in targets:
        raise ConfigError(
            f"compute capability is {capability}; {tensorrt.name} {tensorrt.version} builds for "
            f"{', '.join(targets)}: choose one of these, or the flavour tensorrt"
        )
    return targets[capability]


def _parser_errors(parser: Any) -> str:
    """Return all errors of the parser in one line."""
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    texts = [f"node {e.node()} {e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors]
    return one_line("; ".join(texts)) or "it is no ONNX graph"


def _require_interface(network: Any, recipe: PlanRecipe) -> None:
    """Raise unless the parsed tensors are those of the bundle's manifest."""
    groups = (
        ("inputs", network.num_inputs, network.get_input, {n: s.axes for n, s in recipe.inputs.items()}),
        ("outputs", network.num_outputs, network.get_output, dict(recipe.outputs)),
    )
    for kind, count, get, expected in groups:
        tensors = [get(i) for i in range(count)]
        found = {tensor.name: tuple(tensor.shape) for tensor in tensors}
        fixed = {n: tuple(a if isinstance(a, int) else -1 for a in axes) for n, axes in expected.items()}
        # An output's shape may come out unknown where the manifest has a number: only inputs are compared so.
        same = found == fixed if kind == "inputs" else found.keys() == fixed.keys()
        if not same:
            raise ExportError(f"the graph has the {kind} {found}; expected {fixed} (-1: any length)")


def _dtypes(trt: Any, network: Any) -> dict[str, str]:
    """Return the type of every input and output."""
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    known = {tensor.name: [d for d in DTYPES if tensor.dtype == getattr(trt, d)] for tensor in tensors}
    others = [name for name, found in known.items() if not found]
    if others:
        raise ExportError(f"{', '.join(others)} of the graph are of another type than {', '.join(DTYPES)}")
    return {name: found[0] for name, found in known.items()}


def _add_profile(builder: Any, config: Any, network: Any, ranges: Mapping[str, ShapeRange]) -> None:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shapes = ranges[tensor.name]
        if -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, shapes.minimum, shapes.optimum, shapes.maximum)
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT refused the optimisation profile {dict(ranges)}")
