"""A service that records frames as fast as they are written, for tests that kill it.

Arguments: folder, template, JSON of the acquisition, number of frames. For each frame that the state says is
written, a line with the count goes out; the first line is the number of the writing process.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from engine.live.recording.config import RecordingConfig
from engine.live.recording.recorder import Recorder
from engine.measurement.raw_frame import RawFrame
from engine.mpi.row_layout import Acquisition


def main() -> None:
    folder, template, stated, n_frames = sys.argv[1:]
    values = json.loads(stated)
    lists = {name: np.array(values[name]) for name in ("channels", "bins")}
    config = RecordingConfig(Path(folder), Path(template), min_free_mb=0.0)
    recorder = Recorder(config, Acquisition(**(values | lists)))
    print(recorder.writer_process_id, flush=True)  # noqa: T201
    start = np.arange(3 * 2 * 101).reshape(3, 2, 101)
    for number in range(int(n_frames)):
        data = ((start + number) + 1j * (number - start)).astype(np.complex64)
        recorder.frame(RawFrame(number, data, "run", number % 7 == 0, None, 10**18 + number), 0)
        while recorder.state().frames_written <= number and recorder.state().status == "recording":
            time.sleep(0.0005)
        print(recorder.state().frames_written, flush=True)  # noqa: T201
    recorder.close()


if __name__ == "__main__":
    main()
