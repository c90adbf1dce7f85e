"""The parity check measures what it says, and cannot pass by accident."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from engine.fixed_point.solve import FixedPointConfig
from export.errors import ParityError
from export.parity.learned_blocks import LearnedBlocks
from export.parity.parity import (
    IMAGE_TOLERANCE,
    ITERATION_TOLERANCE,
    NETWORK_TOLERANCE,
    ParityReport,
    measure_parity,
    relative_error,
)
from export.parity.parity_problem import SNRS_DB, ParityProblem, parity_problem, synthetic_operators

SOLVER = FixedPointConfig(max_iterations=4)

NOISE_TOLERANCE = 0.1
"""The norm of 900 noise values is within 2.4 % (one standard deviation) of its expectation."""


@pytest.fixture(scope="module")
def problem() -> ParityProblem:
    return parity_problem(synthetic_operators())


@pytest.fixture(scope="module")
def blocks(rdn, lc) -> LearnedBlocks:
    return LearnedBlocks.of_networks(rdn, lc)


def test_problem_is_at_the_regime_of_the_method(problem):
    operators = problem.operators
    assert np.linalg.norm(operators.system_matrix, 2) == pytest.approx(25.0, rel=1e-5)
    assert 0 < operators.layout.n_rows < operators.layout.mask.size  # some places are not selected
    clean = problem.frames[-1]  # at 35 dB its own noise is 1.8 % of it
    rms = np.sqrt(np.mean(clean**2))
    for frame, sigma, snr in zip(problem.frames, problem.sigmas, SNRS_DB, strict=True):
        assert sigma == pytest.approx(rms * 10 ** (-snr / 20), rel=NOISE_TOLERANCE)
        if snr != SNRS_DB[-1]:
            spread = np.hypot(sigma, problem.sigmas[-1])
            assert np.std(frame - clean) == pytest.approx(spread, rel=NOISE_TOLERANCE)


def test_equal_networks_show_no_difference(blocks, problem):
    report = measure_parity(blocks, blocks, problem, "deq", SOLVER)
    assert report.networks == {"rdn": 0.0, "lc": 0.0}
    assert (report.step, report.image) == (0.0, 0.0)
    assert report.iterations == ((4, 4),) * len(SNRS_DB)
    report.require()


@pytest.mark.parametrize(
    ("method", "solver", "iterations"),
    [("deq-ball", SOLVER, 4), ("pp-mpi", SOLVER, 4), ("unrolled", SOLVER, 4), ("end-to-end", None, 0)],
)
def test_every_method_of_one_network_is_solved_with_it(blocks, problem, method, solver, iterations):
    exact = LearnedBlocks(blocks.prior, None)
    report = measure_parity(exact, exact, problem, method, solver)
    assert report.networks == {"rdn": 0.0}
    assert (report.step, report.image) == (0.0, 0.0)
    assert report.iterations == ((iterations, iterations),) * len(SNRS_DB)
    changed = LearnedBlocks(lambda v, noise: blocks.prior(v, noise) * np.float32(1.1), None)
    report = measure_parity(exact, changed, problem, method, solver)
    assert report.image > IMAGE_TOLERANCE
    with pytest.raises(ParityError, match="rdn "):
        report.require()


def test_a_slightly_different_image_prior_is_measured_and_refused(blocks, problem):
    changed = dataclasses.replace(blocks, prior=lambda v, noise: blocks.prior(v, noise) * np.float32(1.001))
    report = measure_parity(blocks, changed, problem, "deq", SOLVER)
    # Outputs are four fifths of the inputs, whose largest value is the scale of the comparison.
    assert report.networks["rdn"] == pytest.approx(8e-4, rel=0.1)
    assert report.networks["lc"] == 0.0
    assert report.step > 0.0
    assert report.image > 0.0
    with pytest.raises(ParityError, match=r"rdn 0\.0008 \(limit 1e-05\)"):
        report.require()


def test_an_unguarded_division_by_a_zero_difference_is_refused(blocks, problem):
    def unguarded(v, y, mask, epsilon):
        with np.errstate(invalid="ignore"):
            norm = np.linalg.norm((v - y).reshape(len(v), -1), axis=1).reshape(epsilon.shape)
            return (y + (v - y) / norm * np.minimum(norm, epsilon)).astype(np.float32)

    changed = dataclasses.replace(blocks, consistency=unguarded)
    report = measure_parity(blocks, changed, problem, "deq", SOLVER)
    assert math.isnan(report.networks["lc"])
    with pytest.raises(ParityError, match="lc nan"):
        report.require()


def test_no_frames_are_refused(blocks, problem):
    empty = ParityProblem(problem.operators, problem.frames[:0], problem.sigmas[:0])
    with pytest.raises(ParityError, match="nothing was compared"):
        measure_parity(blocks, blocks, empty, "deq", SOLVER)


class Silent(nn.Module):
    def forward(self, v):
        return torch.relu(v * 0 - 1)


def test_an_image_prior_that_knows_only_the_zero_image_is_refused(problem):
    silent = LearnedBlocks.of_networks(Silent(), None)
    with pytest.raises(ParityError, match="zero image"):
        measure_parity(silent, silent, problem, "end-to-end", None)


PASSING = ParityReport({"rdn": 1e-7, "lc": 1e-7}, step=1e-6, image=1e-4, iterations=((7, 7), (25, 24)))


def test_a_good_report_passes():
    PASSING.require()
    figures = PASSING.to_dict()
    assert figures["iterations"] == [[7, 7], [25, 24]]
    assert (figures["rdn"], figures["lc"], figures["step"]) == (1e-7, 1e-7, 1e-6)


@pytest.mark.parametrize("figure", ["rdn", "lc", "step", "image"])
@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_each_figure_is_judged(figure, value):
    changes = (
        {"networks": {**PASSING.networks, figure: value}} if figure in PASSING.networks else {figure: value}
    )
    with pytest.raises(ParityError, match=f"differ from the networks: {figure} ") as caught:
        dataclasses.replace(PASSING, **changes).require()
    assert len(str(caught.value).splitlines()) == 1


def test_iterations_are_judged():
    with pytest.raises(ParityError, match="iterations 2"):
        dataclasses.replace(PASSING, iterations=((9, 7 + ITERATION_TOLERANCE - 1),)).require()
    with pytest.raises(ParityError, match="no frame was compared"):
        dataclasses.replace(PASSING, iterations=()).require()


def test_relative_error_is_relative_to_the_largest_value():
    expected = np.array([1.0, -4.0], np.float32)
    assert relative_error(np.array([1.5, -4.0], np.float32), expected) == 0.125
    assert relative_error(np.array([1.5, -4.0], np.float32), expected, np.array([10.0])) == pytest.approx(
        0.05
    )


def test_relative_error_of_zeros():
    zeros = np.zeros(3, np.float32)
    assert relative_error(zeros, zeros) == 0.0
    assert relative_error(zeros + np.float32(NETWORK_TOLERANCE), zeros) == math.inf


@pytest.mark.parametrize(
    "found",
    [np.zeros((1, 2), np.float32), np.zeros(2), np.zeros(0, np.float32)],
    ids=["shape", "type", "empty"],
)
def test_relative_error_needs_comparable_arrays(found):
    expected = np.zeros(0 if found.size == 0 else 2, np.float32)
    with pytest.raises(ParityError):
        relative_error(found, expected)
