"""Configurations: defaults, refusals and the round trip through TOML."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.fixed_point.solve import FixedPointConfig
from trainer.config import StageConfig, TrainConfig, load_config, parse_config, resolved_toml

MINIMAL = 'name = "run"\n[data]\nsystem_matrix = "reference-0.5"\n'


def test_the_smallest_configuration_has_the_paper_s_sizes() -> None:
    config = parse_config(MINIMAL)
    assert dataclasses.astuple(config.model) == ((12, 12, 4, 4), (8, 1, 3), False)
    assert config.pretrain.rdn.noise == (0.1, 0.1)
    assert config.data.intensity == (0.5, 1.5)
    assert config.fit.stages == ()


def test_forward_and_backward_solvers_are_set_apart() -> None:
    text = MINIMAL + "[solver.forward]\ntolerance = 1e-5\n[solver.backward]\nmemory = 2\n"
    solver = parse_config(text).solver
    assert (solver.forward.tolerance, solver.forward.memory) == (1e-5, FixedPointConfig().memory)
    assert solver.backward.memory == 2
    assert solver.backward.tolerance > solver.forward.tolerance


def test_stages_come_in_order_and_integers_pass_as_numbers() -> None:
    text = MINIMAL + "[fit]\ngradient_clip = 2\n[[fit.stages]]\nsteps = 5\n[[fit.stages]]\nsteps = 7\n"
    fit = parse_config(text + 'gradient = "one_step"\nmax_iterations = 9\n').fit
    assert fit.gradient_clip == 2.0
    assert fit.stages == (StageConfig(steps=5), StageConfig(steps=7, gradient="one_step", max_iterations=9))


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("[fitt]\n", "unknown key 'fitt'; expected name, data, method"),
        ("[solver.forward]\ntolerence = 1e-3\n", r"solver\.forward has the unknown key 'tolerence'"),
        ("[[fit.stages]]\nsteps = 3\nrate = 1\n", r"fit\.stages\[0\] has the unknown key 'rate'"),
        ("[[fit.stages]]\n", r"fit\.stages\[0\]: .*missing.*`steps`"),
        ('[[fit.stages]]\nsteps = 3\ngradient = "jfb"\n', "gradient is 'jfb'; expected one of 'implicit'"),
        ("[fit]\nthreads = 1.0\n", r"fit\.threads: .*`int`.*`float`"),
        ("[fit]\nthreads = true\n", r"fit\.threads: .*`int`.*`bool`"),
        ("[fit]\nstages = 3\n", r"fit\.stages: .*`array`.*`int`"),
        ("[fit]\ngradient_clip = 0\n", "in fit: gradient_clip is 0.0; expected a positive number"),
        ("[model]\nrdn = 4\n", r"model\.rdn: .*`object`.*`int`"),
        ("[model.lc]\nkernel = 4\n", "kernel is 4; expected an odd number"),
        ("[pretrain.rdn]\nnoise = [0.2, 0.1]\n", r"noise is \[0.2, 0.1\]; expected \[low, high\]"),
        ("[pretrain.rdn]\nnoise = [0.1]\n", r"pretrain\.rdn\.noise: .* length 2"),
        ("[pretrain.lc]\nsteps = -1\n", "steps is -1; expected at least 0"),
        ("[solver.backward]\nmemory = -1\n", r"in solver\.backward: memory is -1"),
        ("[pretrain]\nweights = 'w'\n", "pretrain has the unknown key 'weights'; expected rdn, lc"),
        ("[pretrain.lc]\ntarget = 'none'\n", "target is 'none'; expected one of 'ball', 'noise-free'"),
        ("[unrolled]\niterations = 0\n", "in unrolled: iterations is 0"),
        ("seed 3", "not a TOML file"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(addition: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(MINIMAL + addition)


@pytest.mark.parametrize(
    ("method", "addition", "message"),
    [
        ("deq+", "", "method is 'deq\\+'; expected one of 'deq', 'deq-ball'"),
        ("deq-ball", "pretrain.lc.weights = 'w'\n", "expected no such key: deq-ball has no LC"),
        ("unrolled", "fit.stages = [{steps = 1, gradient = 'one_step'}]\n", "unrolled has no fixed point"),
        (
            "end-to-end",
            "fit.stages = [{steps = 1, gradient = 'one_step'}]\n",
            "end-to-end has no fixed point",
        ),
    ],
)
def test_what_a_method_does_not_have_is_refused(method: str, addition: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(f"method = '{method}'\n{addition}{MINIMAL}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("snr", "[30.0, 10.0]", "snr is"),
        ("snr", "[nan, 10.0]", "snr is"),
        ("validation_snr", "[]", "at least one SNR"),
        ("train", "0", "train is 0"),
        ("validation", "0", "validation is 0"),
        ("rank", "0", "rank is 0"),
        ("angiograms", '""', "angiograms is ''; expected a folder"),
        ("angiograms", "true", "angiograms: .*`str`.*`bool`"),
        ("intensity", "[0.0, 1.0]", "intensity is"),
    ],
)
def test_impossible_data_values_are_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(MINIMAL + f"{key} = {value}\n")


def test_angiograms_may_be_named_and_are_none_by_default() -> None:
    assert parse_config(MINIMAL).data.angiograms is None
    assert "angiograms" not in resolved_toml(parse_config(MINIMAL))
    config = parse_config(MINIMAL + 'angiograms = "my mra"\n')
    assert config.data.angiograms == "my mra"
    assert parse_config(resolved_toml(config)) == config


def test_a_name_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"missing.*`name`"):
        parse_config("[data]\nsystem_matrix = 'x'\n")


def test_messages_of_a_file_start_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*run\.toml"):
        load_config(path)
    path.write_text(MINIMAL + "x = 1\n")
    with pytest.raises(ConfigError, match=r"run\.toml: .*unknown key 'x'"):
        load_config(path)


numbers = st.floats(1e-6, 1e6)
ranges = st.tuples(numbers, numbers).map(lambda pair: tuple(sorted(pair)))
stages = st.builds(
    StageConfig,
    steps=st.integers(1, 10**6),
    gradient=st.sampled_from(["implicit", "one_step", "through_iterates"]),
    learning_rate=numbers,
    max_iterations=st.none() | st.integers(1, 99),
)


@given(
    st.text(min_size=1),
    numbers,
    ranges,
    st.lists(stages, max_size=3),
    st.booleans(),
    st.none() | st.integers(1, 9),
    st.sampled_from(["deq", "deq-ball"]),
)
@settings(max_examples=80, deadline=None)
def test_the_resolved_text_reads_back_as_the_same_configuration(
    name, clip, snr, stage_list, smooth, rank, method
) -> None:
    base = parse_config(MINIMAL)
    name = name.encode("utf-8", "replace").decode()  # TOML holds no lone surrogates
    config = TrainConfig(
        name=name,
        method=method,
        data=dataclasses.replace(base.data, snr=snr, smooth=smooth, rank=rank),
        fit=dataclasses.replace(base.fit, gradient_clip=clip, stages=tuple(stage_list)),
    )
    assert parse_config(resolved_toml(config)) == config


def test_the_resolved_text_spells_out_every_default() -> None:
    text = resolved_toml(parse_config(MINIMAL))
    for key in ("seed = 0", "[model.rdn]", "growth = 12", "[solver.backward]", "validate_every = 100"):
        assert key in text
