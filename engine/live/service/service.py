"""The service around the live loop: frames in, images out, recorded, observed, and swapped on request."""

import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from weakref import WeakKeyDictionary

from engine.errors import DeqMpiError, MessageError
from engine.live.loop.counters import Counters
from engine.live.loop.events import Event, OnEvent
from engine.live.loop.live_image import BackgroundState, LiveImage
from engine.live.loop.live_reconstructor import LiveReconstructor
from engine.live.recording.recorder import Recorder
from engine.live.service.live_config import LiveConfig, MethodConfig, load_live_config
from engine.live.service.metrics import LiveMetrics
from engine.live.service.state import HealthLimits, Phase, ServiceState, liveness, readiness
from engine.live.service.status_server import StatusServer
from engine.live.wire.frame_socket import FrameSocket
from engine.live.wire.image_socket import ImageSocket
from engine.live.wire.messages import encode_image, encode_status
from engine.measurement.raw_frame import RawFrame
from engine.reconstruction.reconstructor import Reconstructor

FAREWELL_S = 0.2
"""Time in s for the last messages to leave the socket before it is closed."""

MEGABYTE = 10**6


class LiveService:
    """One running service: open after construction, until `close`.

    Frames are received as soon as everything is loaded and checked.

    Parameters
    ----------
    config : LiveConfig
        Configuration to run.
    on_event : callable
        Function that gets every `Event`, from several threads.

    Raises
    ------
    DeqMpiError
        If something cannot be loaded, does not work, or an endpoint is taken.
    """

    def __init__(self, config: LiveConfig, on_event: OnEvent) -> None:
        self._config = config
        self._on_event = on_event
        self._models: WeakKeyDictionary[Reconstructor, str] = WeakKeyDictionary()
        self._started = time.monotonic()
        self._phase: Phase = "starting"
        self._metrics = LiveMetrics(self.state, config.loop.deadline_ms)
        self._limits = HealthLimits(background_old_after_s=config.loop.background_max_age_s)
        self._live: LiveReconstructor | None = None
        self._recorder: Recorder | None = None
        self._swapping: threading.Thread | None = None
        self._parts = ExitStack()
        with self._parts:  # closes what is open if anything fails
            self._open()
            self._parts = self._parts.pop_all()

    def _open(self) -> None:
        config, endpoints = self._config, self._config.endpoints
        if config.status is not None:
            self.status = self._parts.enter_context(
                StatusServer(
                    config.status.host,
                    config.status.port,
                    metrics=self._metrics.exposition,
                    health=lambda: liveness(self.state(), self._limits),
                    ready=lambda: readiness(self.state(), self._limits),
                    allow_remote=config.status.allow_remote,
                )
            )
        self._images = self._parts.enter_context(
            ImageSocket(endpoints.images, allow_remote=endpoints.allow_remote)
        )
        self._parts.callback(time.sleep, FAREWELL_S)
        reconstructor = self._opened(config.reconstruction)
        if config.recording is not None:
            self._recorder = Recorder(config.recording, reconstructor.operators.acquisition)
            self._parts.callback(self._recorder.close)
        self._live = LiveReconstructor(reconstructor, config.loop, self._on_image, self._on_event).start()
        self._parts.callback(self._end_loop)
        self._phase = "running"
        self._frames = self._parts.enter_context(
            FrameSocket(
                endpoints.frames,
                int(endpoints.max_frame_mb * MEGABYTE),
                self._on_frame,
                self._on_rejected,
                allow_remote=endpoints.allow_remote,
            )
        )
        self._say("service-started", frames=self.frames_endpoint, images=self.images_endpoint)

    @property
    def frames_endpoint(self) -> str:
        """Endpoint at which frames come in, with the port that a wildcard got."""
        return self._frames.last_endpoint

    @property
    def images_endpoint(self) -> str:
        """Endpoint at which images go out, with the port that a wildcard got."""
        return self._images.last_endpoint

    @property
    def is_healthy(self) -> bool:
        """Whether the loop runs and no frame is stuck in it."""
        return liveness(self.state(), self._limits).ok

    def publish_state(self) -> None:
        """Publish the state now."""
        self._images.send(encode_status(self.state().to_dict()))

    def close(self) -> None:
        """Take no more frames, finish those that wait and the recording, and close everything; repeatedly."""
        self._phase = "stopping"
        if self._swapping is not None:
            self._swapping.join()
        self._parts.close()

    def swap(self, path: Path) -> None:
        """Read the configuration again, and change to its `[reconstruction]` between two frames.

        Loading and checking go on in the background; `state` and events tell the outcome. What cannot be
        loaded, does not work or fails on its first frames leaves the old one in use.

        Parameters
        ----------
        path : Path
            Configuration file. Only its table `[reconstruction]` has an effect.
        """
        if self._swapping is not None and self._swapping.is_alive():
            self._say("swap-busy", logging.WARNING, message="the one before is not over")
            return
        self._swapping = threading.Thread(target=self._swap, args=(path,), name="deq-mpi-swap", daemon=True)
        self._swapping.start()

    def _swap(self, path: Path) -> None:
        live = self._running_loop()
        try:
            method = load_live_config(path).reconstruction
            reconstructor = self._opened(method)
        except DeqMpiError as error:
            live.note_refused_swap(str(error))
            return
        except Exception as error:  # what a library raises on a damaged file
            live.note_refused_swap(f"{type(error).__name__}: {error}")
            return
        live.swap(reconstructor)

    def state(self) -> ServiceState:
        """Return the state of this moment; from any thread."""
        live, recorder = self._live, self._recorder
        solver = None if live is None else live.reconstructor
        swap = None if live is None else live.swap_state
        return ServiceState(
            state=self._phase,
            policy=self._config.loop.policy,
            deadline_ms=self._config.loop.deadline_ms,
            method="" if solver is None else solver.method,
            model="" if solver is None else self._models[solver],
            operators_sha256="" if solver is None else solver.operators.source_sha256,
            counters=Counters() if live is None else live.counters(),
            background=BackgroundState() if live is None else live.background(),
            recording=None if recorder is None else _named_state(recorder.state().to_dict()),
            swap=None if swap is None else swap.to_dict(),
            uptime_s=time.monotonic() - self._started,
            last_image_age_s=None if live is None else live.last_image_age_s,
            oldest_wait_s=None if live is None else live.oldest_wait_s,
            is_loop_alive=live is None or self._phase == "stopping" or live.is_alive,
        )

    def _opened(self, method: MethodConfig) -> Reconstructor:
        reconstructor = Reconstructor.load(method.operators, method.method, method.settings())
        self._models[reconstructor] = method.model or ""
        return reconstructor

    def _end_loop(self) -> None:
        counters = self._running_loop().close(drain=True)
        self._say("loop-closed", **counters.to_dict())
        self.publish_state()

    def _running_loop(self) -> LiveReconstructor:
        assert self._live is not None  # noqa: S101 - set before anything calls this
        return self._live

    def _on_frame(self, frame: RawFrame, parts: list[bytes]) -> None:
        if self._recorder is not None:
            self._recorder.message(parts, time.time_ns())
        self._running_loop().push(frame)

    def _on_rejected(self, error: MessageError) -> None:
        self._running_loop().reject(error.reason)
        self._say("message-rejected", logging.WARNING, reason=error.reason, error=str(error))

    def _on_image(self, image: LiveImage) -> None:
        self._images.send(encode_image(image, self._running_loop().counters()))
        self._metrics.observe(image.report)
        if self._recorder is not None:
            self._recorder.image(image)

    def _say(self, name: str, level: int = logging.INFO, **fields: object) -> None:
        self._on_event(Event(name, level, fields))


def _named_state(recording: dict[str, object]) -> dict[str, object]:
    """Give the status the name that it has everywhere in the messages."""
    return {"state": recording["status"]} | {
        key: value for key, value in recording.items() if key != "status"
    }
