"""Model training: by command, for the offline report, and in answer to retraining requests."""
