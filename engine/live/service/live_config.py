"""The configuration file of `engine serve`: every key known, every value checked, paths beside the file."""

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.errors import ConfigError
from engine.live.loop.loop_config import LoopConfig
from engine.live.recording.config import RecordingConfig
from engine.live.wire.endpoints import require_loopback, require_loopback_host
from engine.machine.two_cores import Threads
from engine.reconstruction.method_settings import MethodSettings
from engine.toml_settings import from_table

MAX_FRAME_MB = 1024.0
"""Largest message in MB that can be allowed: what a frame may have is far below it."""

LAST_PORT = 65535


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
        if not 0 < self.max_frame_mb <= MAX_FRAME_MB:
            raise ConfigError(
                f"max_frame_mb is {self.max_frame_mb}; expected more than 0, up to {MAX_FRAME_MB}"
            )


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
        if not 0 <= self.port <= LAST_PORT:
            raise ConfigError(f"port is {self.port}; expected 0 to {LAST_PORT}, 0 for any that is free")


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
        TOML file. Paths in it are relative to its folder.

    Raises
    ------
    ConfigError
        If it cannot be read, a key is unknown or missing, or a value is of the wrong type or impossible.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read as TOML ({error}); expected the keys of docs/live.md"
        ) from error
    loop = table.get("loop")
    has_no_deadline = False
    if isinstance(loop, dict) and loop.get("deadline_ms") is False:  # TOML has no null
        has_no_deadline = True
        del loop["deadline_ms"]
    try:
        config = from_table(LiveConfig, table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if has_no_deadline:
        config = replace(config, loop=replace(config.loop, deadline_ms=None))
    return _with_paths_beside(path.parent, config)


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
