"""Calibration, from a system matrix to operators: which rows, on which grid."""
