"""MDF files built by hand with h5py, so that reading is tested against the format itself."""

from pathlib import Path

import h5py
import numpy as np
import pytest

# Every axis of the hand-built files has its own length, so that no two axes can be confused unnoticed.
N_FRAMES, N_PERIODS, N_CHANNELS, N_SAMPLES = 5, 2, 3, 14
N_FULL_BINS = N_SAMPLES // 2 + 1
SELECTION = np.array([6, 2, 8, 3], np.int64)  # 1-based, unsorted
GRID_SIZE = (4, 3, 2)  # Nx, Ny, Nz
N_POINTS, N_BACKGROUND = 24, 3
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
TIME = "2024-05-31T12:34:56.789"


def metadata():
    """Return the mandatory datasets of every MDF file as {path: value}."""
    return {
        "/version": "2.1.0",
        "/uuid": UUID,
        "/time": TIME,
        "/study/name": "study",
        "/study/number": np.int64(7),
        "/study/description": "größer",
        "/study/uuid": UUID,
        "/experiment/name": "experiment",
        "/experiment/number": np.int64(3),
        "/experiment/description": "",
        "/experiment/subject": "phantom",
        "/experiment/uuid": UUID,
        "/experiment/isSimulation": np.int8(0),
        "/scanner/name": "scanner",
        "/scanner/manufacturer": "maker",
        "/scanner/facility": "place",
        "/scanner/operator": "person",
        "/scanner/topology": "FFP",
        "/acquisition/numAverages": np.int64(1),
        "/acquisition/numFrames": np.int64(N_FRAMES),
        "/acquisition/numPeriodsPerFrame": np.int64(N_PERIODS),
        "/acquisition/startTime": TIME,
        "/acquisition/drivefield/numChannels": np.int64(2),
        "/acquisition/drivefield/baseFrequency": np.float64(2.5e6),
        "/acquisition/drivefield/divider": np.array([[102], [96]], np.int64),
        "/acquisition/drivefield/cycle": np.float64(652.8e-6),
        "/acquisition/drivefield/strength": np.full((N_PERIODS, 2, 1), 0.012),
        "/acquisition/drivefield/phase": np.zeros((N_PERIODS, 2, 1)),
        "/acquisition/drivefield/waveform": np.array([["sine"], ["sine"]], dtype=object),
        "/acquisition/receiver/numChannels": np.int64(N_CHANNELS),
        "/acquisition/receiver/bandwidth": np.float64(700.0),
        "/acquisition/receiver/numSamplingPoints": np.int64(N_SAMPLES),
        "/acquisition/receiver/unit": "V",
    }


def flags(*, fourier, fast_frame, permutation=0, selection=0):
    """Return the mandatory flags of /measurement."""
    return {
        "/measurement/isFourierTransformed": np.int8(fourier),
        "/measurement/isFastFrameAxis": np.int8(fast_frame),
        "/measurement/isFramePermutation": np.int8(permutation),
        "/measurement/isFrequencySelection": np.int8(selection),
        "/measurement/isSparsityTransformed": np.int8(0),
        "/measurement/isBackgroundCorrected": np.int8(0),
        "/measurement/isSpectralLeakageCorrected": np.int8(0),
        "/measurement/isTransferFunctionCorrected": np.int8(0),
    }


@pytest.fixture
def raw_measurement():
    """Datasets of a measurement of raw counts, (N, J, C, V) = (5, 2, 3, 14), second frame background."""
    counts = np.random.default_rng(1).integers(-1000, 1000, (N_FRAMES, N_PERIODS, N_CHANNELS, N_SAMPLES))
    return {
        **metadata(),
        **flags(fourier=0, fast_frame=0),
        "/measurement/data": counts.astype(np.int16),
        "/measurement/isBackgroundFrame": np.array([0, 1, 0, 0, 0], np.int8),
    }


@pytest.fixture
def raw_calibration():
    """Datasets of a calibration, (J, C, K, N) = (2, 3, 4, 27), 4 x 3 x 2 grid, background frames last."""
    rng = np.random.default_rng(2)
    n_frames = N_POINTS + N_BACKGROUND
    shape = (N_PERIODS, N_CHANNELS, len(SELECTION), n_frames)
    data = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return {
        **metadata(),
        **flags(fourier=1, fast_frame=1, permutation=1, selection=1),
        "/acquisition/numFrames": np.int64(n_frames),
        "/measurement/data": data.astype(np.complex64),
        "/measurement/isBackgroundFrame": np.repeat(np.array([0, 1], np.int8), [N_POINTS, N_BACKGROUND]),
        "/measurement/framePermutation": rng.permutation(n_frames) + 1,
        "/measurement/frequencySelection": SELECTION.copy(),
        "/calibration/method": "robot",
        "/calibration/size": np.array(GRID_SIZE, np.int64),
        "/calibration/order": "xyz",
        "/calibration/fieldOfView": np.array([0.04, 0.03, 0.02]),
        "/calibration/fieldOfViewCenter": np.array([0.001, 0.0, -0.002]),
        "/calibration/snr": rng.uniform(1, 9, shape[:3]),
    }


@pytest.fixture
def raw_reconstruction():
    """Datasets of a reconstruction, (Q, P, S) = (5, 24, 2) on a 4 x 3 x 2 grid."""
    return {
        **metadata(),
        "/reconstruction/data": np.random.default_rng(3).random((5, N_POINTS, 2)).astype(np.float32),
        "/reconstruction/size": np.array(GRID_SIZE, np.int64),
        "/reconstruction/order": "xyz",
        "/reconstruction/fieldOfView": np.array([0.04, 0.03, 0.02]),
        "/reconstruction/fieldOfViewCenter": np.zeros(3),
    }


@pytest.fixture
def save_raw(tmp_path):
    """Write {path: value} to an HDF5 file and return its path."""

    def save(content: dict, name: str = "hand-built.mdf") -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as handle:
            for dataset, value in content.items():
                is_text = isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.hasobject)
                handle.create_dataset(dataset, data=value, dtype=h5py.string_dtype() if is_text else None)
        return path

    return save
