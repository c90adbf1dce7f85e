"""Notifications to systemd of what the service is doing (sd_notify(3)), without a library for it.

Without NOTIFY_SOCKET in the environment, so outside of systemd, nothing is sent.
"""

import os
import socket

from engine.errors import LiveError


class ServiceManager:
    """Notifier of the manager that started this process.

    A notification that does not get through is not worth ending the service for: it is left out, and the
    manager acts on its absence.

    Parameters
    ----------
    address : str, optional
        Path of the manager's datagram socket, or an abstract name that begins with @. By default that of the
        environment; without one every method does nothing.

    Raises
    ------
    LiveError
        If the address is neither of these.
    """

    def __init__(self, address: str | None = None) -> None:
        found = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        if found and found[0] not in "/@":
            raise LiveError(
                f"NOTIFY_SOCKET is {found!r:.80}; expected an absolute path or @NAME; unset it where no "
                "systemd is"
            )
        self._address = "\0" + found[1:] if found.startswith("@") else found

    @property
    def is_listening(self) -> bool:
        """Whether there is a manager."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Say that the start is over: frames may come."""
        self._send("READY=1", status)

    def stopping(self, status: str = "") -> None:
        """Say that the service has begun to stop."""
        self._send("STOPPING=1", status)

    def watchdog(self) -> None:
        """Say that the service is alive; expected at least once in `watchdog_interval`."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Give one line that ``systemctl status`` shows."""
        self._send("", text)

    def _send(self, message: str, status: str = "") -> None:
        if not self._address:
            return
        lines = [message] if message else []
        if status:
            lines.append(f"STATUS={' '.join(status.split())}")  # a line break would begin another variable
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return


def watchdog_interval() -> float | None:
    """Return in how many seconds at most the manager expects to hear from this process; None if it does not.

    Half of it is a good interval for `ServiceManager.watchdog`.
    """
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isascii() or not microseconds.isdigit() or int(microseconds) == 0:
        return None
    # Meant for one process: a child that inherits the environment is not watched.
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return 1e-6 * int(microseconds)
