"""Hand-set weights of the methods as functions of the measurement SNR, in memory and on disk."""

import json
import math
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.errors import ConfigError
from engine.machine.atomic_write import atomic_path

KIND = "deq-mpi-weights"
"""Value of `kind` in every weights file."""

SCHEMA = 1
"""Version of the file that this module reads and writes."""

WEIGHT_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cg-tikhonov": ("lambda",),
        "art": ("lambda",),
        "admm-l1": ("l1",),
        "admm-tv": ("tv",),
        "admm-hybrid": ("l1", "tv"),
        "pp-mpi": ("scale",),
    }
)
"""The hand-set weights of each method that has some."""


@dataclass(frozen=True)
class SnrCurve:
    """One weight as a function of the measurement SNR: geometric interpolation between tuned points.

    Outside the tuned range the nearest point holds.

    Attributes
    ----------
    snr_db : tuple of float
        SNRs in dB, strictly increasing. A single point holds at every SNR.
    values : tuple of float
        Values, positive, one per SNR.

    Raises
    ------
    ConfigError
        If the lengths differ, the SNRs do not increase, or a value is not a positive number.
    """

    snr_db: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.snr_db or len(self.snr_db) != len(self.values):
            raise ConfigError(
                f"{len(self.values)} weights for {len(self.snr_db)} SNRs; expected one weight per SNR, "
                "at least one"
            )
        finite = all(math.isfinite(snr) for snr in self.snr_db)
        if not finite or any(b <= a for a, b in zip(self.snr_db, self.snr_db[1:], strict=False)):
            raise ConfigError(f"SNRs {list(self.snr_db)}; expected finite, strictly increasing values in dB")
        for value in self.values:
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"weight {value!r}; expected a positive number")

    @classmethod
    def constant(cls, value: float) -> "SnrCurve":
        """Return the curve with one value at every SNR."""
        return cls((0.0,), (value,))

    def covers(self, snr_db: float | None) -> bool:
        """Whether the weight was tuned for this SNR. A constant covers all, a curve none that is unknown."""
        if len(self.snr_db) == 1:
            return True
        return snr_db is not None and self.snr_db[0] <= snr_db <= self.snr_db[-1]

    def at(self, snr_db: float | None) -> float:
        """Return the weight at an SNR in dB, clamped to the tuned range.

        Raises
        ------
        ConfigError
            If the weight depends on the SNR and that is not known.
        """
        if len(self.snr_db) == 1:
            return self.values[0]
        if snr_db is None:
            raise ConfigError(
                "the weight depends on the SNR, which cannot be estimated from this measurement; give sigma "
                "or a constant weight"
            )
        if snr_db <= self.snr_db[0]:
            return self.values[0]
        if snr_db >= self.snr_db[-1]:
            return self.values[-1]
        upper = bisect_left(self.snr_db, snr_db)
        low, high = self.snr_db[upper - 1], self.snr_db[upper]
        share = (snr_db - low) / (high - low)
        return float(self.values[upper - 1] ** (1 - share) * self.values[upper] ** share)


@dataclass(frozen=True)
class MethodWeights:
    """The hand-set numbers of one method.

    Attributes
    ----------
    curves : mapping of str to SnrCurve
        Curves by the names of `WEIGHT_NAMES`.
    iterations : int
        Number of iterations (sweeps) to do.

    Raises
    ------
    ConfigError
        If there is no iteration to do.
    """

    curves: Mapping[str, SnrCurve]
    iterations: int

    def __post_init__(self) -> None:
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 1:
            raise ConfigError(f"iterations is {self.iterations!r}; expected a whole number of at least 1")

    def at(self, snr_db: float | None) -> dict[str, float]:
        """Return every weight at an SNR in dB."""
        return {name: curve.at(snr_db) for name, curve in self.curves.items()}

    def covers(self, snr_db: float | None) -> bool:
        """Whether all weights were tuned for this SNR."""
        return all(curve.covers(snr_db) for curve in self.curves.values())

    def with_constants(self, values: Mapping[str, float]) -> "MethodWeights":
        """Return these weights with some replaced by values that hold at every SNR.

        Raises
        ------
        ConfigError
            If a name is not one of the method's weights, or a value is not a positive number.
        """
        unknown = sorted(set(values) - set(self.curves))
        if unknown:
            raise ConfigError(f"unknown weight {unknown[0]!r}; expected {' or '.join(self.curves)}")
        constants = {name: SnrCurve.constant(value) for name, value in values.items()}
        return MethodWeights({**self.curves, **constants}, self.iterations)


