"""Operators that hold singular triplets in place of the system matrix: content, file, report and refusals."""

import shutil
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.operators.truncated_svd
from engine.calibration.calibrate import CalibrationConfig, calibrate_with_report, make_operators
from engine.commands.info import info
from engine.errors import ConfigError, OperatorsError, PairingError, SelectionError
from engine.measurement.normalization import normalize
from engine.mpi.grid import Grid
from engine.operators.factorisation import make_factored_operators
from engine.operators.operators_file import DENSE, FIELDS, load_operators, save_operators
from engine.reconstruction.reconstructor import Reconstructor
from engine.solvers.kaczmarz import Kaczmarz
from engine.solvers.regularization import MethodWeights, SnrCurve
from engine.solvers.tikhonov import Tikhonov

SINGLE = 2e-6
"""Rounding of values of at most 25 to single precision."""

SINGLE_SUMS = 1e-5
"""Relative; float32 sums of some hundred products."""

OLD_FILE = Path(__file__).parents[2] / "fixtures" / "operators-schema-1.h5"
"""Written by the version before there were factored operators: 3 x 2 voxels, 8 complex rows, rank 4."""


@pytest.fixture(scope="module")
def factored(small_system_matrix):
    return make_factored_operators(small_system_matrix, 12, source_sha256="0f" * 32)


@pytest.fixture
def written(factored, tmp_path):
    path = tmp_path / "operators.h5"
    save_operators(path, factored)
    return path


def n_bytes(operators):
    """Bytes of all arrays of the operators."""
    return sum(value.nbytes for value in vars(operators).values() if isinstance(value, np.ndarray))


def test_the_triplets_are_the_leading_ones(small_system_matrix, factored) -> None:
    a = small_system_matrix.real_rows()
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    expected = u[:, :12] * s[:12] @ vt[:12]
    left, right = factored.left_singular.astype(np.float64), factored.right_singular.astype(np.float64)
    found = factored.scale * (left.T * factored.singular_values @ right.T)
    np.testing.assert_allclose(found, expected, rtol=0, atol=SINGLE * s[0])
    assert factored.truncation_error == pytest.approx(np.linalg.norm(a - expected) / np.linalg.norm(a))
    assert factored.largest_dropped == pytest.approx(25 * s[12] / s[0])
    assert (factored.n_rows, factored.n_voxels, factored.n_triplets) == (120, 35, 12)
    for name in ("left_singular", "right_singular"):
        array = getattr(factored, name)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous


def test_all_triplets_are_those_of_dense_operators(small_system_matrix) -> None:
    dense, factored = make_operators(small_system_matrix), make_factored_operators(small_system_matrix, 35)
    assert factored.dense is None
    assert (factored.truncation_error, factored.largest_dropped) == (0.0, 0.0)
    for field in fields(dense):
        if field.name not in ("dense", "grid", "layout", "acquisition"):
            np.testing.assert_array_equal(getattr(factored, field.name), getattr(dense, field.name))


def test_the_range_finder_gives_operators_too(small_system_matrix, monkeypatch) -> None:
    exact = make_factored_operators(small_system_matrix, 12)
    monkeypatch.setattr(engine.operators.truncated_svd, "EXACT_SIDE", 10)
    found = make_factored_operators(small_system_matrix, 12)
    assert (1 - SINGLE) * exact.truncation_error <= found.truncation_error < 1.01 * exact.truncation_error
    np.testing.assert_allclose(found.singular_values, exact.singular_values, rtol=0.01)
    assert found.scale == pytest.approx(exact.scale, rel=1e-6)
    # The share of the whole numerical rank, which was not looked at; only 12 triplets are at hand.
    assert found.rank == 12


@settings(max_examples=20, deadline=None)
@given(nx=st.integers(2, 9), ny=st.integers(2, 9), n_rows=st.integers(4, 60), n_triplets=st.integers(1, 4))
def test_memory_is_linear_in_rows_and_voxels(make_system_matrix, nx, ny, n_rows, n_triplets) -> None:
    matrix = make_system_matrix(Grid((nx, ny, 1), (0.01, 0.01, 0.002)), n_rows, (6, 12), 1)
    found = make_factored_operators(matrix, n_triplets, rank=1)
    n_voxels = nx * ny
    # Single-precision U and V, double-precision s and the noise of the complex rows; nothing else.
    assert n_bytes(found) == 4 * n_triplets * (2 * n_rows + n_voxels) + 8 * n_triplets + 8 * n_rows
    assert found.start_matrix.nbytes == 4 * n_voxels


