"""Measurements of quality and speed: `python -m benchmarks NAME [--quick] [--output DIR]`."""
