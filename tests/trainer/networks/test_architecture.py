"""Sizes of networks read back from their weights."""

import dataclasses
from pathlib import Path

import pytest
from torch import Tensor

from engine.errors import InputError
from trainer.config import LcConfig, ModelConfig, RdnConfig
from trainer.loop.checkpoint import RunState, build_model, load_model_state, load_tensors, save_tensors
from trainer.networks.architecture import architecture, differences

SIZES = ModelConfig(rdn=RdnConfig(7, 5, 3, 2), lc=LcConfig(6, 2, 5))


def weights(config: ModelConfig) -> dict[str, Tensor]:
    return build_model(config).state_dict()


@pytest.mark.parametrize("takes_noise", [False, True])
def test_sizes_are_those_the_networks_were_made_with(takes_noise: bool) -> None:
    config = dataclasses.replace(SIZES, takes_noise=takes_noise)
    assert architecture(weights(config)) == {
        "takes_noise": takes_noise,
        "rdn.features": 7, "rdn.growth": 5, "rdn.blocks": 3, "rdn.layers": 2,
        "lc.features": 6, "lc.hidden_layers": 2, "lc.kernel": 5,
    }  # fmt: skip


def test_foreign_tensors_tell_nothing() -> None:
    assert architecture({}) == {}
    assert differences({}, weights(SIZES)) == " (no network lc; no network rdn)"
    assert differences(weights(SIZES), weights(SIZES)) == ""


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (dataclasses.replace(SIZES, rdn=RdnConfig(12, 5, 3, 2)), "(rdn.features 12, expected 7)"),
        (
            dataclasses.replace(SIZES, rdn=RdnConfig(7, 4, 2, 2)),
            "(rdn.growth 4, expected 5; rdn.blocks 2, expected 3)",
        ),
        (dataclasses.replace(SIZES, lc=LcConfig(6, 2, 3)), "(lc.kernel 3, expected 5)"),
        (dataclasses.replace(SIZES, takes_noise=True), "(takes_noise true, expected false)"),
    ],
    ids=["features", "growth and blocks", "kernel", "noise"],
)
def test_weights_of_another_architecture_are_refused_with_what_differs(
    other: ModelConfig, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, build_model(other))
    model = build_model(SIZES)
    with pytest.raises(InputError) as caught:
        load_tensors(path, model)
    message = str(caught.value)
    assert told in message
    assert message.endswith("check the [model] table and the method")
    got, own = weights(other), weights(SIZES)
    shapes = ({key: value.shape for key, value in both.items()} for both in (got, own))
    different = {key for key, _ in set.symmetric_difference(*(set(both.items()) for both in shapes))}
    assert f" for {min(different)}; " in message
    state = RunState(0, 0, 0, None, got, {}, Tensor())
    with pytest.raises(InputError, match=r"state\.pt holds"):
        load_model_state(tmp_path, state, model)


def test_weights_of_a_method_without_lc_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, build_model(SIZES, "deq-ball"))
    with pytest.raises(InputError, match="no network lc"):
        load_tensors(path, build_model(SIZES))
