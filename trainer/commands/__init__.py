"""The subcommands of `trainer`."""
