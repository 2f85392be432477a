"""Recommenders: arrays in, arrays out. No network, no clock, no global state."""
