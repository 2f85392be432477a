"""`ringside doctor`: looks at everything a person would look at first, and says what to do."""
