"""The server of the page: its files, one WebSocket per open page, and snapshots. HTTP by aiohttp."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from aiohttp import WSCloseCode, web

from engine.errors import InputError, LiveError
from engine.live.view.access import ViewAccess, page_url
from engine.live.view.client import MAX_PAGE_MESSAGE, STRIP_BYTES, STRIP_LENGTH, PageClient
from engine.live.view.feed import ReceivedImage, ViewFeed
from engine.live.view.flag_words import DROP_WORDS, FLAG_WORDS
from engine.live.view.snapshots import SnapshotFolder, SnapshotKind

STALE_SECONDS = 3.0
"""Time after which the page says that no new image came."""

MAX_PAGES = 16
"""Most open pages; more are refused, so that they cannot eat up the machine."""

MAX_WAITING = 4
"""Most snapshots that may wait for the one being written."""

HEARTBEAT_SECONDS = 10.0
"""Time after which the WebSocket of a page that has gone away without a word is closed."""

COLOUR_MAPS = ("inferno", "viridis", "gray")

CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every answer: nothing from elsewhere, nothing inline, no frame around the page."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(eq=False)
class ViewServer:
    """The page of one feed.

    Attributes
    ----------
    feed : ViewFeed
        Feed, which must be running while pages are open.
    access : ViewAccess
        Rules of who is let in.
    snapshots : SnapshotFolder
        Folder of the snapshots.
    clients : set of PageClient
        Pages that are open.
    """

    feed: ViewFeed
    access: ViewAccess
    snapshots: SnapshotFolder
    clients: set[PageClient] = field(default_factory=set)
    _sockets: set[web.WebSocketResponse] = field(default_factory=set)
    _n_waiting: int = 0

    def application(self) -> web.Application:
        """Return the application, to be run by aiohttp."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_PAGE_MESSAGE)
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._close_pages)
        for name, content in page_files().items():
            app.router.add_get("/" if name == "index.html" else f"/{name}", _static(name, content))
        app.router.add_get("/page.json", _static("page.json", page_facts(), "application/json"))
        app.router.add_get("/socket", self._socket)
        app.router.add_get("/snapshots", self._list_snapshots)
        app.router.add_post("/snapshots", self._make_snapshot)
        app.router.add_get("/snapshots/{name}", self._get_snapshot)
        return app

    def find_image(self, number: int) -> ReceivedImage | None:
        """Return an image that is among the newest, or that an open page shows; None for any other."""
        for image in self.feed.images:
            if image.number == number:
                return image
        for client in self.clients:
            for image in client.recent:
                if image.number == number:
                    return image
        return None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        host = hosts[0] if len(hosts) == 1 else None
        if not self.access.accepts_host(host):
            raise web.HTTPMisdirectedRequest(
                text="This server does not answer to the name in the address. Open the address that engine "
                "view printed, or start it with --allow-host NAME.\n"
            )
        needs_origin = request.method not in ("GET", "HEAD") or request.path == "/socket"
        if needs_origin and not self.access.accepts_origin(request.headers.get("Origin"), host):
            raise web.HTTPForbidden(text="Only the page of this server may do this.\n")
        if self.access.token is None:
            return await handler(request)
        given = request.query.get("token") if request.path == "/" else None
        cookie = self._cookie_name(request)
        if not self.access.accepts_token(request.cookies.get(cookie) if given is None else given):
            raise web.HTTPForbidden(text="Open the complete address that engine view printed at its start.\n")
        response = await handler(request)
        if given is not None:
            response.set_cookie(
                cookie, given, httponly=True, samesite="Strict", path="/", secure=request.secure
            )
        return response

    @staticmethod
    def _cookie_name(request: web.Request) -> str:
        # Browsers send the cookies of one port to all others of the machine; names keep servers apart.
        port = request.transport.get_extra_info("sockname")[1] if request.transport else 0
        return f"deq-mpi-view-{port}"

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if len(self.clients) >= MAX_PAGES:
            raise web.HTTPServiceUnavailable(text=f"{MAX_PAGES} pages are open; close one of them.\n")
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_PAGE_MESSAGE, compress=False
        )
        client = PageClient(socket, self.feed)
        self.clients.add(client)
        self._sockets.add(socket)
        try:
            await socket.prepare(request)
            await client.run()
        finally:
            self.clients.discard(client)
            self._sockets.discard(socket)
        return socket

    async def _close_pages(self, _app: web.Application) -> None:
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"engine view ends")

    async def _list_snapshots(self, _request: web.Request) -> web.Response:
        return web.json_response([_as_json(snapshot) for snapshot in self.snapshots.list_all()])

    async def _make_snapshot(self, request: web.Request) -> web.Response:
        kind, number = await _requested(request)
        image = self.find_image(number)
        if image is None:
            return _error(
                410,
                "this image is no longer kept; pause the page first, then take the snapshot of what it shows",
            )
        if self._n_waiting > MAX_WAITING:
            return _error(429, "other snapshots are being written; try again in a moment")
        self._n_waiting += 1
        try:
            snapshot = await asyncio.to_thread(self.snapshots.save, kind, image)
        except InputError as error:
            return _error(422, str(error))
        except OSError as error:
            return _error(507, f"the snapshot was not written: {error.strerror or error}")
        finally:
            self._n_waiting -= 1
        return web.json_response(_as_json(snapshot), status=201)

    async def _get_snapshot(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = self.snapshots.find(name)
        if path is None:
            raise web.HTTPNotFound(text="There is no such snapshot.\n")
        return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="{name}"'})


async def serve_page(server: ViewServer, host: str, port: int, announce: Callable[[str], object]) -> None:
    """Serve until SIGINT or SIGTERM.

    Parameters
    ----------
    server : ViewServer
        Server of the page; its feed is run here.
    host : str
        Address to bind to.
    port : int
        Port; 0 for any free one.
    announce : callable
        Function that gets the address of the page, token included, once it can be opened.

    Raises
    ------
    LiveError
        If the address is taken or not one of this machine.
    InputError
        If the service's address is none.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    feed = asyncio.create_task(server.feed.run())
    ended = asyncio.create_task(stop.wait())
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise LiveError(
                f"cannot serve at {host}:{port} ({error.strerror or error}); give another --host or --port"
            ) from error
        await asyncio.sleep(0)  # a wrong address of the service is found before anything is announced
        if not feed.done():
            announce(page_url(host, runner.addresses[0][1], server.access.token))
        await asyncio.wait({feed, ended}, return_when=asyncio.FIRST_COMPLETED)
        if feed.done():
            feed.result()
    finally:
        await runner.cleanup()
        for task in (feed, ended):
            task.cancel()
        await asyncio.gather(feed, ended, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def page_files() -> dict[str, bytes]:
    """Return the files of the page by name. Only these are served; no request is turned into a path."""
    folder = resources.files("engine.live.view") / "page"
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name[entry.name.rfind(".") :] in CONTENT_TYPES
    }


def page_facts() -> bytes:
    """Return what the page is told once, as JSON: colour maps, words, and the limits it keeps."""
    facts = {
        "colour_maps": {name: colour_map(name) for name in COLOUR_MAPS},
        "flags": {flag.value: list(words) for flag, words in FLAG_WORDS.items()},
        "drops": {reason.value: words for reason, words in DROP_WORDS.items()},
        "snapshot_kinds": [kind.value for kind in SnapshotKind],
        "stale_s": STALE_SECONDS,
        "strip_length": STRIP_LENGTH,
        "strip_bytes": STRIP_BYTES,
    }
    return json.dumps(facts, separators=(",", ":")).encode()


def colour_map(name: str) -> str:
    """Return the 256 colours of one of matplotlib's maps as one text of "rrggbb"."""
    from matplotlib import colormaps

    return bytes(colormaps[name](range(256), bytes=True)[:, :3].tobytes()).hex()


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _static(name: str, content: bytes, content_type: str | None = None) -> Handler:
    kind = content_type or CONTENT_TYPES[name[name.rfind(".") :]]

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=content, content_type=kind, charset="utf-8")

    return handler


async def _requested(request: web.Request) -> tuple[SnapshotKind, int]:
    """Read {"kind": ..., "image": number} from a request."""
    wrong = web.HTTPBadRequest(text='expected JSON such as {"kind": "png", "image": 12}\n')
    if request.content_type != "application/json":
        raise wrong
    try:
        said: Any = await request.json()
        if not isinstance(said, dict) or set(said) != {"kind", "image"} or type(said["image"]) is not int:
            raise wrong
        return SnapshotKind(said["kind"]), said["image"]
    except (ValueError, RecursionError) as error:
        raise wrong from error


def _as_json(snapshot: Any) -> dict[str, Any]:
    return {
        "name": snapshot.name,
        "kind": snapshot.kind.value,
        "sequence": snapshot.sequence,
        "bytes": snapshot.n_bytes,
        "url": f"/snapshots/{snapshot.name}",
    }


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
