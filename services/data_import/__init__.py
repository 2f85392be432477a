"""Data import: a data set from outside becomes one data version."""
