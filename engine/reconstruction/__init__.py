"""Reconstruction, from rows to images with their report: the methods, how each opens, pictures."""
