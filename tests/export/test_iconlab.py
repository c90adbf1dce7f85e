"""Import of published checkpoints: the released formula, and what is refused."""

import pickle

import numpy as np
import pytest
import torch

from engine.fixed_point.solve import FixedPointConfig
from export.errors import CheckpointError, ParityError
from export.iconlab import ReleasedConsistency, load_iconlab, load_iconlab_denoiser
from export.parity.learned_blocks import LearnedBlocks
from export.parity.parity import measure_parity
from export.parity.parity_problem import parity_problem, synthetic_operators

FORMULA_TOLERANCE = 1e-12
"""Both sides in float64; sums of a few hundred products."""


def convolve(channels, weight, bias):
    """One-dimensional convolution layer with zero padding; arrays (C, L), (D, C, 1, 3), (D,)."""
    return np.stack(
        [
            sum(np.convolve(u, kernel[0, ::-1], mode="same") for u, kernel in zip(channels, out, strict=True))
            + b
            for out, b in zip(weight, bias, strict=True)
        ]
    )


def released_formula(parameters, v, y, mask, epsilon):
    """y + Z min(1, epsilon / ||Z - y||) over selected places, for one sample of shape (2, lines, bins)."""
    u = np.concatenate([y.reshape(2, -1), v.reshape(2, -1)])
    u = np.maximum(convolve(u, parameters["entry.weight"], parameters["entry.bias"]), 0)
    u = np.maximum(convolve(u, parameters["hidden.weight"], parameters["hidden.bias"]), 0)
    z = convolve(u, parameters["exit.weight"], parameters["exit.bias"]).reshape(y.shape)
    selected = np.broadcast_to(mask == 1, y.shape)
    norm = np.sqrt(np.sum((z[selected] - y[selected]) ** 2))
    result = np.zeros_like(y)
    result[selected] = y[selected] + z[selected] * min(1.0, epsilon / norm)
    return result


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 1e3])
def test_released_consistency_follows_its_formula(epsilon):
    torch.manual_seed(5)
    module = ReleasedConsistency().double()
    rng = np.random.default_rng(6)
    mask = (rng.random((4, 9)) < 0.5).astype(float)
    v, y = rng.standard_normal((2, 3, 2, 4, 9)) * mask
    inputs = (v, y, mask[None, None], np.full((3, 1, 1, 1), epsilon))
    with torch.no_grad():
        found = module(*(torch.tensor(value) for value in inputs)).numpy()
    parameters = {name: value.numpy() for name, value in module.state_dict().items()}
    for sample in range(3):
        expected = released_formula(parameters, v[sample], y[sample], mask, epsilon)
        np.testing.assert_allclose(found[sample], expected, atol=FORMULA_TOLERANCE, rtol=0)
    assert not np.any(found[np.broadcast_to(mask == 0, found.shape)])


def test_released_consistency_mixes_the_ends_of_neighbouring_lines():
    """The published kernels run along the flattened layout; ours must not stop at the end of a line."""
    torch.manual_seed(5)
    module = ReleasedConsistency()
    y, mask, epsilon = torch.zeros(1, 2, 2, 8), torch.ones(1, 1, 2, 8), torch.ones(1, 1, 1, 1)
    v = torch.zeros(1, 2, 2, 8)
    v[0, 0, 0, 7] = 100.0
    with torch.no_grad():
        difference = module(v, y, mask, epsilon) - module(torch.zeros_like(v), y, mask, epsilon)
    assert difference[0, :, 1, 0].abs().max() > 0


@pytest.fixture(scope="module")
def weights(iconlab):
    return torch.load(iconlab / "deqmpi_psnr20.pth", map_location="cpu", weights_only=True)


@pytest.fixture
def saved(tmp_path):
    def save(content):
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path)
        return path

    return save


def refuse(path, words, load=load_iconlab):
    with pytest.raises(CheckpointError, match=words) as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["ppmpi_denoiser.pth", "lc_pretrained.pth"])
def test_a_checkpoint_with_one_of_the_networks_is_refused(iconlab, name):
    refuse(iconlab / name, r"another architecture: no f\.\w+Net\..*and \d+ more")


@pytest.mark.parametrize("name", ["deqmpi_psnr20.pth", "lc_pretrained.pth"])
def test_a_denoiser_is_the_image_prior_alone(iconlab, name):
    refuse(iconlab / name, r"another architecture: .*no conv1\.bias.*and \d+ more", load_iconlab_denoiser)


def test_another_shape_is_refused(weights, saved):
    wide = {**weights, "f.sharedNet.conv4.bias": torch.zeros(2)}
    refuse(saved(wide), r"f\.sharedNet\.conv4\.bias \(2,\) .* instead of \(1,\)")


def test_another_type_is_refused(weights, saved):
    refuse(saved({**weights, "f.sharedNet.conv4.bias": torch.zeros(1, dtype=torch.float64)}), "float64")


def test_an_unknown_name_is_refused(weights, saved):
    refuse(saved({**weights, "f.extra": torch.zeros(3)}), r"unknown f\.extra \(3,\)")


def test_two_copies_of_the_same_layer_must_agree(weights, saved):
    changed = {**weights, "f.consistencyNet.midConvs.0.bias": torch.zeros(8)}
    refuse(saved(changed), r"midConvs\.0\.bias and f\.consistencyNet\.convs\.0\.bias differ")


def test_a_missing_file_is_refused(tmp_path):
    refuse(tmp_path / "absent.pth", r"no checkpoint at .*absent\.pth")


def test_a_file_of_something_else_is_refused(tmp_path, saved):
    path = tmp_path / "text.pth"
    path.write_bytes(b"not a checkpoint")
    refuse(path, "cannot be read as weights")
    refuse(saved([torch.zeros(1)]), "holds a list")
    refuse(saved({"epoch": 3}), "holds a dict")


class Payload:
    """Would create a file when unpickled by a reader that trusts its input."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_checkpoint_cannot_run_code(tmp_path, save):
    path, target = tmp_path / "checkpoint.pth", tmp_path / "proof"
    save({"f": Payload(target)}, path)
    refuse(path, r"cannot be read as weights \(it is damaged or holds other objects than tensors\)")
    assert not target.exists()


def test_a_collapsed_checkpoint_is_refused(iconlab):
    """The image prior published for 40 dB returns zero for every image; nothing can be made with it."""
    blocks = LearnedBlocks.of_networks(*load_iconlab(iconlab / "deqmpi_psnr40.pth"))
    problem = parity_problem(synthetic_operators())
    with pytest.raises(ParityError, match="zero image"):
        measure_parity(blocks, blocks, problem, "deq", FixedPointConfig())
