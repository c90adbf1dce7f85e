"""Options of ONNX Runtime's TensorRT provider: one profile instead of rebuilds, caches, single precision."""

import warnings
from collections.abc import Mapping

from engine.machine.cache_folder import cache_folder
from engine.networks.axis_ranges import REFERENCE_LENGTHS, Lengths, axis_ranges, shape_range
from engine.networks.manifest import Shape

PURPOSE = "onnxruntime-tensorrt"
"""Folder of the caches inside the user's cache."""


def provider_options(inputs: Mapping[str, Shape], lengths: Mapping[str, int] | None = None) -> dict[str, str]:
    """Return the options of the provider for one network.

    Without a profile the provider builds its engine for the first shape it sees, and again for others. Built
    engines and timings are kept, by version and GPU, in the user's cache.

    Parameters
    ----------
    inputs : mapping of str to tuple
        Axes of each input, as the manifest states them.
    lengths : mapping of str to int, optional
        Lengths of the axes that the operators decide; by default those of the reference scanner.

    Returns
    -------
    dict of str to str
        Options by name; switches are "True" and "False", as older providers refuse "1".

    Raises
    ------
    ConfigError
        If an axis has no length.

    Warns
    -----
    UserWarning
        If no engine is in the cache: building one takes minutes, during which nothing else is said.
    """
    folder = cache_folder(PURPOSE)
    if not any(folder.glob("*.engine")):
        warnings.warn(
            f"TensorRT builds its engines on the first run, may take minutes; they are kept in {folder}",
            stacklevel=2,
        )
    ranges = axis_ranges(lengths or REFERENCE_LENGTHS)
    shapes = {name: shape_range(name, axes, ranges) for name, axes in inputs.items() if _is_free(axes)}
    return {
        "trt_fp16_enable": "False",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": _profile({name: shape.minimum for name, shape in shapes.items()}),
        "trt_profile_opt_shapes": _profile({name: shape.optimum for name, shape in shapes.items()}),
        "trt_profile_max_shapes": _profile({name: shape.maximum for name, shape in shapes.items()}),
    }


def _is_free(axes: Shape) -> bool:
    return any(isinstance(axis, str) for axis in axes)


def _profile(shapes: Mapping[str, Lengths]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
