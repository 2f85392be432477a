"""Data import: turn a data set from outside into one data version."""
