"""Deciding between models: pure statistics and the state of experiments. No network, disk or clock."""
