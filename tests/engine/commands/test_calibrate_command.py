import numpy as np
import pytest
from click.testing import CliRunner

from engine.calibration.calibrate import CalibrationConfig
from engine.calibration.calibrate import calibrate as calibrate_from_python
from engine.commands.calibrate import calibrate
from engine.errors import ConfigError, SelectionError
from engine.mpi.mdf import write_mdf
from engine.operators.operators_file import load_operators


@pytest.fixture(scope="module")
def system_matrix(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "system-matrix.mdf"
    write_mdf(path, scan.calibration())
    return path


@pytest.fixture
def run(system_matrix, tmp_path):
    """Run the command on the file; gives (result, path of the operators)."""

    def invoke(*options):
        target = tmp_path / "operators.h5"
        return CliRunner().invoke(calibrate, [str(system_matrix), str(target), *options]), target

    return invoke


def test_writes_operators_and_says_what_was_kept(run):
    result, target = run("--harmonics", "2:3", "--harmonic-half-width", "200")
    assert result.exit_code == 0, result.output
    operators = load_operators(target)
    assert f"rows: {operators.layout.n_rows} of 60" in result.output
    assert "rows per harmonic: 2: " in result.output
    assert f"{operators.rank} of 20 in the least-squares start" in result.output
    assert f"wrote {target} in " in result.output


def test_every_option_reaches_the_selection(run, scan):
    result, target = run(
        *(
            "--snr-threshold",
            "2",
            "--harmonics",
            "none",
            "--min-frequency",
            "1800",
            "--max-frequency",
            "2200",
        ),
        *("--channels", "1", "--upsample", "2", "--smooth", "--rank", "9"),
    )
    assert result.exit_code == 0, result.output
    operators = load_operators(target)
    np.testing.assert_array_equal(operators.acquisition.bins, [18, 19, 20, 21, 22])
    np.testing.assert_array_equal(operators.acquisition.channels, [1])
    assert operators.grid.size == (10, 8, 1)
    assert operators.rank == 9
    assert "per harmonic" not in result.output
    config = CalibrationConfig(
        snr_threshold=2.0,
        harmonics=None,
        min_frequency=1800.0,
        max_frequency=2200.0,
        channels=(1,),
        upsample=2,
        smooth=True,
        rank=9,
    )
    expected = calibrate_from_python(scan.calibration(), config)
    np.testing.assert_array_equal(operators.system_matrix, expected.system_matrix)


def test_factors_take_the_place_of_the_matrix(run, scan):
    result, target = run("--factors", "15")
    assert result.exit_code == 0, result.output
    operators = load_operators(target)
    assert operators.dense is None
    expected = calibrate_from_python(scan.calibration(), CalibrationConfig(factors=15))
    np.testing.assert_array_equal(operators.left_singular, expected.left_singular)
    assert "15 singular triplets in place of the system matrix; relative error " in result.output


def test_defaults_are_the_papers(run):
    result, target = run()
    assert result.exit_code == 0, result.output
    # 2nd to 11th harmonic of 1 kHz within 650 Hz, cut by the bandwidth of 10 kHz: everything from 1.4 kHz.
    np.testing.assert_array_equal(load_operators(target).acquisition.bins, np.arange(14, 101))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--harmonics", "two"),
        ("--harmonics", "2:x"),
        ("--channels", "0;1"),
        ("--upsample", "3"),
        ("--factors", "0"),
    ],
)
def test_unreadable_options_are_usage_errors(run, option, value):
    result, target = run(option, value)
    assert result.exit_code == 2
    assert option in result.output
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--snr-threshold", "1e9"), SelectionError),
        (("--harmonics", "3:2"), ConfigError),
        (("--factors", "21"), SelectionError),
    ],
)
def test_impossible_requests_raise_input_errors_and_write_nothing(run, options, error):
    result, target = run(*options)
    assert isinstance(result.exception, error)
    assert not target.exists()


def test_the_calibration_scan_is_never_overwritten(system_matrix):
    before = system_matrix.read_bytes()
    result = CliRunner().invoke(calibrate, [str(system_matrix), str(system_matrix)])
    assert result.exit_code == 2
    assert "is named twice" in result.output
    assert system_matrix.read_bytes() == before
