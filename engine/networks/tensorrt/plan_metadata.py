"""Metadata next to a TensorRT plan: how it was built, and whether it may run here.

A plan is bound to one network, one version of TensorRT and the GPUs it was built for. TensorRT itself says
little when they do not match (a runtime returns None), so all of it is compared before the plan is loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType

from engine.errors import BundleError, ConfigError, PairingError, ProviderError
from engine.machine.checked_values import from_plain, require, without_header
from engine.networks.axis_ranges import Lengths, ShapeRange
from engine.networks.manifest import Network, Shape

KIND = "deq-mpi-plan"
"""Value of `kind` in every metadata file."""

SCHEMA = 2
"""Version of the metadata that this module reads and writes. Schema 1 had plans for the lean runtime."""

RUNTIMES: Mapping[str, str] = MappingProxyType({"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"})
"""Flavours of TensorRT, and the Python module that runs the plans of each."""

DTYPES = ("float32", "int64")
"""Types of inputs and outputs: values, and the indices of the step."""

OWN_FIELDS = ("plan_sha256", "dtypes", "fp16_difference")
"""Fields of the metadata that are results of the build; the others are its recipe."""

REBUILD = "build it again: deqmpi-export tensorrt BUNDLE"


@dataclass(frozen=True)
class PlanInput:
    """One input of a plan.

    Attributes
    ----------
    axes : tuple of int or str
        Axes, as in the manifest.
    minimum, optimum, maximum : tuple of int
        Shapes of the optimisation profile.
    """

    axes: Shape
    minimum: Lengths
    optimum: Lengths
    maximum: Lengths

    @property
    def range(self) -> ShapeRange:
        """Shapes that the plan accepts."""
        return ShapeRange(self.minimum, self.optimum, self.maximum)


@dataclass(frozen=True)
class PlanRecipe:
    """Everything that decides what the builder makes: equal recipes need no new plan.

    Attributes
    ----------
    network : str
        Name of the network in the manifest.
    flavour : str
        "tensorrt" or "tensorrt-rtx"; plans of one do not run in the other.
    tensorrt_version : str
        Version of the builder.
    compute_capabilities : tuple of str
        GPUs the plan runs on, such as "8.9".
    onnx_sha256 : str
        Hash of the network's ONNX file in the bundle.
    graph_sha256 : str
        Hash of the graph that was built: that file, or its copy in half precision.
    precision : str
        "fp32" (without TF32), or "fp16": convolutions in half precision, the rest in float32.
    optimization_level : int
        Effort of the builder, 0 to 5.
    workspace_bytes : int
        Scratch memory that a layer may use.
    inputs : mapping of str to PlanInput
        Inputs in call order.
    outputs : mapping of str to tuple
        Axes of each output.
    """

    network: str
    flavour: str
    tensorrt_version: str
    compute_capabilities: tuple[str, ...]
    onnx_sha256: str
    graph_sha256: str
    precision: str
    optimization_level: int
    workspace_bytes: int
    inputs: Mapping[str, PlanInput]
    outputs: Mapping[str, Shape]

    def __post_init__(self) -> None:
        require(self.flavour in RUNTIMES, "flavour", self.flavour, f"one of {', '.join(RUNTIMES)}")

    @property
    def runtime_module(self) -> str:
        """Python module that runs the plan; no other one may stand in for it."""
        return RUNTIMES[self.flavour]

    def differences(self, other: "PlanRecipe") -> list[str]:
        """Return the names of the fields in which two recipes differ."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def require_network(self, role: str, network: Network) -> None:
        """Raise BundleError unless the plan was built from this network of the bundle."""
        if self.network != role:
            raise BundleError(f"the plan is of network {self.network}; expected {role}; {REBUILD}")
        if self.onnx_sha256 != network.sha256:
            raise BundleError(
                f"the plan was built from an ONNX file of SHA-256 {self.onnx_sha256[:12]}...; the bundle's "
                f"{network.file} has {network.sha256[:12]}...; {REBUILD}"
            )
        found = {name: spec.axes for name, spec in self.inputs.items()}
        if (found, dict(self.outputs)) != (dict(network.inputs), dict(network.outputs)):
            raise BundleError(
                f"the plan has inputs {found} and outputs {dict(self.outputs)}; the bundle says "
                f"{dict(network.inputs)} and {dict(network.outputs)}; {REBUILD}"
            )

    def require_version(self, installed: str) -> None:
        """Raise ProviderError unless this version of the runtime is that of the plan's builder."""
        if installed != self.tensorrt_version:
            raise ProviderError(
                f"the plan was built by {self.flavour} {self.tensorrt_version}; {installed} is installed "
                f"here and only runs its own plans; {REBUILD}"
            )

    def require_device(self, capability: str) -> None:
        """Raise ProviderError unless the plan was built for GPUs of this compute capability."""
        if capability not in self.compute_capabilities:
            raise ProviderError(
                f"the plan was built for GPUs of compute capability {', '.join(self.compute_capabilities)}; "
                f"this one has {capability}; {REBUILD} on this machine"
            )

    def require_lengths(self, lengths: Mapping[str, int]) -> None:
        """Raise PairingError if an axis has a length that the plan's profile does not hold.

        Parameters
        ----------
        lengths : mapping of str to int
            Lengths by axis name (`engine.networks.axis_ranges.axis_lengths`); others are not checked.
        """
        for name, spec in self.inputs.items():
            for axis, low, high in zip(spec.axes, spec.minimum, spec.maximum, strict=True):
                length = lengths.get(axis, low) if isinstance(axis, str) else low
                if not low <= length <= high:
                    raise PairingError(
                        f"axis {axis} of input {name} has length {length} here; the plan was built for {low} "
                        f"to {high}; build it for this length: deqmpi-export tensorrt BUNDLE --operators "
                        f"OPERATORS.h5 --axis {axis}={length}"
                    )