def test_the_default_rank_is_that_of_dense_operators_as_far_as_there_are_triplets(
    small_system_matrix, factored
) -> None:
    assert make_operators(small_system_matrix).rank == 23
    assert factored.rank == 12
    assert make_factored_operators(small_system_matrix, 30).rank == 23


@pytest.mark.parametrize("n_triplets", [0, 36])
def test_impossible_numbers_of_factors_are_refused(small_system_matrix, n_triplets) -> None:
    with pytest.raises(SelectionError, match=f"{n_triplets} factors .*1 to 35"):
        make_factored_operators(small_system_matrix, n_triplets)


def test_impossible_ranks_and_zero_matrices_are_refused(small_system_matrix) -> None:
    with pytest.raises(SelectionError, match=r"rank 13 .*1 to 12"):
        make_factored_operators(small_system_matrix, 12, rank=13)
    with pytest.raises(SelectionError, match="zero"):
        make_factored_operators(replace(small_system_matrix, rows=0 * small_system_matrix.rows), 3)
    with pytest.raises(ConfigError, match="factors is 0"):
        CalibrationConfig(factors=0)


def test_what_needs_the_matrix_says_so(factored) -> None:
    for name in ("system_matrix", "inverse", "weighted_adjoint"):
        with pytest.raises(PairingError, match=r"12 singular triplets .*--factors"):
            getattr(factored, name)
    weights = MethodWeights({"lambda": SnrCurve.constant(1.0)}, 3)
    with pytest.raises(PairingError, match="--factors"):
        Kaczmarz(factored, weights)


def test_the_noise_is_estimated_from_what_the_triplets_leave(make_system_matrix) -> None:
    """With data of the truncated matrix and white noise, sigma comes out within its own scatter."""
    matrix = make_system_matrix(Grid((7, 5, 1), (0.014, 0.010, 0.002)), 70, (6, 24), 1)
    operators = make_factored_operators(matrix, 10)
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 1, 35)
    left, right = operators.left_singular.astype(np.float64), operators.right_singular.astype(np.float64)
    clean = (operators.singular_values * (image @ right)) @ left
    measurement = normalize(clean + 0.3 * rng.standard_normal(140), operators)
    # The residual has R - K = 130 degrees of freedom: a standard deviation of 6 %, three of them.
    assert measurement.sigma == pytest.approx(0.3, rel=0.19)
    np.testing.assert_allclose(
        measurement.explained, left @ measurement.y, rtol=0, atol=SINGLE_SUMS * np.linalg.norm(measurement.y)
    )


def test_the_noise_needs_rows_for_the_triplets_only(make_system_matrix) -> None:
    """60 rows cannot tell noise for 35 voxels, but for 30 triplets they can."""
    matrix = make_system_matrix(Grid((7, 5, 1), (0.014, 0.01, 0.002)), 30, (6, 12), 1)
    rows = np.random.default_rng(0).standard_normal(60)
    assert normalize(rows, make_operators(matrix)).sigma is None
    assert normalize(rows, make_factored_operators(matrix, 30)).sigma > 0
    assert normalize(rows, make_factored_operators(matrix, 31)).sigma is None


def test_too_few_rows_for_the_triplets_ask_for_sigma(make_system_matrix) -> None:
    from engine.solvers.admm.hand_crafted import AdmmL1

    matrix = make_system_matrix(Grid((7, 5, 1), (0.014, 0.01, 0.002)), 30, (6, 12), 1)
    operators = make_factored_operators(matrix, 31)
    solver = AdmmL1(operators, MethodWeights({"l1": SnrCurve.constant(0.1)}, 3))
    rows = np.random.default_rng(0).standard_normal(60)
    with pytest.raises(PairingError, match=r"60 rows .*62 rows.*sigma"):
        Reconstructor(solver).reconstruct(rows)
    assert Reconstructor(solver).reconstruct(rows, sigma=1.0).report.sigma == 1.0


