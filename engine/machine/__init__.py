"""The machine under the mathematics: files and their values, memory, cores, compiled code."""
