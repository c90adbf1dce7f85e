"""The commands of `engine`, one module each."""
