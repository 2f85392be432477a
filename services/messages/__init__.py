"""Messages that cross processes, and the topics that carry them."""
