"""What the sums say: posteriors of the rates, and the sequential click race."""
