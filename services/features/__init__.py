"""Features: register them with Feast, compute the batch views, load them into the online store."""
