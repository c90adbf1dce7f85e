"""The server as a client sees it: who gets in, what comes over the WebSocket, snapshots over HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, CookieJar, WSMsgType, WSServerHandshakeError, web

from engine.live.loop.live_image import LiveImage
from engine.live.view import client as view_client
from engine.live.view.access import open_access
from engine.live.view.feed import KEPT_IMAGES, ViewFeed
from engine.live.view.server import MAX_PAGES, ViewServer
from engine.live.view.snapshots import SnapshotFolder
from engine.live.wire.messages import encode_image
from tests.engine.live.view.fake_service import FakeService

WAIT = 20.0
"""Seconds after which something that should have happened never will."""


class Page:
    """What a browser does, without a browser: it answers as the page does."""

    def __init__(self, session: ClientSession, url: str, feed: ViewFeed, server: ViewServer) -> None:
        self.session, self.url, self.feed, self.server = session, url, feed, server

    def open_socket(self, **headers: str) -> Any:
        return self.session.ws_connect(f"{self.url}/socket", headers={"Origin": self.url} | headers)

    def take(self, service: FakeService) -> LiveImage:
        """Let the feed take in one image."""
        live = service.image()
        self.feed.take(encode_image(live, service.ledger.counters()))
        return live

    async def post(self, values: Any, **headers: str) -> tuple[int, Any]:
        sent = {"Origin": self.url, "Content-Type": "application/json"} | headers
        async with self.session.post(
            f"{self.url}/snapshots", data=json.dumps(values), headers=sent
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text


@asynccontextmanager
async def serving(folder: Path, host: str = "127.0.0.1") -> AsyncIterator[Page]:
    """A server on a free port of loopback that follows the rules of a server bound to `host`."""
    feed = ViewFeed("tcp://127.0.0.1:1")
    server = ViewServer(feed, open_access(host), SnapshotFolder(folder))
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with asyncio.timeout(WAIT), ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
            yield Page(session, f"http://127.0.0.1:{runner.addresses[0][1]}", feed, server)
    finally:
        await runner.cleanup()


@pytest.fixture
def on_page(tmp_path) -> Callable[..., None]:
    """Run a coroutine function with a page."""

    def run(work: Callable[[Page], Any], host: str = "127.0.0.1") -> None:
        async def inside() -> None:
            async with serving(tmp_path / "snapshots", host) as page:
                await work(page)

        asyncio.run(inside())

    return run


def parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and arrays of a message to the page, by the description of its format."""
    length = int.from_bytes(data[:4], "little")
    assert (4 + length) % 4 == 0
    return json.loads(data[4 : 4 + length]), data[4 + length :]


async def receive(ws: ClientWebSocketResponse) -> tuple[dict[str, Any], bytes]:
    return parse(await ws.receive_bytes())


async def show(ws: ClientWebSocketResponse, header: dict[str, Any]) -> None:
    await ws.send_json({"shown": header["figures"]["message"]})


def test_image_and_figures_arrive_byte_for_byte(on_page, fake_service) -> None:
    service = fake_service(coverage=0.9)

    async def work(page: Page) -> None:
        async with page.open_socket() as ws:
            header, arrays = await receive(ws)
            assert (header["image"], arrays) == (None, b"")
            await show(ws, header)
            live = page.take(service)
            header, arrays = await receive(ws)
            assert header["image"]["report"] == live.report.to_dict()
            assert header["figures"]["counters"] == service.ledger.counters().to_dict()
            assert header["image"]["arrays"] == ["image", "low", "high"]
            expected = np.stack([live.image, live.interval.low, live.interval.high]).astype("<f4")
            assert arrays == expected.tobytes()

    on_page(work)


def test_page_that_does_not_answer_gets_nothing_more_then_the_newest(on_page, fake_service) -> None:
    service = fake_service()

    async def work(page: Page) -> None:
        page.take(service)
        async with page.open_socket() as ws:
            first, _ = await receive(ws)
            assert first["image"]["number"] == 1
            for _ in range(40):
                page.take(service)
            with pytest.raises(TimeoutError):
                await ws.receive(timeout=2.5 * view_client.TICK)  # not even figures: the page is busy
            await ws.send_json({"shown": first["figures"]["message"] + 1})  # not what it was sent
            with pytest.raises(TimeoutError):
                await ws.receive(timeout=0.1)
            await show(ws, first)
            second, _ = await receive(ws)
            assert second["image"]["number"] == 41
            assert second["figures"]["skipped"] == 39

    on_page(work)


