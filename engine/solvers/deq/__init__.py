"""The deep equilibrium with learned consistency: step, start, warm start, GPU."""
