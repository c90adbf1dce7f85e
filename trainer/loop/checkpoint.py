"""The run folder: configuration, weights, and the state from which a run resumes exactly.

config.toml               the configuration with every default spelled out
weights.safetensors       the weights of the best validation so far (keys rdn.* and, with Psi_LC, lc.*)
pretrained.safetensors    the weights before the first stage
last.safetensors          the weights of the last checkpoint
state.pt                  position, weights, optimizer and random state of the last checkpoint
metrics.jsonl             one record per step and validation
tensorboard/              the same, for TensorBoard
"""

import pickle
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from engine.errors import InputError
from engine.machine.atomic_write import atomic_path
from trainer.config import Method, ModelConfig, TrainConfig, load_config, resolved_toml
from trainer.models.end_to_end import EndToEndModel
from trainer.models.equilibrium import EquilibriumModel
from trainer.models.reconstruction_model import ReconstructionModel
from trainer.models.unrolled import UnrolledModel
from trainer.networks.architecture import differences
from trainer.networks.consistency import BallProjection, LearnedConsistency
from trainer.networks.noise_level import with_noise_channel
from trainer.networks.rdn import ResidualDenseNetwork

BEST_WEIGHTS = "weights.safetensors"
PRETRAINED_WEIGHTS = "pretrained.safetensors"
LAST_WEIGHTS = "last.safetensors"
CONFIG_FILE = "config.toml"
STATE_FILE = "state.pt"


@dataclass(frozen=True)
class RunState:
    """Everything a run needs to go on as if it had not stopped.

    Attributes
    ----------
    phase : int
        Index of the phase (pre-training or stage) under way.
    step : int
        Steps done in it.
    total : int
        Steps done in all phases.
    best_psnr : float or None
        Best validation so far.
    model, optimizer : dict
        State dicts.
    generator : Tensor of uint8, shape (P, n)
        State of the random generator of each of P processes; of shape (n,) in files of a single process
        from before there could be several.
    watch : dict
        State of the `trainer.stability.divergence.DivergenceWatch`.
    """

    phase: int
    step: int
    total: int
    best_psnr: float | None
    model: dict[str, Any]
    optimizer: dict[str, Any]
    generator: Tensor
    watch: dict[str, Any] = field(default_factory=dict)


def build_model(config: ModelConfig, method: Method = "deq", dual_start: float = 0.0) -> ReconstructionModel:
    """Make the networks of a method in torch's default initialisation; `dual_start` as in `SolverConfig`."""
    takes_noise = config.takes_noise
    size = config.rdn
    rdn = ResidualDenseNetwork(size.features, size.growth, size.blocks, size.layers, takes_noise=takes_noise)
    match method:
        case "deq":
            lc = LearnedConsistency(**asdict(config.lc), takes_noise=takes_noise)
            return EquilibriumModel(rdn, lc, dual_start)
        case "deq-ball":
            return EquilibriumModel(rdn, BallProjection(), dual_start)
        case "unrolled":
            return UnrolledModel(rdn)
        case "end-to-end":
            return EndToEndModel(rdn)


def save_config(run_dir: Path, config: TrainConfig) -> None:
    """Write the resolved configuration."""
    with atomic_path(run_dir / CONFIG_FILE) as temporary:
        temporary.write_text(resolved_toml(config), encoding="utf-8")


