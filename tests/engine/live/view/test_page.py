"""The files of the page: readable, self-contained, and in step with the code that they speak of."""

import json
import re
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest
from matplotlib import colormaps

from engine.live.loop.counters import DropReason
from engine.live.loop.live_image import Flag
from engine.live.view.server import COLOUR_MAPS, page_facts, page_files
from engine.live.view.snapshots import SnapshotKind

FILES = {name: content.decode() for name, content in page_files().items()}
FACTS = json.loads(page_facts())
STYLE = FILES["style.css"]
COLOURS = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", STYLE))

MINIMUM_CONTRAST = 7.0
"""WCAG 2.2, success criterion 1.4.6 (level AAA) for text."""


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" by the definition in WCAG 2.2."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # a well-known pair


@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *product(["text", "quiet", "accent", "good", "warn", "bad"], ["ground", "panel", "raised"]),
        *product(["ink"], ["accent", "good", "warn", "bad"]),
    ],
)
def test_text_can_be_read_on_a_dim_screen(text, ground) -> None:
    assert contrast(COLOURS[text], COLOURS[ground]) >= MINIMUM_CONTRAST


def test_no_other_colours_are_used_for_text() -> None:
    used = re.findall(r"(?<![-a-z])color: ([^;]+);", STYLE)
    assert used
    assert set(used) <= {f"var(--{name})" for name in COLOURS}


class Resources(HTMLParser):
    """What a page loads, and what it holds inside that a strict policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.inline: list[str] = []
        self.ids: set[str] = set()
        self.buttons: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded |= {str(values[key]) for key in ("src", "href", "action") if key in values}
        self.inline += [key for key in values if key == "style" or key.startswith("on")]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in values) else []
        self.ids |= {str(values["id"])} if "id" in values else set()
        if tag == "button":
            self.buttons.append(values)


def test_page_loads_only_its_own_files_and_holds_no_code() -> None:
    page = Resources()
    page.feed(FILES["index.html"])
    assert page.loaded
    assert {name.removeprefix("/") for name in page.loaded} <= set(FILES)
    assert page.inline == []
    imports = {name for text in FILES.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert imports <= set(FILES)
    assert {name for name in FILES if name.endswith(".js")} == imports | {"app.js"}
    for name, text in FILES.items():
        addresses = [found for found in re.findall(r"https?://[^\s\"']+", text) if "www.w3.org" not in found]
        assert addresses == [], name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), name
        assert "url(" not in text
        assert "@import" not in text


def test_scripts_speak_of_elements_that_exist() -> None:
    page = Resources()
    page.feed(FILES["index.html"])
    wanted = {
        name
        for text in FILES.values()
        for name in re.findall(r'(?:byId|getElementById)\("([a-z-]+)"\)', text)
    }
    assert wanted
    assert wanted <= page.ids


def test_keys_in_the_help_are_those_of_the_script() -> None:
    table = FILES["app.js"].partition("const KEYS = {")[2].partition("};")[0]
    keys = {key.strip('"') for key in re.findall(r'^  ("[^"]+"|\w+): ', table, re.MULTILINE)}
    names = {
        " ": "Space",
        "Escape": "Esc",
        "ArrowLeft": "←",
        "ArrowRight": "→",
        "ArrowUp": "↑",
        "ArrowDown": "↓",
    }
    shown = set(re.findall(r"<kbd>([^<]+)</kbd>", FILES["index.html"].partition("<dialog")[2])) - {"Shift"}
    assert shown == {names.get(key, key.upper()) for key in keys}


def test_every_flag_and_reason_has_words() -> None:
    assert FACTS["flags"].keys() == {flag.value for flag in Flag}
    assert all(words and meaning for words, meaning in FACTS["flags"].values())
    assert FACTS["drops"].keys() == {reason.value for reason in DropReason}
    assert all(FACTS["drops"].values())


def test_every_kind_of_snapshot_has_a_button() -> None:
    assert set(re.findall(r'data-snapshot="(\w+)"', FILES["index.html"])) == {
        kind.value for kind in SnapshotKind
    }


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_colour_maps_are_those_of_matplotlib(name) -> None:
    text = FACTS["colour_maps"][name]
    assert len(text) == 6 * 256
    for step in (0, 1, 100, 254, 255):
        expected = colormaps[name]((step + 0.5) / 256, bytes=True)[:3]
        assert bytes.fromhex(text[6 * step : 6 * step + 6]) == bytes(expected)


def test_less_motion_and_small_screens_are_thought_of() -> None:
    assert "@media (prefers-reduced-motion: reduce)" in STYLE
    assert "prefers-reduced-motion" in FILES["strip.js"]
    assert ":focus-visible" in STYLE
    assert 'name="viewport"' in FILES["index.html"]
