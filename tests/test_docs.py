"""The documentation names what exists: commands, options, configuration keys, fields, errors, links."""

import dataclasses
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import numpy as np
import pytest

import engine.errors
import export.errors
import trainer.loop.interruption
import trainer.loop.processes
import trainer.stability.divergence
from engine.fixed_point.safeguard import GROWTH_LIMIT, TINY_NORM
from engine.fixed_point.solve import FixedPointConfig
from engine.live.loop.counters import DropReason
from engine.live.loop.live_image import Flag
from engine.live.service.live_config import LiveConfig, load_live_config
from engine.measurement.normalization import SIGMA_FLOOR, TIKHONOV_PEAK
from engine.networks.manifest import Manifest
from engine.operators.factorisation import DEFAULT_RANK_SHARE
from engine.operators.operators import SPECTRAL_NORM, START_DAMPING
from engine.operators.operators_file import FIELDS
from engine.reconstruction.report import FrameReport
from trainer.config import StageConfig, TrainConfig, parse_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
COMMAND_LINES = {"engine": "engine.cli", "trainer": "trainer.cli", "deqmpi-export": "export.cli"}


def text(page: str) -> str:
    """A page of the documentation, by its path inside docs."""
    return (DOCS / page).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """The part of a page under a heading, up to the next one of the same or a higher level."""
    level = heading.split(" ")[0]
    _, found, rest = text(page).partition(f"\n{heading}\n")
    assert found, f"docs/{page} has no heading {heading!r}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def leaf_commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    if isinstance(command, click.Group):
        for child, subcommand in command.commands.items():
            yield from leaf_commands(f"{name} {child}", subcommand)
    else:
        yield name, command


def all_commands() -> list[tuple[str, click.Command]]:
    """The commands of the three programs."""
    programs = {name: importlib.import_module(module).main for name, module in COMMAND_LINES.items()}
    return [pair for name, program in programs.items() for pair in leaf_commands(name, program)]


COMMANDS = all_commands()


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_command_is_documented_with_all_its_options(name: str, command: click.Command) -> None:
    documented = section("commands.md", f"### `{name}`")
    assert command.help, f"{name} has no help"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts} has no help"
            words = {word for option in parameter.opts for word in (f"`{option}`", f"`{option} ")}
            assert any(word in documented for word in words), f"{name} {parameter.opts}"
        else:
            assert str(parameter.name).upper() in documented


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_documented_options_exist(name: str, command: click.Command) -> None:
    existing = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert set(re.findall(r"`(--[a-z0-9-]+)", section("commands.md", f"### `{name}`"))) <= existing


def test_no_command_is_documented_that_does_not_exist() -> None:
    headings = re.findall(r"^### `(.+)`$", text("commands.md"), re.MULTILINE)
    assert sorted(headings) == sorted(name for name, _ in COMMANDS)


