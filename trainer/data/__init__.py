"""What is learned from: phantoms, system matrix, noise, validation frames."""
