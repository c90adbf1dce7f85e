"""2,000 damaged or hostile MDF files: each is read or refused with a reason, by a process that lives on.

Every file follows from its number. Reading happens in another process with a time limit, so that a crash
or a hang of the HDF5 library would be found and not end the test.
"""

import json
import os
import select
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from engine.calibration.calibrate import CalibrationConfig, calibrate
from engine.mpi.mdf import write_mdf
from engine.mpi.mdf.new_files import new_reconstruction_file
from engine.operators.operators_file import save_operators

ROOT = Path(__file__).parents[4]
SEED = 20_260
N_ALL, N_DEFAULT = 2000, 150
UUID, TIME = "0f8fad5b-d9cb-469f-a165-70867728950e", datetime(2026, 5, 31, 12, 0)
TIME_LIMIT_S = 30.0  # of one file, which takes a hundredth of a second; a hang has no end

WORKER = """
import json, resource, sys, warnings
from pathlib import Path
from click.testing import CliRunner
from engine.cli import main
from engine.errors import InputError
from engine.mpi.mdf import MdfFile, read_mdf
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
operators = sys.argv[1]
for line in sys.stdin:
    path = Path(line.strip())
    out = path.with_name("out.mdf")
    try:
        file = read_mdf(path)
        outcome = "accepted" if isinstance(file, MdfFile) else "nothing"
        message = ""
    except InputError as error:
        outcome, message = "refused", str(error)
    except BaseException as error:
        outcome, message = "crashed", repr(error)
    arguments = ["recon", str(path), str(out), "--operators", operators, "--method", "least-squares"]
    ran = CliRunner().invoke(main, arguments)
    clean = ran.exception is None or isinstance(ran.exception, SystemExit)
    shown = CliRunner().invoke(main, ["info", str(path)])
    clean_info = shown.exception is None or isinstance(shown.exception, SystemExit)
    names = [other.name for other in path.parent.iterdir()]
    print(json.dumps({
        "outcome": outcome,
        "message": message,
        "code": ran.exit_code if clean else repr(ran.exception),
        "stderr": ran.stderr,
        "info": shown.exit_code if clean_info else repr(shown.exception),
        "written": out.exists(),
        "left": [name for name in names if name.endswith("partial.mdf")],
    }), flush=True)
    out.unlink(missing_ok=True)
"""


