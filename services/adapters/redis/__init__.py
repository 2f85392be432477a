"""Redis: sums, cached state, pins, locks, item changes."""
