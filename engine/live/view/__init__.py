"""The live image in a browser."""
