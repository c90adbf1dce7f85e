"""Tuning: the best weight of a problem with a closed form, and the choices on scores that are known."""

import json
import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

import engine.tuning.tune
from engine.errors import BundleError, ConfigError, InputError, PairingError
from engine.measurement.normalization import normalize
from engine.mpi.grid import Grid
from engine.mpi.metrics import psnr_db
from engine.reconstruction.methods import hand_set, tunable
from engine.solvers.regularization import (
    SnrCurve,
    default_weights_path,
    load_weights,
    save_weights,
)
from engine.tuning.emulation import emulate_frames, scan_of
from engine.tuning.report import tuning_report
from engine.tuning.result import Trial, TuningConfig
from engine.tuning.search import Lattice
from engine.tuning.tune import MIN_GAIN_DB, REACH_DECADES, tune

LOST_BY_THE_LATTICE = 0.02
"""dB: 8 values per decade miss the best weight by a factor of at most 10^(1/16), a second-order loss."""

SINGLE_PRECISION = 1e-3
"""dB between our images and those of a dense solve: factors and images in single precision."""

PUBLISHED_ITERATIONS = {
    "tikhonov": None,
    "art": 10,
    "admm-l1": 200,
    "admm-tv": 100,
    "admm-hybrid": 100,
    "pp-mpi": 150,
}
"""Sec. IV-A of the paper; Tikhonov regularisation is not in it."""

QUICK = TuningConfig(snr_db=(20.0, 30.0), frames=2, lattice=Lattice(2))


@pytest.fixture(scope="module")
def emulated(small_system_matrix):
    return scan_of(small_system_matrix)


@pytest.fixture(scope="module")
def art(emulated):
    """Two methods of one weight, tuned coarsely."""
    return tune(emulated, ("art", "tikhonov"), QUICK)


def closed_form(scan, frames, damping):
    """Mean pSNR of max((A^T A + lambda)^-1 A^T y, 0), by a dense solve in double precision."""
    matrix = scan.operators.system_matrix.astype(np.float64)
    images = []
    for rows in frames.rows * scan.operators.scale:
        measurement = normalize(rows, scan.operators)
        normal = matrix.T @ matrix + damping * np.eye(matrix.shape[1])
        x = np.linalg.solve(normal, matrix.T @ measurement.y.astype(np.float64))
        images.append(np.maximum(x, 0) * measurement.intensity)
    return psnr_db(np.reshape(images, frames.truth.shape), frames.truth).mean()


def test_the_best_tikhonov_weight_is_found(emulated) -> None:
    tuning = tune(emulated, ["tikhonov"], TuningConfig(snr_db=(15.0, 30.0), frames=3)).methods["tikhonov"]
    for chosen in tuning.chosen:
        frames = emulate_frames(emulated, 3, chosen.snr_db, 0, "validation")
        dense = {damping: closed_form(emulated, frames, damping) for damping in 10 ** np.arange(-4, 4, 0.05)}
        best = max(dense, key=dense.get)
        assert 10**-3.5 < best < 10**3.5  # the scan holds the maximum
        weight = chosen.weights["lambda"]
        assert abs(closed_form(emulated, frames, weight) - chosen.psnr_mean) < SINGLE_PRECISION
        assert chosen.psnr_mean > dense[best] - LOST_BY_THE_LATTICE
        assert abs(math.log10(weight / best)) < 0.25  # two places of the lattice
    noisy, clear = tuning.chosen
    assert noisy.weights["lambda"] > clear.weights["lambda"]


def test_everything_that_was_tried_is_kept(art) -> None:
    for method, tuning in art.methods.items():
        assert len(set(map(str, tuning.trials))) == len(tuning.trials)  # none twice
        assert set(map(str, tuning.chosen)) <= set(map(str, tuning.trials))
        for chosen in tuning.chosen:
            rivals = [
                trial.psnr_mean
                for trial in tuning.trials
                if (trial.snr_db, trial.iterations) == (chosen.snr_db, chosen.iterations)
            ]
            assert chosen.psnr_mean >= max(rivals) - engine.tuning.tune.PLATEAU_DB
        assert art.weights[method].iterations == tuning.chosen[0].iterations


