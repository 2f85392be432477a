"""The attribution worker: join exposures with events into sums, with the effect of exactly once."""
