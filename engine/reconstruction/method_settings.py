"""Settings that a user may make of a reconstruction method, whichever it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from engine.errors import ConfigError
from engine.machine.two_cores import Threads
from engine.solvers.regularization import SnrCurve


@dataclass(frozen=True)
class MethodSettings:
    """Choices that replace a method's defaults; None or empty leaves the default.

    Attributes
    ----------
    model : Path or str, optional
        Bundle folder of the networks.
    provider : str, optional
        Provider on which the networks run: one of `engine.networks.sessions.PROVIDER_NAMES`.
    solver : str, optional
        Kind of steps of a fixed-point method: "anderson" or "plain".
    max_iterations : int, optional
        Evaluations, iterations or sweeps at most.
    tolerance : float, optional
        Relative residual to reach.
    threads : int or "auto", optional
        Cores that work on a frame: 1 or 2, or whichever measures faster when the method is opened. 1 by
        default.
    warm_start : bool, optional
        Whether frames count as a sequence in time, each started from the one before, also from call to call
        of one `Reconstructor`.
    weights_file : Path or str, optional
        Hand-set weights by method and SNR (`engine.solvers.regularization`), as `engine tune` writes them.
    weights : mapping of str to float or SnrCurve
        Hand-set weights by name: a number holds at every SNR, a curve follows the SNR.
    row_order : str, optional
        Order in which ART visits the rows: "sequential", "shuffled" or "random".
    row_weighting : str, optional
        Weighting of the rows in ART: "none", or "l2" to give every row the same norm.

    Raises
    ------
    ConfigError
        If a number is impossible.
    """

    model: Path | str | None = None
    provider: str | None = None
    solver: Literal["anderson", "plain"] | None = None
    max_iterations: int | None = None
    tolerance: float | None = None
    threads: Threads | None = None
    warm_start: bool | None = None
    weights_file: Path | str | None = None
    weights: Mapping[str, float | SnrCurve] = field(default_factory=dict)
    row_order: Literal["sequential", "shuffled", "random"] | None = None
    row_weighting: Literal["none", "l2"] | None = None

    def __post_init__(self) -> None:
        if self.max_iterations is not None and self.max_iterations < 1:
            raise ConfigError(f"max_iterations is {self.max_iterations!r}; expected an integer of at least 1")
        if self.tolerance is not None and not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ConfigError(f"tolerance is {self.tolerance!r}; expected a non-negative number")
        if isinstance(self.threads, bool | float) or self.threads not in (None, 1, 2, "auto"):
            raise ConfigError(f"threads is {self.threads!r}; expected 1, 2 or auto")
        for name, value in self.weights.items():
            if not isinstance(value, SnrCurve) and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"weight {name} is {value!r}; expected a positive number")

    def given(self) -> list[str]:
        """Return the names of the settings that were made."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        return [
            name for name, value in values.items() if value is not None and value is not False and value != {}
        ]
