"""Kafka: producer, consumers, administration, the decision log."""
