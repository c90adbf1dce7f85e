"""What a user may choose of a TensorRT plan."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.errors import ConfigError
from engine.networks.axis_ranges import REFERENCE_LENGTHS, AxisRange, axis_ranges

MAX_OPTIMIZATION_LEVEL = 5
"""TensorRT takes larger values for this one."""


@dataclass(frozen=True)
class PlanConfig:
    """How to build the plans of a bundle.

    Attributes
    ----------
    flavour : str
        "tensorrt", which needs the GPU that the plan is for, or "tensorrt-rtx", which builds for named GPUs.
    precision : str
        "fp32" without TF32, or "fp16": convolutions in half precision, everything else in float32.
    ranges : mapping of str to AxisRange
        Lengths of the named axes of the networks; by default one size, that of the reference scanner, and
        1 to 64 frames.
    compute_capabilities : tuple of str
        GPUs to build for, such as "8.9"; empty for the one in this machine. TensorRT builds for no other.
    optimization_level : int
        Effort of the builder, 0 to 5; 3 is TensorRT's own default.
    workspace_bytes : int
        Scratch memory that a layer may use.
    timing_cache : Path, optional
        File with measured times of kernels, read and written; makes later builds shorter. By default one in
        the user's cache, by version and GPU. Only for the flavour "tensorrt": the other one measures nothing
        when it builds.

    Raises
    ------
    ConfigError
        If a value is impossible, or has no meaning for the flavour.
    """

    flavour: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt"
    precision: Literal["fp32", "fp16"] = "fp32"
    ranges: Mapping[str, AxisRange] = field(default_factory=lambda: axis_ranges(REFERENCE_LENGTHS))
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int = 3
    workspace_bytes: int = 1 << 30
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("flavour", ("tensorrt", "tensorrt-rtx")), ("precision", ("fp32", "fp16"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d{1,2}\.\d", capability):
                raise ConfigError(f"compute capability is {capability!r}; expected MAJOR.MINOR, such as 8.9")
        if not 0 <= self.optimization_level <= MAX_OPTIMIZATION_LEVEL:
            raise ConfigError(
                f"optimization level is {self.optimization_level}; expected 0 to {MAX_OPTIMIZATION_LEVEL}"
            )
        if self.workspace_bytes < 1:
            raise ConfigError(f"workspace is {self.workspace_bytes} bytes; expected a positive number")
        if self.flavour == "tensorrt-rtx":
            if self.timing_cache is not None:
                raise ConfigError(
                    "timing_cache has no meaning for the flavour tensorrt-rtx; leave it out, or build with "
                    "the flavour tensorrt"
                )
        elif len(self.compute_capabilities) > 1:
            raise ConfigError(
                f"compute capabilities are {', '.join(self.compute_capabilities)}; expected none or one: the "
                "flavour tensorrt builds for the GPU of this machine only"
            )
