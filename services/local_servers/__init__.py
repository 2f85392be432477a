"""Servers that Ringside starts itself: Redis, the embedded broker, Apache Kafka."""
