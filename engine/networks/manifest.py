"""The description of a model bundle: `manifest.json`, read strictly."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.errors import BundleError, ConfigError
from engine.fixed_point.config import FixedPointConfig
from engine.operators.operators import SPECTRAL_NORM

KIND = "deq-mpi-bundle"
"""Value of `kind` in every manifest."""

SCHEMA = 3
"""Version of the manifest that this module reads and writes.

Schema 1 had no `method`; 2 had no `dual_start`, and no noise level among the inputs of an image network.
"""

NETWORKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "deq": ("rdn", "lc"),
        "deq-ball": ("rdn",),
        "pp-mpi": ("rdn",),
        "unrolled": ("rdn",),
        "end-to-end": ("rdn",),
    }
)
"""The methods that use a bundle, and the networks that a bundle of each consists of."""

OPTIONAL_NETWORKS: Mapping[str, tuple[str, ...]] = MappingProxyType({"deq": ("step",)})
"""Networks that a bundle of a method may have besides: "step" is one evaluation of the whole iteration."""

EQUILIBRIUM = frozenset({"deq", "deq-ball"})
"""Methods that solve for a fixed point, whose start is a matter of speed."""

WITHOUT_SOLVER = frozenset({"end-to-end"})
"""Methods that apply their network once: their bundles have no solver settings."""

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
"""Input and output names of each network, in order."""

NOISE_INPUT = "noise"
"""Further input of an image network that takes the noise level of the measurement."""

Shape = tuple[int | str, ...]
"""Axes of a network input: a fixed length, or the name of a free axis."""


@dataclass(frozen=True)
class Network:
    """One ONNX file of a bundle.

    Attributes
    ----------
    file : str
        Name inside the bundle folder.
    sha256 : str
        Hash of the file, 64 hexadecimal digits.
    inputs, outputs : mapping of str to tuple
        Axes of each tensor. All are float32, except the three index tensors of "step", which are int64.
    """

    file: str
    sha256: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]

    @classmethod
    def from_dict(cls, role: str, values: object) -> "Network":
        """Build from the manifest's entry for `role` ("rdn", "lc" or "step")."""
        where = f"network {role}"
        entry = _mapping(where, values, {field.name for field in fields(cls)})
        file, digest = _file_and_hash(where, entry)
        inputs, outputs = INTERFACE[role]
        if role == "rdn" and isinstance(entry["inputs"], Mapping) and NOISE_INPUT in entry["inputs"]:
            inputs = (*inputs, NOISE_INPUT)
        return cls(
            file,
            digest,
            _shapes(f"{where} inputs", entry["inputs"], inputs),
            _shapes(f"{where} outputs", entry["outputs"], outputs),
        )

    @property
    def takes_noise(self) -> bool:
        """Whether the noise level of the measurement is one of the inputs."""
        return NOISE_INPUT in self.inputs

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
        }


@dataclass(frozen=True)
class IntervalsEntry:
    """The table of intervals of a bundle (`engine.networks.interval_table`).

    Attributes
    ----------
    file : str
        Name inside the bundle folder.
    sha256 : str
        Hash of the file, 64 hexadecimal digits.
    """

    file: str
    sha256: str

    @classmethod
    def from_dict(cls, values: object) -> "IntervalsEntry":
        """Build from the manifest's entry."""
        entry = _mapping("intervals", values, {field.name for field in fields(cls)})
        return cls(*_file_and_hash("intervals", entry))


