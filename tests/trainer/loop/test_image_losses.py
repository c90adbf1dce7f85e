"""Losses of images against their formulas, and what the logarithm is for."""

import torch

from trainer.loop.image_losses import IMAGE_LOSSES, SMALLEST_ERROR

TRUTH = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
X = torch.tensor([[1.5, 0.0, 1.0], [0.0, 1.3, 1.0]])
ERRORS = torch.tensor([0.5, 0.1])


def test_the_two_losses_are_the_mean_and_the_mean_logarithm_of_the_errors() -> None:
    torch.testing.assert_close(IMAGE_LOSSES["l1"](X, TRUTH), ERRORS.mean())
    torch.testing.assert_close(IMAGE_LOSSES["log_l1"](X, TRUTH), ERRORS.log().mean())


def test_the_logarithm_pulls_at_every_image_with_the_same_relative_force() -> None:
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(IMAGE_LOSSES["log_l1"](x, TRUTH), x)
    # d log e / d log e = 1 for each image, half of it in the mean of two.
    change = (gradient * (X - TRUTH)).sum(dim=1)
    torch.testing.assert_close(change, torch.tensor([0.5, 0.5]))


def test_a_perfect_image_has_a_finite_loss() -> None:
    assert IMAGE_LOSSES["log_l1"](TRUTH, TRUTH) == torch.tensor(SMALLEST_ERROR).log()
