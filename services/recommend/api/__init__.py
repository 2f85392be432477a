"""The HTTP routes of the recommend service."""
