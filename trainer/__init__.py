"""Training of the two networks of DEQ-MPI with PyTorch."""
