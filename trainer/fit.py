"""Fit the networks of a method: pre-train them, then train the images they make."""

from pathlib import Path

import numpy as np
import torch

from engine.errors import ConfigError, InputError
from trainer.config import TrainConfig, load_config
from trainer.data.problem import Problem, load_problem
from trainer.loop.batch_shares import share_batches
from trainer.loop.checkpoint import (
    CONFIG_FILE,
    STATE_FILE,
    RunState,
    build_model,
    load_network,
    load_state,
    save_config,
)
from trainer.loop.interruption import StopRequest
from trainer.loop.journal import Journal, Silence
from trainer.loop.optimisation import Optimisation, Validation
from trainer.loop.phases import make_phases
from trainer.loop.processes import Processes, SingleProcess
from trainer.loop.validation import measure_once
from trainer.models.reconstruction_model import ReconstructionModel


def fit(
    config: TrainConfig,
    run_dir: Path | str,
    resume: bool = False,
    problem: Problem | None = None,
    processes: Processes | None = None,
) -> ReconstructionModel:
    """Train the networks and leave a run folder (see `trainer.loop.checkpoint`).

    A run is reproducible on one machine and thread count, and one that was stopped and resumed ends with
    the same weights as one that was not.

    Parameters
    ----------
    config : TrainConfig
        Batch sizes are those of a step over all processes.
    run_dir : path
        Created if missing. Without `resume` it must not hold a run.
    resume : bool, optional
        Continue from the last checkpoint. The configuration must be that of the run.
    problem : Problem, optional
        Operators and images; by default those that `config.data` describes.
    processes : Processes, optional
        Those that call this function together, as `trainer.loop.processes.join_processes` yields them; by
        default this one alone. The main one validates and writes, and an error of one ends all.

    Returns
    -------
    ReconstructionModel
        With the weights of the last step; those of the best validation are in the run folder.

    Raises
    ------
    ConfigError
        If the configuration is not that of the run to resume, asks for an absent device, or has a batch
        that cannot be dealt out to the processes evenly.
    InputError
        If the folder already holds a run, there is nothing to resume, or images, system matrix or
        weights to start from cannot be used.
    NonFiniteError
        If a loss, gradient or solve is NaN or infinite.
    DivergedRunError
        If the model gets worse and worse (`trainer.stability.divergence`).
    InterruptedRunError
        After SIGINT to any of the processes, once a checkpoint is written.
    ProcessError
        If another process failed or ended.
    """
    run_dir = Path(run_dir)
    processes = SingleProcess() if processes is None else processes
    if not resume:
        processes.on_main(lambda: _require_no_run(run_dir))
    with processes.together():
        run = _prepare(config, run_dir, resume, problem, processes)
    processes.broadcast(run.model)
    if not resume:  # last, so that a run that cannot start leaves no folder behind
        processes.on_main(lambda: _begin_folder(run_dir, config))
        run.save()
    # TF32 would train a map that differs by 1e-3 from the one that runs in float32 afterwards.
    with (
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True),
        StopRequest() as stop,
        Journal(run_dir, run.total) if processes.is_main else Silence() as journal,
    ):
        run.run(journal, stop)
    return run.model


def _prepare(
    config: TrainConfig, run_dir: Path, resume: bool, problem: Problem | None, processes: Processes
) -> Optimisation:
    """Bring a run to where it starts or goes on."""
    device = _device(config.fit.device, processes)
    share = share_batches(config, processes.count)
    state = _state_to_resume(config, run_dir) if resume else None
    if config.fit.threads:
        torch.set_num_threads(config.fit.threads)
    problem = load_problem(config.data, device) if problem is None else problem
    seeds = np.random.SeedSequence(config.seed).generate_state(3, np.uint64)
    init_seed, step_seed, validation_seed = (int(seed) % 2**63 for seed in seeds)
    model = _initial_model(config, init_seed, device)
    if state is None:
        _load_starts(config, model)
    run = Optimisation(
        model,
        torch.Generator(device).manual_seed(_seed_of_process(step_seed, processes.rank)),
        make_phases(share, model, problem),
        _validation(config, problem, validation_seed),
        validate_every=config.fit.validate_every,
        gradient_clip=config.fit.gradient_clip,
        run_dir=run_dir,
        processes=processes,
    )
    if state is not None:
        run.restore(state)
    return run


def _begin_folder(run_dir: Path, config: TrainConfig) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(run_dir, config)


def _seed_of_process(seed: int, rank: int) -> int:
    """Return the seed of a process's steps; the main one has that of a run of one process."""
    if rank == 0:
        return seed
    return int(np.random.SeedSequence((seed, rank)).generate_state(1, np.uint64)[0]) % 2**63


def _device(name: str, processes: Processes) -> torch.device:
    """Return the device of a process; of several on a machine, each has a CUDA device of its own."""
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("fit.device is 'cuda' but torch finds no CUDA device; set it to 'cpu'")
    found, number = torch.cuda.device_count(), processes.local_rank
    if number >= found:
        raise ConfigError(
            f"{found} CUDA devices for at least {number + 1} processes on a machine; expected one for each: "
            f"start with --nproc-per-node={found}, or set fit.device to 'cpu'"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _state_to_resume(config: TrainConfig, run_dir: Path) -> RunState:
    """Read the state of a run after checking that it belongs to the configuration."""
    state = load_state(run_dir)
    if load_config(run_dir / CONFIG_FILE) != config:
        raise ConfigError(
            f"the configuration is not that of the run in {run_dir}; resume with its {CONFIG_FILE} "
            "or start a new run"
        )
    return state


def _require_no_run(run_dir: Path) -> None:
    """Check that a folder can be made, or holds no run yet."""
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"the run folder {run_dir} is a file; expected a new folder: choose another name")
    if (run_dir / CONFIG_FILE).exists() or (run_dir / STATE_FILE).exists():
        raise InputError(f"{run_dir} already holds a run; resume it with --resume or choose another folder")


def _initial_model(config: TrainConfig, seed: int, device: torch.device) -> ReconstructionModel:
    """Initialise the networks from a seed of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config.model, config.method, config.solver.dual_start)
    # The layout on which convolutions of few channels run up to twice as fast on a CPU.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def _load_starts(config: TrainConfig, model: ReconstructionModel) -> None:
    """Read the weights that networks are to start from, each by itself."""
    starts = {
        "rdn": (model.rdn, config.pretrain.rdn.weights),
        "lc": (model.learned_consistency, config.pretrain.lc.weights),
    }
    for name, (network, path) in starts.items():
        if network is not None and path is not None:
            load_network(Path(path), network, name)


def _validation(config: TrainConfig, problem: Problem, seed: int) -> Validation:
    """Make the measurements of all validations, their SNRs dealt out in turn."""
    truth, levels = problem.validation, config.data.validation_snr
    snr = np.resize(np.array(levels), len(truth))
    measurements = measure_once(truth, problem.data_matrix, snr, seed)
    frames = config.fit.spectral_frames
    return Validation(problem.operators, measurements, config.reconstruction, frames)
