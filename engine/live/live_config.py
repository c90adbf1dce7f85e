"""The configuration file of `engine serve`: every key known, every value checked, paths beside the file."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import ConfigError
from engine.live.loop_config import LoopConfig
from engine.live.recording_config import RecordingConfig
from engine.method_settings import MethodSettings, Threads

Table = TypeVar("Table")


@dataclass(frozen=True)
class MethodConfig:
    """What reconstructs: `operators` and the settings of the method; absent ones have their defaults.

    Attributes
    ----------
    operators : Path
        Operators of the system matrix.
    method : str, optional
        Name of the method; by default that of the model, else "deq".
    model : str, optional
        Bundle folder or shipped name; a name that is a folder beside the configuration file is that folder.
    provider, threads, warm_start, max_iterations, tolerance : optional
        As in `MethodSettings`.
    """

    operators: Path
    method: str | None = None
    model: str | None = None
    provider: str | None = None
    threads: Threads | None = None
    warm_start: bool | None = None
    max_iterations: int | None = None
    tolerance: float | None = None

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
    """Where frames come in and images go out.

    Attributes
    ----------
    frames, images : str
        ZeroMQ endpoints that the service binds: PULL for frames, PUB for images and the status.
    allow_remote : bool
        Whether they may be other than loopback. Nothing is encrypted, and whoever reaches them can push
        frames and see images.
    max_frame_mb : float
        Larger messages are refused.
    queued_images : int
        Messages kept for a subscriber that is slower than the images; further ones do not reach it.
    """

    frames: str = "tcp://127.0.0.1:5555"
    images: str = "tcp://127.0.0.1:5556"
    allow_remote: bool = False
    max_frame_mb: float = 64.0
    queued_images: int = 16


@dataclass(frozen=True)
class StatusConfig:
    """Where `/metrics`, `/health` and `/ready` are served.

    Attributes
    ----------
    host : str
        Address; loopback unless `allow_remote` is set.
    port : int
        0 for any that is free.
    allow_remote : bool
        Whether the address may be another than loopback.
    """

    host: str = "127.0.0.1"
    port: int = 9464
    allow_remote: bool = False


@dataclass(frozen=True)
class LiveConfig:
    """One running service.

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


TABLES: Mapping[str, type] = {
    "reconstruction": MethodConfig,
    "loop": LoopConfig,
    "endpoints": EndpointConfig,
    "status": StatusConfig,
    "recording": RecordingConfig,
}
"""Tables of the file."""

PATHS = ("operators", "folder", "template")
"""Keys whose values are paths."""


def load_live_config(path: Path | str) -> LiveConfig:
    """Read the configuration of a service.

    Parameters
    ----------
    path : path
        A TOML file. Paths in it are relative to its folder.

    Raises
    ------
    ConfigError
        If it cannot be read, a key is unknown or missing, or a value is of the wrong type or impossible.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read as TOML ({error}); expected the keys of docs/live.md"
        ) from error
    _require_known(f"{path}", tables, TABLES)
    if "reconstruction" not in tables:
        raise ConfigError(
            f"{path} has no table [reconstruction]; expected one with the key operators; add it"
        )
    found: dict[str, Any] = {
        name: _read_table(f"{path}: [{name}]", TABLES[name], table, path.parent)
        for name, table in tables.items()
    }
    return LiveConfig(**found)


def _read_table(where: str, kind: type[Table], table: object, folder: Path) -> Table:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is {table!r}; expected a table of keys and values")
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    _require_known(where, table, known)
    values = {}
    for key, value in table.items():
        values[key] = _value(f"{where} {key}", key, str(known[key].type), value, folder)
    try:
        return kind(**values)
    except (ConfigError, TypeError) as error:  # TypeError: a key without default is missing
        raise ConfigError(f"{where}: {error}") from error


def _value(where: str, key: str, annotation: str, value: Any, folder: Path) -> Any:
    """Return a value as its dataclass wants it; types are checked by their names."""
    if key in PATHS:
        if not isinstance(value, str):
            raise ConfigError(f"{where} is {value!r}; expected a path as text")
        return folder / value
    if key == "model" and isinstance(value, str) and (folder / value).is_dir():
        return str(folder / value)
    if isinstance(value, list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    accepted = {
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "Threads": value in (1, 2, "auto") and not isinstance(value, bool),
    }
    wanted = [name for name in accepted if name in annotation.replace(" ", "").split("|")]
    if wanted and not any(accepted[name] for name in wanted):
        raise ConfigError(f"{where} is {value!r}; expected {' or '.join(wanted)}")
    return value


def _require_known(where: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; expected some of {', '.join(known)}")
