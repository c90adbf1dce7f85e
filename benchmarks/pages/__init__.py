"""Tables and pictures of benchmarks that need more than a few lines for them."""
