"""What the ports are made of: Kafka, Redis, Feast, MLflow, folders; and their doubles in memory."""
