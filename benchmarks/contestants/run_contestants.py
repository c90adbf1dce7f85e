"""Equilibrium models of single training runs as contestants."""

from pathlib import Path

from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.model_shelf import ModelShelf
from engine.reconstruction.method_settings import MethodSettings


def from_run(name: str, folder: Path, remedy: str, shelf: ModelShelf) -> Contestant:
    """Return DEQ-MPI with the best networks of a training run.

    Parameters
    ----------
    name : str
        In the column "method" of the results.
    folder : Path
        Run folder inside `models`.
    remedy : str
        What to do if it holds no finished run.
    shelf : ModelShelf
        Makes the bundle.

    Raises
    ------
    MissingModelError
        If the folder holds no finished run, or its networks cannot be exported.
    """
    bundle = shelf.run_folder(folder, remedy)
    identity = {"method": "deq", "source_sha256": bundle.source_sha256}
    return Contestant(name, "deq", MethodSettings(model=bundle.path), identity)