def test_paused_page_gets_figures_only_and_keeps_what_it_shows(on_page, fake_service) -> None:
    service = fake_service()

    async def work(page: Page) -> None:
        first = page.take(service)
        async with page.open_socket() as ws:
            header, _ = await receive(ws)
            await ws.send_json({"paused": True})
            await show(ws, header)
            for _ in range(2 * KEPT_IMAGES):
                page.take(service)
            header, arrays = await receive(ws)
            assert (header["image"], arrays) == (None, b"")
            assert header["figures"]["counters"]["frames_in"] == 1 + 2 * KEPT_IMAGES
            status, answer = await page.post({"kind": "nii", "image": 1})
            assert (status, answer["sequence"]) == (201, 0)
            async with page.session.get(page.url + answer["url"]) as found:
                assert found.headers["Content-Disposition"] == f'attachment; filename="{answer["name"]}"'
                file = nibabel.Nifti1Image.from_bytes(await found.read())
            np.testing.assert_array_equal(np.asarray(file.dataobj).T, first.image)
            await ws.send_json({"paused": False})
            await show(ws, header)
            header, _ = await receive(ws)
            assert header["image"]["number"] == 1 + 2 * KEPT_IMAGES
            assert header["figures"]["skipped"] == 0  # nobody wanted those of the pause
            status, answer = await page.post({"kind": "nii", "image": 2})
            assert status == 410
            assert "pause the page" in answer["error"]

    on_page(work)


def test_recent_images_of_a_page_are_bounded(on_page, fake_service, monkeypatch) -> None:
    service = fake_service()
    monkeypatch.setattr(view_client, "IMAGE_PERIOD", 0.0)

    async def work(page: Page) -> None:
        async with page.open_socket() as ws:
            for _ in range(view_client.STRIP_LENGTH + 20):
                page.take(service)
                header: dict[str, Any] = {"image": None}
                while header["image"] is None:
                    header, _ = await receive(ws)
                    await show(ws, header)
            (client,) = page.server.clients
            assert len(client.recent) == view_client.STRIP_LENGTH + view_client.IN_TRANSIT

    on_page(work)


def test_figures_come_without_images_too(on_page) -> None:
    async def work(page: Page) -> None:
        async with page.open_socket() as ws:
            numbers = []
            for _ in range(3):
                header, _ = await receive(ws)
                numbers.append(header["figures"]["message"])
                await show(ws, header)
            assert numbers == [1, 2, 3]

    on_page(work)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        "null",
        '{"shown": "1"}',
        '{"shown": 1, "paused": true}',
        '{"paused": 1}',
        '{"run": 1}',
        "[" * 900,
        "x" * (view_client.MAX_PAGE_MESSAGE + 1),
        b"\x00",
    ],
    ids=lambda said: str(said)[:20],
)
def test_page_that_says_something_else_is_closed(on_page, said) -> None:
    async def work(page: Page) -> None:
        async with page.open_socket() as ws:
            await receive(ws)
            await (ws.send_bytes(said) if isinstance(said, bytes) else ws.send_str(said))
            message = await ws.receive()
            assert message.type is WSMsgType.CLOSE
        async with page.open_socket() as ws:  # the server goes on
            await receive(ws)
        assert len(page.server.clients) <= 1

    on_page(work)


def test_pages_are_limited(on_page) -> None:
    async def work(page: Page) -> None:
        sockets = [await page.open_socket() for _ in range(MAX_PAGES)]
        with pytest.raises(WSServerHandshakeError) as refusal:
            await page.open_socket()
        assert refusal.value.status == 503
        for ws in sockets:
            await ws.close()

    on_page(work)


@pytest.mark.parametrize("origin", ["http://example.org", "null", ""])
def test_other_pages_may_neither_watch_nor_write(on_page, origin, fake_service) -> None:
    service = fake_service()

    async def work(page: Page) -> None:
        page.take(service)
        with pytest.raises(WSServerHandshakeError) as refusal:
            await page.open_socket(Origin=origin)
        assert refusal.value.status == 403
        status, _ = await page.post({"kind": "nii", "image": 1}, Origin=origin)
        assert status == 403
        assert not page.server.snapshots.list_all()

    on_page(work)


@pytest.mark.parametrize("path", ["/", "/app.js", "/socket", "/snapshots", "/nothing"])
def test_rebound_names_get_nothing(on_page, path) -> None:
    async def work(page: Page) -> None:
        headers = {"Host": "rebound.example.org", "Origin": "http://rebound.example.org"}
        async with page.session.get(page.url + path, headers=headers) as answer:
            assert answer.status == 421
            assert "DEQ-MPI" not in await answer.text()

    on_page(work)


