"""The command `deqmpi-export`."""

import click

from engine.commands.command_group import CommandGroup, LazyCommand

DEFAULT_COMMAND = "export-run"
"""What `deqmpi-export RUN_DIR BUNDLE` means; no likely name of a run folder."""

COMMANDS = {
    DEFAULT_COMMAND: LazyCommand(
        "export.commands.bundles", "export_run_command", "Write a training run as a bundle."
    ),
    "tensorrt": LazyCommand(
        "export.commands.tensorrt", "tensorrt_command", "Build the TensorRT plans of a bundle."
    ),
    "add-step": LazyCommand(
        "export.commands.bundles", "add_step_command", "Write a bundle with the whole iteration as one graph."
    ),
    "import-iconlab": LazyCommand(
        "export.commands.bundles",
        "import_iconlab_command",
        "Write a checkpoint of the paper's authors as a bundle.",
    ),
}


class DefaultingGroup(CommandGroup):
    """Commands of which one need not be named: arguments that begin with no command name are its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert the default command where, after the group's own options, no command is named."""
        own_options = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        start = next((i for i, argument in enumerate(args) if argument not in own_options), len(args))
        if start < len(args) and args[start] not in self.commands:
            args = [*args[:start], DEFAULT_COMMAND, *args[start:]]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; say what to install if torch or onnx is missing."""
        try:
            return super().get_command(ctx, cmd_name)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{error.name} is not installed; exporting needs it: pip install 'deq-mpi[export]'"
            ) from error


@click.group(
    cls=DefaultingGroup,
    lazy_commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="RUN_DIR BUNDLE | COMMAND [ARGS]...",
)
@click.version_option(package_name="deq-mpi")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def main(debug: bool) -> None:
    """Turn trained networks into a bundle that the engine runs.

    Without a command name, RUN_DIR BUNDLE are the arguments of export-run.
    """


if __name__ == "__main__":
    main()