@dataclass(frozen=True)
class Conventions:
    """The units and axes in which the networks were trained.

    Attributes
    ----------
    image_peak : float
        Typical peak of the images the networks see.
    spectral_norm : float
        Spectral norm of the system matrix they were trained with.
    image_axes, data_axes : str
        Axes of images and of data in the dense layout.

    Raises
    ------
    BundleError
        If they are not those of this version of the engine.
    """

    image_peak: float = 1.0
    spectral_norm: float = SPECTRAL_NORM
    image_axes: str = "batch, 1, Ny, Nx"
    data_axes: str = "batch, re/im, line, bin"

    def __post_init__(self) -> None:
        for field in fields(self):
            found, expected = getattr(self, field.name), field.default
            same = (
                isinstance(found, int | float) and math.isclose(found, expected, rel_tol=1e-6)
                if isinstance(expected, float)
                else found == expected
            )
            if not same:
                raise BundleError(
                    f"convention {field.name} is {found!r}; expected {expected!r}; "
                    "use a bundle made for this version"
                )


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json` (schema 3).

    Attributes
    ----------
    name, description : str
        Name and description of the model, for people.
    method : str
        The method that the networks were trained for, a key of `NETWORKS`.
    created : str
        Date and time, ISO 8601, UTC.
    opset : int
        ONNX opset of the graphs.
    networks : mapping of str to Network
        "rdn", for the method deq "lc" too, and where it was exported "step".
    conventions : Conventions
        Units and axes.
    solver : FixedPointConfig or None
        Settings the model was tuned for, the default of a reconstruction; None for the methods
        `WITHOUT_SOLVER`.
    dual_start : float
        Size of the first data dual of an equilibrium method; 0 starts with zero duals. See
        `engine.measurement.normalization.NormalizedMeasurement.data_dual`.
    training : mapping
        Free-form facts about the training run, values that JSON can hold.
    intervals : IntervalsEntry, optional
        Calibrated intervals. The key is absent from a bundle that has none: an export writes none,
        `engine intervals` adds them.
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
    intervals: IntervalsEntry | None = None

    @classmethod
    def from_dict(cls, values: object) -> "Manifest":
        """Build from decoded JSON.

        Raises
        ------
        BundleError
            If the kind or schema is another, or a key is missing, unknown or of the wrong type.
        """
        if not isinstance(values, Mapping) or values.get("kind") != KIND:
            kind = values.get("kind") if isinstance(values, Mapping) else type(values).__name__
            raise BundleError(f"the manifest is of kind {kind!r}; expected {KIND!r}")
        if values.get("schema") != SCHEMA:
            raise BundleError(
                f"the manifest has schema {values.get('schema')!r}; this version reads schema {SCHEMA}; "
                "export the model again or use a matching version"
            )
        own = {field.name for field in fields(cls)}
        if "intervals" not in values:
            own -= {"intervals"}
        entry = _mapping("the manifest", values, own | {"kind", "schema"})
        method = _text("method", entry["method"])
        if method not in NETWORKS:
            raise BundleError(f"method is {method!r}; expected one of {', '.join(NETWORKS)}")
        roles = _roles(method, entry["networks"])
        networks = _mapping(f"networks of method {method}", entry["networks"], set(roles))
        conventions = _mapping("conventions", entry["conventions"], {f.name for f in fields(Conventions)})
        if isinstance(entry["opset"], bool) or not isinstance(entry["opset"], int):
            raise BundleError(f"opset is {entry['opset']!r}; expected an integer")
        if not isinstance(entry["training"], Mapping):
            raise BundleError(f"training is {entry['training']!r}; expected an object")
        return cls(
            name=_text("name", entry["name"]),
            description=_text("description", entry["description"]),
            method=method,
            created=_text("created", entry["created"]),
            opset=entry["opset"],
            networks={role: Network.from_dict(role, networks[role]) for role in roles},
            conventions=Conventions(**conventions),
            solver=_solver(method, entry["solver"]),
            dual_start=_dual_start(method, entry["dual_start"]),
            training=dict(entry["training"]),
            intervals=IntervalsEntry.from_dict(entry["intervals"]) if "intervals" in entry else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads and `json.dump` writes."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "name": self.name,
            "description": self.description,
            "method": self.method,
            "created": self.created,
            "opset": self.opset,
            "networks": {role: network.to_dict() for role, network in self.networks.items()},
            "conventions": asdict(self.conventions),
            "solver": None if self.solver is None else self.solver.to_dict(),
            "dual_start": self.dual_start,
            "training": dict(self.training),
            **({} if self.intervals is None else {"intervals": asdict(self.intervals)}),
        }


def _mapping(where: str, values: object, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise BundleError(
            f"{where} is a {type(values).__name__}; expected an object with keys {sorted(keys)}"
        )
    unknown, missing = sorted(set(values) - keys), sorted(keys - set(values))
    if unknown or missing:
        raise BundleError(f"{where} has unknown keys {unknown} and lacks {missing}; expected {sorted(keys)}")
    return values


def _roles(method: str, networks: object) -> tuple[str, ...]:
    """Return the networks that a bundle of the method must have, and the optional ones that it has."""
    optional = OPTIONAL_NETWORKS.get(method, ())
    present = networks if isinstance(networks, Mapping) else {}
    return (*NETWORKS[method], *(role for role in optional if role in present))


def _solver(method: str, values: object) -> FixedPointConfig | None:
    if method in WITHOUT_SOLVER:
        if values is not None:
            raise BundleError(f"solver is {values!r}; expected null: method {method} does not iterate")
        return None
    if not isinstance(values, Mapping):
        raise BundleError(f"solver is {values!r}; expected the solver settings of method {method}")
    try:
        return FixedPointConfig.from_dict(values)
    except ConfigError as error:
        raise BundleError(f"solver settings: {error}") from error


def _dual_start(method: str, value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0:  # type: ignore[operator]
        raise BundleError(f"dual_start is {value!r}; expected a non-negative number")
    if value and method not in EQUILIBRIUM:
        raise BundleError(f"dual_start is {value!r}; expected 0: method {method} starts with zero duals")
    return float(value)  # type: ignore[arg-type]


def _file_and_hash(where: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    file, digest = _text(f"{where} file", entry["file"]), _text(f"{where} sha256", entry["sha256"])
    if file != Path(file).name or file in {"", ".", ".."} or "\\" in file:
        raise BundleError(f"{where} file is {file!r}; expected the plain name of a file in the bundle")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise BundleError(f"{where} sha256 is {digest!r}; expected 64 hexadecimal digits")
    return file, digest


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise BundleError(f"{where} is {value!r}; expected text")
    return value


def _shapes(where: str, values: object, names: tuple[str, ...]) -> dict[str, Shape]:
    entry = _mapping(where, values, set(names))
    shapes = {}
    for name in names:
        axes = entry[name]
        if not isinstance(axes, list | tuple) or not all(isinstance(axis, int | str) for axis in axes):
            raise BundleError(f"{where} {name} is {axes!r}; expected a list of lengths and axis names")
        shapes[name] = tuple(axes)
    return shapes
