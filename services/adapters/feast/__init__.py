"""Feast: the feature store, offline and online."""
