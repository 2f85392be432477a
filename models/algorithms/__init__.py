"""The recommenders: one algorithm, one file."""
