"""The reconstruction methods: one module each, all of them `FrameSolver`s over normalised measurements."""
