"""The bridge from trained networks to the bundle that the engine runs."""
