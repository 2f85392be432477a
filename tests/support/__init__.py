"""Test support: small installations, doubles and clients that several tests share."""
