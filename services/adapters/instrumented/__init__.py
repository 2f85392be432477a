"""Wrappers that measure and trace a port."""
