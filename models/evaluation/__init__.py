"""Offline evaluation: metrics, time-ordered splits, and the comparison of models."""
