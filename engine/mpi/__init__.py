"""The domain of magnetic particle imaging, shared by engine, trainer and export.

`mpi` stands for magnetic particle imaging (not for the Message Passing Interface): grids, MDF files,
preprocessing, system matrices, the simulated reference scanner, phantoms and image metrics.
"""
