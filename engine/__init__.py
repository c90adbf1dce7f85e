"""Torch-free magnetic particle imaging reconstruction."""
