"""The machine under the mathematics: files, memory, cores, compiled code."""
