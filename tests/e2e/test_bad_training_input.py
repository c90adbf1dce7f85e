"""Bad input of training and export ends like that of the engine: 2, one line, nothing left behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.cli import main as export
from trainer.cli import main as trainer
from trainer.config import DataConfig, LcConfig, ModelConfig, RdnConfig, TrainConfig
from trainer.loop.checkpoint import BEST_WEIGHTS, build_model, save_config, save_tensors

TINY = ModelConfig(RdnConfig(features=4, growth=4, blocks=1, layers=1), LcConfig(features=4))

Refused = Callable[..., str]


@pytest.fixture
def run_folder(folder: Path) -> Path:
    """The folder "run" of a training run."""
    path = folder / "run"
    path.mkdir()
    save_config(path, TrainConfig("tiny", DataConfig("system-matrix.mdf"), model=TINY))
    save_tensors(path / BEST_WEIGHTS, build_model(TINY))
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('nmae = "x"', "unknown key 'nmae'; expected name, data"),
        (
            'name = "x"\n[data]\nsystem_matirx = "y"',
            "data has the unknown key 'system_matirx'; expected system_matrix, ",
        ),
        ('name = "x"', "missing required field `data`"),
        ('name = "x"\nseed = "1"\n[data]\nsystem_matrix = "y"', "seed: Expected `int`, got `str`"),
        ('name = "x"\n[data]\nsystem_matrix = "absent.mdf"', "data.system_matrix is 'absent.mdf'; expected"),
        ("name =", "not a TOML file"),
    ],
)
def test_an_impossible_configuration(refused: Refused, folder: Path, text: str, words: str) -> None:
    (folder / "training.toml").write_text(text)
    assert words in refused(trainer, "fit", "training.toml", "--out", "new-run")


def test_a_run_folder_that_cannot_be_used(refused: Refused, folder: Path, run_folder: Path) -> None:
    shutil.copy(run_folder / "config.toml", folder / "training.toml")
    line = refused(trainer, "fit", "training.toml", "--out", "measurement.mdf")
    assert "the run folder measurement.mdf is a file; expected a new folder" in line
    line = refused(trainer, "fit", "training.toml", "--out", "run")
    assert "run already holds a run" in line
    assert "--resume" in line
    line = refused(trainer, "fit", "training.toml", "--out", "new-run", "--resume")
    assert "expected one to resume from" in line


def of_another_architecture(path: Path) -> None:
    save_tensors(path, build_model(ModelConfig(RdnConfig(6, 4, 1, 1), TINY.lc)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (of_another_architecture, "expected (4,) (rdn.features 6, expected 4): check the [model] table"),
        (lambda path: path.write_bytes(b"text"), "expected the weights of a run"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "expected the weights of a run"),
        (Path.unlink, "expected a weights file of a run"),
    ],
    ids=["architecture", "text", "truncated", "missing"],
)
def test_a_run_without_usable_weights(
    refused: Refused, run_folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(run_folder / BEST_WEIGHTS)
    line = refused(export, "run", "new-bundle")
    assert BEST_WEIGHTS in line
    assert words in line


def test_a_bundle_that_cannot_be_written(refused: Refused, folder: Path, run_folder: Path) -> None:
    assert f"cannot write new-bundle: the folder {folder / 'absent'} does not exist" in refused(
        export, "run", "absent/new-bundle"
    )
    assert "measurement.mdf is a file; expected a new folder" in refused(export, "run", "measurement.mdf")


def test_a_checkpoint_of_other_networks(refused: Refused, folder: Path) -> None:
    torch.save(build_model(TINY).state_dict(), folder / "own.pth")
    line = refused(export, "import-iconlab", "own.pth", "new-bundle")
    assert "own.pth is of another architecture" in line
    assert "expected the released networks" in line
    line = refused(export, "import-iconlab", "measurement.mdf", "new-bundle")
    assert "measurement.mdf cannot be read as weights" in line
    assert "expected a .pth file" in line
