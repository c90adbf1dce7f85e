"""The methods under test: opened as a user gets them, told apart by what they compute with."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.contestants import contestant as module
from benchmarks.contestants.contestant import HAND_CRAFTED, as_shipped, authors_deq, contestants
from benchmarks.contestants.model_shelf import MissingModelError, ModelShelf, authors_checkpoint
from benchmarks.harness.benchmark_run import BenchmarkRun
from benchmarks.scans.scans import reference_scan
from engine.fixed_point.solution import Result
from engine.reconstruction.methods import METHODS


@pytest.mark.parametrize(
    ("snr", "level"), [(15.0, 10), (25.0, 20), (35.0, 30), (45.0, 40), (5.0, 10), (60.0, 40), (21.0, 15)]
)
def test_the_authors_checkpoint_is_the_nearest(snr: float, level: int) -> None:
    assert authors_checkpoint(snr) == f"deqmpi_psnr{level}.pth"


def test_without_the_authors_weights_their_rows_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEQMPI_ICONLAB", str(tmp_path / "nowhere"))
    reasons: list[str] = []
    # 20 dB: no model of our own was trained there, so nothing has to be exported.
    field = contestants(20.0, ModelShelf(tmp_path), reasons.append)
    assert [contestant.name for contestant in field] == [*HAND_CRAFTED, "pp-mpi", "deq", "deq, fast"]
    assert reasons
    assert all("DEQMPI_ICONLAB" in reason for reason in reasons)


def test_a_model_that_was_not_trained_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingModelError, match=r"benchmarks\.contestants\.ablation_models deq-17"):
        ModelShelf(tmp_path).run("deq-17")


def test_an_incomplete_folder_of_the_authors_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEQMPI_ICONLAB", str(tmp_path))
    with pytest.raises(MissingModelError, match=r"deqmpi_psnr20\.pth is missing"):
        authors_deq(25.0, ModelShelf(tmp_path))


def test_identities_hold_weights_and_networks() -> None:
    art, deq = as_shipped("art"), as_shipped("deq")
    assert art.identity["weights"]["curves"]["lambda"]["values"]
    assert deq.identity.keys() >= {"rdn_sha256", "lc_sha256"}
    assert as_shipped("pp-mpi").identity.keys() >= {"rdn_sha256", "weights"}


def test_identities_can_be_kept(tmp_path: Path) -> None:
    """They come back from the file of partial rows equal, so that the row counts again."""
    with BenchmarkRun("x", tmp_path, {}) as run:
        run.row({"method": "art"}, dict, as_shipped("art").identity)
        run.row({"method": "deq"}, dict, as_shipped("deq").identity)
    with BenchmarkRun("x", tmp_path, {}) as run:
        run.row({"method": "art"}, lambda: pytest.fail("measured again"), as_shipped("art").identity)


def test_a_tuned_weight_changes_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = as_shipped("art").identity
    tuned = module.weights_of("art", METHODS["art"], as_shipped("art").settings).with_weights(
        {"lambda": 0.123}
    )
    monkeypatch.setattr(module, "weights_of", lambda *_: tuned)
    assert as_shipped("art").identity != before


@pytest.mark.usefixtures("small_world")
def test_the_deep_image_prior_is_one_of_them() -> None:
    pytest.importorskip("torch")
    from benchmarks.contestants.deep_image_prior import untrained
    from trainer.deep_image_prior import DipConfig

    scan = reference_scan(0.5)
    dip = untrained(DipConfig(iterations=3, features=2))
    rows = scan.measured.real_rows() @ np.full(80, 0.5)
    (done,) = dip.open(scan.operators).reconstruct_frames(rows[None], sigma=1.0)
    assert done.report.method == "dip"
    assert done.report.result is Result.FIXED_ITERATIONS
    assert done.report.iterations == 3
    assert dip.identity["iterations"] == 3
    assert untrained().identity["iterations"] == 20000  # the paper's
