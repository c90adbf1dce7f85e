"""Calibration: from a system-matrix file to the operators of the solvers. Seconds of work, no torch."""

from engine.factorisation import make_operators

__all__ = ["make_operators"]
