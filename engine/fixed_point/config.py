"""Settings of a fixed-point iteration: how it goes, and when it stops."""

from dataclasses import asdict, dataclass
from math import inf

from engine.machine.checked_values import require


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
        If a value is outside its range.
    """

    memory: int = 5
    beta: float = 1.0
    regularization: float = 1e-4
    tolerance: float = 1e-4
    max_iterations: int = 25

    def __post_init__(self) -> None:
        require(self.memory >= 0, "memory", self.memory, "at least 0")
        require(self.max_iterations >= 1, "max_iterations", self.max_iterations, "at least 1")
        for name in ("beta", "regularization"):
            value = getattr(self, name)
            require(0 < value < inf, name, value, "a positive number")
        require(0 <= self.tolerance < inf, "tolerance", self.tolerance, "a non-negative number")

    def to_dict(self) -> dict[str, int | float]:
        """Return the settings as plain keys."""
        return asdict(self)