def test_the_papers_values_are_tried_and_shown(art) -> None:
    for trial in art.methods["art"].published:
        assert trial.weights == hand_set("art").published_at(trial.snr_db)
        assert trial.iterations == 10
    assert art.methods["tikhonov"].published == ()  # not in the paper
    report = tuning_report(art)
    for trial in art.methods["art"].published:
        row = f"| {trial.snr_db:g} | 10 | 1 | {trial.psnr_mean:.2f} ({trial.psnr_std:.2f}) | paper"
        assert row in report
    assert report.count("chosen |") == 2 + 2 * 2 - 1  # the head of one table, and two SNRs of two methods


def test_the_methods_come_in_their_own_order(art) -> None:
    assert list(art.methods) == ["tikhonov", "art"]


def test_the_figures_go_with_the_weights(art, tmp_path) -> None:
    save_weights(tmp_path / "w.json", art.weights, art.figures())
    assert dict(load_weights(tmp_path / "w.json")) == art.weights
    figures = art.figures()
    assert figures["snr_db"] == [20.0, 30.0]
    assert figures["psnr_mean_db"]["art"]["tuned"] == pytest.approx(
        [trial.psnr_mean for trial in art.methods["art"].chosen], abs=1e-3
    )


def test_a_single_snr_as_used_is_as_tuned(emulated) -> None:
    """One point of a curve holds at every SNR, so the frames' own SNRs change nothing."""
    tuning = tune(emulated, ["tikhonov"], replace(QUICK, snr_db=(25.0,))).methods["tikhonov"]
    assert tuning.as_used == pytest.approx([tuning.chosen[0].psnr_mean], abs=1e-6)


class KnownScore:
    """Stands in for the judge: a parabola in the decades of each weight, and a gain from iterations."""

    tops: ClassVar = {"l1": -1.5, "tv": -2.5, "lambda": 0.6, "scale": 0.2}
    loss = staticmethod(lambda iterations: 8.0 / iterations)

    def __init__(self, method, _operators, frames, *_others):
        self.method, self.snr_db = method, tuple(frames)
        self.known = {}

    @property
    def trials(self):
        return tuple(self.known.values())

    def trial(self, snr_db, values, iterations):
        weights = dict(zip(hand_set(self.method).names, values, strict=True))
        distance = sum((math.log10(value) - self.tops[name]) ** 2 for name, value in weights.items())
        score = 30.0 - 4 * distance - self.loss(iterations)
        return self.known.setdefault(
            (snr_db, tuple(values), iterations),
            Trial(self.method, snr_db, weights, iterations, score, 0.0),
        )

    def as_used(self, _weights):
        return (0.0,) * len(self.snr_db)


@pytest.fixture
def known_score(monkeypatch):
    monkeypatch.setattr(engine.tuning.tune, "Judge", KnownScore)
    return KnownScore


@pytest.mark.parametrize("method", tunable())
def test_weights_of_every_method_are_found_next_to_their_maximum(emulated, known_score, method) -> None:
    tuning = tune(emulated, [method], replace(QUICK, lattice=Lattice(8))).methods[method]
    for name, curve in tuning.weights.curves.items():
        for value in curve.values:
            assert abs(math.log10(value) - known_score.tops[name]) <= 0.5 / 8 + 1e-4  # rounded to 4 digits


def test_the_iterations_are_the_fewest_that_lose_less_than_the_threshold(emulated, known_score) -> None:
    """With a loss of 8 / n dB 320 is better by MIN_GAIN_DB = 0.05 dB than 80, but not than 160."""
    assert 8 / 80 - 8 / 320 > MIN_GAIN_DB > 8 / 160 - 8 / 320
    tuning = tune(emulated, ["admm-tv"], QUICK).methods["admm-tv"]
    assert tuning.weights.iterations == 160
    assert not tuning.at_limit


def test_fewer_iterations_win_when_more_do_harm(emulated, known_score, monkeypatch) -> None:
    monkeypatch.setattr(known_score, "loss", staticmethod(lambda iterations: abs(math.log2(iterations / 20))))
    assert tune(emulated, ["admm-tv"], QUICK).methods["admm-tv"].weights.iterations == 20


def test_the_end_of_the_search_is_reported(emulated, known_score, monkeypatch) -> None:
    monkeypatch.setitem(known_score.tops, "l1", -9.0)
    tuning = tune(emulated, ["admm-l1"], QUICK)
    assert tuning.methods["admm-l1"].at_limit
    value = tuning.weights["admm-l1"].curves["l1"].values[0]
    assert math.log10(value) == pytest.approx(math.log10(1 / 250) - REACH_DECADES, abs=0.25)
    assert "At the end of what is searched: admm-l1." in tuning_report(tuning)


