"""Whether the equilibrium is one: spectral radius, penalty, divergence."""
