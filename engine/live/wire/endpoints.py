"""Endpoints at which the service may listen: of this machine only, unless the settings say otherwise."""

import re
import socket
import stat
from pathlib import Path

from engine.errors import ConfigError, LiveError

LOOPBACK_HOSTS = ("127.0.0.1", "::1")
"""Addresses that only programs of this machine reach."""

_LOCAL = re.compile(r"tcp://(127\.0\.0\.1|\[::1\]):(\*|\d{1,5})|ipc://.+|inproc://.+")
_REMOTE = re.compile(r"tcp://[^\s;@/]+:(\*|\d{1,5})")


def require_loopback(endpoint: str, *, allow_remote: bool = False) -> None:
    """Raise unless an endpoint of ZeroMQ is reached from this machine only.

    Parameters
    ----------
    endpoint : str
        Endpoint ``tcp://127.0.0.1:PORT`` or ``tcp://[::1]:PORT`` (``*`` for a free port), ``ipc://PATH``, or
        ``inproc://NAME``.
    allow_remote : bool
        Whether any address is allowed after ``tcp://``.

    Raises
    ------
    ConfigError
        If it is another.
    """
    if _LOCAL.fullmatch(endpoint) or (allow_remote and _REMOTE.fullmatch(endpoint)):
        return
    remedy = "" if allow_remote else ", or set allow_remote = true on a network that you trust"
    raise ConfigError(
        f"the endpoint is {endpoint!r:.80}; expected tcp://127.0.0.1:PORT, tcp://[::1]:PORT, ipc://PATH or "
        f"inproc://NAME{remedy}"
    )


def require_loopback_host(host: str, *, allow_remote: bool = False) -> None:
    """Raise unless an address is reached from this machine only, or others are allowed.

    Raises
    ------
    ConfigError
        If it is not among `LOOPBACK_HOSTS`.
    """
    if not allow_remote and host not in LOOPBACK_HOSTS:
        raise ConfigError(
            f"the address is {host!r:.80}; expected {' or '.join(LOOPBACK_HOSTS)}, or set allow_remote = "
            "true on a network that you trust"
        )


def require_free_path(endpoint: str) -> None:
    """Raise if the path of an ``ipc://`` endpoint is in use; endpoints of other kinds are not looked at.

    ZeroMQ deletes whatever is at the path before it listens there, be it a recording or the socket of a
    service that runs. What is left of one that has ended may go.

    Raises
    ------
    LiveError
        If something else than an abandoned socket is there.
    """
    name = endpoint.removeprefix("ipc://")
    if name == endpoint or name.startswith("@"):  # abstract names are no files; taken ones are an error there
        return
    path = Path(name)
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LiveError(f"cannot listen at {endpoint} ({error.strerror}); choose another path") from error
    if not is_socket:
        raise LiveError(f"{path} is there already and no socket; choose another path for the endpoint")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise LiveError(f"cannot listen at {endpoint} ({error.strerror}); choose another path") from error
    raise LiveError(f"{endpoint} is in use; end the service that listens there, or choose another endpoint")
