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
from typing import Any, get_type_hints

from engine.errors import BundleError, PairingError, ProviderError
from engine.networks.axis_ranges import Lengths, ShapeRange
from engine.networks.manifest import Network, Shape

KIND = "deq-mpi-plan"
"""Value of `kind` in every metadata file."""

SCHEMA = 1
"""Version of the metadata that this module reads and writes."""

RUNTIMES: Mapping[str, str] = MappingProxyType({"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"})
"""Flavours of TensorRT, and the Python module that runs an ordinary plan of each."""

LEAN_RUNTIME = "tensorrt_lean"
"""Module that runs version-compatible plans. Ours carry no runtime of their own: loading one runs no code of
it on the host."""

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
    version_compatible : bool
        Whether later versions of the lean runtime may run the plan.
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
    version_compatible: bool
    optimization_level: int
    workspace_bytes: int
    inputs: Mapping[str, PlanInput]
    outputs: Mapping[str, Shape]

    @property
    def runtime_module(self) -> str:
        """Python module that runs the plan; no other one may stand in for it."""
        return LEAN_RUNTIME if self.version_compatible else RUNTIMES[self.flavour]

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
        """Raise ProviderError unless this version of the runtime can run the plan.

        An ordinary plan needs the very version of its builder; a version-compatible one that or a later one.
        """
        if self.version_compatible:
            if _release(installed) < _release(self.tensorrt_version):
                raise ProviderError(
                    f"the plan was built by TensorRT {self.tensorrt_version}; the lean runtime here is "
                    f"{installed}; expected that version or a later one; install it, or {REBUILD}"
                )
        elif installed != self.tensorrt_version:
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
                        f"axis {axis} of input {name} has length {length} with these operators; the plan was "
                        f"built for {low} to {high}; build it for them: deqmpi-export tensorrt BUNDLE "
                        "--operators OPERATORS.h5"
                    )


@dataclass(frozen=True)
class PlanMetadata:
    """Content of NAME.plan.json (schema 1).

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
    fp16_difference: float | None = None

    def to_json(self) -> str:
        """Return the text of the metadata file."""
        values = {"kind": KIND, "schema": SCHEMA, **asdict(self.recipe)}
        values |= {name: getattr(self, name) for name in OWN_FIELDS}
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
            values = json.loads(text)
        except ValueError as error:
            raise BundleError(f"the metadata are not valid JSON ({error}); {REBUILD}") from error
        if not isinstance(values, dict) or (values.get("kind"), values.get("schema")) != (KIND, SCHEMA):
            raise BundleError(f"the metadata are not of kind {KIND}, schema {SCHEMA}; {REBUILD}")
        try:
            return cls(
                _recipe(values),
                _typed("plan_sha256", values["plan_sha256"], str),
                {name: _one_of(name, dtype, DTYPES) for name, dtype in values["dtypes"].items()},
                _typed("fp16_difference", values["fp16_difference"], float | None),
            )
        except (KeyError, TypeError, AttributeError) as error:
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
                "machine: deqmpi-export tensorrt BUNDLE"
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


def _recipe(values: Mapping[str, Any]) -> PlanRecipe:
    hints = get_type_hints(PlanRecipe)
    plain = {name: _typed(name, values[name], hint) for name, hint in hints.items() if isinstance(hint, type)}
    unknown = set(values) - set(hints) - {"kind", "schema", *OWN_FIELDS}
    if unknown:
        raise TypeError(f"unknown keys {', '.join(sorted(unknown))}")
    _one_of("flavour", plain["flavour"], tuple(RUNTIMES))
    return PlanRecipe(
        **plain,
        compute_capabilities=tuple(_typed("capability", c, str) for c in values["compute_capabilities"]),
        inputs={name: _input(entry) for name, entry in values["inputs"].items()},
        outputs={name: _axes(axes) for name, axes in values["outputs"].items()},
    )


def _input(entry: Mapping[str, Any]) -> PlanInput:
    profile = (_lengths(entry[field]) for field in ("minimum", "optimum", "maximum"))
    return PlanInput(_axes(entry["axes"]), *profile)


def _typed(name: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {value!r}")
    return value


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise TypeError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")
    return str(value)


def _axes(values: Any) -> Shape:
    return tuple(_typed("an axis", value, int | str) for value in values)


def _lengths(values: Any) -> Lengths:
    return tuple(_typed("a length", value, int) for value in values)


def _release(version: str) -> tuple[int, ...]:
    """Return major and minor version, which decide about compatibility."""
    return tuple(int(part) for part in version.split(".")[:2])
