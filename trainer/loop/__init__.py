"""The training loop: stages, optimisation, checkpoints, journal, processes."""
