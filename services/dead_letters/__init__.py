"""`ringside dead-letters`: list dead letters and replay them."""