def save_tensors(path: Path, model: ReconstructionModel) -> None:
    """Write the weights of a model's networks as safetensors."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(weights))


def load_tensors(path: Path, model: ReconstructionModel) -> None:
    """Read weights into a model.

    Raises
    ------
    InputError
        If the file is missing or no weights file, or its names or shapes are not those of the model.
    """
    weights = _read_weights(path)
    _require_names_and_shapes(path, weights, model.state_dict())
    model.load_state_dict(weights)


def load_network(path: Path, network: nn.Module, name: str) -> None:
    """Read the weights of one network out of a weights file.

    Parameters
    ----------
    path : Path
        Weights file of a run of any method.
    network : Module
    name : str
        "rdn" or "lc".

    Raises
    ------
    InputError
        As in `load_tensors`; other networks in the file do not matter, and weights of a network without
        noise level start one that takes it (`trainer.networks.noise_level.with_noise_channel`).
    """
    prefix = f"{name}."
    weights = {key: value for key, value in _read_weights(path).items() if key.startswith(prefix)}
    own = {prefix + key: value for key, value in network.state_dict().items()}
    weights = with_noise_channel(weights, own)
    _require_names_and_shapes(path, weights, own)
    network.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()})


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(
            f"no weights at {path}; expected a weights file of a run: train further or check the path"
        )
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no safetensors file ({error}); expected the weights of a run") from error
    return weights


def _require_names_and_shapes(path: Path, weights: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    for key in sorted(own.keys() | weights.keys()):
        got = tuple(weights[key].shape) if key in weights else "nothing"
        expected = tuple(own[key].shape) if key in own else "nothing"
        if got != expected:
            raise InputError(
                f"{path} holds {got} for {key}; expected {expected}{differences(weights, own)}: "
                "check the [model] table and the method"
            )


def save_state(run_dir: Path, state: RunState) -> None:
    """Write the state of a run; a crash while writing leaves the previous one."""
    with atomic_path(run_dir / STATE_FILE) as temporary:
        torch.save(asdict(state), temporary)


def load_state(run_dir: Path) -> RunState:
    """Read the state of a run.

    Raises
    ------
    InputError
        If there is none, or the file is damaged or holds something else.
    """
    path = run_dir / STATE_FILE
    if not path.is_file():
        raise InputError(f"no checkpoint {path}; expected one to resume from: start the run without --resume")
    # Anything but a zip archive would go to torch's loader of old formats.
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a checkpoint of this program (no torch archive); start a new run")
    try:
        return RunState(**torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, TypeError) as error:
        # The text of an unpickling error recommends to try it without the safeguard.
        is_unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "it holds other objects than tensors" if is_unsafe else str(error).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint of this program ({reason}); start a new run") from error


def load_model_state(run_dir: Path, state: RunState, model: ReconstructionModel) -> None:
    """Give a model the weights of a run's state.

    Raises
    ------
    InputError
        If they are those of other networks.
    """
    _require_names_and_shapes(run_dir / STATE_FILE, state.model, model.state_dict())
    model.load_state_dict(state.model)


def load_model(run_dir: Path | str, weights: str = BEST_WEIGHTS) -> tuple[ReconstructionModel, TrainConfig]:
    """Read the model of a run, in evaluation mode.

    Parameters
    ----------
    run_dir : path
    weights : str, optional
        Which weights file of the run: `BEST_WEIGHTS`, `PRETRAINED_WEIGHTS` or `LAST_WEIGHTS`.

    Returns
    -------
    model, config

    Raises
    ------
    InputError
        If the folder is not that of a run, or holds no such weights.
    """
    run_dir = Path(run_dir)
    if not (run_dir / CONFIG_FILE).is_file():
        raise InputError(f"{run_dir} holds no {CONFIG_FILE}; expected the folder of a training run")
    config = load_config(run_dir / CONFIG_FILE)
    model = build_model(config.model, config.method, config.solver.dual_start)
    load_tensors(run_dir / weights, model)
    return model, config


def load_networks(
    run_dir: Path | str, weights: str = BEST_WEIGHTS
) -> tuple[ResidualDenseNetwork, LearnedConsistency | None, TrainConfig]:
    """Read the networks of a run, in evaluation mode; parameters and errors as in `load_model`.

    Returns
    -------
    rdn, lc, config
        `lc` is None for a method without learned consistency.
    """
    model, config = load_model(run_dir, weights)
    return model.rdn, model.learned_consistency, config
