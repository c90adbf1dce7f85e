"""Reconstruction in a scanner's acquisition loop: frames come on a clock, and each is accounted for."""
