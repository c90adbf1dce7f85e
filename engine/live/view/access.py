"""Access to the page: names it answers to, pages that may talk to it, and the token.

A page on loopback is not private by itself: any web site that the same browser shows can send requests there.
So the `Host` header must be a name of ours (a site whose name was rebound to 127.0.0.1 still sends its own),
and what changes something or streams must come from a page that we served (`Origin`).
"""

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass

TOKEN_BYTES = 32
"""Bytes of randomness in a token: not to be guessed at any rate of requests."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
"""A `Host` header in lower case."""


@dataclass(frozen=True)
class ViewAccess:
    """Rules of access to one server.

    Attributes
    ----------
    names : frozenset of str
        Host names and addresses it answers to, in lower case; IPv6 addresses in brackets.
    accepts_any_address : bool
        Whether it also answers to any IP address. Only host names can be rebound, so that this is safe.
    token : str or None
        Secret to be shown before anything is served; None on loopback.
    """

    names: frozenset[str]
    accepts_any_address: bool
    token: str | None

    def accepts_host(self, header: str | None) -> bool:
        """Whether a request with this `Host` header is meant for us. The port may be that of a tunnel."""
        found = HOST.fullmatch((header or "").lower())
        if not found:
            return False
        name = found["name"]
        return name in self.names or (self.accepts_any_address and _is_address(name.strip("[]")))

    def accepts_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether a request comes from a page of the server that it is addressed to.

        Parameters
        ----------
        origin, host : str or None
            Headers of the request. Browsers send an `Origin` with every POST and WebSocket.
        """
        if not origin or not host:
            return False
        return origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}

    def accepts_token(self, given: str | None) -> bool:
        """Whether this is the token, in a time that does not tell how much of it is right."""
        if self.token is None:
            return True
        return given is not None and hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), self.token.encode()
        )


def open_access(host: str, names: Iterable[str] = ()) -> ViewAccess:
    """Return the rules for a server bound to `host`: a new token unless that is a loopback address.

    Parameters
    ----------
    host : str
        Address or name that the server is bound to.
    names : iterable of str
        Names under which its users reach it besides.
    """
    own = {_in_brackets(host.lower()), *(name.lower() for name in names)} | LOOPBACK_NAMES
    if is_loopback(host):
        return ViewAccess(frozenset(own), accepts_any_address=False, token=None)
    return ViewAccess(
        frozenset(own | {socket.gethostname().lower()}),
        accepts_any_address=True,
        token=secrets.token_urlsafe(TOKEN_BYTES),
    )


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a server bound to `host`; False for unknown names."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def page_url(host: str, port: int, token: str | None) -> str:
    """Return the address to open in a browser; for a server on all addresses that of this machine's name."""
    is_everywhere = _is_address(host) and ipaddress.ip_address(host).is_unspecified
    name = socket.gethostname() if is_everywhere else _in_brackets(host)
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={token}")


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
