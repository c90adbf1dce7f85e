"""Whom the benchmarks compare: shipped and trained models, baselines, straightforward PyTorch."""
