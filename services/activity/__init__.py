"""The activity worker: what users do becomes readable online, so that the next answer has seen it."""
