"""The configuration file of `engine serve`: every key known, every value checked, paths beside the file."""

import sys
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.live.loop.loop_config import LoopConfig
from engine.live.recording.config import RecordingConfig
from engine.live.wire.endpoints import require_loopback, require_loopback_host
from engine.machine.checked_values import from_plain, require
from engine.machine.two_cores import Threads
from engine.reconstruction.method_settings import MethodSettings

MAX_FRAME_MB = 1024.0
"""Largest message in MB that can be allowed: what a frame may have is far below it."""

LAST_PORT = 65535

STDIN = Path("-")
"""Stands for standard input where a configuration is read."""


@dataclass(frozen=True)
class MethodConfig:
    """Settings of what reconstructs: `operators` and those of the method; absent ones have their defaults.

    Attributes
    ----------
    operators : Path
        Operators of the system matrix.
    method : str, optional
        Name of the method; by default that of the model, else "deq".
    model : str, optional
        Bundle folder or shipped name; a name that is a folder beside the configuration file is that folder.
    provider, threads, warm_start, max_iterations, tolerance : optional
        Settings as in `MethodSettings`.
    """

    operators: Path
    method: str | None = None
    model: str | None = None
    provider: str | None = None
    threads: Threads | None = None
    warm_start: bool | None = None
    max_iterations: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        self.settings()  # refuses impossible values

    def settings(self) -> MethodSettings:
        """Return the settings of the method; ConfigError for an impossible value."""
        return MethodSettings(
            model=self.model,
            provider=self.provider,
            threads=self.threads,
            warm_start=self.warm_start,
            max_iterations=self.max_iterations,
            tolerance=self.tolerance,
        )


@dataclass(frozen=True)
class EndpointConfig:
    """Endpoints at which frames come in and images go out.

    Attributes
    ----------
    frames, images : str
        ZeroMQ endpoints that the service binds: PULL for frames, PUB for images and the status.
    allow_remote : bool
        Whether they may be other than loopback. Nothing is encrypted, and whoever reaches them can push
        frames and see images.
    max_frame_mb : float
        Size in MB of the largest message; a producer that sends larger ones is cut off.
    """

    frames: str = "tcp://127.0.0.1:5555"
    images: str = "tcp://127.0.0.1:5556"
    allow_remote: bool = False
    max_frame_mb: float = 64.0

    def __post_init__(self) -> None:
        for endpoint in (self.frames, self.images):
            require_loopback(endpoint, allow_remote=self.allow_remote)
        fits = 0 < self.max_frame_mb <= MAX_FRAME_MB
        require(fits, "max_frame_mb", self.max_frame_mb, f"more than 0, up to {MAX_FRAME_MB}")


@dataclass(frozen=True)
class StatusConfig:
    """Address at which `/metrics`, `/health` and `/ready` are served.

    Attributes
    ----------
    host : str
        Address; loopback unless `allow_remote` is set.
    port : int
        Port; 0 for any that is free.
    allow_remote : bool
        Whether the address may be another than loopback.
    """

    host: str = "127.0.0.1"
    port: int = 9464
    allow_remote: bool = False

    def __post_init__(self) -> None:
        require_loopback_host(self.host, allow_remote=self.allow_remote)
        require(0 <= self.port <= LAST_PORT, "port", self.port, f"0 to {LAST_PORT}, 0 for any that is free")


@dataclass(frozen=True)
class LiveConfig:
    """Configuration of one running service.

    Attributes
    ----------
    reconstruction : MethodConfig
        Table `[reconstruction]`.
    loop : LoopConfig
        Table `[loop]`.
    endpoints : EndpointConfig
        Table `[endpoints]`.
    status : StatusConfig or None
        Table `[status]`; None (no table) for none.
    recording : RecordingConfig or None
        Table `[recording]`; None (no table) for none.
    """

    reconstruction: MethodConfig
    loop: LoopConfig = field(default_factory=LoopConfig)
    endpoints: EndpointConfig = field(default_factory=EndpointConfig)
    status: StatusConfig | None = None
    recording: RecordingConfig | None = None


def load_live_config(path: Path | str) -> LiveConfig:
    """Read the configuration of a service.

    Parameters
    ----------
    path : path
        A TOML file, or - for standard input. Paths in it are relative to its folder, or the working folder.

    Raises
    ------
    ConfigError
        If it cannot be read, a key is unknown or missing, or a value is of the wrong type or impossible.
    """
    path = Path(path)
    try:
        table = tomllib.loads(sys.stdin.read() if path == STDIN else path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read as TOML ({error}); expected the keys of docs/live.md"
        ) from error
    loop = table.get("loop")
    if isinstance(loop, dict) and loop.get("deadline_ms") is False:
        loop["deadline_ms"] = None  # TOML has no null
    try:
        config = from_plain(LiveConfig, table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return _with_paths_beside(path.parent, config)


def live_config_toml(config: LiveConfig) -> str:
    """Return the text that `load_live_config` reads as this configuration; paths in it stay as they are."""
    import tomli_w  # of the extra live, which reading a configuration does not need

    table = asdict(config, dict_factory=_toml_table)
    if config.loop.deadline_ms is None:
        table["loop"]["deadline_ms"] = False  # TOML has no null
    return tomli_w.dumps(table)


def _toml_table(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table without what is absent, and with paths as texts."""
    return {
        key: str(value) if isinstance(value, Path) else value for key, value in items if value is not None
    }


def _with_paths_beside(folder: Path, config: LiveConfig) -> LiveConfig:
    method, recording = config.reconstruction, config.recording
    model = method.model
    if model is not None and (folder / model).is_dir():
        model = str(folder / model)
    if recording is not None:
        recording = replace(recording, folder=folder / recording.folder, template=folder / recording.template)
    return replace(
        config,
        reconstruction=replace(method, operators=folder / method.operators, model=model),
        recording=recording,
    )
