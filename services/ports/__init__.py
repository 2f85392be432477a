"""Protocols of everything that does I/O, and the values that cross them."""
