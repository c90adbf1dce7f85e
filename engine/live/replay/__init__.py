"""Measurements played into a running service."""
