"""One open page: the newest image when it has drawn the one before, and figures at least twice a second."""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from engine.live.view.feed import ReceivedImage, ViewFeed

STRIP_LENGTH = 24
"""Number of recent images that a page offers for a closer look."""

STRIP_BYTES = 128 * 2**20
"""Most bytes of the recent images, here and in the browser; of large volumes fewer are kept."""

IN_TRANSIT = 2
"""Number of images that may be under way to a page when it pauses."""

IMAGE_PERIOD = 1 / 30
"""Seconds between two images: people see no more, and the scanner's cores have other work."""

BYTES_PER_SECOND = 40e6
"""Bytes per second of images to one page; large volumes come less often."""

TICK = 0.5
"""Seconds between two messages at most, so that the page knows that we are there."""

MAX_PAGE_MESSAGE = 1024
"""Most bytes that a page may send."""


class PageClient:
    """A page, from the opening of its WebSocket to the end.

    One message is under way at most: the next is sent when the page says that it has shown the last. So a
    slow page skips images and never sees an old one, and nothing is queued for it.

    Parameters
    ----------
    socket : aiohttp.web.WebSocketResponse
        Socket, prepared.
    feed : ViewFeed
        Feed that images come from.

    Attributes
    ----------
    recent : deque of ReceivedImage
        Images that the page can show now, and may ask a snapshot of. They stay while the page is paused.
    """

    def __init__(self, socket: web.WebSocketResponse, feed: ViewFeed) -> None:
        self.recent: deque[ReceivedImage] = deque()
        self._socket = socket
        self._feed = feed
        self._wake = asyncio.Event()
        self._shown = asyncio.Event()
        self._is_paused = False
        self._last_number = 0
        self._next_image_at = 0.0
        self._n_messages = 0
        self._n_skipped = 0

    async def run(self) -> None:
        """Serve the page until it is closed."""
        self._feed.listeners.add(self._wake)
        tasks = {asyncio.create_task(self._send_all()), asyncio.create_task(self._read_all())}
        try:
            # A page that is read but not written to would wait for ever: the end of one is that of both.
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                with suppress(ConnectionError):  # the browser has gone
                    task.result()
        finally:
            self._feed.listeners.discard(self._wake)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_all(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT or not self._read(message.data):
                await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"not understood")

    def _read(self, text: str) -> bool:
        """Take in what the page says; False if it is not understood."""
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(said, dict) or len(said) != 1:
            return False
        match said:
            case {"shown": int(number)}:
                if number == self._n_messages:
                    self._shown.set()
            case {"paused": bool(paused)}:
                self._is_paused = paused
                newest = self._feed.newest
                if not paused and newest is not None:
                    # What was not sent during the pause was not skipped: nobody wanted it.
                    self._last_number = max(self._last_number, newest.number - 1)
                self._wake.set()
            case _:
                return False
        return True

    async def _send_all(self) -> None:
        while True:
            image = await self._next()
            if image is not None:
                if self._last_number:
                    self._n_skipped += image.number - self._last_number - 1
                self._last_number = image.number
                self._remember(image)
                self._next_image_at = self._now() + max(IMAGE_PERIOD, image.n_bytes / BYTES_PER_SECOND)
            self._n_messages += 1
            self._shown.clear()
            figures = self._feed.figures() | {"message": self._n_messages, "skipped": self._n_skipped}
            await self._socket.send_bytes(encode_page_message(figures, image))
            await self._shown.wait()

    async def _next(self) -> ReceivedImage | None:
        """Wait for the next image to send; None after a tick without one."""
        tick_at = self._now() + (TICK if self._n_messages else 0.0)
        while True:
            self._wake.clear()
            now, image = self._now(), self._news()
            if image is not None and now >= self._next_image_at:
                return image
            if now >= tick_at:
                return None
            until = tick_at if image is None else min(tick_at, self._next_image_at)
            with suppress(TimeoutError):
                if image is None:
                    await asyncio.wait_for(self._wake.wait(), until - now)
                else:
                    await asyncio.sleep(until - now)

    def _news(self) -> ReceivedImage | None:
        newest = self._feed.newest
        return None if self._is_paused or newest is None or newest.number <= self._last_number else newest

    def _remember(self, image: ReceivedImage) -> None:
        self.recent.append(image)
        limit = max(1, min(STRIP_LENGTH, STRIP_BYTES // image.n_bytes)) + IN_TRANSIT
        while len(self.recent) > limit:
            self.recent.popleft()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def encode_page_message(figures: Mapping[str, Any], image: ReceivedImage | None) -> bytes:
    """Return a message to the page: length of the JSON (uint32), JSON, arrays (float32), all little-endian.

    The JSON is {"figures": ..., "image": header or null}, padded with spaces so that the arrays begin at a
    multiple of four bytes, which browsers need to use them in place.
    """
    head = b"".join(
        [
            b'{"figures":',
            json.dumps(figures, allow_nan=False, separators=(",", ":")).encode(),
            b',"image":',
            b"null" if image is None else image.page_header,
            b"}",
        ]
    )
    head += b" " * (-len(head) % 4)
    return len(head).to_bytes(4, "little") + head + (b"" if image is None else image.arrays)
