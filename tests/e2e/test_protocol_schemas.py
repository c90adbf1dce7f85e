"""The published schemas agree with the code: what is encoded obeys them, what they refuse is refused."""

import itertools
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from engine.errors import MessageError
from engine.fixed_point.solution import Result
from engine.live.loop.counters import Counters, DropReason
from engine.live.loop.live_image import BackgroundState, Flag, LiveImage, LiveReport
from engine.live.service.state import Phase, ServiceState
from engine.live.wire.messages import (
    FRAME_TYPES,
    MAX_STREAM,
    REASONS,
    decode_frame,
    encode_frame,
    encode_image,
    encode_status,
)
from engine.measurement.raw_frame import RawFrame
from engine.mpi.grid import Grid
from engine.networks.interval_table import Interval
from engine.reconstruction.report import FrameReport

DOCS = Path(__file__).parents[2] / "docs"

VALID = {
    "kind": "deq-mpi-frame",
    "version": 1,
    "stream": "run 7",
    "sequence": 12,
    "background": False,
    "dtype": "complex64",
    "shape": [1, 1, 2],
    "bins": [3, 5],
    "acquired_ns": 1764000000000000000,
}

STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 2**63 - 1, 2**63, 0.5, 1e300, "", "1", "complex64", "float64",
    "complex256", "x" * 65, "two\nlines", [], [0], [1, 2, 3], [1, -2, 3], [1, 0, 3], [2, 2], [True, 2],
    [1.5, 2], [1, 2**63], ["1", "2"], [[1], [2]], {}, {"a": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def schemas() -> dict[str, Draft202012Validator]:
    found = {}
    for name in ("frame", "image", "status"):
        schema = json.loads((DOCS / "schemas" / f"{name}-v1.json").read_text(encoding="utf-8"))
        Draft202012Validator.check_schema(schema)
        found[name] = Draft202012Validator(schema)
    return found


def reason_of(header: dict[str, Any]) -> str | None:
    """Why the decoder refuses a header, with values that fit if any do."""
    shape = header.get("shape")
    size = 8
    if isinstance(shape, list) and all(type(length) is int for length in shape):
        size = int(np.prod([min(abs(length), 10) for length in shape]))
    items = {"complex64": 8, "complex128": 16, "float64": 8, "float32": 4, "int16": 2, "int32": 4}
    dtype = header.get("dtype")
    values = bytes(size * (items.get(dtype, 8) if isinstance(dtype, str) else 8))
    try:
        decode_frame([json.dumps(header).encode(), values])
    except MessageError as error:
        return error.reason
    return None


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("dtype", FRAME_TYPES)
def test_encoded_frames_obey(schemas: dict, dtype: str, background: bool) -> None:
    bins = np.array([4, 7]) if dtype.startswith("complex") else None
    for optional in ({}, {"bins": bins, "acquired_ns": 5}):
        frame = RawFrame(3, np.zeros((1, 1, 2), dtype), "run 7", background, **optional)
        schemas["frame"].validate(json.loads(encode_frame(frame)[0]))


def test_single_strange_values_are_refused_by_both_or_none(schemas: dict) -> None:
    """For everything but what one value cannot show: sizes and the order of bins."""
    disagreed = []
    for key, value in itertools.product(VALID, STRANGE):
        header = VALID | {key: value}
        if key in ("shape", "dtype"):
            header.pop("bins")
        reason = reason_of(header)
        if reason != "size" and schemas["frame"].is_valid(header) != (reason is None):
            disagreed.append((key, value, reason))
    # The number of bins, which a schema cannot compare with the shape.
    expected = [("bins", value, "shape") for value in ([0], [1, 2, 3], [1, 0, 3])]
    assert disagreed == expected


@pytest.mark.parametrize("key", VALID)
def test_missing_keys_are_refused_by_both_or_none(schemas: dict, key: str) -> None:
    header = {name: value for name, value in VALID.items() if name != key}
    is_optional = key in ("bins", "acquired_ns")
    assert (reason_of(header) is None) == is_optional
    assert schemas["frame"].is_valid(header) == is_optional


@pytest.mark.parametrize(("key", "is_valid"), [("_remark", True), ("remark", False), ("Sequence", False)])
def test_other_keys_are_refused_by_both_or_none(schemas: dict, key: str, is_valid: bool) -> None:
    header = VALID | {key: {"a": [1]}}
    assert (reason_of(header) is None) == schemas["frame"].is_valid(header) == is_valid


def test_bins_of_time_signals_are_refused_by_both(schemas: dict) -> None:
    header = VALID | {"dtype": "float64"}
    assert reason_of(header) == "shape"
    assert not schemas["frame"].is_valid(header)


def test_limits_are_those_of_the_code(schemas: dict) -> None:
    frame = schemas["frame"].schema["properties"]
    assert frame["stream"]["maxLength"] == MAX_STREAM
    assert frame["dtype"]["enum"] == list(FRAME_TYPES)
    report = schemas["image"].schema["properties"]["report"]["properties"]
    assert report["flags"]["items"]["enum"] == [flag.value for flag in Flag]
    assert report["result"]["enum"] == [result.name.lower() for result in Result]
    counters = schemas["status"].schema["properties"]["counters"]
    assert sorted(counters["required"]) == sorted(field.name for field in fields(Counters))
    assert schemas["status"].schema["properties"]["state"]["enum"] == list(get_args(Phase))


COUNTERS = Counters(frames_in=2, images_out=1, dropped={DropReason.DUPLICATE.value: 1}, rejected={"size": 3})


def image(*, interval: bool) -> LiveImage:
    values = np.ones((1, 3, 4), np.float32)
    frame = FrameReport(
        method="deq",
        result=Result.MAX_ITERATIONS,
        iterations=2,
        residuals=(0.1, 0.05),
        restarts=0,
        residual_over_epsilon=None,
        sigma=1.0,
        snr_db=20.0,
        weights={"beta": 1.0},
        weights_clamped=False,
        interval_coverage=None,
        interval_clamped=False,
        intensity=1.0,
        milliseconds=9.0,
    )
    report = LiveReport(8, 7, 2, "a", None, 10, 20, 0.5, 9.5, tuple(Flag), (0, 2), None, frame)
    bounds = Interval(values, values, 0.9, False) if interval else None
    return LiveImage(values, bounds, Grid((4, 3, 1), (0.04, 0.03, 0.01)), BackgroundState(), report)


@pytest.mark.parametrize("interval", [False, True])
def test_encoded_images_obey(schemas: dict, interval: bool) -> None:
    header = json.loads(encode_image(image(interval=interval), COUNTERS)[1])
    schemas["image"].validate(header)
    for key in header:
        assert not schemas["image"].is_valid({name: value for name, value in header.items() if name != key})
        assert not schemas["image"].is_valid(header | {key: "x"})
    for key in schemas["image"].schema["properties"]["report"]["required"]:
        assert not schemas["image"].is_valid(header | {"report": header["report"] | {key: {}}})


@pytest.mark.parametrize("phase", get_args(Phase))
def test_encoded_states_obey(schemas: dict, phase: Phase) -> None:
    state = ServiceState(
        state=phase,
        policy="latest",
        deadline_ms=None,
        method="deq",
        model="fast",
        operators_sha256="0" * 64,
        counters=COUNTERS,
        background=BackgroundState(3, 2.0, None, None),
        recording={"state": "stopped", "reason": "no space left"},
        swap={"state": "rolled-back", "reason": "hash"},
    )
    header = json.loads(encode_status(state.to_dict())[1])
    schemas["status"].validate(header)
    for key in header:
        assert not schemas["status"].is_valid({name: value for name, value in header.items() if name != key})
        assert not schemas["status"].is_valid(header | {key: [1]})


def test_every_reason_of_a_refusal_is_documented() -> None:
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    section = page.partition("\n## Rejections\n")[2].partition("\n## ")[0]
    documented = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    assert documented == set(REASONS)


def test_every_reason_of_a_drop_is_documented() -> None:
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    for reason in DropReason:
        assert f"`{reason.value}`" in page
