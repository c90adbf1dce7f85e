"""Operators, what a solver needs of one system matrix: factors, products, the file that keeps them."""
