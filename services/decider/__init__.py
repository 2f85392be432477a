"""Turns sums into weights, rollbacks and confirmations."""
