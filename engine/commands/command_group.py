"""A click group that imports its commands when they are asked for, and reports errors in one place."""

import errno
import importlib
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from engine.errors import DeqMpiError


@dataclass(frozen=True)
class LazyCommand:
    """Place of a command, and its line in the list of commands.

    Attributes
    ----------
    module, attribute : str
        Import path of the click command.
    short_help : str
        Help of one line, repeated here so that the list can be printed without importing every command.
    """

    module: str
    attribute: str
    short_help: str


class LazyCommands(Mapping[str, click.Command]):
    """Commands by name, each imported on first use."""

    def __init__(self, entries: Mapping[str, LazyCommand]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> click.Command:
        entry = self._entries[name]
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class CommandGroup(click.Group):
    """A group with lazy commands and one error handler.

    Errors of this project end with their own exit code and one line on stderr, anything unexpected with
    exit code 1 and one line. `--debug` adds the traceback. Warnings become one line each.

    Parameters
    ----------
    *args, **kwargs
        Arguments of `click.Group`.
    lazy_commands : mapping of str to LazyCommand
        Commands by name, in the order of the help.
    """

    def __init__(self, *args: Any, lazy_commands: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entries = lazy_commands
        self.commands = LazyCommands(lazy_commands)  # type: ignore[assignment]  # click only reads it

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the help."""
        return list(self.commands)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.short_help) for name, entry in self._entries.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn errors into one line and an exit code."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.Abort, click.exceptions.Exit):
                raise  # click's own; it knows what to say
            except DeqMpiError as error:
                _report(ctx, str(error))
                ctx.exit(error.exit_code)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    raise  # the reader of our output has gone; click handles it
                _report(ctx, str(error))
                ctx.exit(1)
            except MemoryError as error:
                remedy = "give fewer frames at a time, or operators made with --factors"
                _report(ctx, f"not enough memory ({error or 'no size given'}); {remedy}")
                ctx.exit(1)
            except Exception as error:
                hint = f"use {ctx.command_path} --debug for details"
                _report(ctx, f"unexpected {type(error).__name__}: {error}; {hint}")
                ctx.exit(1)


def _report(ctx: click.Context, message: str) -> None:
    if ctx.params.get("debug"):
        click.echo(traceback.format_exc(), err=True, nl=False)
    click.echo(f"Error: {' '.join(message.split())}", err=True)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)
