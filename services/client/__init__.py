"""The client of the HTTP API of Ringside."""
