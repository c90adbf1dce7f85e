"""Room for a batch, asked for before the first frame: Linux promises memory that it does not have."""

from pathlib import Path

from engine.errors import ConfigError

MEMINFO = Path("/proc/meminfo")

MEGABYTE = 2**20


def available_bytes() -> int | None:
    """Return the bytes that can still be had without swapping; None where the system does not say."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    return None


def require_memory(n_bytes: int, purpose: str, remedy: str) -> None:
    """Raise unless so many bytes are available.

    Parameters
    ----------
    n_bytes : int
        Bytes needed.
    purpose, remedy : str
        Words of the message: what the memory is for, and what to do without it.

    Raises
    ------
    ConfigError
        If the system says that it has less.
    """
    available = available_bytes()
    if available is not None and n_bytes > available:
        raise ConfigError(
            f"{purpose} needs {n_bytes / MEGABYTE:.0f} MB; {available / MEGABYTE:.0f} MB are available; "
            f"{remedy}"
        )
