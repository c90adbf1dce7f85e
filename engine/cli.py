"""The command `engine`."""

import click

from engine.commands.command_group import CommandGroup, LazyCommand

COMMANDS = {
    "simulate": LazyCommand("engine.commands.simulate", "simulate", "Make the files of a simulated scan."),
    "calibrate": LazyCommand(
        "engine.commands.calibrate", "calibrate", "Turn a system matrix into operators."
    ),
    "recon": LazyCommand("engine.commands.recon", "recon", "Reconstruct images from a measurement."),
    "tune": LazyCommand(
        "engine.commands.tune", "tune_command", "Choose hand-set weights for a system matrix."
    ),
    "intervals": LazyCommand(
        "engine.commands.intervals", "intervals_command", "Calibrate the intervals of a model's images."
    ),
    "recover": LazyCommand(
        "engine.commands.live.recover", "recover", "Make MDF files of recordings that were cut off."
    ),
    "info": LazyCommand("engine.commands.info", "info", "Say what a file or bundle is."),
    "serve": LazyCommand(
        "engine.commands.live.serve", "serve", "Reconstruct the frames of a scanner as they come."
    ),
    "replay": LazyCommand(
        "engine.commands.live.replay", "replay", "Play a measurement through the live service."
    ),
    "send": LazyCommand("engine.commands.live.send", "send", "Play a measurement into a running service."),
    "view": LazyCommand("engine.commands.live.view", "view", "Show the live images on a page."),
    "demo": LazyCommand("engine.commands.demo", "demo", "Run all of the above on built-in data."),
}


@click.group(
    cls=CommandGroup, lazy_commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="deq-mpi")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def main(debug: bool) -> None:
    """Reconstruct magnetic particle images with a deep equilibrium model."""


if __name__ == "__main__":
    main()
