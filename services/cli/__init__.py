"""The command line, `ringside …`."""
