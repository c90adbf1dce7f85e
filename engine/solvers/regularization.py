"""Hand-set weights of the methods as functions of the measurement SNR, in memory and on disk."""

import json
import math
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.errors import ConfigError
from engine.machine.atomic_write import atomic_path
from engine.machine.checked_values import from_plain, require, without_header

KIND = "deq-mpi-weights"
"""Value of `kind` in every weights file."""

SCHEMA = 1
"""Version of the file that this module reads and writes."""

RENAMED: Mapping[str, str] = MappingProxyType({"cg-tikhonov": "tikhonov"})
"""Methods by the name that files written before have for them: Tikhonov's images once came from conjugate
gradients, with the same weight."""


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
            require(0 < value < math.inf, "weight", value, "a positive number")

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
        By name.
    iterations : int
        Iterations (sweeps) to do; 1 for a method in closed form.

    Raises
    ------
    ConfigError
        If there is no iteration to do.
    """

    curves: Mapping[str, SnrCurve]
    iterations: int

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "at least 1")

    def at(self, snr_db: float | None) -> dict[str, float]:
        """Return every weight at an SNR in dB."""
        return {name: curve.at(snr_db) for name, curve in self.curves.items()}

    def covers(self, snr_db: float | None) -> bool:
        """Whether all weights were tuned for this SNR."""
        return all(curve.covers(snr_db) for curve in self.curves.values())

    def with_weights(self, weights: Mapping[str, float | SnrCurve]) -> "MethodWeights":
        """Return these weights with some replaced: by a number for every SNR, or by a curve.

        Raises
        ------
        ConfigError
            If a name is not one of the method's weights, or a value is not a positive number.
        """
        unknown = sorted(set(weights) - set(self.curves))
        if unknown:
            raise ConfigError(f"unknown weight {unknown[0]!r}; expected {' or '.join(self.curves)}")
        curves = {
            name: weight if isinstance(weight, SnrCurve) else SnrCurve.constant(weight)
            for name, weight in weights.items()
        }
        return MethodWeights({**self.curves, **curves}, self.iterations)


@dataclass(frozen=True)
class _MethodEntry:
    """What a weights file says of one method, under the names of the file."""

    iterations: int
    weights: Mapping[str, SnrCurve]


@dataclass(frozen=True)
class _WeightsFile:
    """What a weights file holds besides its kind and schema."""

    source: Mapping[str, Any]
    methods: Mapping[str, _MethodEntry]


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
        content = without_header(json.loads(file.read_text("utf-8")), KIND, SCHEMA)
        return _by_method(from_plain(_WeightsFile, content))
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(f"cannot read the weights {file}: {error}; make them with engine tune") from error


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
    entries = {
        method: _MethodEntry(weights.iterations, dict(weights.curves)) for method, weights in methods.items()
    }
    content = {"kind": KIND, "schema": SCHEMA, **asdict(_WeightsFile(dict(source), entries))}
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _by_method(file: _WeightsFile) -> dict[str, MethodWeights]:
    found = {}
    for method, entry in file.methods.items():
        values = {"curves": entry.weights, "iterations": entry.iterations}
        found[RENAMED.get(method, method)] = from_plain(MethodWeights, values, f"methods.{method}")
    return found