class Reader:
    """A process that reads files, one after the other."""

    def __init__(self, operators: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(operators)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    def read(self, path: Path) -> dict:
        """Return what came of reading a file; fails if the process crashes or takes too long."""
        self._process.stdin.write(f"{path}\n".encode())
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], TIME_LIMIT_S)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self.close()
            return {"outcome": "died" if ready else "hung", "message": f"code {self._process.returncode}"}
        return json.loads(line)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def sound(scan, tmp_path_factory) -> dict[str, bytes]:
    """Files of every purpose, to be damaged."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(4)
    spectra = scan.frames(np.concatenate([np.zeros((2, 20)), rng.uniform(0, 2, (2, 20))]), rng)
    mask = np.array([True, True, False, False])
    measurement = scan.measurement(spectra.astype(np.complex64), mask)
    selected = scan.measurement(spectra.astype(np.complex64), mask, bins=np.arange(10, 40))
    files = {
        "spectra": measurement,
        "selected": selected,
        "calibration": scan.calibration(snr=np.ones((3, 2, 101))),
        "images": new_reconstruction_file(rng.random((2, 1, 4, 5)), scan.grid, measurement),
    }
    for name, file in files.items():
        write_mdf(folder / f"{name}.mdf", same_every_time(file))
    return {name: (folder / f"{name}.mdf").read_bytes() for name in files}


@pytest.fixture(scope="module")
def operators(scan, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("operators") / "operators.h5"
    config = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0)
    save_operators(path, calibrate(scan.calibration(), config))
    return path


def same_every_time(file):
    """Without the identifiers and times that are new in every run."""
    return replace(
        file,
        uuid=UUID,
        time=TIME,
        study=replace(file.study, uuid=UUID, time=None),
        experiment=replace(file.experiment, uuid=UUID),
        acquisition=replace(file.acquisition, start_time=TIME),
    )


# --- Damage to the bytes ------------------------------------------------------------------------------------


def some_place(rng, content):
    """A position, most often among the metadata, which are small and at both ends of such files."""
    length = len(content)
    if rng.random() < 0.7:
        return int(rng.integers(0, min(length, 12_000)))
    return int(rng.integers(0, length))


def flip_bytes(rng, content):
    for _ in range(int(rng.integers(1, 30))):
        content[some_place(rng, content)] ^= int(rng.integers(1, 256))


def flip_one_bit(rng, content):
    content[some_place(rng, content)] ^= 1 << int(rng.integers(0, 8))


def truncate(rng, content):
    del content[int(rng.integers(0, len(content))) :]


def zero_block(rng, content):
    first = some_place(rng, content)
    length = int(rng.integers(1, 4000))
    content[first : first + length] = bytes(len(content[first : first + length]))


def swap_blocks(rng, content):
    length = int(rng.integers(1, 600))
    first, second = (some_place(rng, content) // 8 * 8 for _ in range(2))
    a, b = bytes(content[first : first + length]), bytes(content[second : second + length])
    content[first : first + len(b)] = b
    content[second : second + len(a)] = a


def wrong_number(rng, content):
    """Overwrite aligned numbers with those that lengths and addresses break on."""
    values = [0, 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1, len(content), len(content) - 8]
    for _ in range(int(rng.integers(1, 4))):
        width = int(rng.choice([1, 2, 4, 8]))
        first = some_place(rng, content) // width * width
        value = values[rng.integers(0, len(values))] % 256**width
        content[first : first + width] = value.to_bytes(width, "little")


def append_garbage(rng, content):
    content += rng.bytes(int(rng.integers(1, 5000)))


def insert_bytes(rng, content):
    first = some_place(rng, content)
    content[first:first] = rng.bytes(int(rng.integers(1, 64)))


# --- Damage to the structure --------------------------------------------------------------------------------


def datasets(handle):
    names = []
    handle.visititems(lambda name, item: names.append(f"/{name}") if isinstance(item, h5py.Dataset) else None)
    return names


def pick(rng, handle):
    names = datasets(handle)
    weight = np.array([3.0 if "/data" in name or "/is" in name or "num" in name else 1.0 for name in names])
    return names[rng.choice(len(names), p=weight / weight.sum())]


def remove(rng, handle):
    del handle[pick(rng, handle)]


def extreme_value(rng, handle):
    name = pick(rng, handle)
    dtype = handle[name].dtype
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        choices = [0, -1, 1, 2, 3, 255, 2**31, 2**40, 2**62, limits.min, limits.max]
        value = np.clip(choices[rng.integers(0, len(choices))], limits.min, limits.max)
    elif dtype.kind in "fc":
        value = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e300, -1e-300][rng.integers(0, 7)]
    else:
        value = ["", "\N{SNOWMAN}" * 9, "2.1.0", "9" * 5000, "0000-99-99"][rng.integers(0, 5)]
    with np.errstate(over="ignore"):
        dataset = handle[name]
        if dataset.shape == () or rng.random() < 0.5:
            dataset[...] = value
        else:
            index = tuple(int(rng.integers(0, length)) for length in dataset.shape)
            dataset[index] = value


def other_type(rng, handle):
    name = pick(rng, handle)
    shape = handle[name].shape
    del handle[name]
    types = [
        *(np.dtype(name) for name in ("i1", "u8", "f2", "f4", "f8", "c8", "S3", ">i4", ">f8", "V5")),
        np.dtype([("r", "i2"), ("i", "i2")]),
        np.dtype([("a", "f8"), ("b", "i4")]),
        np.dtype(("f8", (2,))),
        h5py.string_dtype(),
        h5py.vlen_dtype(np.int32),
        h5py.ref_dtype,
        h5py.regionref_dtype,
        h5py.enum_dtype({"A": 0, "B": 1}),
        h5py.string_dtype("ascii", 100_000),
    ]
    handle.create_dataset(name, shape, types[rng.integers(0, len(types))])


def other_shape(rng, handle):
    name = pick(rng, handle)
    dtype, shape = handle[name].dtype, handle[name].shape
    del handle[name]
    shapes = [(), (1,), (0,), (1, 1), (2, 3), (*shape, 1), (1, *shape), shape[1:], shape[::-1], (7,) * 9]
    if rng.random() < 0.1:
        handle.create_dataset(name, data=h5py.Empty(dtype))
    else:
        handle.create_dataset(name, shapes[rng.integers(0, len(shapes))], dtype)


def huge_shape(rng, handle):
    """Announce terabytes of which nothing, or next to nothing, is stored."""
    name = pick(rng, handle)
    dtype, rank = handle[name].dtype, max(1, handle[name].ndim)
    del handle[name]
    shape = (int(rng.choice([10**6, 10**8, 10**11])), *(1,) * (rank - 1))
    chunks = (min(shape[0], 10**6), *(1,) * (rank - 1))
    layouts = [{}, {"chunks": chunks}, {"chunks": chunks, "compression": "gzip"}]
    handle.create_dataset(name, shape, dtype, **layouts[rng.integers(0, len(layouts))])


def compression_bomb(rng, handle):
    name = pick(rng, handle)
    del handle[name]
    length = 3 * 10**6
    options = {"chunks": (length,), "compression": "gzip", "compression_opts": 9}
    handle.create_dataset(name, data=np.zeros(length), **options)


def unknown_filter(rng, handle):
    name = pick(rng, handle)
    shape = handle[name].shape or (1,)
    values = handle[name][()] if handle[name].dtype.kind in "iufc" else np.zeros(shape)
    del handle[name]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(tuple(max(1, length) for length in np.shape(values)) or (1,))
    properties.set_filter(32_099, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    space = h5py.h5s.create_simple(np.shape(values) or (1,))
    group, _, leaf = name.rpartition("/")
    h5py.h5d.create(
        handle[group or "/"].id,
        leaf.encode(),
        h5py.h5t.py_create(np.asarray(values).dtype),
        space,
        dcpl=properties,
    )


def known_filter(rng, handle):
    name = pick(rng, handle)
    values = handle[name][()]
    if np.shape(values) == () or handle[name].dtype.kind not in "iuf" or 0 in np.shape(values):
        return
    del handle[name]
    options = [{"compression": "gzip"}, {"compression": "lzf"}, {"fletcher32": True}, {"shuffle": True}]
    handle.create_dataset(name, data=values, chunks=True, **options[rng.integers(0, len(options))])


def link(rng, handle):
    name = pick(rng, handle)
    if rng.random() < 0.3:
        name = name.rpartition("/")[0] or name
    del handle[name]
    folder = Path(handle.filename).parent
    targets = [
        h5py.SoftLink(name),  # itself
        h5py.SoftLink("/"),
        h5py.SoftLink("/acquisition"),
        h5py.SoftLink("/nowhere"),
        h5py.SoftLink("/outside/study/name"),
        h5py.ExternalLink("other.mdf", name),
        h5py.ExternalLink(Path(handle.filename).name, name),
        h5py.ExternalLink(str(folder / "pipe"), "/"),  # opening it would wait for ever
        h5py.ExternalLink("/dev/zero", "/"),
    ]
    handle[name] = targets[rng.integers(0, len(targets))]
    handle["outside"] = h5py.ExternalLink("other.mdf", "/")


def hard_cycle(rng, handle):
    groups = ["/study", "/acquisition", "/acquisition/receiver", "/measurement", "/reconstruction"]
    inside = [group for group in groups if group in handle]
    group = inside[rng.integers(0, len(inside))]
    name = pick(rng, handle)
    target = handle[group]
    del handle[name]
    if name.rpartition("/")[0] in ("", *inside) or name.rpartition("/")[0] in handle:
        handle[name] = target


def other_object(rng, handle):
    name = pick(rng, handle)
    del handle[name]
    if rng.random() < 0.5:
        handle.create_group(name)
    else:
        handle[name] = np.dtype("f8")


def virtual(rng, handle):
    name = pick(rng, handle)
    shape, dtype = handle[name].shape or (1,), handle[name].dtype
    if dtype.kind not in "iufc":
        return
    del handle[name]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource("other.mdf", name, shape)
    handle.create_virtual_dataset(name, layout)


def stored_outside(rng, handle):
    name = pick(rng, handle)
    shape, dtype = handle[name].shape or (1,), handle[name].dtype
    if dtype.kind not in "iufc" or 0 in shape:
        return
    del handle[name]
    outside = ["/etc/passwd", "raw.bin", "/dev/zero"][rng.integers(0, 3)]
    handle.create_dataset(name, shape, dtype, external=[(outside, 0, h5py.h5f.UNLIMITED)])


def several(rng, handle):
    for _ in range(3):
        extreme_value(rng, handle)


BYTES = (
    flip_bytes,
    flip_bytes,
    flip_one_bit,
    flip_one_bit,
    truncate,
    zero_block,
    swap_blocks,
    wrong_number,
    wrong_number,
    append_garbage,
    insert_bytes,
)
STRUCTURE = (
    remove,
    extreme_value,
    extreme_value,
    other_type,
    other_shape,
    huge_shape,
    compression_bomb,
    unknown_filter,
    known_filter,
    link,
    hard_cycle,
    other_object,
    virtual,
    stored_outside,
    several,
)


def make(number: int, sound: dict[str, bytes], folder: Path) -> tuple[Path, str]:
    """Write file `number` and return it with what was done to it."""
    rng = np.random.default_rng([SEED, number])
    name = sorted(sound)[rng.integers(0, len(sound))]
    path = folder / f"{number}.mdf"
    if number % 2:
        content = bytearray(sound[name])
        change = BYTES[rng.integers(0, len(BYTES))]
        change(rng, content)
        path.write_bytes(content)
    else:
        path.write_bytes(sound[name])
        change = STRUCTURE[rng.integers(0, len(STRUCTURE))]
        with h5py.File(path, "r+") as handle:
            change(rng, handle)
    return path, f"{number}: {change.__name__} of {name}"


def check_all(numbers, sound, operators, folder) -> Counter[str]:
    """Read files and fail for each that is not read or refused as it should be; return the outcomes."""
    (folder / "other.mdf").write_bytes(sound["spectra"])
    (folder / "raw.bin").write_bytes(bytes(10_000))
    os.mkfifo(folder / "pipe")
    outcomes: Counter[str] = Counter()
    wrong = []
    reader = Reader(operators)
    try:
        for number in numbers:
            path, what = make(number, sound, folder)
            if not reader.is_alive:
                reader = Reader(operators)
            result = reader.read(path)
            path.unlink()
            outcomes[result["outcome"]] += 1
            outcomes[f"{what.split()[1]} {result['outcome']}"] += 1
            if not is_right(result, path):
                wrong.append((what, result))
    finally:
        reader.close()
    assert not wrong, "\n".join(f"{what}: {result}" for what, result in wrong[:30])
    return outcomes


def is_right(result, path) -> bool:
    """Whether a file was read, or refused in one line that names it; and nothing half done is left."""
    if result["outcome"] not in ("accepted", "refused"):
        return False
    said = result["message"]
    if result["outcome"] == "refused" and not (said.startswith(str(path)) and "\n" not in said):
        return False
    if result["code"] not in (0, 1, 2) or result["written"] != (result["code"] == 0) or result["left"]:
        return False
    if result["code"] and "Error: " not in result["stderr"]:
        return False
    return result["info"] in (0, 2)


def test_damaged_files_are_read_or_refused(sound, operators, tmp_path) -> None:
    step = N_ALL // N_DEFAULT
    numbers = range(0, step * N_DEFAULT, step)
    outcomes = check_all(numbers, sound, operators, tmp_path)
    assert outcomes["accepted"] + outcomes["refused"] == N_DEFAULT
    assert min(outcomes["accepted"], outcomes["refused"]) > N_DEFAULT // 20  # the damage is of both kinds


@pytest.mark.slow
def test_all_damaged_files_are_read_or_refused(sound, operators, tmp_path) -> None:
    outcomes = check_all(range(N_ALL), sound, operators, tmp_path)
    print(dict(sorted(outcomes.items())))  # noqa: T201
    assert outcomes["accepted"] + outcomes["refused"] == N_ALL


def test_sound_files_are_read(sound, operators, tmp_path) -> None:
    path = tmp_path / "sound.mdf"
    reader = Reader(operators)
    try:
        for content in sound.values():
            path.write_bytes(content)
            assert reader.read(path)["outcome"] == "accepted"
    finally:
        reader.close()
