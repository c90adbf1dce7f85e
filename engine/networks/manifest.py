"""The description of a model bundle: `manifest.json`, read strictly."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from engine.errors import BundleError, ConfigError
from engine.fixed_point.config import FixedPointConfig
from engine.machine.checked_values import from_plain, require, without_header
from engine.operators.operators import SPECTRAL_NORM

T = TypeVar("T")

KIND = "deq-mpi-bundle"
"""Value of `kind` in every manifest."""

SCHEMA = 3
"""Version of the manifest that this module writes. Older ones are read: what they lack had one value then."""

ADDED: Mapping[int, Mapping[str, Any]] = MappingProxyType(
    {2: MappingProxyType({"method": "deq"}), 3: MappingProxyType({"dual_start": 0.0})}
)
"""Keys by the schema that brought them, with what held before: schema 1 knew one method, 2 started with zero
duals (and none of their image networks took the noise level)."""

INTERFACE: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "rdn": (("v",), ("z",)),
        "lc": (("v", "y", "mask", "epsilon"), ("z",)),
        "step": (
            (
                *("weights", "damping", "images", "data"),
                *("system_matrix", "weighted_adjoint", "inverse"),
                *("voxel_grid", "row_places", "selected_places"),
                *("y", "mask", "epsilon", "noise"),
            ),
            ("next_image", "next_data", "report"),
        ),
    }
)
"""Networks that a bundle may hold by their role, with the names of their inputs and outputs in order: "rdn"
is Psi_RDN or another network of images, "lc" Psi_LC, "step" one evaluation of the iteration."""

NOISE_INPUT = "noise"
"""Further input of an image network that takes the noise level of the measurement."""

Shape = tuple[int | str, ...]
"""Axes of a network input: a fixed length, or the name of a free axis."""


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle.

    Attributes
    ----------
    file : str
        Name inside the bundle folder.
    sha256 : str
        Hash of the file, 64 hexadecimal digits.

    Raises
    ------
    ConfigError
        If they cannot be that.
    """

    file: str
    sha256: str

    def __post_init__(self) -> None:
        is_plain = self.file == Path(self.file).name and self.file not in {"", ".", ".."}
        is_plain = is_plain and "\\" not in self.file
        require(is_plain, "file", self.file, "the plain name of a file in the bundle")
        is_hash = re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        require(is_hash, "sha256", self.sha256, "64 hexadecimal digits")


@dataclass(frozen=True)
class Network(BundleFile):
    """The ONNX file of a network.

    Attributes
    ----------
    inputs, outputs : mapping of str to tuple
        Axes of each tensor. All are float32, except the three index tensors of "step", which are int64.
    """

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]

    @property
    def takes_noise(self) -> bool:
        """Whether the noise level of the measurement is one of the inputs."""
        return NOISE_INPUT in self.inputs


@dataclass(frozen=True)
class Conventions:
    """The units and axes in which networks were trained.

    Attributes
    ----------
    image_peak : float
        Typical peak of the images the networks see.
    spectral_norm : float
        Spectral norm of the system matrix they were trained with.
    image_axes, data_axes : str
        Axes of images and of data in the dense layout.
    """

    image_peak: float
    spectral_norm: float
    image_axes: str
    data_axes: str


CONVENTIONS = Conventions(
    image_peak=1.0,
    spectral_norm=SPECTRAL_NORM,
    image_axes="batch, 1, Ny, Nx",
    data_axes="batch, re/im, line, bin",
)
"""Those of this version of the engine; it runs no networks of other ones."""


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`.

    Attributes
    ----------
    name, description : str
        Name and description of the model, for people.
    method : str
        The method that the networks were trained for.
    created : str
        Date and time, ISO 8601, UTC.
    opset : int
        ONNX opset of the graphs.
    networks : mapping of str to Network
        By role; which ones a bundle needs is a matter of its method.
    conventions : Conventions
        Units and axes.
    solver : FixedPointConfig or None
        Settings the model was tuned for, the default of a reconstruction; None for a method that does not
        iterate.
    dual_start : float
        Size of the first data dual of an equilibrium method; 0 starts with zero duals. See
        `engine.measurement.normalization.NormalizedMeasurement.data_dual`.
    training : mapping
        Free-form facts about the training run, values that JSON can hold.
    intervals : BundleFile, optional
        The table of intervals (`engine.networks.interval_table`). The key is absent from a bundle that has
        none: an export writes none, `engine intervals` adds them.
    """

    name: str
    description: str
    method: str
    created: str
    opset: int
    networks: Mapping[str, Network]
    conventions: Conventions
    solver: FixedPointConfig | None
    dual_start: float
    training: Mapping[str, Any]
    intervals: BundleFile | None = None

    @classmethod
    def from_dict(cls, values: object) -> "Manifest":
        """Build from decoded JSON.

        Raises
        ------
        BundleError
            If the kind or schema is another, a key is missing, unknown or of the wrong type, a network is
            unknown or has other inputs and outputs, or the conventions are of another version.
        """
        try:
            manifest = from_plain(cls, without_header(_of_this_schema(values), KIND, SCHEMA))
            _require_conventions(manifest)
            start = manifest.dual_start
            require(0 <= start < inf, "dual_start", start, "a non-negative number")
            return replace(manifest, networks=_with_interfaces(manifest.networks))
        except ConfigError as error:
            raise BundleError(f"{error}; export the model again or use a matching version") from error

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads and `json.dump` writes."""
        values = {"kind": KIND, "schema": SCHEMA, **asdict(self)}
        if self.intervals is None:
            del values["intervals"]
        return values


def _of_this_schema(values: object) -> object:
    """Return a manifest of an older schema as one of this schema; anything else as it is."""
    if not isinstance(values, Mapping) or values.get("schema") not in range(1, SCHEMA):
        return values
    added = [ADDED[schema] for schema in range(values["schema"] + 1, SCHEMA + 1)]
    return {key: value for keys in added for key, value in keys.items()} | dict(values) | {"schema": SCHEMA}


def _require_conventions(manifest: Manifest) -> None:
    for field in fields(Conventions):
        found, expected = (getattr(c, field.name) for c in (manifest.conventions, CONVENTIONS))
        require(found == expected, f"conventions.{field.name}", found, f"{expected!r}, as in this version")


def _with_interfaces(networks: Mapping[str, Network]) -> dict[str, Network]:
    """Return the networks, their inputs and outputs in the order of `INTERFACE`."""
    unknown = set(networks) - set(INTERFACE)
    require(not unknown, "networks", sorted(unknown), f"some of {', '.join(INTERFACE)}")
    found = {}
    for role in (role for role in INTERFACE if role in networks):
        network = networks[role]
        inputs, outputs = INTERFACE[role]
        if role == "rdn" and network.takes_noise:
            inputs = (*inputs, NOISE_INPUT)
        found[role] = replace(
            network,
            inputs=_in_order(network.inputs, inputs, f"networks.{role}.inputs"),
            outputs=_in_order(network.outputs, outputs, f"networks.{role}.outputs"),
        )
    return found


def _in_order(entries: Mapping[str, T], names: tuple[str, ...], place: str) -> dict[str, T]:
    """Return entries in the order of the names that they must have, each of them and no other."""
    require(set(entries) == set(names), place, sorted(entries), f"{sorted(names)}")
    return {name: entries[name] for name in names}
