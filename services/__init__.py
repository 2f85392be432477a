"""Processes: the only code that touches network, disk and clock."""
