"""A live service in a process of its own: for replays, benchmarks and tests."""

import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from types import TracebackType
from typing import IO

from engine.errors import LiveError
from engine.live.service.live_config import STDIN, LiveConfig, live_config_toml

START_S = 120.0
"""Time in s for loading, compiling and the check, on a machine that does other things as well."""

STOP_S = 60.0
"""Time in s for finishing the frames that wait and the recording."""


class ServiceProcess:
    """Child process with `engine serve`, which ends with the block.

    Parameters
    ----------
    config : LiveConfig
        Its configuration. Endpoints may have the port `*`.

    Attributes
    ----------
    frames_endpoint, images_endpoint : str
        Endpoints at which it listens.
    process : subprocess.Popen
        Process of the child.

    Raises
    ------
    LiveError
        If it does not start; with what it said last.
    """

    def __init__(self, config: LiveConfig) -> None:
        # The log goes to a file: a pipe that nobody reads would stop the service when it is full.
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        command = [sys.executable, "-m", "engine.cli", "serve", "--config", str(STDIN)]
        self.process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        assert self.process.stdin is not None  # noqa: S101 - pipes were asked for
        assert self.process.stdout is not None  # noqa: S101
        with suppress(BrokenPipeError), self.process.stdin as stdin:  # if it has ended, its log says why
            stdin.write(live_config_toml(config).encode())
        timer = threading.Timer(START_S, self.process.kill)
        timer.start()
        words = self.process.stdout.readline().decode().split()
        timer.cancel()
        if len(words) != 6:  # frames to ENDPOINT, images at ENDPOINT
            self.stop()
            said = self.last_words()
            self._log.close()
            raise LiveError(f"the service did not start: {said}")
        self.frames_endpoint, self.images_endpoint = words[2].rstrip(","), words[5]

    def __enter__(self) -> "ServiceProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._log.close()

    def log(self) -> str:
        """Return what the service has written to its log."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def last_words(self) -> str:
        """Return the last line of the service's log."""
        lines = self.log().strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}, without a word"

    def stop(self) -> int:
        """End the service cleanly, by force if it does not within `STOP_S`; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return int(self.process.returncode)
