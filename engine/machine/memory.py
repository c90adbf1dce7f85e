"""Room for a batch, asked for before the first frame: Linux promises memory that it does not have."""

import psutil

from engine.errors import ConfigError

MEGABYTE = 2**20


def available_bytes() -> int | None:
    """Return the bytes that can still be had without swapping; None where the system does not say.

    The limits of a container or control group are not in it.
    """
    try:
        return int(psutil.virtual_memory().available)
    except OSError:  # Linux tells it in /proc/meminfo, which a sandbox may hide
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
