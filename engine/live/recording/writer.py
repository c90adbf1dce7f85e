"""The process that writes a recording: frames and images come by one pipe, its state goes out by another.

It is a process of its own so that a slow disk, a lock or an error of HDF5 never reaches the reconstruction;
and when the service dies, the end of the pipe is the sign to finish the files. What comes is in the wire
format of `engine.live.wire.messages`, after one line of setup: nothing that is executed or unpickled.
"""

import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Generator, Hashable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DeqMpiError, MessageError
from engine.live.recording.contents import (
    Template,
    frame_content,
    frame_row,
    image_content,
    image_row,
    load_template,
    message_grid,
)
from engine.live.recording.files import FileKind, FileNames, FileSeries
from engine.live.recording.finish import (
    FinishedRecording,
    finish_in_steps,
    remove_leftovers,
    unfinished_recordings,
)
from engine.live.recording.pipe import FRAME, IMAGE, WriterSetup, receive, send_json
from engine.live.wire.messages import decode_frame, decode_image
from engine.machine.checked_values import from_plain
from engine.measurement.raw_frame import RawFrame

REPORT_S = 0.1
"""Longest time in s between two states; one is also sent when nothing waits to be written."""

SPACE_S = 0.5
"""Time in s between two looks at the free space."""

NICENESS = 5
"""Niceness of the process: the reconstruction goes first where both want the processor."""

MEGABYTE = 2**20


class Writer:
    """The work of the process, apart from its pipes.

    Parameters
    ----------
    setup : WriterSetup
        Where to write, and how.
    template : Template
        Metadata of the files.
    """

    def __init__(self, setup: WriterSetup, template: Template) -> None:
        config = setup.config
        self._folder = config.folder
        self._template = template
        self._min_free = int(config.min_free_mb * MEGABYTE)
        self._retry_s = config.retry_s
        names = FileNames(self._folder, setup.session)
        self._series = {
            kind: FileSeries(file_kind, names, config.frames_per_file, self._closed)
            for kind, file_kind in ((FRAME, FileKind.RAW), (IMAGE, FileKind.IMAGES))
        }
        self._waiting: deque[Path] = deque()
        self._work: Generator[None, None, FinishedRecording] | None = None
        self._finished: dict[str, int] = {}
        self._lost: dict[bytes, Counter[str]] = {FRAME: Counter(), IMAGE: Counter()}
        self._notes: list[str] = []
        self._stopped = ""
        self._stopped_at = self._looked_at = -np.inf
        self._free = 0
        remove_leftovers(self._folder)
        self._waiting.extend(unfinished_recordings(self._folder))

    def take(self, kind: bytes, received_ns: int, parts: list[bytes]) -> None:
        """Write one frame or image; what cannot be written is counted."""
        if not self.is_recording():
            self._lost[kind]["stopped"] += 1
            return
        try:
            if kind == FRAME:
                self._frame(decode_frame(parts), received_ns)
            else:
                self._image(parts)
        except OSError as error:
            self._lost[kind]["disk"] += 1
            self._stop(f"writing failed ({error}); free space on the disk of {self._folder}")
        except MessageError as error:
            self._lost[kind][error.reason] += 1
        except (DeqMpiError, ValueError, KeyError, TypeError) as error:
            self._lost[kind]["mismatch"] += 1
            self._note(f"not recorded: {error}")

    def is_recording(self) -> bool:
        """Look at the free space from time to time, and stop or begin again accordingly."""
        now = time.monotonic()
        if now - self._looked_at >= SPACE_S:
            self._looked_at = now
            self._free = shutil.disk_usage(self._folder).free
            if self._free < self._min_free and not self._stopped:
                self._stop(
                    f"{self._free // MEGABYTE} MB are free on the disk of {self._folder}; expected at least "
                    f"{self._min_free // MEGABYTE}; free some"
                )
        if self._stopped and now - self._stopped_at >= self._retry_s:
            if self._free >= self._min_free:
                self._stopped = ""
            else:
                self._stopped_at = now
        return not self._stopped

    def has_files_to_finish(self) -> bool:
        """Whether `finish_some` has something to do."""
        return self._work is not None or (bool(self._waiting) and not self._stopped)

    def finish_some(self) -> None:
        """Do a little of the work on closed files."""
        if self._work is None:
            self._work = finish_in_steps(self._waiting.popleft())
        try:
            next(self._work)
        except StopIteration as end:
            self._work = None
            done: FinishedRecording = end.value
            self._finished[done.path.name] = done.n_frames
            if done.note:
                self._note(f"{done.path.name}: {done.note}")
        except (DeqMpiError, OSError, RuntimeError) as error:
            self._work = None
            self._note(str(error))

    def end(self) -> None:
        """Close the files and finish all that can be finished."""
        for series in self._series.values():
            series.close()
        while self._work is not None or self._waiting:
            self.finish_some()

    def state(self) -> dict[str, Any]:
        """Return the account, in values that JSON can hold."""
        return {
            "frames": self._series[FRAME].counts,
            "images": self._series[IMAGE].counts,
            "finished": self._finished,
            "lost_frames": dict(self._lost[FRAME]),
            "lost_images": dict(self._lost[IMAGE]),
            "stopped": self._stopped,
            "notes": self._notes,
            "free": self._free,
        }

    def _frame(self, frame: RawFrame, received_ns: int) -> None:
        if frame.data.dtype.kind != "i" and not np.isfinite(frame.data).all():
            raise MessageError("not-finite", "the frame holds NaN or infinity; no MDF file may")
        bins = None if frame.bins is None else frame.bins.tobytes()
        key = (frame.stream, frame.data.dtype.str, frame.data.shape, bins)
        row = frame_row(frame, received_ns)
        self._series[FRAME].append(key, lambda: frame_content(self._template, frame), row)

    def _image(self, parts: list[bytes]) -> None:
        message = decode_image(parts)
        grid, coverage = message_grid(message), message.header["interval_coverage"]
        series = self._series[IMAGE]
        if coverage is None and isinstance(series.key, tuple) and series.key[0] == grid:
            coverage = series.key[1]  # no interval for this one: its row holds NaN
        key: Hashable = (grid, coverage)
        bounds = None if message.low is None or message.high is None else (message.low, message.high)
        report = dict(message.header["report"]) | {"background": message.header["background"]}
        row = image_row(message.image, bounds, report, has_bounds=coverage is not None)
        series.append(key, lambda: image_content(self._template.file, grid, coverage), row)

    def _closed(self, path: Path) -> None:
        self._waiting.append(path)

    def _stop(self, reason: str) -> None:
        self._stopped, self._stopped_at = " ".join(reason.split()), time.monotonic()
        for series in self._series.values():
            series.close()

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes = [*self._notes[-9:], text]


