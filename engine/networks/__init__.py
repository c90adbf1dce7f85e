"""Trained networks as files: manifest, bundle, sessions, intervals."""
