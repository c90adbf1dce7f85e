"""The benchmark of sizes: operators as asked for, honest figures of memory, and what is published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.scans.scaled_operators import Size, made_up_operators, stretched
from benchmarks.scans.scaling_frame import dense_bytes, measure_frame, operators_bytes, peak_megabytes
from engine.errors import DeqMpiError
from engine.measurement.normalization import normalize
from engine.operators.operators_file import load_operators, save_operators

SINGLE = 5e-6
"""Products of single-precision factors of some hundred terms, relative to the norm of 25."""

SPECTRUM = np.geomspace(25, 0.2, 20)

FIGURES = {
    "normalise_ms": 1.0,
    "solve_ms": 50.0,
    "evaluation_ms": 2.0,
    "frame_ms": 52.0,
    "rows_of_ms": 0.25,
    "image_of_ms": 0.5,
    "operators_mb": 40.0,
    "peak_mb": 140.0,
    "imports_mb": 70.0,
    "load_s": 0.1,
}


@pytest.mark.parametrize("grid", [(5, 4, 1), (3, 4, 3)])
def test_made_up_operators_are_what_they_say(grid: tuple[int, int, int]) -> None:
    size = Size(grid, 120, None)
    dense, factored = (made_up_operators(Size(grid, 120, k), SPECTRUM) for k in (None, 7))
    assert dense.dense is not None
    assert factored.dense is None
    assert (dense.n_voxels, dense.n_rows, dense.n_triplets) == (size.n_voxels, 120, size.n_voxels)
    u, v = dense.left_singular.astype(np.float64), dense.right_singular.astype(np.float64)
    np.testing.assert_allclose(u @ u.T, np.eye(size.n_voxels), rtol=0, atol=SINGLE)
    np.testing.assert_allclose(v.T @ v, np.eye(size.n_voxels), rtol=0, atol=SINGLE)
    a = u.T * dense.singular_values @ v.T
    np.testing.assert_allclose(dense.system_matrix, a, rtol=0, atol=25 * SINGLE)
    inverse = np.linalg.inv(np.eye(size.n_voxels) + a.T @ a)
    np.testing.assert_allclose(dense.inverse, inverse, rtol=0, atol=SINGLE)
    np.testing.assert_array_equal(factored.right_singular, dense.right_singular[:, :7])
    dropped = dense.singular_values[7:]
    assert factored.largest_dropped == dropped[0]
    assert factored.truncation_error == pytest.approx(
        np.linalg.norm(dropped) / np.linalg.norm(dense.singular_values)
    )


def test_a_spectrum_is_stretched_from_end_to_end() -> None:
    found = stretched(np.array([8.0, 4.0, 1.0]), 5)
    np.testing.assert_allclose(found, [8, np.sqrt(32), 4, 2, 1])


def test_the_dense_bytes_computed_are_those_held() -> None:
    operators = made_up_operators(Size((5, 4, 1), 120, None), SPECTRUM)
    assert operators_bytes(operators, has_products=True) == dense_bytes(20, 120, operators.rank)


@pytest.mark.parametrize("method", ["least-squares", "admm-l1"])
def test_a_frame_of_a_volume_is_measured(tmp_path: Path, method: str) -> None:
    path = tmp_path / "operators.h5"
    save_operators(path, made_up_operators(Size((4, 5, 3), 300, 12), SPECTRUM))
    figures = measure_frame(path, method, frames=1, evaluations=3)
    operators = load_operators(path)
    assert figures["operators_mb"] == (300 * 12 + 60 * 12 + 60 * operators.rank) * 4 / 1e6
    assert figures["frame_ms"] >= 0 < figures["normalise_ms"]
    assert (figures["evaluation_ms"] is None) == (method == "least-squares")
    assert figures["rows_of_ms"] is None
    if (peak := peak_megabytes()) is not None:
        assert figures["imports_mb"] <= figures["peak_mb"] <= peak


def test_the_made_up_frame_has_a_noise_level() -> None:
    from benchmarks.scans.scaling_frame import NOISE, made_up_rows

    operators = made_up_operators(Size((9, 7, 1), 2000, 40), SPECTRUM)
    rows = made_up_rows(operators)
    measurement = normalize(rows, operators)
    assert measurement is not None
    # 1960 degrees of freedom: a standard deviation of 1.6 %, and the noise in the rms of the data is 1e-3.
    assert measurement.sigma == pytest.approx(NOISE * np.sqrt(np.mean(rows**2)), rel=0.08)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(DeqMpiError, match=r"least-squares on absent\.h5 ended with code 1: .*not a file"):
        scaling.measure_in_process(tmp_path / "absent.h5", "least-squares", 1)


def test_every_size_is_published_and_what_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(path: Path, method: str, frames: int) -> dict[str, Any]:
        operators = load_operators(path)
        asked.append((operators.n_voxels, operators.dense is None, operators.n_triplets, method))
        without = {"rows_of_ms": None, "image_of_ms": None} if method != "deq" else {}
        without |= {"evaluation_ms": None} if method == "least-squares" else {}
        return FIGURES | without

    def quality(method: str, snr: float, n_triplets: int, count: int) -> dict[str, Any]:
        return {"psnr_mean": snr + n_triplets / 100, "truncation_error": 0.1, "largest_dropped": 0.5}

    monkeypatch.setattr(scaling, "measure_in_process", measured)
    monkeypatch.setattr(scaling, "measure_quality", quality)
    monkeypatch.setattr(scaling, "PLANES", {(4, 6, 1): 100, (6, 6, 1): 120})
    monkeypatch.setattr(scaling, "VOLUMES", {(4, 4, 4): 140, (8, 8, 8): 1100})
    monkeypatch.setattr(scaling, "N_TRIPLETS", (20, 30))
    monkeypatch.setattr(scaling, "COLOURS", {"dense": "C3", "K = 20": "C0", "K = 30": "C1"})
    monkeypatch.setattr(scaling, "DENSE_LIMIT", 1e6)
    scaling.run(quick=False, output=tmp_path)
    planes = [(24, False, 24), (24, True, 20), (36, False, 36), (36, True, 20), (36, True, 30)]
    volumes = [(64, False, 64), (64, True, 20), (64, True, 30), (512, True, 20), (512, True, 30)]
    assert asked == [(*case, "deq") for case in planes] + [
        (*case, method) for case in volumes for method in ("least-squares", "admm-l1")
    ]
    record = json.loads((tmp_path / "scaling.json").read_text())
    assert len(record["rows"]) == len(asked) + 3 * 2 * len(scaling.QUALITY_TRIPLETS)
    (left_out,) = record["left_out"]
    assert left_out.startswith("dense operators of 8 x 8 x 8 voxels and 1100 rows")
    page = (tmp_path / "scaling.md").read_text()
    assert "| deq | 6 x 6 | 36 | 120 | dense | 1 | 2 | 0.75 | 52 |" in page
    assert "| least-squares | 8 x 8 x 8 | 512 | 1100 | K = 30 | 1 | - | - | 52 |" in page
    assert "| deq | 4 x 6 | 24 | 100 | K = 20 | 40 | 140 | 70 |" in page
    assert "| 100 | 0.100 | 0.50 | 16.00 | 36.00 | 16.00 | 36.00 | 16.00 | 36.00 |" in page
    assert (tmp_path / "scaling.png").stat().st_size > 0
