"""Bundles of the weights that lie outside the package: the authors', and those of our other training runs."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.harness.record import ROOT
from engine.errors import InputError
from engine.networks.bundle import MANIFEST

AUTHORS_SNR_OFFSET = 5.0
"""A checkpoint deqmpi_psnr{p}.pth was trained at a measurement SNR of about p + 5 dB."""

AUTHORS_LEVELS = (10, 15, 20, 25, 30, 35, 40)
"""The published p."""

FIRST_EQUILIBRIUM_RUN = ROOT / "models" / "wide-equilibrium"
"""Run folder of the first equilibrium training of the networks that ship; it began after pre-training."""

TRAINED_ALIKE = ROOT / "models" / "wide-ball"
"""Run folder of the network that was trained with the projection on the l2 ball in place of Psi_LC."""

SHELF = ROOT / "benchmarks" / ".bundles"
"""Where bundles are kept: writing one takes seconds, and most benchmarks need several."""

EXPORTER = (
    *sorted((ROOT / "export").rglob("*.py")),
    ROOT / "trainer/networks/rdn.py",
    ROOT / "trainer/networks/consistency.py",
)
"""Code that decides what a bundle holds; a bundle made by other code is not used again."""


class MissingModelError(InputError):
    """Weights that a row needs are not on this machine, or cannot be used."""


@dataclass(frozen=True)
class ShelfBundle:
    """A bundle made from weights.

    Attributes
    ----------
    path : Path
        Bundle folder.
    source_sha256 : str
        Of the weights and their settings. (That of the graphs changes with the exporter.)
    """

    path: Path
    source_sha256: str


def authors_folder() -> Path:
    """Return the folder of the authors' weights.

    Raises
    ------
    MissingModelError
        If it is not there.
    """
    folder = Path(os.environ.get("DEQMPI_ICONLAB", ROOT.parent / "shared" / "iconlab"))
    if not folder.is_dir():
        raise MissingModelError(
            f"no published weights at {folder}; expected the authors' checkpoints: clone "
            "https://github.com/icon-lab/DEQ-MPI and set DEQMPI_ICONLAB to the folder of its .pth files"
        )
    return folder


def authors_checkpoint(snr: float) -> str:
    """Return the name of the authors' checkpoint that was trained nearest to an SNR in dB."""
    level = min(AUTHORS_LEVELS, key=lambda p: abs(p + AUTHORS_SNR_OFFSET - snr))
    return f"deqmpi_psnr{level}.pth"


class ModelShelf:
    """Makes every bundle once, on first use; that needs torch, which is imported only then.

    Parameters
    ----------
    folder : Path, optional
        Where the bundles are kept.
    """

    def __init__(self, folder: Path = SHELF) -> None:
        self._folder = folder

    def authors_deq(self, snr: float) -> ShelfBundle:
        """Return the authors' DEQ-MPI trained nearest to an SNR in dB; raises MissingModelError."""
        return self._authors(authors_checkpoint(snr))

    def authors_denoiser(self) -> ShelfBundle:
        """Return the authors' denoiser, the prior of PP-MPI; raises MissingModelError."""
        return self._authors("ppmpi_denoiser.pth")

    def run(self, name: str) -> ShelfBundle:
        """Return the model of a finished run in `models/ablation`, "deq-35"; raises MissingModelError."""
        from benchmarks.contestants.ablation_models import MODELS

        return self.run_folder(
            MODELS / name, f"train it with python -m benchmarks.contestants.ablation_models {name}"
        )

    def run_folder(self, folder: Path, remedy: str) -> ShelfBundle:
        """Return the model of a finished run.

        Parameters
        ----------
        folder : Path
            Run folder inside `models`.
        remedy : str
            What to do if it holds no finished run.

        Raises
        ------
        MissingModelError
        """
        from benchmarks.harness.training_runs import is_finished
        from export.bundle import export_run
        from trainer.loop.checkpoint import BEST_WEIGHTS, CONFIG_FILE

        if not is_finished(folder):
            shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
            raise MissingModelError(f"{shown} holds no finished run; {remedy}")
        sources = [folder / BEST_WEIGHTS, folder / CONFIG_FILE]
        name = f"{folder.parent.name}-{folder.name}"
        return self._bundle(name, sources, lambda bundle: export_run(folder, bundle))

    def before_equilibrium_training(self) -> ShelfBundle:
        """Return the networks of the shipped model as they were after pre-training, as a deq bundle."""
        from export.bundle import export_networks
        from trainer.loop.checkpoint import CONFIG_FILE, PRETRAINED_WEIGHTS, load_networks

        def make(bundle: Path) -> None:
            rdn, lc, config = load_networks(FIRST_EQUILIBRIUM_RUN, PRETRAINED_WEIGHTS)
            solver = config.solver
            export_networks(
                rdn, lc, bundle, "pretrained", solver=solver.forward, dual_start=solver.dual_start
            )

        run = FIRST_EQUILIBRIUM_RUN
        return self._bundle("pretrained", [run / PRETRAINED_WEIGHTS, run / CONFIG_FILE], make)

    def trained_alike(self) -> ShelfBundle:
        """Return the model with the l2 ball, trained like the shipped one; raises MissingModelError."""
        from export.bundle import export_run
        from trainer.loop.checkpoint import BEST_WEIGHTS, CONFIG_FILE

        if not (TRAINED_ALIKE / BEST_WEIGHTS).is_file():
            raise MissingModelError(
                f"{TRAINED_ALIKE} holds no finished run; train it with trainer/configs/wide-ball.toml"
            )
        sources = [TRAINED_ALIKE / BEST_WEIGHTS, TRAINED_ALIKE / CONFIG_FILE]
        return self._bundle("wide-ball", sources, lambda bundle: export_run(TRAINED_ALIKE, bundle))

    def _authors(self, checkpoint: str) -> ShelfBundle:
        from export.iconlab import import_iconlab

        path = authors_folder() / checkpoint
        if not path.is_file():
            raise MissingModelError(f"{path} is missing; expected a checkpoint that the authors published")
        return self._bundle(path.stem, [path], lambda bundle: import_iconlab(path, bundle))

    def _bundle(self, name: str, sources: Sequence[Path], make: Callable[[Path], object]) -> ShelfBundle:
        from export.errors import ExportError, ParityError

        source = _sha256(sources)
        made_from = hashlib.sha256((source + _exporter_sha256()).encode()).hexdigest()
        bundle = self._folder / f"{name}-{made_from[:12]}"
        if not (bundle / MANIFEST).is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                make(bundle)
            except (ExportError, ParityError) as error:
                raise MissingModelError(f"{name}: {error}") from error
        return ShelfBundle(bundle, source)


@cache
def _exporter_sha256() -> str:
    return _sha256(EXPORTER)


def _sha256(files: Sequence[Path]) -> str:
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
