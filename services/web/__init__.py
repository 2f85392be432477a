"""Serving HTTP safely: keys, rates, limits, load shedding, workers."""
