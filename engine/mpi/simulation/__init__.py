"""Simulated scanners, phantoms and scans with their truth."""
