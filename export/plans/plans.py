"""The TensorRT plans of a bundle: built where they are missing or no longer match, else left alone."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BundleError, ProviderError
from engine.machine.atomic_write import atomic_path
from engine.networks.axis_ranges import shape_range
from engine.networks.bundle import Bundle
from engine.networks.tensorrt.plan_metadata import (
    PlanInput,
    PlanMetadata,
    PlanRecipe,
    metadata_path,
    plan_path,
    read_plan,
)
from export.plans.plan_builder import PlanBuilder
from export.plans.plan_config import PlanConfig
from export.plans.timing_cache import TimingCache


@dataclass(frozen=True)
class PlanResult:
    """What became of one plan.

    Attributes
    ----------
    path : Path
        NAME.plan in the bundle folder.
    metadata : PlanMetadata
        Content of the file next to it.
    built : bool
        Whether it was built now; else it was up to date.
    """

    path: Path
    metadata: PlanMetadata
    built: bool


def build_plans(
    bundle: Bundle, config: PlanConfig, say: Callable[[str], None], builder: PlanBuilder | None = None
) -> list[PlanResult]:
    """Build a plan next to every network of a bundle, unless there is one from the same recipe.

    Parameters
    ----------
    bundle : Bundle
        In a folder that can be written to.
    config : PlanConfig
        How to build.
    say : callable
        Takes one line for people; called before a build, which may take minutes.
    builder : PlanBuilder, optional
        One that was opened for this configuration before; by default it is opened here.

    Returns
    -------
    list of PlanResult
        One per network, in the order of the manifest.

    Raises
    ------
    ProviderError
        If the flavour is not installed, or needs a GPU that is not here.
    ConfigError
        If an axis has no length, or the flavour cannot build for the GPU asked for.
    ExportError
        If TensorRT refuses a network.
    ParityError
        If a network in half precision is too far from the one in single precision.
    BundleError, InputError
        If a file of the bundle is damaged, or the timing cache is none.
    """
    builder = builder or PlanBuilder.open(config)
    return [_build(bundle, role, config, builder, say) for role in bundle.manifest.networks]


def _build(
    bundle: Bundle, role: str, config: PlanConfig, builder: PlanBuilder, say: Callable[[str], None]
) -> PlanResult:
    network = bundle.manifest.networks[role]
    path = plan_path(bundle.path, network)
    single = bundle.networks[role]
    graph = _in_half_precision(single) if config.precision == "fp16" else single
    recipe = _recipe(bundle, role, graph, config, builder)
    old, why = _old_plan(path, recipe)
    target = f"{builder.tensorrt.name} {recipe.tensorrt_version} for {', '.join(recipe.compute_capabilities)}"
    if old is not None:
        say(f"{path.name} is up to date ({recipe.precision}, {target})")
        return PlanResult(path, old, built=False)
    difference = None
    if config.precision == "fp16":
        difference = _difference(single, graph, bundle, role, config)
        say(f"{network.file} in half precision differs by {difference:.1e} of the largest value")
    say(f"building {path.name} ({recipe.precision}) with {target}, may take minutes: {why}")
    result = builder.build(graph, recipe, _timing_cache(config, builder))
    metadata = PlanMetadata(recipe, hashlib.sha256(result.plan).hexdigest(), result.dtypes, difference)
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_path(file)) for file in (path, metadata_path(path))]
        files[0].write_bytes(result.plan)
        files[1].write_text(metadata.to_json(), encoding="utf-8")
    return PlanResult(path, metadata, built=True)


def _recipe(bundle: Bundle, role: str, graph: bytes, config: PlanConfig, builder: PlanBuilder) -> PlanRecipe:
    network = bundle.manifest.networks[role]
    shapes = {name: shape_range(name, axes, config.ranges) for name, axes in network.inputs.items()}
    return PlanRecipe(
        network=role,
        flavour=config.flavour,
        tensorrt_version=builder.tensorrt.version,
        compute_capabilities=builder.compute_capabilities,
        onnx_sha256=network.sha256,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        precision=config.precision,
        optimization_level=config.optimization_level,
        workspace_bytes=config.workspace_bytes,
        inputs={
            name: PlanInput(network.inputs[name], shape.minimum, shape.optimum, shape.maximum)
            for name, shape in shapes.items()
        },
        outputs=dict(network.outputs),
    )


def _old_plan(path: Path, recipe: PlanRecipe) -> tuple[PlanMetadata | None, str]:
    """Return the metadata of a plan that can stay, else None and why it cannot."""
    if not path.exists() and not metadata_path(path).exists():
        return None, "there is none yet"
    try:
        _, metadata = read_plan(path)
    except BundleError:
        return None, "the one that is there is damaged or of another schema"
    differences = metadata.recipe.differences(recipe)
    if differences:
        return None, f"the one that is there has another {', '.join(differences)}"
    return metadata, ""


def _timing_cache(config: PlanConfig, builder: PlanBuilder) -> TimingCache | None:
    if config.flavour != "tensorrt":
        return None
    if config.timing_cache is not None:
        return TimingCache(config.timing_cache)
    return TimingCache.of_user(builder.tensorrt.version, builder.compute_capabilities[0])


def _in_half_precision(graph: bytes) -> bytes:
    try:
        from export.graphs.half_precision import to_half_precision  # needs onnx, which plans in fp32 do not
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return to_half_precision(graph)


def _difference(single: bytes, half: bytes, bundle: Bundle, role: str, config: PlanConfig) -> float:
    try:
        from export.parity.half_parity import half_precision_difference
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return half_precision_difference(single, half, bundle.manifest.networks[role].inputs, config.ranges)


def _missing(error: ModuleNotFoundError) -> ProviderError:
    return ProviderError(f"{error.name} is not installed; half precision needs it: pip install {error.name}")
