"""Import of the weights that the paper's authors published (github.com/icon-lab/DEQ-MPI, MIT licence).

Their images are (rows, columns) = (26, 13), ours (Ny, Nx) = (13, 26); their LC block convolves along the
flattened dense layout and bounds Z instead of Z - y. Both are carried over, so that the imported bundle
computes what their code computes.
"""

import hashlib
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from export.bundle import export_networks
from export.errors import CheckpointError
from export.parity.parity import ParityReport
from trainer.networks.consistency import ball_factor
from trainer.networks.rdn import ResidualDenseNetwork

MODEL_PREFIX = "f."
"""Names in a checkpoint of the whole model begin so; those in the denoiser's do not."""

RDN_PREFIX = f"{MODEL_PREFIX}sharedNet."
LC_PREFIX = f"{MODEL_PREFIX}consistencyNet."
FEATURES = 12
GROWTH = 12
BLOCKS = 4
LAYERS = 4
LC_FEATURES = 8
LC_KERNEL = 3
KINDS = ("weight", "bias")

MAX_LISTED_NAMES = 4
"""Names of differing tensors listed in an error; the rest are counted."""

Weights = dict[str, Tensor]


class ReleasedConsistency(nn.Module):
    """The LC block of the released weights.

    Differs from `trainer.networks.consistency.LearnedConsistency` in two ways. The 1-D kernels run along the
    flattened (line, bin) axis, so the ends of neighbouring lines mix. The output is
    y + Z min(1, epsilon / ||Z - y||), where Eq. (25) has (Z - y) in place of the first Z.
    """

    def __init__(self) -> None:
        super().__init__()
        # Two-dimensional convolutions of height one: the same sums, but faster in ONNX Runtime.
        kernel, padding = (1, LC_KERNEL), (0, LC_KERNEL // 2)
        self.entry = nn.Conv2d(4, LC_FEATURES, kernel, padding=padding)
        self.hidden = nn.Conv2d(LC_FEATURES, LC_FEATURES, kernel, padding=padding)
        self.exit = nn.Conv2d(LC_FEATURES, 2, kernel, padding=padding)

    def forward(self, v: Tensor, y: Tensor, mask: Tensor, epsilon: Tensor) -> Tensor:
        """Make the data consistent with the measurement; shapes as in `LearnedConsistency.forward`.

        Places outside the mask must be zero in `v` and `y`, and are zero in the result.
        """
        u = torch.cat([y, v], dim=1).reshape(len(y), 4, 1, -1)
        u = torch.relu(self.entry(u))
        u = torch.relu(self.hidden(u))
        z: Tensor = self.exit(u).reshape(y.shape) * mask  # the norm below runs over selected rows only
        return y + z * ball_factor(z - y, epsilon)


def load_iconlab(
    checkpoint: str | os.PathLike[str],
) -> tuple[ResidualDenseNetwork, ReleasedConsistency]:
    """Read a published DEQ-MPI checkpoint as networks for our image orientation and data layout.

    Parameters
    ----------
    checkpoint : path-like
        A `.pth` file of the authors with both networks.

    Returns
    -------
    tuple
        The image prior and the data consistency, in evaluation mode.

    Raises
    ------
    CheckpointError
        If the file cannot be read safely, or holds other names, shapes or types.
    """
    path = Path(checkpoint)
    return _joint_networks(path, _read(path))


def load_iconlab_denoiser(checkpoint: str | os.PathLike[str]) -> ResidualDenseNetwork:
    """Read the published denoiser, the prior of PP-MPI, as a network for our image orientation.

    Parameters
    ----------
    checkpoint : path-like
        The authors' `ppmpi_denoiser.pth`: the RDN alone.

    Returns
    -------
    ResidualDenseNetwork
        In evaluation mode.

    Raises
    ------
    CheckpointError
        If the file cannot be read safely, or holds other names, shapes or types.
    """
    path = Path(checkpoint)
    return _denoiser(path, _read(path))


def import_iconlab(checkpoint: str | os.PathLike[str], bundle_dir: str | os.PathLike[str]) -> ParityReport:
    """Turn a published checkpoint into a bundle that the engine runs.

    Parameters
    ----------
    checkpoint : path-like
        A `.pth` file of the authors: both networks give a bundle of the method deq, the denoiser alone one
        of the method pp-mpi.
    bundle_dir : path-like
        Folder to write; an existing bundle is replaced.

    Returns
    -------
    ParityReport
        How closely the written graphs follow the networks.

    Raises
    ------
    CheckpointError
        If the file is not one of the published checkpoints.
    BundleError
        If `bundle_dir` exists and is not a bundle.
    ParityError
        If the graphs do not reproduce the networks.
    """
    path = Path(checkpoint)
    weights = _read(path)
    facts = {
        "source": "https://github.com/icon-lab/DEQ-MPI",
        "checkpoint": path.name,
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    rdn: nn.Module
    lc: nn.Module | None
    if any(name.startswith(MODEL_PREFIX) for name in weights):
        method, (rdn, lc) = "deq", _joint_networks(path, weights)
        facts["consistency"] = "released formula, kernels along the flattened dense layout"
    else:
        method, rdn, lc = "pp-mpi", _denoiser(path, weights), None
    return export_networks(
        rdn,
        lc,
        bundle_dir,
        name=f"iconlab-{path.stem}",
        description="Weights published by the authors (doi:10.1109/TMI.2023.3300704), MIT licence.",
        training=facts,
        method=method,
    )


def _joint_networks(path: Path, weights: Weights) -> tuple[ResidualDenseNetwork, ReleasedConsistency]:
    rdn, lc = _new_rdn(), ReleasedConsistency()
    rdn_names, lc_names = _rdn_names(RDN_PREFIX), _lc_names()
    twins = {f"{LC_PREFIX}midConvs.0.{kind}": f"{LC_PREFIX}convs.0.{kind}" for kind in KINDS}
    shapes = _released_shapes(rdn, rdn_names) | _released_shapes(lc, lc_names)
    shapes |= {twin: shapes[name] for twin, name in twins.items()}
    _check_architecture(path, weights, shapes, twins)
    rdn.load_state_dict({ours: _transposed(weights[theirs]) for ours, theirs in rdn_names.items()})
    lc.load_state_dict({ours: _row_kernel(weights[theirs]) for ours, theirs in lc_names.items()})
    return rdn.eval(), lc.eval()


def _denoiser(path: Path, weights: Weights) -> ResidualDenseNetwork:
    rdn, names = _new_rdn(), _rdn_names("")
    _check_architecture(path, weights, _released_shapes(rdn, names), {})
    rdn.load_state_dict({ours: _transposed(weights[theirs]) for ours, theirs in names.items()})
    return rdn.eval()


def _new_rdn() -> ResidualDenseNetwork:
    return ResidualDenseNetwork(FEATURES, GROWTH, BLOCKS, LAYERS)


def _read(path: Path) -> Weights:
    try:
        with warnings.catch_warnings():  # about pickle protocols; an unreadable file is an error below
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no checkpoint at {path}; expected a published .pth file: check the path"
        ) from error
    except Exception as error:  # a damaged file makes torch's reader stumble in any way
        raise CheckpointError(
            f"{path} cannot be read as weights ({_reason(error)}); expected a .pth file with tensors only: "
            "download it again"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a state dict of named tensors: "
            "give one of the published deqmpi_psnr*.pth files or ppmpi_denoiser.pth"
        )
    return dict(content)


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text recommends to try it without the safeguard
        return "it is damaged or holds other objects than tensors"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _rdn_names(prefix: str) -> dict[str, str]:
    """Our name of each parameter of the image prior, and theirs."""
    layers = {"entry": "conv0", "shallow": "conv1", "fuse": "conv2", "merge": "conv3", "exit": "conv4"}
    for block in range(BLOCKS):
        for layer in range(LAYERS):
            layers[f"blocks.{block}.layers.{layer}"] = f"rdbs.{block}.local_res_block.{layer}.conv"
        layers[f"blocks.{block}.fuse"] = f"rdbs.{block}.last_conv"
    return _parameter_names(layers, prefix)


def _lc_names() -> dict[str, str]:
    """Our name of each parameter of the data consistency, and theirs."""
    return _parameter_names({"entry": "conv0", "hidden": "convs.0", "exit": "convL"}, LC_PREFIX)


def _parameter_names(layers: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{prefix}{theirs}.{kind}" for ours, theirs in layers.items() for kind in KINDS}


def _released_shapes(network: nn.Module, names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Shape in the checkpoint of every parameter of a network, by its name there."""
    return {names[ours]: _released_shape(names[ours], value) for ours, value in network.state_dict().items()}


def _released_shape(name: str, ours: Tensor) -> tuple[int, ...]:
    """Shape in the checkpoint: LC kernels are one-dimensional there."""
    shape = tuple(ours.shape)
    return (*shape[:2], shape[3]) if name.startswith(LC_PREFIX) and len(shape) == 4 else shape


def _check_architecture(
    path: Path, weights: Weights, shapes: Mapping[str, tuple[int, ...]], twins: Mapping[str, str]
) -> None:
    """Compare names, shapes and types with the released architecture, then the tensors saved twice."""
    problems = [f"no {name} {shape}" for name, shape in shapes.items() if name not in weights]
    problems += [f"unknown {name} {tuple(weights[name].shape)}" for name in weights if name not in shapes]
    for name in shapes.keys() & weights.keys():
        found = weights[name]
        if tuple(found.shape) != shapes[name] or found.dtype != torch.float32:
            problems.append(f"{name} {tuple(found.shape)} {found.dtype} instead of {shapes[name]} float32")
    if not problems:
        problems = [
            f"{a} and {b} differ" for a, b in twins.items() if not torch.equal(weights[a], weights[b])
        ]
    if problems:
        rest = len(problems) - MAX_LISTED_NAMES
        listed = "; ".join(sorted(problems)[:MAX_LISTED_NAMES]) + (f"; and {rest} more" if rest > 0 else "")
        raise CheckpointError(
            f"{path.name} is of another architecture: {listed}; expected the released networks (RDN 12 "
            "features, growth 12, 4 x 4; LC 4-8-8-2): give a deqmpi_psnr*.pth file or ppmpi_denoiser.pth"
        )


def _transposed(value: Tensor) -> Tensor:
    """Exchange a kernel's spatial axes: the network then acts on transposed images."""
    return value.transpose(2, 3).contiguous() if value.ndim == 4 else value


def _row_kernel(value: Tensor) -> Tensor:
    """Give a one-dimensional kernel a height of one."""
    return value.unsqueeze(2) if value.ndim == 3 else value
