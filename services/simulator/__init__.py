"""Simulated shoppers of known truth, over public HTTP only."""
