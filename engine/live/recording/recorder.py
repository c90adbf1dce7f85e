"""Recorder of raw frames and images while they come, which never keeps the reconstruction waiting."""

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from engine.errors import ConfigError, DeqMpiError, MessageError
from engine.live.loop.counters import Counters
from engine.live.loop.live_image import LiveImage
from engine.live.recording.config import RecordingConfig
from engine.live.recording.files import FileKind, session_files
from engine.live.recording.finish import frame_count
from engine.live.recording.pipe import FRAME, IMAGE, WriterProcess
from engine.live.recording.state import RecordingState, RecordingStatus
from engine.live.wire.messages import encode_frame, encode_image
from engine.measurement.raw_frame import RawFrame
from engine.mpi.row_layout import Acquisition

CLOSE_S = 30.0
"""Time in s to finish the files in; the process goes on by itself after that."""

WRITER_DIED, QUEUE_FULL, STOPPED, CLOSED = "writer-died", "queue-full", "stopped", "closed"
"""Reasons why a frame is in no file, beside what the writing process finds in it."""

_NAMES = {FRAME: "frames", IMAGE: "images"}
_FILE_KINDS = {FRAME: FileKind.RAW, IMAGE: FileKind.IMAGES}


class Recorder:
    """Recorder that writes what it is given to MDF files in a folder, from a process of its own.

    Frames and images may come from any thread; their arrays must not be changed afterwards. Recordings in
    the folder whose process was killed are recovered meanwhile.

    Parameters
    ----------
    config : RecordingConfig
        Folder, template and limits.
    acquisition : Acquisition
        Acquisition of the operators.

    Raises
    ------
    ConfigError
        If the folder does not exist, or the template cannot be used with the operators.
    RecordingError
        If the writing process cannot be started.
    """

    def __init__(self, config: RecordingConfig, acquisition: Acquisition) -> None:
        if not config.folder.is_dir():
            raise ConfigError(f"recording folder is {config.folder}; expected an existing folder; create it")
        self._config, self._acquisition = config, acquisition
        self._changed = threading.Condition()
        self._queue: deque[tuple[bytes, int, Callable[[], Sequence[bytes]]]] = deque()
        self._waiting: Counter[bytes] = Counter()
        self._given: Counter[bytes] = Counter()
        self._lost: dict[bytes, Counter[str]] = {FRAME: Counter(), IMAGE: Counter()}
        self._is_closing = self._is_closed = False
        self._died = ""
        self._session = secrets.token_hex(4)
        self._writer = WriterProcess(config, acquisition, self._session)
        self._report: Mapping[str, Any] = self._writer.first_state
        self._sender = threading.Thread(target=self._send, name="recording-sender", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="recording-listener", daemon=True)
        self._sender.start()
        self._listener.start()

    @property
    def writer_process_id(self) -> int:
        """Number of the process that writes, in the operating system."""
        return self._writer.process_id

    def frame(self, frame: RawFrame, received_ns: int) -> bool:
        """Record a frame that was made in this process; return False, at once, if it will be in no file.

        Parameters
        ----------
        frame : RawFrame
            Frame as it came; background frames count too.
        received_ns : int
            Time of its receipt on our clock, nanoseconds since 1970 UTC.
        """
        return self._offer(FRAME, received_ns, lambda: encode_frame(frame))

    def message(self, parts: Sequence[bytes], received_ns: int) -> bool:
        """Record a frame by the parts of the message that it came in; otherwise as `frame`.

        They reach the writing process as they are, neither copied nor encoded again.
        """
        return self._offer(FRAME, received_ns, lambda: parts)

    def image(self, image: LiveImage) -> bool:
        """Record an image with its report; return False, at once, if it will be in no file."""
        return self._offer(IMAGE, image.report.finished_ns, lambda: encode_image(image, Counters()))

    def state(self) -> RecordingState:
        """Return the state of the recording."""
        with self._changed:
            written = {kind: sum(self._report[name].values()) for kind, name in _NAMES.items()}
            lost = {
                kind: self._lost[kind] + Counter(self._report[f"lost_{name}"])
                for kind, name in _NAMES.items()
            }
            if self._died or self._is_closed:
                for kind in _NAMES:  # nothing waits any more
                    lost[kind][WRITER_DIED] += self._given[kind] - written[kind] - lost[kind].total()
            files = sorted({*self._report["frames"], *self._report["images"]})
            return RecordingState(
                status=self._status(),
                reason=self._reason(),
                frames_in=self._given[FRAME],
                images_in=self._given[IMAGE],
                frames_written=written[FRAME],
                images_written=written[IMAGE],
                frames_lost=lost[FRAME].total(),
                images_lost=lost[IMAGE].total(),
                lost={reason: n for reason, n in (lost[FRAME] + lost[IMAGE]).items() if n},
                unfinished=tuple(name for name in files if name not in self._report["finished"]),
                files=tuple(files),
                free_bytes=self._report["free"],
            )

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what waits, finish the files and end.

        Parameters
        ----------
        timeout_s : float
            Time in s after which the process is left to finish by itself; `RecordingState.unfinished` names
            what it works on.
        """
        until = time.monotonic() + timeout_s
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            self._changed.notify_all()
        self._sender.join(max(0.0, until - time.monotonic()))
        self._listener.join(max(0.0, until - time.monotonic()))
        if self._died:
            self._recover(until)
        with self._changed:
            self._is_closed = True

    def _offer(self, kind: bytes, received_ns: int, encode: Callable[[], Sequence[bytes]]) -> bool:
        with self._changed:
            self._given[kind] += 1
            if refusal := self._refusal(kind):
                self._lost[kind][refusal] += 1
                return False
            self._waiting[kind] += 1
            self._queue.append((kind, received_ns, encode))
            self._changed.notify()
            return True

    def _refusal(self, kind: bytes) -> str:
        if self._is_closing:
            return CLOSED
        if self._died:
            return WRITER_DIED
        if self._report["stopped"]:
            return STOPPED
        return QUEUE_FULL if self._waiting[kind] >= self._config.queue_frames else ""

    def _send(self) -> None:
        """Hand queued frames to the process, until closed and empty (a thread)."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_closing or self._died)
                if self._died or not self._queue:
                    break
                kind, received_ns, encode = self._queue.popleft()
            try:
                parts = encode()
            except (DeqMpiError, ValueError, TypeError) as error:
                reason = error.reason if isinstance(error, MessageError) else "value"
                with self._changed:
                    self._lost[kind][reason] += 1
            else:
                try:
                    self._writer.send(kind, received_ns, parts)
                except OSError:
                    break  # it has ended; the listener finds out how
            with self._changed:
                self._waiting[kind] -= 1
        self._writer.end_input()

    def _listen(self) -> None:
        """Take in what the process says until it ends (a thread)."""
        while True:
            try:
                report = self._writer.next_state()
            except EOFError:
                break
            with self._changed:
                self._report = report
        code = self._writer.exit_code()
        with self._changed:
            if not self._report.get("ended"):
                self._died = f"the writing process ended (exit code {code}); close, or run engine recover"
                self._changed.notify_all()

    def _recover(self, until: float) -> None:
        """Let another process finish what a dead one left, and correct the account by what the files hold."""
        try:
            writer = WriterProcess(self._config, self._acquisition, self._session)
        except DeqMpiError:
            return  # the files can still be recovered by hand
        writer.end_input()
        listener = threading.Thread(target=_listen_to_the_end, args=(writer,), daemon=True)
        listener.start()
        listener.join(max(0.0, until - time.monotonic()))
        with self._changed:
            report = dict(self._report) | {"finished": {}}
            for kind, name in _NAMES.items():
                report[name] = {}
                for path in session_files(self._config.folder, self._session, _FILE_KINDS[kind]):
                    with suppress(DeqMpiError):  # a file that cannot be read holds nothing for sure
                        report[name][path.name], is_finished = frame_count(path)
                        if is_finished:
                            report["finished"][path.name] = report[name][path.name]
            self._report = report

    def _status(self) -> RecordingStatus:
        if self._is_closed:
            return RecordingStatus.CLOSED
        if self._died or self._report["stopped"]:
            return RecordingStatus.STOPPED
        return RecordingStatus.RECORDING

    def _reason(self) -> str:
        return "; ".join(filter(None, (self._died, self._report["stopped"], *self._report["notes"])))


def _listen_to_the_end(writer: WriterProcess) -> None:
    with suppress(EOFError):
        while True:
            writer.next_state()
    writer.exit_code()