@dataclass(frozen=True)
class PlanMetadata:
    """Content of NAME.plan.json (schema 2).

    Attributes
    ----------
    recipe : PlanRecipe
        Recipe by which the plan was built.
    plan_sha256 : str
        Hash of NAME.plan.
    dtypes : mapping of str to str
        Type of every input and output: one of `DTYPES`.
    fp16_difference : float or None
        Largest difference of the half-precision graph from the single-precision one, relative to the
        largest value, measured when the plan was built; None in single precision.
    """

    recipe: PlanRecipe
    plan_sha256: str
    dtypes: Mapping[str, str]
    fp16_difference: float | None

    def __post_init__(self) -> None:
        for name, dtype in self.dtypes.items():
            require(dtype in DTYPES, f"type of {name}", dtype, f"one of {', '.join(DTYPES)}")

    def to_json(self) -> str:
        """Return the text of the metadata file."""
        own = asdict(self)
        values = {"kind": KIND, "schema": SCHEMA, **own.pop("recipe"), **own}
        return json.dumps(values, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "PlanMetadata":
        """Read the text of a metadata file.

        Raises
        ------
        BundleError
            If it is not JSON, of another kind or schema, or a key is missing, unknown or of a wrong type.
        """
        try:
            recipe = without_header(json.loads(text), KIND, SCHEMA)
            own = {name: recipe.pop(name) for name in OWN_FIELDS if name in recipe}
            return from_plain(cls, {"recipe": recipe, **own})
        except (ValueError, ConfigError) as error:
            raise BundleError(f"the metadata are incomplete or damaged ({error}); {REBUILD}") from error


def plan_path(folder: Path, network: Network) -> Path:
    """Return where the plan of a network is: NAME.onnx has NAME.plan."""
    return folder / f"{Path(network.file).stem}.plan"


def metadata_path(plan: Path) -> Path:
    """Return where the metadata of a plan are: NAME.plan has NAME.plan.json."""
    return plan.with_name(f"{plan.name}.json")


def read_plan(path: Path) -> tuple[bytes, PlanMetadata]:
    """Read a plan and its metadata, and check that they belong together.

    Parameters
    ----------
    path : Path
        File NAME.plan.

    Raises
    ------
    BundleError
        If one of the two files is missing or damaged.
    """
    companion = metadata_path(path)
    for file in (path, companion):
        if not file.is_file():
            raise BundleError(
                f"{file} is missing: the bundle has no TensorRT plan of this network; build it on this "
                "machine: deqmpi-export tensorrt BUNDLE --operators OPERATORS.h5"
            )
    try:
        metadata = PlanMetadata.from_json(companion.read_bytes())
    except BundleError as error:
        raise BundleError(f"{companion}: {error}") from error
    plan = path.read_bytes()
    found = hashlib.sha256(plan).hexdigest()
    if found != metadata.plan_sha256:
        raise BundleError(
            f"{path} has SHA-256 {found[:12]}..., {companion.name} says {metadata.plan_sha256[:12]}...: the "
            f"file was changed or damaged; {REBUILD}"
        )
    return plan, metadata
