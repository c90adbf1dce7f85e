"""`python -m trainer` runs the command `trainer`."""

from trainer.cli import main

main(prog_name="trainer")