def test_elsewhere_nothing_without_the_token(on_page, fake_service) -> None:
    service = fake_service()

    async def work(page: Page) -> None:
        token = page.server.access.token
        assert token is not None
        page.take(service)

        async def status(path: str) -> int:
            async with page.session.get(page.url + path) as answer:
                return answer.status

        protected = ["/", "/app.js", "/style.css", "/page.json", "/snapshots", "/snapshots/x", "/nothing"]
        assert {await status(path) for path in protected} == {403}
        assert await status("/?token=wrong") == await status(f"/?token={token[:-1]}") == 403
        assert await status(f"/app.js?token={token}") == 403  # only the page takes it
        with pytest.raises(WSServerHandshakeError) as refusal:
            await page.open_socket()
        assert refusal.value.status == 403
        assert (await page.post({"kind": "nii", "image": 1}))[0] == 403

        async with page.session.get(f"{page.url}/?token={token}") as answer:
            assert answer.status == 200
            (cookie,) = answer.cookies.values()
            assert cookie["httponly"]
            assert cookie["samesite"] == "Strict"
            assert cookie["path"] == "/"
        assert await status("/") == await status("/app.js") == 200
        async with page.open_socket() as ws:
            assert (await receive(ws))[0]["image"]["number"] == 1
        assert (await page.post({"kind": "nii", "image": 1}))[0] == 201
        assert await status("/?token=wrong") == 403

    on_page(work, "0.0.0.0")  # noqa: S104


def test_every_answer_forbids_what_is_not_ours(on_page) -> None:
    async def work(page: Page) -> None:
        for path, expected in (("/", 200), ("/app.js", 200), ("/page.json", 200), ("/nothing", 404)):
            async with page.session.get(page.url + path) as answer:
                assert answer.status == expected
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "http" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["Cache-Control"] == "no-store"

    on_page(work)


def test_traversal_is_refused_on_the_wire(on_page, fake_service, tmp_path) -> None:
    """Written to the socket as it is, since clients tidy paths up before they send them."""
    service = fake_service()
    (tmp_path / "secret.mdf").write_text("secret")

    async def work(page: Page) -> None:
        page.take(service)
        status, answer = await page.post({"kind": "nii", "image": 1})
        assert status == 201
        host = page.url.removeprefix("http://")

        async def get(target: str) -> bytes:
            reader, writer = await asyncio.open_connection(*host.split(":"))
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            found = await reader.read()
            writer.close()
            return found

        assert (await get(answer["url"])).startswith(b"HTTP/1.1 200")
        for target in (
            "/snapshots/../secret.mdf",
            "/snapshots/..%2fsecret.mdf",
            "/snapshots/%2e%2e%2fsecret.mdf",
            "/snapshots/%2e%2e/secret.mdf",
            "/snapshots/..%5csecret.mdf",
            "/snapshots//etc/passwd",
            "/snapshots/%2fetc%2fpasswd",
            f"/snapshots/..%2fsnapshots%2f{answer['name']}",
            f"/snapshots/{answer['name']}%00",
            f"/snapshots/{answer['name']}/",
            "/../engine/cli.py",
            "/..%2f__init__.py",
        ):
            found = await get(target)
            assert found.split(b" ")[1] in (b"400", b"403", b"404"), target
            assert b"secret" not in found

    on_page(work)


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"kind": "png"},
        {"kind": "exe", "image": 1},
        {"kind": "png", "image": "1"},
        {"kind": "png", "image": True},
        {"kind": "../x", "image": 1},
        {"kind": "png", "image": 1, "name": "x"},
    ],
    ids=str,
)
def test_snapshot_requests_that_make_no_sense(on_page, fake_service, values) -> None:
    service = fake_service()

    async def work(page: Page) -> None:
        page.take(service)
        assert (await page.post(values))[0] == 400
        assert (await page.post({"kind": "png", "image": 1}, **{"Content-Type": "text/plain"}))[0] == 400
        assert not page.server.snapshots.list_all()

    on_page(work)


def test_disk_full_is_said_and_the_page_goes_on(on_page, fake_service, monkeypatch) -> None:
    service = fake_service()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.live.view.snapshots.write_nifti", full)

    async def work(page: Page) -> None:
        page.take(service)
        status, answer = await page.post({"kind": "nii", "image": 1})
        assert status == 507
        assert "No space left" in answer["error"]
        assert (await page.post({"kind": "mdf", "image": 1}))[0] == 201

    on_page(work)


def test_server_ends_with_open_pages(tmp_path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as page:
            ws = await page.open_socket()
            await receive(ws)
            port = int(page.url.rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):  # it is free again
            pass

    asyncio.run(work())
