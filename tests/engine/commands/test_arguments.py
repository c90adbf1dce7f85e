"""Frame selections: what they choose, and what they refuse."""

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.commands.arguments import frame_list, parse_frames
from engine.errors import InputError


def parse(text):
    return parse_frames(None, None, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", [3]),
        ("0:3", [0, 1, 2]),
        ("7:", [7, 8, 9]),
        (":2", [0, 1]),
        (":", list(range(10))),
        ("5,0,7:9", [5, 0, 7, 8]),
        (" 1 , 2 : 4 ", [1, 2, 3]),
    ],
)
def test_chosen_frames(text, expected) -> None:
    assert parse(text).indices(10) == expected


@pytest.mark.parametrize("text", ["", "a", "1:b", "-1", "1.5", "1,,2", "1:2:3"])
def test_text_that_is_no_selection(text) -> None:
    with pytest.raises(click.BadParameter, match="expected 0-based frames"):
        parse(text)


@pytest.mark.parametrize("text", ["10", "8:12", "3:3", "5:2", "1,1", "0:3,2", "0:1000000000000000"])
def test_frames_that_do_not_exist(text) -> None:
    with pytest.raises(InputError, match="0 and 9"):
        parse(text).indices(10)


def test_no_selection_is_none() -> None:
    assert parse(None) is None


def test_bad_text_is_a_usage_error() -> None:
    @click.command()
    @click.option("--frames", callback=parse_frames)
    def command(frames):
        """Test."""

    result = CliRunner().invoke(command, ["--frames", "x"])
    assert result.exit_code == 2
    assert "Invalid value for '--frames': 'x'" in result.stderr


@pytest.mark.parametrize(
    ("frames", "text"),
    [([3], "frame 3"), ([0, 1, 2], "frames 0-2"), ([7, 0, 2, 1], "frames 0-2, 7"), ([1, 3], "frames 1, 3")],
)
def test_names(frames, text) -> None:
    assert frame_list(frames) == text


@settings(deadline=None)
@given(st.sets(st.integers(0, 50), min_size=1))
def test_names_say_exactly_which_frames(frames) -> None:
    text = frame_list(list(frames)).removeprefix("frames ").removeprefix("frame ")
    runs = [part.split("-") for part in text.split(", ")]
    assert {n for run in runs for n in range(int(run[0]), int(run[-1]) + 1)} == frames
