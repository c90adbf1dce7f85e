"""The configuration of a training run: a TOML file read into frozen dataclasses.

Every value has a default except where none would make sense; unknown keys are refused. The resolved
configuration, defaults included, is written to the run folder.
"""

import tomllib
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import tomli_w

from engine.errors import ConfigError
from engine.fixed_point.solve import FixedPointConfig
from engine.machine.checked_values import from_plain, require

Precision = Literal["float32", "bfloat16"]

Method = Literal["deq", "deq-ball", "unrolled", "end-to-end"]
"""How the networks make an image of a measurement; see `TrainConfig.method`."""

NO_ITERATION = FixedPointConfig(memory=0, tolerance=0.0, max_iterations=1)
"""The budget of a method that evaluates its network once."""


def _require_range(key: str, value: tuple[float, float], *, lowest: float, strict: bool) -> None:
    low, high = value
    above = low > lowest if strict else low >= lowest
    bound = f"{'above' if strict else 'at least'} {lowest:g}"
    require(isfinite(high) and above and low <= high, key, list(value), f"[low, high], both {bound}")


def _require_optimisation(steps: int, batch_size: int, learning_rate: float, at_least: int) -> None:
    require(steps >= at_least, "steps", steps, f"at least {at_least}")
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    require(
        isfinite(learning_rate) and learning_rate > 0, "learning_rate", learning_rate, "a positive number"
    )


@dataclass(frozen=True)
class DataConfig:
    """What is measured: the system matrix, the images and the noise.

    Attributes
    ----------
    system_matrix : str
        Name of a simulated scanner preset ("reference-0.5") or path of an MDF calibration file.
    system_matrix_seed : int
        Seed of the simulated calibration; unused for a file.
    rank : int or None
        Singular triplets of the least-squares start; None for the calibration's default.
    smooth : bool
        Reconstruct with A_meas U D while data come from A_meas (Sec. IV-D), so that the operator that
        makes the data never inverts it.
    train, validation : int
        Number of phantom images in the two sets.
    phantom_seed : int
        Seed of the phantoms and, with angiograms, of the split of the subjects.
    angiograms : str or None
        Folder of MRA volumes to cut the phantoms from (`trainer.data.angiography`); None for synthetic
        vessel trees.
    intensity : tuple of float
        Range of the peak that each drawn image is scaled to.
    snr : tuple of float
        Range of the measurement SNR in dB (Eq. 36), drawn uniformly per image.
    validation_snr : tuple of float
        SNRs of the fixed validation measurements, dealt out in turn.
    """

    system_matrix: str
    system_matrix_seed: int = 0
    rank: int | None = None
    smooth: bool = True
    train: int = 20000
    validation: int = 96
    phantom_seed: int = 0
    angiograms: str | None = None
    intensity: tuple[float, float] = (0.5, 1.5)
    snr: tuple[float, float] = (10.0, 40.0)
    validation_snr: tuple[float, ...] = (15.0, 25.0, 35.0)

    def __post_init__(self) -> None:
        require(bool(self.system_matrix), "system_matrix", self.system_matrix, "a preset name or a path")
        require(self.train >= 1, "train", self.train, "at least 1")
        require(self.validation >= 1, "validation", self.validation, "at least 1")
        require(self.angiograms != "", "angiograms", self.angiograms, "a folder, or no such key")
        require(self.rank is None or self.rank >= 1, "rank", self.rank, "at least 1")
        _require_range("intensity", self.intensity, lowest=0.0, strict=True)
        low, high = self.snr
        require(isfinite(low) and isfinite(high) and low <= high, "snr", [low, high], "[low, high] in dB")
        finite = len(self.validation_snr) > 0 and all(isfinite(snr) for snr in self.validation_snr)
        require(finite, "validation_snr", list(self.validation_snr), "at least one SNR in dB")


