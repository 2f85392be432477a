"""The bandit: attribution turns exposures and events into sums, the decider turns sums into decisions."""