def settings(cls: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and default of every value of a configuration; MISSING where there is no default."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{path}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings(hints[field.name], f"{name}.")
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield name, default
        if StageConfig in get_args(hints[field.name]):
            yield from settings(StageConfig, f"{name}.")


def documented_settings() -> dict[str, str]:
    """Key and default as they stand in the tables of the training page."""
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|", text("training.md"), re.MULTILINE)
    undotted = {"name", "method", "seed"}
    return {key: default.strip("`") for key, default in rows if "." in key or key in undotted}


def test_every_configuration_key_is_documented_with_its_default() -> None:
    # solver.backward differs from the class's default, so defaults of nested tables come from an instance.
    instance = TrainConfig(name="x", data=parse_config('name = "x"\n[data]\nsystem_matrix = "x"').data)
    expected = {}
    for key, default in settings(TrainConfig):
        value: Any = instance
        for part in key.split("."):
            value = getattr(value, part, default)
        expected[key] = value
    required = {"name", "data.system_matrix", "fit.stages.steps"}
    documented = documented_settings()
    assert documented.keys() == expected.keys()
    for key, shown in documented.items():
        if key in required or expected[key] is None:
            assert shown == "–", key
        else:
            value = tomllib.loads(f"value = {shown}")["value"]
            assert (tuple(value) if isinstance(value, list) else value) == expected[key], key


def test_the_example_configuration_is_valid() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", text("training.md"), re.DOTALL)
    assert len(parse_config(example).fit.stages) == 2


@pytest.mark.parametrize("name", FIELDS)
def test_every_dataset_of_the_operators_file_is_documented(name: str) -> None:
    field = FIELDS[name]
    (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", section("files.md", "## operators.h5"), re.MULTILINE)
    shape, dtype, unit, _ = row.split(" | ")
    assert tuple(shape.strip("()").replace(" ", "").strip(",").split(",")) == (field.axes or ("",))
    assert (np.dtype(dtype), unit) == (np.dtype(field.dtype), field.unit)


def test_the_method_page_states_the_constants_of_the_code() -> None:
    page = " ".join(text("method.md").split())
    assert f"Tikhonov image divided by {TIKHONOV_PEAK:g} " in page
    assert f"largest singular value is {SPECTRAL_NORM:g}." in page
    assert f"default r is {DEFAULT_RANK_SHARE:g} of" in page
    assert (START_DAMPING, SIGMA_FLOOR, TINY_NORM) == (1e-4, 1e-4, 1e-12)
    for number in ("(s_r + 10⁻⁴)", "σ at least 10⁻⁴ ‖y‖", "‖h_θ(z)‖ + 10⁻¹²"):
        assert number in page
    solver = FixedPointConfig()
    assert (solver.memory, solver.max_iterations, solver.beta) == (5, 25, 1)
    assert (solver.tolerance, solver.regularization, GROWTH_LIMIT) == (1e-4, 1e-4, 2)
    for number in (
        "last m = 5 states",
        "≤ 10⁻⁴ over",
        "25 evaluations",
        "λ = 10⁻⁴",
        "β = 1.",
        "more than twice",
    ):
        assert number in page


@pytest.mark.parametrize("key", ["converged", *(field.name for field in dataclasses.fields(FrameReport))])
def test_every_key_of_the_report_is_documented(key: str) -> None:
    assert f"\n| `{key}` | " in section("files.md", "## Report")


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Manifest)])
def test_every_key_of_the_manifest_is_documented(key: str) -> None:
    assert re.search(rf"`{key}[`.]", section("files.md", "## Bundle folder"))


@pytest.mark.parametrize(
    "module",
    [
        engine.errors,
        export.errors,
        trainer.stability.divergence,
        trainer.loop.interruption,
        trainer.loop.processes,
    ],
)
def test_every_error_is_documented_with_its_exit_code(module: Any) -> None:
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, engine.errors.DeqMpiError)
        and value.__module__ == module.__name__
    ]
    assert classes
    for error in classes:
        assert text("errors.md").count(f"| `{error.__name__}` | {error.exit_code} |") == 1


MDF_MODULES = "spectra$|grids$|image_intervals$|new_files$"
"""Modules of engine.mpi.mdf for people; what the others do is behind read_mdf and write_mdf."""


def public_modules() -> set[str]:
    """Every module of the three packages that people may import."""
    names = set()
    for package in ("engine", "trainer", "export"):
        root = importlib.import_module(package)
        modules = pkgutil.walk_packages(root.__path__, f"{package}.")
        names |= {module.name for module in modules if not module.ispkg}
    hidden = re.compile(r"\._|\.cli$|\.commands\.|\.__main__$|^engine\.mpi\.mdf\.(?!" + MDF_MODULES + ")")
    return {"engine.mpi.mdf"} | {name for name in names if not hidden.search(name)}