def test_the_hybrid_starts_from_the_paper_and_from_its_parts(emulated, known_score) -> None:
    tuning = tune(emulated, ("admm-l1", "admm-tv", "admm-hybrid"), QUICK)
    first = [trial.weights for trial in tuning.methods["admm-hybrid"].trials]
    parts = {
        "l1": tuning.weights["admm-l1"].curves["l1"].values[0],
        "tv": tuning.weights["admm-tv"].curves["tv"].values[0],
    }
    assert parts in first
    assert hand_set("admm-hybrid").published_at(20.0) in first


def test_published_weights_are_those_of_the_paper() -> None:
    hybrid = [hand_set("admm-hybrid").published_at(snr) for snr in (19.9, 20.0, 29.9, 30.0)]
    assert [(w["l1"], w["tv"]) for w in hybrid] == [(0.01, 0.09), (0.08, 0.02), (0.08, 0.02), (0.09, 0.01)]
    assert [hand_set("art").published_at(snr)["lambda"] for snr in (14.9, 15, 34.9, 35)] == [10, 1, 1, 0.1]
    iterations = {method: hand_set(method).published_iterations for method in tunable()}
    assert iterations == PUBLISHED_ITERATIONS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"snr_db": ()}, "no SNR"),
        ({"snr_db": (20.0, float("nan"))}, "SNR is nan"),
        ({"snr_db": (20.0, float("inf"))}, "SNR is inf"),
        ({"snr_db": (20.0, 20.0)}, "once"),
        ({"frames": 0}, "frames is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_settings_are_one_clear_line(changes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        TuningConfig(**changes)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["kaczmarz"], "'kaczmarz'; .*tikhonov, art"),
        (["deq"], "deq .*tikhonov, art"),
        ([], "no method"),
    ],
)
def test_impossible_methods_are_one_clear_line(emulated, methods, words) -> None:
    with pytest.raises(ConfigError, match=words):
        tune(emulated, methods, QUICK)


def test_a_model_that_nobody_needs_is_an_error(emulated, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"model .*art.*pp-mpi"):
        tune(emulated, ["art"], replace(QUICK, model=tmp_path))


def test_a_missing_model_is_known_before_anything_is_tuned(emulated, tmp_path) -> None:
    trials = []
    with pytest.raises(BundleError, match="model bundle"):
        tune(emulated, ("art", "pp-mpi"), replace(QUICK, model=tmp_path), trials.append)
    assert trials == []


def test_volumes_are_refused(make_system_matrix) -> None:
    volume = make_system_matrix(Grid((3, 3, 2), (0.006, 0.006, 0.004)), 40, (6, 12), 2)
    with pytest.raises(InputError, match="Nz = 1"):
        tune(scan_of(volume), ["art"], QUICK)


def test_too_few_rows_for_the_noise_are_one_clear_line(make_system_matrix) -> None:
    few = scan_of(make_system_matrix(Grid((6, 5, 1), (0.012, 0.010, 0.002)), 20, (6, 12), 2))
    with pytest.raises(PairingError, match="give sigma"):
        tune(few, ["admm-l1"], QUICK)


def test_negative_snrs_can_be_tuned_at(emulated) -> None:
    tuned = tune(emulated, ["tikhonov"], replace(QUICK, snr_db=(-5.0, 10.0)))
    assert tuned.weights["tikhonov"].curves["lambda"].snr_db == (-5.0, 10.0)
    assert isinstance(tuned.weights["tikhonov"].curves["lambda"], SnrCurve)


def test_the_weights_that_ship_were_tuned_and_beat_the_papers() -> None:
    shipped = load_weights()
    assert set(shipped) == set(tunable())
    for weights in shipped.values():
        assert all(curve.snr_db == TuningConfig.snr_db for curve in weights.curves.values())
    source = json.loads(default_weights_path().read_text())["source"]
    assert (source["frames"], source["split"]) == (TuningConfig.frames, "validation")
    for method in (name for name, count in PUBLISHED_ITERATIONS.items() if count):
        figures = source["psnr_mean_db"][method]
        assert all(
            tuned >= paper for tuned, paper in zip(figures["tuned"], figures["published"], strict=True)
        )