def default_weights_path() -> Path:
    """Return the weights file that ships: tuned on the simulated reference scanner."""
    return Path(__file__).parents[1] / "tuned" / "reference.json"


def load_weights(path: str | os.PathLike[str] | None = None) -> Mapping[str, MethodWeights]:
    """Read a weights file.

    Parameters
    ----------
    path : path, optional
        File written by `engine tune`; by default the one that ships.

    Returns
    -------
    mapping of str to MethodWeights
        Weights by method, of those the file holds.

    Raises
    ------
    ConfigError
        If the file cannot be read, or holds anything but weights.
    """
    file = default_weights_path() if path is None else Path(path)
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the weights {file}: {error}; make them with engine tune") from error
    try:
        return _parse(content)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def save_weights(
    path: str | os.PathLike[str], methods: Mapping[str, MethodWeights], source: Mapping[str, Any]
) -> None:
    """Write a weights file.

    Parameters
    ----------
    path : path
        File to write, replaced at once when the new one is complete.
    methods : mapping of str to MethodWeights
        Weights by method.
    source : mapping
        Origin of the values; values that JSON can hold.
    """
    table = {
        method: {
            "iterations": weights.iterations,
            "weights": {
                name: {"snr_db": list(curve.snr_db), "values": list(curve.values)}
                for name, curve in weights.curves.items()
            },
        }
        for method, weights in methods.items()
    }
    content = {"kind": KIND, "schema": SCHEMA, "source": dict(source), "methods": table}
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _parse(content: object) -> dict[str, MethodWeights]:
    top = _table("the file", content, {"kind", "schema", "source", "methods"})
    if top["kind"] != KIND or top["schema"] != SCHEMA:
        raise ConfigError(
            f"kind {top['kind']!r}, schema {top['schema']!r}; expected {KIND!r}, {SCHEMA}; make it with "
            "engine tune of this version"
        )
    if not isinstance(top["methods"], dict):
        raise ConfigError("methods is no table; expected one entry per method")
    return {method: _parse_method(method, values) for method, values in top["methods"].items()}


def _parse_method(method: str, values: object) -> MethodWeights:
    if method not in WEIGHT_NAMES:
        raise ConfigError(f"unknown method {method!r}; expected some of {', '.join(WEIGHT_NAMES)}")
    entry = _table(method, values, {"iterations", "weights"})
    curves = _table(f"{method} weights", entry["weights"], set(WEIGHT_NAMES[method]))
    try:
        return MethodWeights(
            {name: _parse_curve(curve) for name, curve in curves.items()}, entry["iterations"]
        )
    except ConfigError as error:
        raise ConfigError(f"{method}: {error}") from error


def _parse_curve(values: object) -> SnrCurve:
    entry = _table("a weight", values, {"snr_db", "values"})
    for key in ("snr_db", "values"):
        numbers = entry[key]
        good = isinstance(numbers, list) and all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
        )
        if not good:
            raise ConfigError(f"{key} is {numbers!r}; expected a list of numbers")
    return SnrCurve(tuple(map(float, entry["snr_db"])), tuple(map(float, entry["values"])))


def _table(where: str, values: object, keys: set[str]) -> dict[str, Any]:
    if not isinstance(values, dict) or set(values) != keys:
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ConfigError(f"{where} holds {found}; expected {sorted(keys)}")
    return values
