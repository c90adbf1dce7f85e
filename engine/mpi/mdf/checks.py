"""The rules an MDF file must obey, checked after reading and before writing.

Every error names the dataset, what it holds, what is expected and what to do.
"""

from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import MdfError
from engine.mpi.mdf.checks_measurement import check_measurement, check_number, n_bins
from engine.mpi.mdf.model import Acquisition, Calibration, MdfFile, Reconstruction
from engine.mpi.mdf.schema import walk

AXIS_ORDERS = frozenset("".join(order) for order in permutations("xyz"))

Sizes = dict[str, tuple[int, ...]]
"""The lengths that each dimension letter may have; a letter without entry takes the first length found."""


def check_mdf(file: MdfFile) -> None:
    """Check that a file can be written and that what it says agrees with itself.

    Parameters
    ----------
    file : MdfFile
        Content of any kind.

    Raises
    ------
    MdfError
        For the first rule broken.
    """
    _check_contents(file)
    _check_counts(file.acquisition)
    if file.measurement is not None:
        check_measurement(file.measurement, file.acquisition)
    if file.reconstruction is not None:
        _check_images(file.reconstruction)
    sizes = _sizes(file)
    _check_shapes(file, sizes)
    if file.calibration is not None:
        _check_grid("/calibration", file.calibration, sizes["O"][0], "foreground frames of /measurement/data")
        _check_snr(file.calibration)
    if file.reconstruction is not None:
        _check_grid("/reconstruction", file.reconstruction, sizes["P"][0], "voxels of /reconstruction/data")
    _check_finite(file)


def _check_contents(file: MdfFile) -> None:
    if file.measurement is None and file.calibration is None and file.reconstruction is None:
        raise MdfError(
            "no /measurement, /calibration or /reconstruction was found; expected at least one; "
            "use a file that holds data"
        )
    if file.calibration is not None and file.measurement is None:
        raise MdfError(
            "/calibration is present without /measurement/data; expected the system matrix there; "
            "use a file that holds both"
        )


def _check_counts(acquisition: Acquisition) -> None:
    receiver = acquisition.receiver
    counts = {
        "numFrames": acquisition.num_frames,
        "numPeriodsPerFrame": acquisition.num_periods_per_frame,
        "drivefield/numChannels": acquisition.drivefield.num_channels,
        "receiver/numChannels": receiver.num_channels,
        "receiver/numSamplingPoints": receiver.num_sampling_points,
    }
    for name, count in counts.items():
        if count < 1:
            raise MdfError(f"/acquisition/{name} is {count}; expected a positive count; correct the file")
    if not (np.isfinite(receiver.bandwidth) and receiver.bandwidth > 0):
        raise MdfError(
            f"/acquisition/receiver/bandwidth is {receiver.bandwidth}; expected a positive frequency in Hz; "
            "correct the file"
        )


def _check_images(reconstruction: Reconstruction) -> None:
    data = reconstruction.data
    check_number("/reconstruction/data", data.dtype)
    if data.ndim != 3 or 0 in data.shape:
        raise MdfError(
            f"/reconstruction/data has shape {data.shape}; expected (frames Q, voxels P, channels S), "
            "none of them zero; correct the file"
        )


def _sizes(file: MdfFile) -> Sizes:
    acquisition = file.acquisition
    sizes: Sizes = {
        "J": (acquisition.num_periods_per_frame,),
        "C": (acquisition.receiver.num_channels,),
        "D": (acquisition.drivefield.num_channels,),
    }
    if file.measurement is not None:
        n_samples = acquisition.receiver.num_sampling_points
        # Transfer functions and SNR are often left on the full axis when the data are cut to a selection.
        sizes["K"] = (n_bins(file.measurement, n_samples), n_samples // 2 + 1)
        sizes["N"] = (acquisition.num_frames,)
        sizes["O"] = (int(np.count_nonzero(~file.measurement.is_background_frame)),)
    if file.reconstruction is not None:
        sizes["P"] = (file.reconstruction.data.shape[1],)
    return sizes


def _check_shapes(file: MdfFile, sizes: Sizes) -> None:
    """Compare every array with its shape of dimension letters, adding letters met first to `sizes`."""
    for path, field, value in walk(file):
        letters = field.stored.shape
        if not letters or value is None:
            continue
        shape = np.shape(value)
        if len(shape) != len(letters) or not all(
            _fits(letter, length, sizes) for letter, length in zip(letters, shape, strict=True)
        ):
            wanted = ", ".join(_described(letter, sizes) for letter in letters)
            comma = "," if len(letters) == 1 else ""
            raise MdfError(f"{path} has shape {shape}; expected ({wanted}{comma}); correct the file")
        sizes |= {
            letter: (length,)
            for letter, length in zip(letters, shape, strict=True)
            if isinstance(letter, str) and letter != "*" and letter not in sizes
        }


def _fits(letter: int | str, length: int, sizes: Sizes) -> bool:
    if isinstance(letter, int):
        return length == letter
    return letter not in sizes or length in sizes[letter]


def _described(letter: int | str, sizes: Sizes) -> str:
    if isinstance(letter, int) or letter not in sizes:
        return str(letter)
    return f"{letter}={' or '.join(str(length) for length in dict.fromkeys(sizes[letter]))}"


def _check_grid(group: str, node: Calibration | Reconstruction, n_points: int, what: str) -> None:
    size, extent = node.size, node.field_of_view
    if node.order not in AXIS_ORDERS:
        raise MdfError(f"{group}/order is {node.order!r}; expected a permutation of xyz; correct the file")
    if size is not None and np.any(size < 1):
        raise MdfError(f"{group}/size is {size.tolist()}; expected three positive counts; correct the file")
    if size is not None and node.positions is None and int(np.prod(size)) != n_points:
        raise MdfError(
            f"{group}/size is {size.tolist()}, that is {int(np.prod(size))} points; expected {n_points}, the "
            f"number of {what}; correct the size or the frames"
        )
    if extent is not None and not np.all(np.isfinite(extent) & (extent > 0)):
        raise MdfError(
            f"{group}/fieldOfView is {extent.tolist()}; expected three positive lengths in metres; "
            "correct the file"
        )


def _check_snr(calibration: Calibration) -> None:
    snr = calibration.snr
    if snr is not None and np.any(np.isnan(snr)):
        index = _first(np.isnan(snr))
        raise MdfError(f"/calibration/snr is NaN at index {index}; expected numbers; correct or remove it")


def _check_finite(file: MdfFile) -> None:
    """Refuse NaN and infinity in the data and in the factors applied to them."""
    factors = file.acquisition.receiver.data_conversion_factor
    if factors is not None:
        _check_finite_array("/acquisition/receiver/dataConversionFactor", factors)
    if file.measurement is not None:
        _check_finite_array("/measurement/data", file.measurement.data)
    if file.reconstruction is not None:
        _check_finite_array("/reconstruction/data", file.reconstruction.data)


def _check_finite_array(path: str, array: NDArray[Any]) -> None:
    parts = [array[name] for name in array.dtype.names] if array.dtype.names else [array]
    for part in parts:
        # Block by block: the boolean copy of a whole system matrix would cost memory.
        for index, block in enumerate(part):
            finite = np.isfinite(block)
            if not np.all(finite):
                position = (index, *_first(~finite))
                raise MdfError(
                    f"{path} is {part[position]} at index {position}; expected finite numbers; "
                    "remove or repair the damaged values"
                )


def _first(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.argwhere(mask)[0])
