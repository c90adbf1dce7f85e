"""Reading run folders back, and refusing what is damaged or foreign."""

import dataclasses
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import InputError
from trainer.config import TrainConfig
from trainer.loop.checkpoint import (
    RunState,
    build_model,
    load_networks,
    load_state,
    load_tensors,
    save_config,
    save_state,
    save_tensors,
)


@pytest.fixture
def state(config: TrainConfig) -> RunState:
    model = build_model(config.model)
    optimizer = torch.optim.Adam(model.parameters())
    model.rdn(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(1).get_state()
    return RunState(2, 5, 17, 31.5, model.state_dict(), optimizer.state_dict(), generator)


def test_weights_round_trip_in_any_memory_layout(config: TrainConfig, tmp_path: Path) -> None:
    model, other = build_model(config.model), build_model(config.model)
    model.to(memory_format=torch.channels_last)
    save_tensors(tmp_path / "w.safetensors", model)
    load_tensors(tmp_path / "w.safetensors", other)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    assert set(load_file(tmp_path / "w.safetensors")) == set(model.state_dict())


def test_weights_can_be_read_by_whoever_the_umask_allows(config: TrainConfig, tmp_path: Path) -> None:
    save_tensors(tmp_path / "w.safetensors", build_model(config.model))
    (tmp_path / "plain").touch()
    assert os.stat(tmp_path / "w.safetensors").st_mode == os.stat(tmp_path / "plain").st_mode


def test_state_round_trips(state: RunState, tmp_path: Path) -> None:
    save_state(tmp_path, state)
    again = load_state(tmp_path)
    assert (again.phase, again.step, again.total, again.best_psnr) == (2, 5, 17, 31.5)
    assert torch.equal(again.generator, state.generator)
    moments = again.optimizer["state"]
    assert moments.keys() == state.optimizer["state"].keys()
    assert torch.equal(moments[0]["exp_avg"], state.optimizer["state"][0]["exp_avg"])


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch trapped",))


def test_a_state_with_code_in_it_is_refused_and_not_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"phase": Trap()}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_state(tmp_path)
    (tmp_path / "state.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="not a checkpoint"):
        load_state(tmp_path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 cut"], ids=["empty", "text", "cut"])
def test_a_damaged_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match="not a checkpoint") as caught:
        load_state(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_make_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_state(tmp_path)


def test_weights_of_another_model_are_refused_by_name(config: TrainConfig, tmp_path: Path) -> None:
    wider = dataclasses.replace(config.model, lc=dataclasses.replace(config.model.lc, features=6))
    save_tensors(tmp_path / "w.safetensors", build_model(wider))
    with pytest.raises(InputError, match=r"\(2, 6, 1, 3\) .*lc\.exit\.weight; .*\(2, 4, 1, 3\)"):
        load_tensors(tmp_path / "w.safetensors", build_model(config.model))
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"lc\.exit\.bias"):
        load_tensors(tmp_path / "x.safetensors", build_model(config.model))


def test_missing_and_damaged_weights_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights at"):
        load_tensors(tmp_path / "w.safetensors", build_model(config.model))
    (tmp_path / "w.safetensors").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="safetensors file"):
        load_tensors(tmp_path / "w.safetensors", build_model(config.model))


def test_a_folder_without_a_run_or_without_weights_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.toml"):
        load_networks(tmp_path)
    save_config(tmp_path, config)
    with pytest.raises(InputError, match="no weights at"):
        load_networks(tmp_path)


def test_a_failed_write_leaves_the_previous_state(state: RunState, tmp_path: Path, monkeypatch) -> None:
    save_state(tmp_path, state)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_state(tmp_path, dataclasses.replace(state, total=99))
    assert load_state(tmp_path).total == 17
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
