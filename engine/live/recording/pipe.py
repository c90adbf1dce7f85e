"""The pipes between a service and the process that writes its recording, and that process itself."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from engine.errors import ConfigError, RecordingError
from engine.live.recording.config import RecordingConfig
from engine.machine.checked_values import to_plain
from engine.mpi.row_layout import Acquisition

PREFIX = struct.Struct("<cBq")
"""Prefix of the parts of each message: kind, number of parts, when it was received in ns since 1970."""

FRAME, IMAGE = b"F", b"I"

START_S = 60.0
"""Time in s for the process to load libraries and the template; a slow disk may take its time."""


def send(pipe: Connection, kind: bytes, received_ns: int, parts: Sequence[bytes]) -> None:
    """Send a frame or an image; `OSError` if nobody reads any more."""
    pipe.send_bytes(PREFIX.pack(kind, len(parts), received_ns))
    for part in parts:
        pipe.send_bytes(part)


def receive(pipe: Connection) -> tuple[bytes, int, list[bytes]]:
    """Return kind, time and parts of the next message; `EOFError` at the end, also in the midst of one."""
    kind, n_parts, received_ns = PREFIX.unpack(pipe.recv_bytes())
    if kind not in (FRAME, IMAGE):
        raise RecordingError(f"a message of kind {kind!r} came; expected {FRAME!r} or {IMAGE!r}")
    return kind, received_ns, [pipe.recv_bytes() for _ in range(n_parts)]


def send_json(pipe: Connection, values: Mapping[str, Any]) -> None:
    """Send a state, if anyone is there to read it."""
    with suppress(OSError):
        pipe.send_bytes(json.dumps(values).encode())


@dataclass(frozen=True)
class WriterSetup:
    """The first message to the process: what it shall do.

    Attributes
    ----------
    config : RecordingConfig
        Settings; the folder is absolute.
    acquisition : Acquisition
        Of the operators.
    session : str
        Letters and digits that are in the names of its files and in no others.
    """

    config: RecordingConfig
    acquisition: Acquisition
    session: str


class WriterProcess:
    """A running `engine.live.recording.writer`.

    Parameters
    ----------
    config : RecordingConfig
        Settings of the recording.
    acquisition : Acquisition
        Acquisition of the operators.
    session : str
        Session: letters and digits that are in the names of its files and in no others.

    Attributes
    ----------
    first_state : dict
        State that it sent when it was ready.

    Raises
    ------
    ConfigError
        If it cannot use the template.
    RecordingError
        If it does not start.
    """

    def __init__(self, config: RecordingConfig, acquisition: Acquisition, session: str) -> None:
        to_read, self._outgoing = Pipe(duplex=False)
        self._incoming, to_write = Pipe(duplex=False)
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-P", "-m", "engine.live.recording.writer"]
            + [str(end.fileno()) for end in (to_read, to_write)],
            pass_fds=[to_read.fileno(), to_write.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        to_read.close()
        to_write.close()
        setup = WriterSetup(replace(config, folder=config.folder.resolve()), acquisition, session)
        send_json(self._outgoing, to_plain(setup))
        self.first_state = self._await_start()

    @property
    def process_id(self) -> int:
        """Number of the process in the operating system."""
        return self._process.pid

    def send(self, kind: bytes, received_ns: int, parts: Sequence[bytes]) -> None:
        """Hand over a frame or image; waits while the process is behind. `OSError` if it has ended."""
        send(self._outgoing, kind, received_ns, parts)

    def next_state(self) -> dict[str, Any]:
        """Wait for the state that the process sends next; `EOFError` when it has ended."""
        try:
            state: dict[str, Any] = json.loads(self._incoming.recv_bytes())
        except (OSError, ValueError) as error:  # killed while it wrote
            raise EOFError from error
        return state

    def end_input(self) -> None:
        """Say that nothing more comes; the process finishes the files and ends."""
        self._outgoing.close()

    def exit_code(self) -> int:
        """Wait for the end of a process that said its last, and return how it ended."""
        self._incoming.close()
        return self._process.wait()

    def _await_start(self) -> dict[str, Any]:
        if not self._incoming.poll(START_S):
            self._process.kill()
            raise RecordingError(f"the writing process did not start in {START_S:g} s; try again")
        try:
            state = self.next_state()
        except EOFError as error:
            raise RecordingError(
                f"the writing process ended at once (exit code {self._process.wait()}); see its message"
            ) from error
        if "error" in state:
            self._process.wait()
            raise ConfigError(f"recording: {state['error']}")
        return state