@dataclass(frozen=True)
class RdnConfig:
    """Size of Psi_RDN; see `trainer.networks.rdn.ResidualDenseNetwork`."""

    features: int = 12
    growth: int = 12
    blocks: int = 4
    layers: int = 4

    def __post_init__(self) -> None:
        for key in ("features", "growth", "blocks", "layers"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")


@dataclass(frozen=True)
class LcConfig:
    """Size of Psi_LC; see `trainer.networks.consistency.LearnedConsistency`."""

    features: int = 8
    hidden_layers: int = 1
    kernel: int = 3

    def __post_init__(self) -> None:
        require(self.features >= 1, "features", self.features, "at least 1")
        require(self.hidden_layers >= 0, "hidden_layers", self.hidden_layers, "at least 0")
        require(self.kernel >= 1 and self.kernel % 2 == 1, "kernel", self.kernel, "an odd number")


@dataclass(frozen=True)
class ModelConfig:
    """The two networks.

    Attributes
    ----------
    rdn, lc
        Their sizes.
    takes_noise : bool
        Whether the networks see the noise level of the measurement, so that one model serves all.
    """

    rdn: RdnConfig = RdnConfig()
    lc: LcConfig = LcConfig()
    takes_noise: bool = False


@dataclass(frozen=True)
class PretrainRdnConfig:
    """Pre-training of Psi_RDN as a denoiser (Eq. 26).

    Attributes
    ----------
    weights : str or None
        Weights file (safetensors) of a run of any method; Psi_RDN starts from the one it holds, and
        pre-training continues from there. None for random weights.
    steps, batch_size, learning_rate
        Optimisation; zero steps leave the network as it starts.
    noise : tuple of float
        Range of sigma_1, drawn log-uniformly per image, for images of peak about 1.
    """

    weights: str | None = None
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 1e-3
    noise: tuple[float, float] = (0.1, 0.1)

    def __post_init__(self) -> None:
        _require_optimisation(self.steps, self.batch_size, self.learning_rate, at_least=0)
        _require_range("noise", self.noise, lowest=0.0, strict=True)


@dataclass(frozen=True)
class PretrainLcConfig:
    """Pre-training of Psi_LC to mimic the projection on the ball (Eq. 27); unused by methods without Psi_LC.

    Noise levels are per real component of the normalised data (spectral norm of A equal to 25).

    Attributes
    ----------
    weights : str or None
        Weights file to start Psi_LC from, as for Psi_RDN.
    target : str
        "ball" (Eq. 27) or "noise-free": the data without noise, with which the paper compares (Sec. III.B2).
    steps, batch_size, learning_rate
        Optimisation; zero steps leave the network as it starts.
    measurement_noise : tuple of float
        Range of sigma_2 (noise of y_n), drawn log-uniformly per image.
    input_noise : tuple of float
        Range of sigma_3 (noise of v_n), drawn log-uniformly per image.
    """

    weights: str | None = None
    target: Literal["ball", "noise-free"] = "ball"
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-3
    measurement_noise: tuple[float, float] = (0.01, 0.3)
    input_noise: tuple[float, float] = (0.005, 0.3)

    def __post_init__(self) -> None:
        _require_optimisation(self.steps, self.batch_size, self.learning_rate, at_least=0)
        _require_range("measurement_noise", self.measurement_noise, lowest=0.0, strict=True)
        _require_range("input_noise", self.input_noise, lowest=0.0, strict=True)


@dataclass(frozen=True)
class PretrainConfig:
    """How the two networks start."""

    rdn: PretrainRdnConfig = PretrainRdnConfig()
    lc: PretrainLcConfig = PretrainLcConfig()


@dataclass(frozen=True)
class StageConfig:
    """One stage of the training of the reconstruction.

    Attributes
    ----------
    steps, batch_size, learning_rate
        Optimisation with Adam; the learning rate falls to zero along a half cosine within the stage.
    gradient : str
        "implicit" (Eqs. 31-33), "one_step" (Jacobian-free: the identity in place of the inverse in
        Eq. 29) or "through_iterates" (`iterates` tracked steps from the fixed point). The duals absorb
        a bias of Psi_RDN or Psi_LC without moving x; only "implicit" sees that. With the others weights
        drift along such directions, so give them few steps and a small learning rate. Methods without
        an equilibrium have one gradient only.
    iterates : int
        Number of tracked steps of "through_iterates".
    max_iterations : int or None
        Forward evaluations allowed in this stage; None for those of the reconstruction
        (`[solver.forward]`, `[unrolled]`).
    jacobian_weight : float
        Weight of the penalty on spectral radii above `jacobian_target`
        (`trainer.stability.jacobian_penalty`), on the first `jacobian_samples` measurements of a batch; 0 for
        none. Only for methods with a fixed point.
    jacobian_target : float
        Radius up to which nothing is paid.
    jacobian_samples : int
        One costs about as much as solving for four measurements.
    precision : str
        Of Psi_RDN's convolutions while fixed points and their cotangents are solved for; "bfloat16" is two to
        three times as fast where the processor has instructions for it. What is differentiated for the
        weights stays in float32. Only for methods with a fixed point.
    """

    steps: int
    gradient: Literal["implicit", "one_step", "through_iterates"] = "implicit"
    learning_rate: float = 1e-3
    batch_size: int = 32
    iterates: int = 5
    max_iterations: int | None = None
    jacobian_weight: float = 0.0
    jacobian_target: float = 0.97
    jacobian_samples: int = 1
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _require_optimisation(self.steps, self.batch_size, self.learning_rate, at_least=1)
        require(self.iterates >= 1, "iterates", self.iterates, "at least 1")
        weight, target = self.jacobian_weight, self.jacobian_target
        require(isfinite(weight) and weight >= 0, "jacobian_weight", weight, "a non-negative number")
        require(0 <= target <= 1, "jacobian_target", target, "between 0 and 1")
        require(self.jacobian_samples >= 1, "jacobian_samples", self.jacobian_samples, "at least 1")
        limit = self.max_iterations
        require(limit is None or limit >= 1, "max_iterations", limit, "at least 1")


@dataclass(frozen=True)
class FitConfig:
    """The training of the reconstruction (Eqs. 12, 13).

    Attributes
    ----------
    stages : tuple of StageConfig
        Run one after the other; may be empty (pre-training only).
    loss : str
        "l1" (Eqs. 12, 13): mean absolute error; "log_l1": mean logarithm of the mean absolute error of each
        image, in which a decibel counts the same at every noise level and intensity.
    gradient_clip : float
        Bound on the norm of the gradient over all weights.
    validate_every : int
        Steps between validations; a checkpoint is written at each.
    spectral_frames : int
        Measurements of a validation at whose fixed points the spectral radius is measured; 0 for none.
    threads : int
        CPU threads of torch; 0 leaves torch's choice.
    device : str
        "cpu" or "cuda".
    """

    stages: tuple[StageConfig, ...] = ()
    loss: Literal["l1", "log_l1"] = "l1"
    gradient_clip: float = 1.0
    validate_every: int = 100
    spectral_frames: int = 4
    threads: int = 0
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        clip = self.gradient_clip
        require(isfinite(clip) and clip > 0, "gradient_clip", clip, "a positive number")
        require(self.validate_every >= 1, "validate_every", self.validate_every, "at least 1")
        require(self.spectral_frames >= 0, "spectral_frames", self.spectral_frames, "at least 0")
        require(self.threads >= 0, "threads", self.threads, "at least 0")


@dataclass(frozen=True)
class SolverConfig:
    """Fixed-point solves: `forward` for Eq. (14), `backward` for Eq. (32).

    The backward default is loose on purpose: on the reference scan a tolerance of 1e-3 takes three times
    the evaluations of 1e-2 and trains no better. `dual_start` is the size of the data dual that the
    iteration of an equilibrium method starts with (`trainer.models.admm_step.AdmmStep.start`).
    """

    forward: FixedPointConfig = field(default_factory=FixedPointConfig)
    backward: FixedPointConfig = field(
        default_factory=lambda: FixedPointConfig(tolerance=1e-2, max_iterations=20)
    )
    dual_start: float = 0.0

    def __post_init__(self) -> None:
        start = self.dual_start
        require(isfinite(start) and start >= 0, "dual_start", start, "a non-negative number")


@dataclass(frozen=True)
class UnrolledConfig:
    """The unrolled method.

    Attributes
    ----------
    iterations : int
        Steps N_it of Eq. (12), all of them tracked in training.
    """

    iterations: int = 5

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run; the tables of the TOML file have the names of the attributes.

    Attributes
    ----------
    method : str
        "deq" (equilibrium with learned consistency), "deq-ball" (equilibrium with the projection on the l2
        ball of Eq. 10 instead), "unrolled" (a few steps with that projection, Eq. 12) or "end-to-end"
        (Psi_RDN applied to the least-squares image).
    """

    name: str
    data: DataConfig
    method: Method = "deq"
    seed: int = 0
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    fit: FitConfig = FitConfig()
    solver: SolverConfig = SolverConfig()
    unrolled: UnrolledConfig = UnrolledConfig()

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a name for the run")
        require(0 <= self.seed < 2**63, "seed", self.seed, "a non-negative integer below 2^63")
        method, start = self.method, self.pretrain.lc.weights
        require(
            method == "deq" or start is None, "pretrain.lc.weights", start, f"no such key: {method} has no LC"
        )
        for stage in self.fit.stages:
            fixed_point = method in ("deq", "deq-ball") or stage.gradient == "implicit"
            require(fixed_point, "gradient", stage.gradient, f"no such key: {method} has no fixed point")
            solves = method in ("deq", "deq-ball") or stage.precision == "float32"
            penalised = method in ("deq", "deq-ball") or stage.jacobian_weight == 0
            wanted = f"no such key: {method} has no fixed point"
            require(penalised, "jacobian_weight", stage.jacobian_weight, wanted)
            require(solves, "precision", stage.precision, f"no such key: {method} has no fixed point")

    @property
    def reconstruction(self) -> FixedPointConfig:
        """How many evaluations of its map a reconstruction of the method takes, and how."""
        match self.method:
            case "unrolled":
                return FixedPointConfig(memory=0, tolerance=0.0, max_iterations=self.unrolled.iterations)
            case "end-to-end":
                return NO_ITERATION
            case _:
                return self.solver.forward


def parse_config(text: str) -> TrainConfig:
    """Read a configuration from TOML text.

    Raises
    ------
    ConfigError
        If the text is not TOML, a key is unknown, or a value has the wrong type or is impossible.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not a TOML file: {error}; correct the syntax") from error
    return from_plain(TrainConfig, table)


def load_config(path: Path | str) -> TrainConfig:
    """Read a configuration file; errors as in `parse_config`, with the path in front."""
    try:
        return parse_config(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def resolved_toml(config: TrainConfig) -> str:
    """Write the configuration with every default spelled out; it reads back as an equal one."""
    return tomli_w.dumps(asdict(config, dict_factory=_without_none))


def _without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a table of what has a value; TOML has no word for none."""
    return {key: value for key, value in items if value is not None}
