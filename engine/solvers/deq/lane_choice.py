"""Choice between one core and two for a frame, asked of the machine itself."""

import os
import time
from collections.abc import Callable

import numpy as np

from engine.errors import ConfigError
from engine.machine.two_cores import Lanes, OneLane, Threads, TwoLanes
from engine.solvers.deq.admm_step import AdmmStep

TRIALS = 15
"""Number of evaluations timed of each kind, in turn; the machine may be busy, so the fastest are compared."""

LEAST_GAIN = 1.1
"""Factor by which two cores have to be faster: a second busy core is taken from somebody else."""


def choose_lanes(threads: Threads, make_step: Callable[[Lanes], AdmmStep]) -> Lanes:
    """Return the lanes for a number of threads, or those that measure faster.

    Parameters
    ----------
    threads : int or "auto"
        Number of threads: 1, 2 or "auto".
    make_step : callable
        Function that makes the step on some lanes, to be timed.

    Raises
    ------
    ConfigError
        If two threads are asked for where the process may use one core only.
    """
    # Linux knows which cores a process may use; elsewhere all of them count.
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    if threads == "auto":
        return _faster(make_step) if cores > 1 else OneLane()
    if threads > cores:
        raise ConfigError(
            f"threads is {threads}, but this process may use {cores} core; expected at most as many threads "
            "as cores; leave threads out or give the process another core (taskset, cgroups)"
        )
    return OneLane() if threads == 1 else TwoLanes()


def _faster(make_step: Callable[[Lanes], AdmmStep]) -> Lanes:
    choices: list[Lanes] = [OneLane(), TwoLanes()]
    steps = [make_step(lanes) for lanes in choices]
    states = [step.states(np.zeros((1, step.n_voxels), np.float32)) for step in steps]
    best = [float("inf")] * len(steps)
    for _ in range(TRIALS):
        for number, (step, z) in enumerate(zip(steps, states, strict=True)):
            out = np.empty_like(z)
            started = time.perf_counter()
            step(z, out)
            best[number] = min(best[number], time.perf_counter() - started)
    return choices[1] if best[0] > LEAST_GAIN * best[1] else choices[0]
