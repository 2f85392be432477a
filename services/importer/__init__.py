"""The importer: a data set from outside becomes one data version."""
