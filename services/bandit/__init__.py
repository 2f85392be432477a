"""Counts matured units, exactly once in effect."""
