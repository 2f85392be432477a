"""Features: register views, compute the batch views, and load them online."""
