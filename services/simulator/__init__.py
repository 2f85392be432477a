"""Simulated shoppers with known preferences, which use only the public HTTP API."""
