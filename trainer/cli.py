"""The command `trainer`."""

import click

from engine.commands.command_group import CommandGroup, LazyCommand

COMMANDS = {
    "fit": LazyCommand("trainer.commands.fit", "fit", "Train the networks as a configuration says."),
    "evaluate": LazyCommand("trainer.commands.evaluate", "evaluate", "Measure the quality of a run."),
}


@click.group(
    cls=CommandGroup, lazy_commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="deq-mpi")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def main(debug: bool) -> None:
    """Train the networks of a deep equilibrium model for magnetic particle imaging."""


if __name__ == "__main__":
    main()
