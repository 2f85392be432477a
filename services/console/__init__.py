"""The analysts' console: a web application."""
