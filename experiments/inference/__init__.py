"""Inference from the sums: posteriors of the rates, and the sequential click race."""
