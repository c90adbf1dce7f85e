"""The measurement model and the drawing of images."""

import numpy as np
import pytest
import torch

from engine.errors import ConfigError, InputError
from engine.mpi.grid import Grid
from engine.mpi.metrics import snr_db
from engine.mpi.row_layout import Acquisition, RowLayout
from engine.mpi.system_matrix import SystemMatrix
from engine.operators.factorisation import make_operators
from trainer.data.dataset import PhantomSet
from trainer.data.linear_operators import TorchOperators
from trainer.data.noise import (
    add_noise,
    as_measurement,
    draw_log_uniform,
    draw_uniform,
    estimate_sigma,
    normalise_intensity,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("level", [5.0, 20.0, 60.0])
def test_noise_has_the_snr_asked_for(level: float) -> None:
    clean = torch.randn(6, 20000, generator=seeded()) * torch.arange(1.0, 7.0)[:, None]
    noisy = add_noise(clean, torch.full((6,), level), seeded(1))
    # The norm of 20000 normal values varies by 1 / sqrt(40000) = 0.5 %, 0.04 dB; five of these.
    np.testing.assert_allclose(snr_db(clean.numpy(), noisy.numpy()), level, atol=0.2)


def test_noise_is_white_and_drawn_anew_for_each_image() -> None:
    noise = add_noise(torch.ones(2, 40000), torch.tensor([0.0, 0.0]), seeded()) - 1.0
    for half in noise[0].split(20000):
        assert half.std().item() == pytest.approx(1.0, rel=0.03)
    assert abs(torch.corrcoef(noise)[0, 1].item()) < 0.03


def test_snr_is_per_image() -> None:
    clean = torch.ones(2, 5000)
    noise = add_noise(clean, torch.tensor([0.0, 40.0]), seeded()) - clean
    assert (noise[0].std() / noise[1].std()).item() == pytest.approx(100.0, rel=0.1)


def test_estimated_sigma_is_that_of_the_noise_and_not_of_the_image(scan, images) -> None:
    operators = TorchOperators(scan.operators)
    # Data of the reconstruction's own operator: all that no image explains is noise.
    clean = operators.forward_project(torch.tensor(images[:1].reshape(1, -1))).repeat(400, 1)
    rows = clean + 0.25 * torch.randn(clean.shape, generator=seeded())
    sigma = estimate_sigma(operators, rows, operators.project_left(rows))
    # 152 values outside the range each: sigma scatters by 1 / sqrt(2 * 152) = 6 %, the mean of 400 by 0.3 %.
    assert sigma.square().mean().sqrt().item() == pytest.approx(0.25, rel=0.015)
    assert sigma.std().item() == pytest.approx(0.25 * 0.057, rel=0.25)
    epsilon = as_measurement(operators, rows).epsilon
    torch.testing.assert_close(epsilon, sigma * operators.n_rows**0.5)


def test_sigma_has_a_floor_at_80_db(scan) -> None:
    operators = TorchOperators(scan.operators, torch.float64)
    rows = operators.left_singular[:1]  # a datum that an image explains exactly
    sigma = estimate_sigma(operators, rows, operators.project_left(rows))
    assert sigma.item() == pytest.approx(1e-4 * rows.norm().item() / operators.n_rows**0.5, rel=1e-3)


def test_intensity_and_sigma_follow_the_scale_of_the_data(scan, images) -> None:
    operators = TorchOperators(scan.operators)
    rows = torch.tensor(images[:2].reshape(2, -1) @ scan.data_matrix.T)
    scaled, intensity = normalise_intensity(operators, rows)
    scaled_10, intensity_10 = normalise_intensity(operators, 10 * rows)
    torch.testing.assert_close(intensity_10, 10 * intensity)
    torch.testing.assert_close(scaled_10, scaled)
    torch.testing.assert_close(
        as_measurement(operators, 10 * rows).epsilon, 10 * as_measurement(operators, rows).epsilon
    )


def test_too_few_rows_to_estimate_the_noise_is_an_error() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((9, 12)) + 1j * rng.standard_normal((9, 12))
    layout = RowLayout((3, 3), np.arange(9))
    acquisition = Acquisition(1e3, 10, 3, 1, np.array([0]), np.arange(3))
    matrix = SystemMatrix(rows, Grid((4, 3, 1), (1.0, 1.0, 1.0)), layout, acquisition, np.ones(9))
    operators = TorchOperators(make_operators(matrix))
    with pytest.raises(InputError, match=r"18 real rows .*24"):
        as_measurement(operators, torch.ones(1, 18))


def test_draws_keep_to_their_range_and_law() -> None:
    uniform = draw_uniform(10.0, 30.0, 20000, seeded())
    assert (uniform.min() >= 10.0, uniform.max() <= 30.0) == (True, True)
    assert uniform.mean().item() == pytest.approx(20.0, abs=0.2)
    log_uniform = draw_log_uniform(0.01, 1.0, 20000, seeded())
    assert (log_uniform.min() >= 0.01, log_uniform.max() <= 1.0) == (True, True)
    assert log_uniform.median().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(draw_log_uniform(0.1, 0.1, 3, seeded()), torch.full((3,), 0.1))


# --- images ---------------------------------------------------------------------------------------------


def test_drawn_images_are_scaled_flips_of_the_set() -> None:
    base = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3) / 11
    drawn = PhantomSet(base, (0.5, 1.5)).draw(400, seeded()).numpy()
    assert drawn.shape == (400, 2, 3)
    seen, peaks = set(), []
    for image in drawn:
        matches = {
            (k, a, b): base[k, :: 1 - 2 * a, :: 1 - 2 * b]
            for k in range(2)
            for a in range(2)
            for b in range(2)
        }
        scales = {key: image.max() / other.max() for key, other in matches.items()}
        fitting = [
            key for key, other in matches.items() if np.allclose(image, scales[key] * other, atol=1e-6)
        ]
        assert len(fitting) == 1
        seen.add(fitting[0])
        peaks.append(scales[fitting[0]])
    assert len(seen) == 8  # both images in all four orientations
    # 400 uniform values reach within 2 % of the ends except with probability e^-8.
    assert 0.5 <= min(peaks) < 0.52
    assert 1.48 < max(peaks) <= 1.5


def test_the_same_generator_state_draws_the_same_batch(images) -> None:
    phantoms = PhantomSet(images, (0.5, 1.5))
    assert len(phantoms) == 40
    first, second = seeded(), seeded()
    assert torch.equal(phantoms.draw(5, first), phantoms.draw(5, second))
    assert not torch.equal(phantoms.draw(5, first), phantoms.draw(5, seeded()))


@pytest.mark.parametrize(
    "bad", [np.zeros((0, 2, 3)), np.zeros((2, 3)), np.full((1, 2, 3), np.nan)], ids=["empty", "flat", "nan"]
)
def test_a_set_that_is_no_stack_of_images_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="finite"):
        PhantomSet(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_nan_is_named(images, value: float) -> None:
    bad = images.copy()
    bad[[3, 7], 2, 1] = value
    with pytest.raises(ConfigError, match=r"2 of 40, .*3"):
        PhantomSet(bad)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_an_image_without_contrast_is_named(images, value: float) -> None:
    bad = images.copy()
    bad[5] = value
    expected = f"contrast: 1 of 40, .*5 .*{value:g}"
    with pytest.raises(ConfigError, match=expected):
        PhantomSet(bad)
