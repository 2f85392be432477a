"""The recommend service: slates over HTTP, one arm a unit, and what shoppers did with them."""
