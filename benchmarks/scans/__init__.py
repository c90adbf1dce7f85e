"""What the benchmarks reconstruct: scans, phantoms, perturbations, made-up operators."""