def test_the_residual_of_a_report_is_that_of_the_truncated_matrix(small_system_matrix, factored) -> None:
    weights = MethodWeights({"lambda": SnrCurve.constant(0.5)}, 50)
    rows = np.random.default_rng(1).standard_normal(120)
    found = Reconstructor(Tikhonov(factored, weights)).reconstruct(rows, sigma=0.7)
    left, right = factored.left_singular.astype(np.float64), factored.right_singular.astype(np.float64)
    concentration = found.image.reshape(-1).astype(np.float64)
    model = factored.scale * ((factored.singular_values * (concentration @ right)) @ left)
    expected = np.linalg.norm(model - rows) / (0.7 * np.sqrt(120))
    assert found.report.residual_over_epsilon == pytest.approx(expected, rel=SINGLE_SUMS)


def test_the_file_holds_the_factors_alone_and_gives_them_back(factored, written) -> None:
    with h5py.File(written) as file:
        for name in FIELDS:
            assert (name in file) == (name not in DENSE), name
        assert file["left_singular"].attrs["axes"] == "T, R"
    loaded = load_operators(written)
    for field in fields(factored):
        first, second = getattr(factored, field.name), getattr(loaded, field.name)
        if isinstance(first, np.ndarray):
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)
        elif field.name not in ("layout", "acquisition"):
            assert first == second


@pytest.mark.parametrize("name", sorted(set(FIELDS) - set(DENSE)))
def test_a_changed_value_of_the_factors_is_noticed(written, name) -> None:
    with h5py.File(written, "r+") as file:
        file[name][...] = file[name][()] + 1
    with pytest.raises(OperatorsError, match="SHA-256"):
        load_operators(written)


def test_a_matrix_slipped_in_or_taken_out_is_noticed(small_system_matrix, written, tmp_path) -> None:
    dense = tmp_path / "dense.h5"
    save_operators(dense, make_operators(small_system_matrix))
    with h5py.File(dense, "r+") as file, h5py.File(written, "r+") as other:
        for name in DENSE:
            file.copy(name, other)
            del file[name]
    with pytest.raises(OperatorsError, match="SHA-256"):
        load_operators(dense)
    with pytest.raises(OperatorsError, match="SHA-256"):
        load_operators(written)


def test_triplets_that_contradict_each_other_are_not_written(factored, tmp_path) -> None:
    for change, message in (
        ({"singular_values": factored.singular_values[:11]}, "left_singular has shape"),
        ({"rank": 13}, "rank 13, .*1 to 12"),
    ):
        with pytest.raises(OperatorsError, match=message):
            save_operators(tmp_path / "operators.h5", replace(factored, **change))


def test_files_of_the_version_before_are_read(tmp_path) -> None:
    """Without their copy of A^T, which nothing used; written again they say the same."""
    old = load_operators(OLD_FILE)
    with h5py.File(OLD_FILE) as file:
        assert file.attrs["schema"] == 1
        for name in ("system_matrix", "inverse", "left_singular", "singular_values", "right_singular"):
            np.testing.assert_array_equal(getattr(old, name), file[name][()])
        assert (old.rank, old.scale) == (file["rank"][()], file["scale"][()])
    assert (old.truncation_error, old.largest_dropped) == (0.0, 0.0)
    save_operators(tmp_path / "new.h5", old)
    new = load_operators(tmp_path / "new.h5")
    np.testing.assert_array_equal(new.system_matrix, old.system_matrix)


@pytest.mark.parametrize("name", ["adjoint", "inverse"])
def test_damage_to_files_of_the_version_before_is_noticed(tmp_path, name) -> None:
    copy = shutil.copy(OLD_FILE, tmp_path / "copy.h5")
    with h5py.File(copy, "r+") as file:
        file[name][0, 0] += 1
    with pytest.raises(OperatorsError, match="SHA-256"):
        load_operators(copy)
    with h5py.File(copy, "r+") as file:
        del file[name]
    with pytest.raises(OperatorsError, match=f"dataset {name}"):
        load_operators(copy)


def test_calibration_says_what_the_truncation_costs(scan, tmp_path) -> None:
    config = CalibrationConfig(harmonics=(2, 3), harmonic_half_width=200.0, factors=15)
    operators, report = calibrate_with_report(scan.calibration(), config)
    assert operators.n_triplets == 15
    (line,) = [line for line in report if line.startswith("factors:")]
    assert "15 singular triplets" in line
    assert f"relative error {operators.truncation_error:.3g}" in line
    assert f"singular value {operators.largest_dropped:.3g} of 25" in line
    path = tmp_path / "operators.h5"
    save_operators(path, operators)
    found = CliRunner().invoke(info, [str(path)])
    assert found.exit_code == 0
    assert f"15 singular triplets, relative error {operators.truncation_error:.3g}" in found.output
