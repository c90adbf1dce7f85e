"""The timing cache of TensorRT's builder: measured times of kernels, kept between builds."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.machine.atomic_write import atomic_path


@dataclass(frozen=True)
class TimingCache:
    """A file of measured times. They hold for one version of TensorRT on one kind of GPU.

    Attributes
    ----------
    path : Path
        The file; need not exist yet.
    """

    path: Path

    @classmethod
    def of_user(cls, tensorrt_version: str, compute_capability: str) -> "TimingCache":
        """Return the file for a version and a kind of GPU in the user's cache; its folder is made if missing.

        $XDG_CACHE_HOME (%LOCALAPPDATA% on Windows) or else ~/.cache, then `deq-mpi/tensorrt`.
        """
        given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
        folder = (Path(given) if given else Path.home() / ".cache") / "deq-mpi" / "tensorrt"
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"timing-{tensorrt_version}-{compute_capability}.cache")

    def attach(self, config: Any) -> None:
        """Give what is in the file to a builder configuration.

        Raises
        ------
        InputError
            If the file is not a timing cache of this version of TensorRT and this GPU.
        """
        content = self.path.read_bytes() if self.path.is_file() else b""
        cache = config.create_timing_cache(content)
        # Without ignore_mismatch the times of another GPU are refused: they would choose the wrong kernels.
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise InputError(
                f"{self.path} is not a timing cache of this TensorRT and GPU; expected one written here: "
                "give another file or remove it"
            )

    def save(self, config: Any) -> None:
        """Write what the builder knows now; the file is replaced at once."""
        with atomic_path(self.path) as temporary:
            Path(temporary).write_bytes(bytes(config.get_timing_cache().serialize()))
