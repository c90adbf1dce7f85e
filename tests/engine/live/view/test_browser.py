"""The page in a real browser, fed by `engine view` as a process of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from engine.live.loop.counters import DropReason
from engine.live.loop.live_image import BackgroundState, Flag
from engine.mpi.mdf import read_mdf
from engine.mpi.mdf.grids import images
from engine.mpi.mdf.image_intervals import read_intervals
from tests.engine.live.view.fake_service import GRID, VOLUME, FakeService

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed, so that no browser can be driven"
)
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--force-color-profile=srgb",
]

COMMAND = "from engine.cli import main\nmain()"

FIRST_IMAGE_SECONDS = 1.0
"""From the publication of the first frame to its pixels on the page: a promise of the documentation."""

WAIT_MS = 15_000
"""After this what should have happened never will."""

STEP = 1
"""Colours of 256 that a value on the border of two may be off, since the page computes in other precision."""

SCREEN_LEVELS = 2
"""Levels of 255 that a screenshot may be off, after the browser's conversion of colours."""

CANVAS = """id => {
  const canvas = document.getElementById(id);
  return [canvas.width, canvas.height,
          ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""

WATCH = """() => {
  window.firstImage = new Promise((resolve) => {
    const look = () => {
      const canvas = document.getElementById("image");
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      const isThere = canvas.checkVisibility() && new Set(new Uint32Array(data.buffer)).size > 10;
      return isThere ? resolve(Date.now()) : requestAnimationFrame(look);
    };
    look();
  });
}"""


@dataclass
class Viewer:
    """An open page with its server and its service."""

    page: Any
    service: FakeService
    process: subprocess.Popen[str]
    url: str
    folder: Path
    problems: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return " ".join(self.page.locator(selector).inner_text().split())

    def wait_for(self, selector: str, words: str) -> None:
        try:
            self.page.wait_for_function(
                "([selector, words]) => document.querySelector(selector).innerText"
                ".replace(/\\s+/g, ' ').includes(words)",
                arg=[selector, words],
                timeout=WAIT_MS,
            )
        except playwright.TimeoutError:
            pytest.fail(f"{words!r} is not in {self.text('body')!r}; problems: {self.problems}")

    def wait_for_state(self, kind: str) -> None:
        self.page.locator(f'#state[data-kind="{kind}"]').wait_for(timeout=WAIT_MS)

    def publish(self, **changes: Any) -> Any:
        """Publish an image and wait until the page shows it."""
        live = self.service.image(**changes)
        self.wait_for("#sequence", str(live.report.sequence))
        return live

    def pixels(self, canvas: str = "image") -> np.ndarray:
        """Colours of a canvas, shape (ny, nx, 3), y upwards."""
        width, height, *values = self.page.evaluate(CANVAS, canvas)
        return np.array(values, np.uint8).reshape(height, width, 4)[::-1, :, :3]


def assert_shows(pixels: np.ndarray, plane: np.ndarray, top: float, name: str = "inferno") -> None:
    """Every pixel has the colour that matplotlib gives to the value, or its neighbour in the map."""
    assert pixels.shape == (*plane.shape, 3)
    colours = colormaps[name](range(256), bytes=True)[:, :3].astype(int)
    steps = np.clip(np.floor(plane / top * 256), 0, 255).astype(int)
    near = np.stack([colours[np.clip(steps + off, 0, 255)] for off in range(-STEP, STEP + 1)])
    assert (near == pixels).all(axis=-1).any(axis=0).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def start_view(tmp_path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start `engine view`; give the process and the address of its page."""
    started = []

    def start(source: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "view", "--source", source, "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().partition("page: ")[2].strip()

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.communicate()


@pytest.fixture
def open_view(browser, start_view, tmp_path) -> Iterator[Callable[..., Viewer]]:
    """Open a page on a service, connected and waiting for the first frame; nothing on it may go wrong."""
    opened = []

    def open_page(service: FakeService, **context: Any) -> Viewer:
        process, url = start_view(service.endpoint)
        page = browser.new_context(**({"viewport": {"width": 1280, "height": 720}} | context)).new_page()
        viewer = Viewer(page, service, process, url, tmp_path)
        page.on("pageerror", lambda error: viewer.problems.append(str(error)))
        page.on("console", lambda m: viewer.problems.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: r.url.startswith(url) or viewer.problems.append(r.url))
        opened.append(viewer)
        service.wait_for_subscriber()
        page.goto(url)
        viewer.wait_for("#state", "WAITING")
        return viewer

    yield open_page
    for viewer in opened:
        viewer.page.context.close()
        assert viewer.problems == []


def test_first_image_is_there_within_a_second_and_right(open_view, fake_service) -> None:
    view = open_view(fake_service())
    assert view.page.locator("#concentration").is_hidden()
    view.page.evaluate(WATCH)
    published = time.time()
    live = view.service.image()
    seen = view.page.evaluate("() => window.firstImage") / 1e3
    assert seen - published < FIRST_IMAGE_SECONDS
    view.wait_for_state("live")
    plane = live.image[0]
    assert_shows(view.pixels(), plane, plane.max())
    # What is on the screen: whole magnified voxels without smoothing, found at their centres and corners.
    view.page.locator("#image").screenshot(path=view.folder / "canvas.png")
    screen = np.rint(255 * imread(view.folder / "canvas.png")[..., :3])[::-1]
    size = np.array(screen.shape[:2]) / plane.shape
    assert (size >= 8).all()
    for part in (0.25, 0.5, 0.75):
        rows, columns = (
            np.floor((np.arange(n) + part) * k).astype(int) for n, k in zip(plane.shape, size, strict=True)
        )
        np.testing.assert_allclose(screen[np.ix_(rows, columns)], view.pixels(), atol=SCREEN_LEVELS)
    assert view.text("#concentration .bar li:first-child") == f"{float(f'{plane.max():.3g}')}"
    # 10 mm of 52 mm are as long as 5 voxels of 2 mm.
    assert view.text("#concentration .ruler-text") == "10 mm"
    ruler = view.page.locator("#concentration .ruler").bounding_box()
    assert ruler["width"] == pytest.approx(5 * size[1], abs=1)


def test_figures_are_those_that_were_sent(open_view, fake_service) -> None:
    service = fake_service()
    view = open_view(service)
    service.recording = {
        "state": "stopped",
        "reason": "the disk is full",
        "files": ["a.mdf", "b.mdf"],
        "frames_written": 7,
        "frames_lost": 2,
        "images_lost": 1,
        "free_bytes": 1_200_000,
    }
    service.background = BackgroundState()
    service.status(swap={"state": "rolled-back", "reason": "another grid"})
    for latency in (20.0, 30.0, 40.0):
        service.image(latency_ms=latency)
    service.drop(DropReason.OVERTAKEN, 4)
    service.drop(DropReason.NOT_FINITE)
    service.ledger.reject("dtype")
    view.publish(latency_ms=51.0, flags=(Flag.LATE, Flag.NOT_CONVERGED, Flag.SATURATED))
    view.wait_for("#percentiles", "max 51")
    assert view.text("#percentiles").startswith("p50 35,")
    account = view.text("#account")
    for words in (
        *("frames in 9", "images 4", "averaged 0", "in flight 0", "late 1", "not converged 1"),
        "dropped 4 overtaken by a newer frame, 1 NaN or infinity",
        "rejected 1 dtype",
    ):
        assert words in account
    assert view.text("#balance") == "✓ adds up: 9 = 4 + 0 + 5 + 0"
    flags = view.text("#flags")
    for words in ("▲ late", "after its deadline", "▲ not converged", "▲ saturated", "(channel 1)"):
        assert words in flags
    assert "latency 51 ms" in view.text("#frame")
    assert view.text("#background") == "frames none, nothing subtracted"
    service_text = view.text("#service")
    for words in (
        "model fast",
        "policy latest",
        "stopped, the disk is full, b.mdf, 7 frames, 3 lost, 1.2 MB free",
        "rolled-back: another grid",
    ):
        assert words in service_text
    label = view.page.locator("#histogram").get_attribute("aria-label")
    assert "last 4 images" in label
    assert "deadline 43 ms" in label
    # Messages that nobody can read are counted too, and a wrong account is not called right.
    service.send([b"image", b"nonsense", b""])
    view.wait_for("#account", "1 header")
    service.status(counters=service.ledger.counters().to_dict() | {"frames_in": 12})
    view.wait_for("#balance", "✗ 12 frames in, but 4 + 0 + 5 + 0 = 9")


def test_pause_and_recent_frames_by_keyboard(open_view, fake_service) -> None:
    view = open_view(fake_service())
    press = view.page.keyboard.press
    sent = [view.publish() for _ in range(4)]
    top = max(live.image.max() for live in sent)
    press("Space")
    view.wait_for_state("paused")
    assert view.text("#state-word") == "PAUSED"
    assert view.page.get_attribute("#pause", "aria-pressed") == "true"
    for _ in range(5):
        view.service.image()
    view.wait_for("#account", "frames in 9")
    view.wait_for("#state-detail", "5 newer images")
    assert view.text("#sequence") == "3"
    assert_shows(view.pixels(), sent[3].image[0], top)
    press("ArrowLeft")
    press("ArrowLeft")
    assert view.text("#sequence") == "1"
    assert_shows(view.pixels(), sent[1].image[0], top)
    assert view.page.locator('#strip [aria-selected="true"]').get_attribute("title") == "frame 1"
    press("ArrowRight")
    assert view.text("#sequence") == "2"
    press("c")
    assert view.page.input_value("#map") == "viridis"
    assert_shows(view.pixels(), sent[2].image[0], top, "viridis")
    press("f")
    assert view.page.get_attribute("#fix", "aria-pressed") == "true"
    press("?")
    assert view.page.locator("#help").is_visible()
    press("Escape")
    view.page.locator("#help").wait_for(state="hidden", timeout=WAIT_MS)
    press("Space")
    assert view.page.get_attribute("#pause", "aria-pressed") == "false"
    last = view.publish(scale=2.0)
    view.wait_for_state("live")
    held = float(f"{top:.3g}")
    assert_shows(view.pixels(), np.minimum(last.image[0], held), held, "viridis")
    above = np.count_nonzero(last.image[0] > held)
    assert f"{above} voxels above the scale" in view.text("#concentration figcaption")


def test_controls_can_be_reached_and_seen_without_a_mouse(open_view, fake_service) -> None:
    view = open_view(fake_service())
    view.publish()
    reached = []
    for _ in range(14):
        view.page.keyboard.press("Tab")
        found = view.page.evaluate(
            "() => [document.activeElement.id || document.activeElement.dataset.snapshot,"
            " getComputedStyle(document.activeElement).outlineStyle,"
            " parseFloat(getComputedStyle(document.activeElement).outlineWidth)]"
        )
        if found[0] in reached or found[0] is None:
            break
        assert found[1] == "solid", found
        assert found[2] >= 2
        reached.append(found[0])
        if found[0] == "pause":
            view.page.keyboard.press("Enter")
            view.wait_for_state("paused")
            view.page.keyboard.press("Space")
            assert view.page.get_attribute("#pause", "aria-pressed") == "false"
    assert set(reached) >= {"pause", "png", "mdf", "nii", "help-button", "map", "top", "fix", "strip"}
    unnamed = view.page.evaluate(
        "() => [...document.querySelectorAll('button, select, input')]"
        ".filter((e) => !(e.ariaLabel || e.innerText || e.labels?.[0]?.innerText).trim()).length"
    )
    assert unnamed == 0


def test_volumes_and_intervals(open_view, fake_service) -> None:
    view = open_view(fake_service(grid=VOLUME, coverage=0.9))
    live = view.publish()
    view.page.keyboard.press("Space")
    top = live.image.max()
    assert_shows(view.pixels(), live.image.max(axis=0), top)
    half = (live.interval.high - live.interval.low) / 2
    at_largest = np.take_along_axis(half, live.image.argmax(axis=0)[np.newaxis], axis=0)[0]
    assert_shows(view.pixels("half-width"), at_largest, half.max())
    assert "90 % interval" in view.text("#uncertainty figcaption")
    for _ in range(3):
        view.page.keyboard.press("ArrowUp")
    assert view.page.input_value("#slice") == "2"
    assert_shows(view.pixels(), live.image[2], top)
    assert_shows(view.pixels("half-width"), half[2], half.max())
    # Voxel (9, 5, 2) in mm: x = 9.5 * 2 - 12, y = 5.5 * 2 - 8 + 1, z = 2.5 * 4 - 10 - 3.
    box = view.page.locator("#half-width").bounding_box()
    view.page.mouse.move(box["x"] + box["width"] * 9.5 / 12, box["y"] + box["height"] * (1 - 5.5 / 8))
    values = [live.image[2, 5, 9], live.interval.low[2, 5, 9], live.interval.high[2, 5, 9]]
    value, low, high = (float(f"{value:.3g}") for value in values)
    view.wait_for("#reading", f"(7.0, 4.0, −3.0) mm: {value:g} [{low:g}, {high:g}]")


def test_frame_without_interval_among_others_shows_none(open_view, fake_service) -> None:
    view = open_view(fake_service(coverage=0.9))
    view.publish()
    place = view.page.locator("#image").bounding_box()
    live = view.publish(flags=(Flag.DEADLINE,))
    assert live.interval is None
    assert view.text("#uncertainty figcaption") == "No interval for this frame"
    assert not view.pixels("half-width").any()
    assert view.page.locator("#image").bounding_box() == place  # nothing jumps
    view.publish()
    assert "90 % interval" in view.text("#uncertainty figcaption")
    assert view.pixels("half-width").any()


def test_snapshots_of_a_paused_page_read_back(open_view, fake_service) -> None:
    view = open_view(fake_service(coverage=0.9))
    view.publish()
    live = view.publish()
    view.publish()
    view.page.keyboard.press("ArrowLeft")
    view.wait_for_state("paused")
    for _ in range(40):  # more than the server keeps for everybody
        view.service.image()
    view.wait_for("#account", "frames in 43")
    found = {}
    for key, kind in (("s", "png"), ("m", "mdf"), ("n", "nii")):
        view.page.keyboard.press(key)
        view.wait_for("#snapshot-message", f".{kind}")
        link = view.page.locator("#snapshots a", has_text=f".{kind}")
        link.wait_for(timeout=WAIT_MS)
        with view.page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename == link.inner_text()
        found[kind] = view.folder / f"downloaded.{kind}"
        download.value.save_as(found[kind])
        assert found[kind].read_bytes() == (view.folder / "snapshots" / link.inner_text()).read_bytes()
    assert "frame 1" in view.text("#snapshot-message").lower()
    assert imread(found["png"]).shape[1] > 500  # two panels
    np.testing.assert_array_equal(images(read_mdf(found["mdf"]))[0, 0], live.image)
    bounds = read_intervals(found["mdf"], GRID)
    assert bounds is not None
    np.testing.assert_array_equal(bounds.high[0], live.interval.high)
    file = nibabel.load(found["nii"])
    np.testing.assert_array_equal(np.asarray(file.dataobj).T, live.image)
    centre = nibabel.affines.apply_affine(file.affine, (np.array(GRID.size) - 1) / 2)
    np.testing.assert_allclose(centre, [4.0, -2.0, 0.0], atol=1e-5)  # millimetres, that of the grid


def test_page_says_when_nothing_is_live(open_view, fake_service) -> None:
    service = fake_service()
    view = open_view(service)
    view.publish()
    view.wait_for_state("live")
    view.wait_for_state("silent")
    assert re.fullmatch(r"NO FRAMES for \d+ s", view.text("#state"))
    assert re.fullmatch(r"NO FRAMES last image, \d+ s old", view.text("#banner"))
    view.publish()
    view.wait_for_state("live")
    assert view.page.locator("#banner").is_hidden()
    service.close()
    view.wait_for_state("unreachable")
    assert "SERVICE NOT REACHABLE" in view.text("#banner")
    view.service = fake_service(service.endpoint)
    view.service.wait_for_subscriber()
    for _ in range(3):
        view.publish(scale=1.3)
    view.wait_for_state("live")
    view.wait_for("#account", "frames in 3")
    view.process.send_signal(signal.SIGTERM)
    view.wait_for_state("lost")
    assert "PAGE DISCONNECTED" in view.text("#banner")
    view.problems[:] = [found for found in view.problems if "WebSocket" not in found]  # it says so itself


def test_token_once_then_a_cookie(browser, start_view, fake_service) -> None:
    service = fake_service()
    _, url = start_view(service.endpoint, "--host", "0.0.0.0")  # noqa: S104
    port, token = url.partition("/?token=")[0].rpartition(":")[2], url.partition("?token=")[2]
    here = f"http://127.0.0.1:{port}/"
    page = browser.new_context().new_page()
    assert page.goto(f"{here}?token=wrong").status == 403
    assert page.goto(here).status == 403
    assert "DEQ-MPI" not in page.content()
    assert page.goto(f"{here}?token={token}").status == 200
    page.locator('#state[data-kind="waiting"]', has_text="WAITING").wait_for(timeout=WAIT_MS)
    assert page.url == here  # not in the history, and not on the screen
    assert page.evaluate("() => document.cookie") == ""
    assert page.reload().status == 200
    page.locator('#state[data-kind="waiting"]', has_text="WAITING").wait_for(timeout=WAIT_MS)
    other = browser.new_context().new_page()
    assert other.goto(here).status == 403
    page.context.close()
    other.context.close()


def test_page_fits_wide_and_narrow_screens(open_view, fake_service) -> None:
    view = open_view(fake_service(coverage=0.9))
    for width, height in ((1280, 720), (390, 800)):
        view.page.set_viewport_size({"width": width, "height": height})
        view.publish(flags=(Flag.LATE,))
        overflow = view.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        for name in ("#image", "#half-width", "#pause"):
            box = view.page.locator(name).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
        image = view.page.locator("#image").bounding_box()
        assert image["width"] / image["height"] == pytest.approx(2.0, rel=0.01)  # 52 mm to 26 mm
