"""The sample storefront."""
