"""Settings of a fixed-point iteration: how it goes, and when it stops."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from engine.errors import ConfigError


@dataclass(frozen=True)
class FixedPointConfig:
    """Settings of a fixed-point iteration: how it goes, and when it stops.

    Attributes
    ----------
    memory : int
        Anderson history length m; 0 gives plain steps z + beta (f(z) - z).
    beta : float
        Mixing weight; 1 is undamped.
    regularization : float
        Weight of the size of the Anderson weights, relative to the mean squared residual (`AndersonHistory`).
    tolerance : float
        Residual to stop at: ||f(z) - z|| / (||f(z)|| + 1e-12) <= tolerance, taken over the whole state.
    max_iterations : int
        Most evaluations of f.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or outside its range.
    """

    memory: int = 5
    beta: float = 1.0
    regularization: float = 1e-4
    tolerance: float = 1e-4
    max_iterations: int = 25

    def __post_init__(self) -> None:
        _require_integer("memory", self.memory, minimum=0)
        _require_integer("max_iterations", self.max_iterations, minimum=1)
        _require_number("beta", self.beta, positive=True)
        _require_number("regularization", self.regularization, positive=True)
        _require_number("tolerance", self.tolerance, positive=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FixedPointConfig":
        """Build from plain keys; raise ConfigError on a key that is not a setting."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown solver settings {unknown}; expected some of {sorted(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, int | float]:
        """Return the settings as plain keys."""
        return asdict(self)


def _require_integer(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{name} is {value!r}; expected an integer of at least {minimum}")


def _require_number(name: str, value: object, *, positive: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (positive and value == 0):  # type: ignore[operator]
        raise ConfigError(
            f"{name} is {value!r}; expected a {'positive' if positive else 'non-negative'} number"
        )
