"""The decider: sums become weights, rollbacks and confirmations."""