def test_every_public_module_is_in_the_reference() -> None:
    listed = [
        name for page in DOCS.glob("api/*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    ]
    assert len(listed) == len(set(listed))
    assert set(listed) == public_modules()


def anchors(page: Path) -> set[str]:
    """Anchors that the headings of a page get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


def links() -> list[tuple[Path, str]]:
    """Every relative link and image of the documentation, with the page it stands on."""
    found = []
    for page in TEXTS:
        body = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        targets = re.findall(r"\]\(([^)\s]+)\)", body) + re.findall(r'(?:src|href)="([^"]+)"', body)
        found += [(page, target) for target in targets if not re.match(r"https?:|mailto:", target)]
    return found


def test_there_are_links() -> None:
    assert len(links()) > 10  # else the pattern above is wrong


@pytest.mark.parametrize(
    ("page", "target"), links(), ids=[f"{page.relative_to(ROOT)}: {target}" for page, target in links()]
)
def test_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    destination = (page.parent / path).resolve() if path else page
    assert destination.is_relative_to(ROOT)
    assert destination.exists()
    if anchor:
        assert anchor in anchors(destination)


def test_every_picture_is_used() -> None:
    shown = {(page.parent / target).resolve() for page, target in links()}
    assert set((DOCS / "images").iterdir()) <= shown


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert set(re.findall(r"(\S+\.md)", navigation)) == {page.relative_to(DOCS).as_posix() for page in PAGES}


def test_readme_leads_with_the_two_commands() -> None:
    first_block = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[
        0
    ]
    assert [line.split("#")[0].strip() for line in first_block.strip().splitlines()] == [
        "make demo",
        "make test",
    ]


def test_make_targets_named_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in TEXTS:
        assert set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", _code(page))) <= targets, page


def _code(page: Path) -> str:
    """Code blocks and inline code of a page."""
    body = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", body, re.DOTALL)
    rest = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    return "\n".join([re.sub(r"#.*", "", block) for block in blocks] + re.findall(r"`([^`\n]+)`", rest))


def live_settings() -> dict[str, Any]:
    """Keys of the live configuration and their defaults; MISSING where there is none."""
    found = {}
    hints = get_type_hints(LiveConfig)
    for table in dataclasses.fields(LiveConfig):
        kinds = [kind for kind in (hints[table.name], *get_args(hints[table.name])) if kind is not type(None)]
        (kind,) = (kind for kind in kinds if dataclasses.is_dataclass(kind))
        found |= {f"{table.name}.{field.name}": field.default for field in dataclasses.fields(kind)}
    return found


def test_every_key_of_the_live_configuration_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (.+?) \|", section("live.md", "## Configuration"), re.M)
    expected = live_settings()
    assert dict(rows).keys() == expected.keys()
    for key, shown in rows:
        default = expected[key]
        if default is dataclasses.MISSING:
            assert shown == "required", key
        elif default is not None:
            value = shown.strip("`")
            if isinstance(default, str):
                assert value == default, key
            else:
                parsed = tomllib.loads(f"value = {value}")["value"]
                assert (tuple(parsed) if isinstance(parsed, list) else parsed) == default, key


@pytest.mark.parametrize("flag", Flag)
def test_every_flag_of_an_image_is_documented(flag: Flag) -> None:
    assert f"\n| `{flag.value}` | " in section("live.md", "## Flags of an image")


@pytest.mark.parametrize("reason", DropReason)
def test_every_reason_to_drop_a_frame_is_documented(reason: DropReason) -> None:
    assert f"\n| `{reason.value}` | " in section("live.md", "## The account")


def test_the_live_examples_are_valid(tmp_path: Path) -> None:
    for page in ("live.md", "live-tutorial.md"):
        (example,) = re.findall(r"```toml\n(.*?)```", text(page), re.DOTALL)
        path = tmp_path / page.replace(".md", ".toml")
        path.write_text(example, encoding="utf-8")
        assert load_live_config(path).recording is not None
