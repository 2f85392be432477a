"""The analysts' console."""
