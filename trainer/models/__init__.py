"""Networks iterated to images: equilibrium, unrolled, end to end, and their gradients."""
