"""ADMM with the l2 ball: hand-crafted, plug-and-play, unrolled and equilibrium."""
