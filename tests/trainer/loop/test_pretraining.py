"""The pre-training losses: exact values for known networks, and that they can be reduced."""

import pytest
import torch

from trainer.data.linear_operators import TorchOperators
from trainer.loop.pretraining import TARGETS, consistency_loss, denoising_loss
from trainer.networks.consistency import LearnedConsistency, project_ball
from trainer.networks.rdn import ResidualDenseNetwork


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Identity(ResidualDenseNetwork):
    def forward(self, v: torch.Tensor, _noise: torch.Tensor | None = None) -> torch.Tensor:
        return v


class Projection(LearnedConsistency):
    def forward(self, v, y, mask, epsilon):
        return project_ball(v, y, epsilon) * mask


class KeepMeasurement(LearnedConsistency):
    def forward(self, _v, y, _mask, _epsilon):
        return y


def test_denoising_loss_of_the_identity_is_the_mean_size_of_the_noise() -> None:
    images = torch.rand(200, 20, 20, generator=seeded())
    loss = denoising_loss(Identity(), images, (0.1, 0.1), seeded(1))
    assert loss.item() == pytest.approx(0.1 * (2 / torch.pi) ** 0.5, rel=0.02)


def test_denoising_noise_is_drawn_per_image_from_its_range() -> None:
    class Spy(Identity):
        def forward(self, v: torch.Tensor, _noise: torch.Tensor | None = None) -> torch.Tensor:
            self.spread = v.std(dim=(1, 2, 3))
            return v

    spy = Spy()
    denoising_loss(spy, torch.zeros(300, 16, 16), (0.01, 0.5), seeded())
    assert spy.spread.min() < 0.02
    assert spy.spread.max() > 0.3
    assert spy.spread.max() < 0.6


def test_consistency_loss_vanishes_for_the_projection_itself(scan, images) -> None:
    operators = TorchOperators(scan.operators)
    clean = torch.tensor(images[:5].reshape(5, -1) @ scan.data_matrix.T)
    noise = ((0.1, 0.3), (0.05, 0.2))
    assert consistency_loss(Projection(), operators, clean, noise, seeded()).item() == 0.0


def test_consistency_loss_counts_selected_rows_only(scan) -> None:
    operators = TorchOperators(scan.operators)
    clean = torch.zeros(400, operators.n_rows)
    # v = n3 of sigma 1, y = n2 of sigma 1e-6: the projection of v lies epsilon ~ 1e-6 sqrt(R) from y along v.
    loss = consistency_loss(KeepMeasurement(), operators, clean, ((1e-6, 1e-6), (1.0, 1.0)), seeded())
    # Mean |.| of a vector of length epsilon in R dimensions.
    assert loss.item() == pytest.approx(1e-6 * (2 / torch.pi) ** 0.5, rel=0.03)


class Clean(LearnedConsistency):
    """Returns one fixed set of dense data, whatever it is given."""

    def __init__(self, data: torch.Tensor) -> None:
        super().__init__()
        self.data = data

    def forward(self, _v, _y, _mask, _epsilon):
        return self.data


def test_noise_free_target_is_the_data_before_the_noise(scan, images) -> None:
    operators = TorchOperators(scan.operators)
    clean = torch.tensor(images[:5].reshape(5, -1) @ scan.data_matrix.T)
    noise, target = ((0.1, 0.3), (0.05, 0.2)), TARGETS["noise-free"]
    perfect = Clean(operators.scatter(clean))
    assert consistency_loss(perfect, operators, clean, noise, seeded(), target).item() == 0.0
    off = Clean(operators.scatter(clean) + 0.25)
    loss = consistency_loss(off, operators, clean, noise, seeded(), target)
    assert loss.item() == pytest.approx(0.25, rel=1e-5)
    assert consistency_loss(perfect, operators, clean, noise, seeded(), TARGETS["ball"]).item() > 0.01


def test_both_losses_fall_when_trained(scan, images) -> None:
    operators = TorchOperators(scan.operators)
    clean = torch.tensor(images.reshape(40, -1) @ scan.data_matrix.T)
    torch.manual_seed(0)
    rdn, lc = ResidualDenseNetwork(4, 4, 1, 2), LearnedConsistency(4)
    losses = {
        rdn: lambda g: denoising_loss(rdn, torch.tensor(images), (0.1, 0.1), g),
        lc: lambda g: consistency_loss(lc, operators, clean, ((0.1, 0.3), (0.1, 0.3)), g),
    }
    for network, loss in losses.items():
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        generator, history = seeded(), []
        for _ in range(150):
            optimizer.zero_grad()
            value = loss(generator)
            value.backward()
            optimizer.step()
            history.append(value.item())
        assert sum(history[-10:]) < 0.8 * sum(history[:10])
