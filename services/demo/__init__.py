"""The whole loop on one machine under one supervisor."""