def main() -> None:
    """Run the process: `python -m engine.live.recording.writer READ_END WRITE_END`."""
    # The service decides when to end, by closing the pipe; a signal to the whole group is for the service.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    incoming = Connection(int(sys.argv[1]), writable=False)
    outgoing = Connection(int(sys.argv[2]), readable=False)
    try:
        setup = from_plain(WriterSetup, json.loads(incoming.recv_bytes()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about the template was said when it was calibrated
            template = load_template(setup.config.template, setup.acquisition)
        writer = Writer(setup, template)
    except (DeqMpiError, OSError) as error:
        send_json(outgoing, {"error": str(error)})
        return
    except EOFError:
        return
    writer.is_recording()
    send_json(outgoing, writer.state())
    _serve(incoming, outgoing, writer)
    send_json(outgoing, writer.state() | {"ended": True})


def _serve(incoming: Connection, outgoing: Connection, writer: Writer) -> None:
    sent_at, changed = time.monotonic(), False
    while True:
        try:
            if incoming.poll(0):
                writer.take(*receive(incoming))
                changed = True
            elif changed:
                sent_at, changed = time.monotonic(), False
                send_json(outgoing, writer.state())
            elif writer.has_files_to_finish():
                writer.finish_some()
                changed = not writer.has_files_to_finish()
            else:
                was = writer.is_recording()
                incoming.poll(SPACE_S)
                changed = writer.is_recording() != was or time.monotonic() - sent_at > 1.0
        except EOFError:
            break
        if changed and time.monotonic() - sent_at > REPORT_S:
            sent_at, changed = time.monotonic(), False
            send_json(outgoing, writer.state())
    writer.end()


if __name__ == "__main__":
    main()
