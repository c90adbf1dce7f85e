"""Measurements, from a raw frame to normalised rows: spectra, rows, background, whitening, scale."""
