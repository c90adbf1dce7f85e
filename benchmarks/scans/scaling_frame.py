"""Time and memory of single frames in a process of its own: `python -m benchmarks.scans.scaling_frame ...`.

The process loads an operators file and reconstructs, as `engine recon` does; nothing else is in its memory.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.machine.arithmetic import single_blas_thread
from engine.measurement.normalization import NormalizedMeasurement, normalize
from engine.operators.operators import Operators
from engine.operators.operators_file import load_operators
from engine.operators.products import products_of
from engine.reconstruction.method_settings import MethodSettings
from engine.reconstruction.methods import open_method
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.frame_solver import FrameSolver

NOISE = 0.03
"""Standard deviation of the noise, relative to the rms of the data: 30 dB."""

WARM_UP = 1
"""Calls before the clock counts."""

MEGABYTE = 1e6

USES_PRODUCTS = ("deq",)
"""Methods that iterate with A itself."""

WITHOUT_ITERATION = ("least-squares",)


def measure_frame(file: Path, method: str, frames: int, evaluations: int) -> dict[str, Any]:
    """Reconstruct a made-up frame again and again.

    Parameters
    ----------
    file : Path
        Operators file.
    method : str
        "deq" (plain steps), "admm-l1" or "least-squares".
    frames : int
        Times that everything is timed; the medians count.
    evaluations : int
        Exact number of iterations of the methods that iterate.

    Returns
    -------
    dict
        Milliseconds on one core: `normalise_ms`, `solve_ms`, `evaluation_ms` (None without iteration),
        `frame_ms` from whitened rows to the image; of single products `rows_of_ms` and `image_of_ms` (None if
        the method has none). Megabytes: `operators_mb` of the arrays that the reconstruction uses,
        `peak_mb` of the process and `imports_mb` before the file was loaded (None where the system does not
        say). Seconds: `load_s`.
    """
    imports = peak_megabytes()
    started = time.perf_counter()
    operators = load_operators(file)
    load = time.perf_counter() - started
    solver = _open(method, operators, evaluations)
    with single_blas_thread():
        rows = made_up_rows(operators)
        measurement = normalize(rows, operators)
        if measurement is None:
            raise ValueError("the made-up frame is zero; expected a signal")
        products = _time_products(operators, measurement, frames) if method in USES_PRODUCTS else (None, None)
        normalise = _median_ms(lambda: normalize(rows, operators), frames)
        solve = _median_ms(lambda: solver.solve([measurement]), frames)
        reconstructor = Reconstructor(solver)
        frame = _median_ms(lambda: reconstructor.reconstruct(rows), frames)
    return {
        "normalise_ms": normalise,
        "solve_ms": solve,
        "evaluation_ms": None if method in WITHOUT_ITERATION else solve / evaluations,
        "frame_ms": frame,
        "rows_of_ms": products[0],
        "image_of_ms": products[1],
        "operators_mb": operators_bytes(operators, method in USES_PRODUCTS) / MEGABYTE,
        "peak_mb": peak_megabytes(),
        "imports_mb": imports,
        "load_s": load,
    }


def made_up_rows(operators: Operators) -> NDArray[np.float32]:
    """Return whitened rows (R,) of three blobs of concentration, with noise."""
    rng = np.random.default_rng(3)
    extent = np.array(operators.grid.field_of_view)
    centres = rng.uniform(-0.3, 0.3, (3, 1, 3)) * extent
    distance = np.linalg.norm((operators.grid.positions() - centres) / (0.12 * extent.max()), axis=-1)
    image = np.exp(-(distance**2)).sum(axis=0).astype(np.float32)
    seen = (image @ operators.right_singular) * operators.singular_values
    clean = (operators.scale * seen).astype(np.float32) @ operators.left_singular
    noise = NOISE * np.sqrt(np.mean(clean**2)) * rng.standard_normal(len(clean))
    return np.asarray(clean + noise, np.float32)


def operators_bytes(operators: Operators, has_products: bool) -> int:
    """Return the bytes of the arrays of the operators that a reconstruction holds."""
    arrays = [operators.left_singular, operators.right_singular, operators.start_matrix]
    if operators.dense is not None:
        arrays += [operators.dense.system_matrix, operators.dense.inverse]
        if has_products:
            arrays.append(operators.weighted_adjoint)
    return sum(array.nbytes for array in arrays)


def dense_bytes(n_voxels: int, n_rows: int, rank: int) -> int:
    """Return what `operators_bytes` is for dense operators of a method with products."""
    return 4 * (3 * n_voxels * n_rows + 2 * n_voxels**2 + n_voxels * rank)


def peak_megabytes() -> float | None:
    """Return the largest resident memory of this process so far.

    Not `getrusage`, whose figure starts at that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return None if found is None else 1024 * int(found.group(1)) / MEGABYTE


def _open(method: str, operators: Operators, evaluations: int) -> FrameSolver:
    if method in WITHOUT_ITERATION:
        return open_method(method, operators)
    settings = MethodSettings(max_iterations=evaluations, tolerance=0.0)
    return open_method(
        method, operators, replace(settings, solver="plain") if method in USES_PRODUCTS else settings
    )


def _time_products(
    operators: Operators, measurement: NormalizedMeasurement, repetitions: int
) -> tuple[float, float]:
    products = products_of(operators)
    rows, image = measurement.y[None].copy(), measurement.start[None].copy()
    data, weighed = np.empty_like(rows), np.empty_like(image)

    def image_of() -> None:
        products.images_of_rows(rows, weighed)
        products.add_images_of_images(image, weighed)

    return (
        _median_ms(lambda: products.rows_of(image, data, 0, operators.n_rows), 5 * repetitions),
        _median_ms(image_of, 5 * repetitions),
    )


def _median_ms(call: Callable[[], object], repetitions: int) -> float:
    times = []
    for _ in range(WARM_UP + repetitions):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times[WARM_UP:]))


if __name__ == "__main__":
    path, name, count, steps = sys.argv[1:]
    print(json.dumps(measure_frame(Path(path), name, int(count), int(steps))))
